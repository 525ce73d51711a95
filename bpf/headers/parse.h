// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The headers of a frame, read by a cursor that cannot leave it. The file that
// includes this one defines CONTEXT, the type of the programs' context.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_TAGS 2 // VLAN tags looked through: 802.1Q inside 802.1ad
#define FRAG_OFFSET 0x1fff
#define FRAG_OFFSET6 0xfff8
#define MAX_EXTENSIONS 4 // IPv6 extension headers looked through, in a frame and in a quotation
#define MAX_OFFSET 8191  // where they end at the latest; a mask
#define NO_LENGTH 0x7fffffff // of a packet whose header claims none
// The longest sequence of headers that is read: more than an ICMP error over an
// IPv4 header with all options, quoting another such header and 8 bytes after it
// (158), and room for short extension headers in both IPv6 headers.
#define MAX_HEADERS 256

// addr6 is an IPv6 address as on the wire.
struct addr6 {
	__u64 high;
	__u64 low;
};

static __always_inline int same6(const struct addr6 *a, const struct addr6 *b)
{
	return a->high == b->high && a->low == b->low;
}

// cursor is the unread part of a frame.
struct cursor {
	void *pos;
	void *end;
};

// take returns the next n bytes and moves on, or returns 0 if the frame has fewer.
static __always_inline void *take(struct cursor *c, __u32 n)
{
	void *start = c->pos;

	if (start + n > c->end)
		return 0;
	c->pos = start + n;
	return start;
}

// peek is take without moving on.
static __always_inline void *peek(struct cursor *c, __u32 n)
{
	return c->pos + n > c->end ? 0 : c->pos;
}

enum frame {
	FRAME_OTHER,  // neither IPv4 nor IPv6
	FRAME_BROKEN, // IP that does not reveal its destination
	FRAME_IPV4,
	FRAME_IPV6,
};

// packet is the headers of an IP frame. sport, dport and the fields after proto are
// valid only if whole is set.
struct packet {
	__be32 saddr; // of IPv4
	__be32 daddr;
	struct addr6 saddr6; // of IPv6
	struct addr6 daddr6;
	__be16 sport; // 0 unless TCP or UDP
	__be16 dport; // 0 unless TCP or UDP
	__be16 tot_len;
	__sum16 check; // IPv4's
	__u8 proto;    // behind extension headers
	__u8 ttl;      // or hop limit
	__u8 tos;      // or traffic class
	__u8 tags;       // VLAN tags in front of the IP header
	__u8 whole;      // the transport header is there: no later fragment, not cut
	__u8 opening;    // begins something: TCP's SYN without ACK, ICMP's questions
	__u8 icmp_error; // ICMP about another packet; the cursor is at its quotation
	__u8 discovery;  // ICMPv6 between neighbours and routers
};

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

static __always_inline int is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

// read_ethernet stores the frame's protocol after at most MAX_TAGS tags, and
// returns the number of tags, or -1 if the frame ends too early.
static __always_inline int read_ethernet(struct cursor *c, __be16 *proto)
{
	struct ethhdr *eth = take(c, sizeof(*eth));
	int tags = 0;

	if (!eth)
		return -1;
	*proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		struct vlan_tag *tag;

		if (!is_vlan(*proto))
			break;
		tag = take(c, sizeof(*tag));
		if (!tag)
			return -1;
		*proto = tag->proto;
		tags++;
	}
	return tags;
}

// icmp_header is that of RFC 792 and RFC 4443. The system's <linux/icmp.h> needs a
// C library.
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 rest;
};

