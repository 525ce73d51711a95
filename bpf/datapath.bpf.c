// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// The tc datapath: joins the endpoints of a node with each other and with the
// network by redirects, and enforces policy on packets to an endpoint; no bridge,
// no netfilter. Also the same policy alone, for one endpoint that another fabric
// joins. Linux 5.10 or later (bpf_redirect_peer, _neigh).
#include <linux/bpf.h>

#define CONTEXT struct __sk_buff
#include "headers/parse.h"
#include "headers/stats.h"
#include "headers/policy.h"
#include "headers/list.h"
#include "headers/conntrack.h"
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#define IDENTITY_WORLD 2 // of a source that the map identities lacks
#define ENDPOINT_ENFORCE 1
#define FAMILY_INET 2   // AF_INET
#define FAMILY_INET6 10 // AF_INET6

// Policy is checked once per connection (1), or for every packet that is not a
// reply (0).
const volatile __u8 enforce_new_only = 0;
// Policy is checked before connections, which are searched only for packets that it
// does not admit (1). CILIUM09, whose policy depends on the connection, ignores it.
const volatile __u8 policy_first = 0;
// Deliver directly into the endpoint's namespace (1), or through the queue of the
// node's end of its link (0).
const volatile __u8 use_peer = 0;

// For the programs that only guard: the endpoint's addresses as on the wire, and
// whether it has policies.
const volatile __be32 endpoint_ip = 0;
const volatile struct addr6 endpoint_ip6 = {};
const volatile __u8 enforce = 0;
// Ports of the endpoint with structure CILIUM09: protocol << 16 | port as on the
// wire. 0 ends the list; an empty list means any port.
#define L4_PORTS 16
const volatile __u32 l4_ports[L4_PORTS] = {};

struct endpoint {
	__u32 ifindex; // the node's end of the link
	__u32 id;
	__u8 mac[ETH_ALEN];    // the endpoint's eth0
	__u8 gw_mac[ETH_ALEN]; // the node's end, the source of what is delivered
	__u8 flags;
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __be32);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct addr6);
	__type(value, struct endpoint);
} endpoints6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u32);
} identities SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct addr6);
	__type(value, __u32);
} identities6 SEC(".maps");

// Source identities that are admitted, with structure CILIUM09.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct policy_value);
} allowed SEC(".maps");

static __always_inline __u32 identity_of(const struct packet *p, int six)
{
	__u32 *id = six ? bpf_map_lookup_elem(&identities6, &p->saddr6) : bpf_map_lookup_elem(&identities, &p->saddr);

	return id ? *id : IDENTITY_WORLD;
}

// source_of is the source's identity from a tunnel (told), or, if told is 0, which
// is a constant then, the identity of its address.
static __always_inline __u32 source_of(const struct packet *p, __u32 told, int six)
{
	return told ? told : identity_of(p, six);
}

static __always_inline int allowed_admits(const struct packet *p, __u64 bytes, __u32 told, int six)
{
	__u32 id = source_of(p, told, six);

	return decided(bpf_map_lookup_elem(&allowed, &id), bytes);
}

// l4_admits scans the ports, which are compiled in, as in the programs of 2017.
static __always_inline int l4_admits(const struct packet *p)
{
	__u32 port = (__u32)p->proto << 16 | p->dport;

	if (!l4_ports[0])
		return 1;
#pragma unroll
	for (int i = 0; i < L4_PORTS; i++) {
		if (!l4_ports[i])
			return 0;
		if (l4_ports[i] == port)
			return 1;
	}
	return 0;
}

// admits checks the policies. With CILIUM09 it checks the source of every packet,
// and the port only when a connection is opened.
static __always_inline int admits(const struct packet *p, __u64 bytes, int opens, __u32 told, int six)
{
	switch (structure) {
	case STRUCTURE_LINEAR:
		return list_admits(p, bytes, six);
	case STRUCTURE_LPM:
		return decided(trie_find(p, six), bytes);
	case STRUCTURE_CILIUM09:
		return allowed_admits(p, bytes, told, six) && (!opens || l4_admits(p));
	default:
		return decided(hash_find(source_of(p, told, six), p->dport, p->proto), bytes);
	}
}

