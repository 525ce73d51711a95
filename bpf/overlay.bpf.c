// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// The tc datapath with a tunnel between nodes, in addition to datapath.bpf.c: the
// sender's node sets the tunnel key of each packet itself. The network identifier in
// it is the source's identity, which the receiver's node reads instead of looking up
// the address. IPv4. Linux 5.10 or later.
#include "datapath.bpf.c"

// The VXLAN device, which takes its tunnel keys from packets.
const volatile __u32 tunnel_ifindex = 0;
// Outer packets have a UDP checksum (1), or a zero checksum (0).
const volatile __u8 tunnel_checksum = 1;

#define TUNNEL_TTL 64
// Both helpers accept the structure up to here in Linux 5.10 and before.
#define TUNNEL_KEY_SIZE offsetof(struct bpf_tunnel_key, local_ipv4)

struct tunnel_prefix {
	__u32 prefixlen;
	__be32 addr;
};

// The node that has a prefix: its address in the byte order of the CPU.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tunnel_prefix);
	__type(value, __u32);
} tunnels SEC(".maps");

// to_tunnel sends a packet to the node that has its destination. The inner frame
// does not change: a tunnel is not a hop.
static __always_inline int to_tunnel(struct __sk_buff *skb, const struct packet *p)
{
	struct tunnel_prefix at = {.prefixlen = 32, .addr = p->daddr};
	__u32 *node = bpf_map_lookup_elem(&tunnels, &at);
	struct bpf_tunnel_key key = {.tunnel_ttl = TUNNEL_TTL};

	if (!node)
		return to_network(skb, p, 0);
	track_outgoing(p, 0);
	key.tunnel_id = identity_of(p, 0);
	key.remote_ipv4 = *node;
	if (bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, tunnel_checksum ? 0 : BPF_F_ZERO_CSUM_TX))
		return TC_ACT_SHOT;
	return bpf_redirect(tunnel_ifindex, 0);
}

static __always_inline int from_endpoint_tunnelled(struct __sk_buff *skb, struct cursor *c, const struct packet *p)
{
	struct endpoint *e = endpoint_of(p, 0);

	if (e)
		return to_endpoint(skb, c, p, e, 0, 0);
	count(PASSED, skb->len);
	return p->tags ? TC_ACT_OK : to_tunnel(skb, p);
}

// tc_from_endpoint_tunnel is tc_from_endpoint with a tunnel to other nodes.
SEC("tc")
int tc_from_endpoint_tunnel(struct __sk_buff *skb)
{
	struct packet p = {};
	struct cursor c;
	enum frame f = read_skb(skb, &c, &p);

	if (f == FRAME_IPV4)
		return from_endpoint_tunnelled(skb, &c, &p);
	if (f == FRAME_IPV6)
		return from_endpoint(skb, &c, &p, 1);
	return unread(skb, f);
}

// tc_from_tunnel runs at tc ingress of the VXLAN device, on packets of other nodes.
// The inner frame is addressed to the sender's node; a packet for the stack here
// must not be marked as one for another host.
SEC("tc")
int tc_from_tunnel(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct packet p = {};
	struct cursor c;
	struct endpoint *e;
	enum frame f;

	if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, 0))
		return unread(skb, FRAME_BROKEN);
	f = read_skb(skb, &c, &p);
	if (f != FRAME_IPV4)
		return unread(skb, f);
	e = endpoint_of(&p, 0);
	if (!e || p.ttl <= 1)
		bpf_skb_change_type(skb, PACKET_HOST);
	return e ? to_endpoint(skb, &c, &p, e, key.tunnel_id ? key.tunnel_id : IDENTITY_WORLD, 0) : leave(skb, PASSED);
}