// is_icmp_error: whether a type quotes another packet: unreachable, source quench,
// redirect, time exceeded, parameter problem.
static __always_inline int is_icmp_error(__u8 type)
{
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

// read_transport fills ports and flags. room is the number of bytes after the IP
// header by its length field. p->whole stays 0 if the header is cut, either by the
// frame's end or by that length.
static __always_inline void read_transport(struct cursor *c, struct packet *p, int room, int six)
{
	if (p->proto == IPPROTO_TCP) {
		struct tcphdr *tcp = take(c, sizeof(*tcp));

		if (!tcp || room < (int)sizeof(*tcp))
			return;
		p->sport = tcp->source;
		p->dport = tcp->dest;
		p->opening = tcp->syn && !tcp->ack;
	} else if (p->proto == IPPROTO_UDP) {
		struct udphdr *udp = take(c, sizeof(*udp));

		if (!udp || room < (int)sizeof(*udp))
			return;
		p->sport = udp->source;
		p->dport = udp->dest;
	} else if (p->proto == (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		struct icmp_header *icmp = take(c, sizeof(*icmp));

		if (!icmp || room < (int)sizeof(*icmp))
			return;
		// RFC 4443: types below 128 are errors. RFC 4861: 133 to 137.
		p->icmp_error = six ? icmp->type < 128 : is_icmp_error(icmp->type);
		p->discovery = six && icmp->type >= 133 && icmp->type <= 137;
		// Without ports only the type distinguishes requests and answers; only
		// an echo reply counts as an answer.
		p->opening = !p->icmp_error && icmp->type != (six ? 129 : 0);
	}
	p->whole = 1;
}

static __always_inline enum frame read_ipv4(struct cursor *c, struct packet *p)
{
	struct iphdr *ip = peek(c, sizeof(*ip));
	int header, room;

	if (!ip || ip->version != 4)
		return FRAME_BROKEN;
	p->saddr = ip->saddr;
	p->daddr = ip->daddr;
	p->proto = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->check = ip->check;
	p->tot_len = ip->tot_len;
	header = ip->ihl * 4;
	// Packets above 64 KiB leave segmentation offload with a length of 0; the
	// receiver decides whether this is one.
	room = ip->tot_len ? bpf_ntohs(ip->tot_len) - header : NO_LENGTH;
	if (header < (int)sizeof(*ip) || !take(c, header))
		return FRAME_IPV4;
	if (ip->frag_off & bpf_htons(FRAG_OFFSET))
		return FRAME_IPV4;
	read_transport(c, p, room, 0);
	return FRAME_IPV4;
}

// extension is the start of an IPv6 extension header. In a fragment header the
// length is reserved, and an offset follows.
struct extension {
	__u8 next;
	__u8 length;
	__be16 offset;
	__be32 rest;
};

static __always_inline int is_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
	       proto == IPPROTO_FRAGMENT || proto == IPPROTO_AH;
}

static __always_inline __u32 extension_size(__u8 proto, const struct extension *x)
{
	if (proto == IPPROTO_FRAGMENT)
		return sizeof(*x);
	if (proto == IPPROTO_AH) // RFC 4302: in units of 4 bytes, less 2
		return (x->length + 2) * 4;
	return (x->length + 1) * 8;
}

// skip_extensions walks the extension headers that begin at an offset into the
// frame. It returns the offset after them, times 256, plus the protocol there; or 0
// if that cannot be read: a later fragment, cut, too many. It is a global function,
// so the verifier checks all their combinations once, separately from its callers.
__noinline __u32 skip_extensions(CONTEXT *ctx, __u32 at, __u32 first)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u8 proto = first;

	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		struct extension *x = data + at;

		if (at > MAX_OFFSET || (void *)(x + 1) > end)
			return 0;
		if (proto == IPPROTO_FRAGMENT && x->offset & bpf_htons(FRAG_OFFSET6))
			return 0;
		at += extension_size(proto, x);
		proto = x->next;
		if (!is_extension(proto))
			return at > MAX_OFFSET || data + at > end ? 0 : at << 8 | proto;
	}
	return 0;
}

// to_transport moves from the end of an IPv6 header, where *proto begins, to the
// transport header, and returns the number of bytes between; -1 if there is no
// readable one.
static __always_inline int to_transport(CONTEXT *ctx, struct cursor *c, __u8 *proto)
{
	__u64 from, found, to;

	if (!is_extension(*proto))
		return 0;
	// Read again: the verifier does not track a copy of 32 bits as a pointer.
	from = c->pos - (void *)(long)*(volatile __u32 *)&ctx->data;
	found = skip_extensions(ctx, from, *proto);
	if (!found)
		return -1;
	*proto = found;
	to = found >> 8;
	asm volatile("%[to] &= %[mask]" : [to] "+r"(to) : [mask] "i"(MAX_OFFSET)); // so the verifier knows, too
	c->pos = (void *)(long)ctx->data + to;
	c->end = (void *)(long)ctx->data_end;
	return to - from;
}

static __always_inline void copy6(struct addr6 *to, const struct in6_addr *from)
{
	__builtin_memcpy(to, from, sizeof(*to));
}

static __always_inline enum frame read_ipv6(CONTEXT *ctx, struct cursor *c, struct packet *p)
{
	struct ipv6hdr *ip = take(c, sizeof(*ip));
	int room, skipped;

	if (!ip || ip->version != 6)
		return FRAME_BROKEN;
	copy6(&p->saddr6, &ip->saddr);
	copy6(&p->daddr6, &ip->daddr);
	p->proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	p->tot_len = ip->payload_len;
	// A length of 0: above 64 KiB, by RFC 2675 or from segmentation offload.
	room = ip->payload_len ? bpf_ntohs(ip->payload_len) : NO_LENGTH;
	skipped = to_transport(ctx, c, &p->proto);
	if (skipped >= 0)
		read_transport(c, p, room - skipped, 1);
	return FRAME_IPV6;
}

// read_frame reads Ethernet, VLAN tags, IP with its options and the transport
// header into p, which must be zeroed.
static __always_inline enum frame read_frame(CONTEXT *ctx, struct cursor *c, struct packet *p)
{
	__be16 proto = 0;
	int tags = read_ethernet(c, &proto);

	// Too many tags, or a cut tag, may hide IP.
	if (tags < 0 || is_vlan(proto))
		return FRAME_BROKEN;
	p->tags = tags;
	if (proto == bpf_htons(ETH_P_IP))
		return read_ipv4(c, p);
	if (proto == bpf_htons(ETH_P_IPV6))
		return read_ipv6(ctx, c, p);
	return FRAME_OTHER;
}