// read_linear reads the headers in the linear part of a frame.
static __always_inline enum frame read_linear(struct __sk_buff *skb, struct cursor *c, struct packet *p)
{
	c->pos = (void *)(long)skb->data;
	c->end = (void *)(long)skb->data_end;
	return read_frame(skb, c, p);
}

// read_skb reads the frame's headers. Only if they continue in page fragments does
// it pull them into the linear part, which copies.
static __always_inline enum frame read_skb(struct __sk_buff *skb, struct cursor *c, struct packet *p)
{
	__u32 linear = skb->data_end - skb->data;
	enum frame f = read_linear(skb, c, p);

	if (f != FRAME_OTHER && (!p->whole || p->icmp_error) && linear < MAX_HEADERS && linear < skb->len) {
		bpf_skb_pull_data(skb, skb->len < MAX_HEADERS ? skb->len : MAX_HEADERS);
		*p = (struct packet){};
		f = read_linear(skb, c, p);
	}
	// The stack removes the outermost tag from the frame before this hook.
	if (skb->vlan_present)
		p->tags++;
	return f;
}

// checksum_after_hop is the IPv4 header checksum after the TTL was decremented, by
// RFC 1624, equation 3. The TTL is the upper byte of its 16-bit word m, so
// ~m + m' is ~0x0100 for any lower byte.
static __always_inline __sum16 checksum_after_hop(__sum16 check)
{
	__u32 sum = (__u16)~check + bpf_htons(0xfeff);

	return (__sum16)~((sum & 0xffff) + (sum >> 16));
}

// decrement_ttl writes TTL - 1, and IPv4's checksum, of an untagged frame.
static __always_inline int decrement_ttl(struct __sk_buff *skb, const struct packet *p, int six)
{
	struct {
		__u8 ttl;
		__u8 proto;
		__sum16 check;
	} now = {.ttl = p->ttl - 1, .proto = p->proto, .check = checksum_after_hop(p->check)};

	if (six)
		return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &now.ttl, 1, 0);
	return bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &now, sizeof(now), 0);
}

// readdress writes both MAC addresses.
static __always_inline int readdress(struct __sk_buff *skb, const __u8 *dst, const __u8 *src)
{
	__u8 macs[2 * ETH_ALEN];

	__builtin_memcpy(macs, dst, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, src, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

// is_answer: whether a packet belongs to a connection that its receiver opened.
static __always_inline int is_answer(struct __sk_buff *skb, struct cursor *c, const struct packet *p, int six)
{
	return p->icmp_error ? flow_quoted(skb, c, p, six) : !!flow_find(p, REVERSE, six);
}

// spared: whether a packet of a connection that a policy admitted needs no check.
// Cilium 0.9 checked it nevertheless, and counted it.
static __always_inline int spared(const struct packet *p, __u64 bytes, __u32 told, int six)
{
	if (enforce_new_only && structure == STRUCTURE_CILIUM09)
		allowed_admits(p, bytes, told, six);
	return enforce_new_only;
}

// admitted_unseen: whether a policy admits a packet, without a search for its
// connection if the packet itself shows whether it opens one.
static __always_inline int admitted_unseen(const struct packet *p, __u64 bytes, __u32 told, int six)
{
	if (!admits(p, bytes, 0, told, six))
		return 0;
	if (!p->icmp_error && (p->opening || (p->proto != IPPROTO_TCP && !flow_of(p, FORWARD, six))))
		flow_open(p, FLOW_ADMITTED, six);
	return 1;
}

// judge decides whether a packet may enter an endpoint, and records its flow.
static __always_inline enum verdict judge(struct __sk_buff *skb, struct cursor *c, const struct packet *p, int enforced,
					  __u32 told, int six)
{
	enum verdict admitted = enforced ? ACCEPTED : PASSED;
	__u64 bytes = skb->len;
	int first = enforced && policy_first && structure != STRUCTURE_CILIUM09;
	struct flow *f = 0;
	int known;

	if (!p->whole)
		return enforced ? DROPPED : PASSED;
	if (first && admitted_unseen(p, bytes, told, six))
		return ACCEPTED;
	if (is_answer(skb, c, p, six))
		return admitted;
	if (first)
		return DROPPED;
	if (!p->icmp_error)
		f = flow_find(p, FORWARD, six);
	known = f && f->flags & FLOW_ADMITTED;
	if (enforced && !(known && spared(p, bytes, told, six)) && !admits(p, bytes, !known, told, six))
		return DROPPED;
	if (p->icmp_error)
		return admitted;
	if (!f)
		flow_open(p, enforced ? FLOW_ADMITTED : 0, six);
	else if (enforced && !known)
		f->flags |= FLOW_ADMITTED;
	return admitted;
}

static __always_inline int leave(struct __sk_buff *skb, enum verdict v)
{
	count(v, skb->len);
	return v == DROPPED ? TC_ACT_SHOT : TC_ACT_OK;
}

// deliver sends a packet to its endpoint. For the endpoint the node is a router, so
// the stack gets a packet whose TTL has expired, to answer it.
static __always_inline int deliver(struct __sk_buff *skb, const struct packet *p, const struct endpoint *e, int six)
{
	if (p->ttl <= 1)
		return TC_ACT_OK;
	if (decrement_ttl(skb, p, six) || readdress(skb, e->mac, e->gw_mac))
		return TC_ACT_SHOT;
	// bpf_redirect_peer is for packets at ingress (veth; netkit, Linux 6.7). A packet
	// on its way out of a netkit was not at ingress, and from there a redirect to the
	// node's end of the next link is as short.
	if (!use_peer || !skb->ingress_ifindex)
		return bpf_redirect(e->ifindex, 0);
	// This path does not check the new MAC. Before Linux 6.15 a packet for another
	// host keeps that mark (PACKET_OTHERHOST), and the endpoint would drop it.
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(e->ifindex, 0);
}

static __always_inline int to_endpoint(struct __sk_buff *skb, struct cursor *c, const struct packet *p,
				       const struct endpoint *e, __u32 told, int six)
{
	int enforced = structure != STRUCTURE_PASS && e->flags & ENDPOINT_ENFORCE;
	enum verdict v = PASSED;

	// Packets to endpoints have no tags; a tag may be an attempt to evade policy.
	if (p->tags)
		return leave(skb, enforced ? DROPPED : PASSED);
	// Messages between neighbors and routers go one hop only: here, to the stack.
	if (six && p->discovery)
		return leave(skb, PASSED);
	if (structure != STRUCTURE_PASS)
		v = judge(skb, c, p, enforced, told, six);
	count(v, skb->len);
	return v == DROPPED ? TC_ACT_SHOT : deliver(skb, p, e, six);
}

// track_outgoing records what an endpoint opens, so that the answers pass.
static __always_inline void track_outgoing(const struct packet *p, int six)
{
	if (structure == STRUCTURE_PASS || !p->whole || p->icmp_error || (six && p->discovery))
		return;
	if (!flow_find(p, REVERSE, six) && !flow_find(p, FORWARD, six))
		flow_open(p, 0, six);
}

// is_link_local: multicast, or addresses that no router forwards.
static __always_inline int is_link_local(const struct addr6 *a)
{
	const __u8 *b = (const __u8 *)a;

	return b[0] == 0xff || (b[0] == 0xfe && (b[1] & 0xc0) == 0x80);
}

static __always_inline void describe(struct bpf_fib_lookup *fib, const struct packet *p, int six)
{
	fib->l4_protocol = p->proto;
	fib->sport = p->sport;
	fib->dport = p->dport;
	if (six) {
		fib->family = FAMILY_INET6;
		fib->flowinfo = bpf_htonl((__u32)p->tos << 20);
		__builtin_memcpy(fib->ipv6_src, &p->saddr6, sizeof(p->saddr6));
		__builtin_memcpy(fib->ipv6_dst, &p->daddr6, sizeof(p->daddr6));
		return;
	}
	fib->family = FAMILY_INET;
	fib->tos = p->tos;
	fib->ipv4_src = p->saddr;
	fib->ipv4_dst = p->daddr;
}

// to_network routes a packet out of the node by the kernel's tables. The stack gets
// the packets for which the tables have no complete answer.
static __always_inline int to_network(struct __sk_buff *skb, const struct packet *p, int six)
{
	struct bpf_fib_lookup fib = {.ifindex = skb->ifindex};
	long found;

	track_outgoing(p, six);
	if (p->ttl <= 1 || (six && is_link_local(&p->daddr6)))
		return TC_ACT_OK;
	describe(&fib, p, six);
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_OK;
	if (decrement_ttl(skb, p, six))
		return TC_ACT_SHOT;
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return bpf_redirect_neigh(fib.ifindex, 0, 0, 0);
	if (readdress(skb, fib.dmac, fib.smac))
		return TC_ACT_SHOT;
	return bpf_redirect(fib.ifindex, 0);
}

static __always_inline struct endpoint *endpoint_of(const struct packet *p, int six)
{
	return six ? bpf_map_lookup_elem(&endpoints6, &p->daddr6) : bpf_map_lookup_elem(&endpoints, &p->daddr);
}

// unread is the verdict on a frame without a readable destination.
static __always_inline int unread(struct __sk_buff *skb, enum frame f)
{
	return leave(skb, structure != STRUCTURE_PASS && f == FRAME_BROKEN ? DROPPED : PASSED);
}

static __always_inline int from_endpoint(struct __sk_buff *skb, struct cursor *c, const struct packet *p, int six)
{
	struct endpoint *e = endpoint_of(p, six);

	if (e)
		return to_endpoint(skb, c, p, e, 0, six);
	count(PASSED, skb->len);
	return p->tags ? TC_ACT_OK : to_network(skb, p, six);
}

// tc_from_endpoint runs at the node's end of an endpoint's link, on packets from
// the endpoint.
SEC("tc")
int tc_from_endpoint(struct __sk_buff *skb)
{
	struct packet p = {};
	struct cursor c;
	enum frame f = read_skb(skb, &c, &p);

	if (f == FRAME_IPV4)
		return from_endpoint(skb, &c, &p, 0);
	if (f == FRAME_IPV6)
		return from_endpoint(skb, &c, &p, 1);
	return unread(skb, f);
}

static __always_inline int from_netdev(struct __sk_buff *skb, struct cursor *c, const struct packet *p, int six)
{
	struct endpoint *e = endpoint_of(p, six);

	return e ? to_endpoint(skb, c, p, e, 0, six) : leave(skb, PASSED);
}

// tc_from_netdev runs at the node's NIC, on packets from the network.
SEC("tc")
int tc_from_netdev(struct __sk_buff *skb)
{
	struct packet p = {};
	struct cursor c;
	enum frame f = read_skb(skb, &c, &p);

	if (f == FRAME_IPV4)
		return from_netdev(skb, &c, &p, 0);
	if (f == FRAME_IPV6)
		return from_netdev(skb, &c, &p, 1);
	return unread(skb, f);
}

static __always_inline int is_guarded6(const struct addr6 *a)
{
	struct addr6 guarded = endpoint_ip6;

	return same6(a, &guarded);
}

static __always_inline enum verdict guard(struct __sk_buff *skb, struct cursor *c, const struct packet *p, int six)
{
	if (p->tags)
		return enforce ? DROPPED : PASSED;
	if (six && p->discovery)
		return PASSED;
	return judge(skb, c, p, enforce != 0, 0, six);
}

// tc_to_endpoint runs at tc egress of the node's end of an endpoint's link, on
// packets to the endpoint. It does not change packets.
SEC("tc")
int tc_to_endpoint(struct __sk_buff *skb)
{
	struct packet p = {};
	struct cursor c;
	enum frame f;

	if (structure == STRUCTURE_PASS)
		return leave(skb, PASSED);
	f = read_skb(skb, &c, &p);
	if (f == FRAME_IPV4 && p.daddr == endpoint_ip)
		return leave(skb, guard(skb, &c, &p, 0));
	if (f == FRAME_IPV6 && is_guarded6(&p.daddr6))
		return leave(skb, guard(skb, &c, &p, 1));
	return leave(skb, f == FRAME_BROKEN && enforce ? DROPPED : PASSED);
}

// tc_track runs at tc ingress of the same link, on packets from the endpoint. It
// records the connections that the endpoint opens, and counts nothing.
SEC("tc")
int tc_track(struct __sk_buff *skb)
{
	struct packet p = {};
	struct cursor c;
	enum frame f;

	if (structure == STRUCTURE_PASS)
		return TC_ACT_OK;
	f = read_skb(skb, &c, &p);
	if (p.tags)
		return TC_ACT_OK;
	if (f == FRAME_IPV4)
		track_outgoing(&p, 0);
	else if (f == FRAME_IPV6)
		track_outgoing(&p, 1);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
