// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// What a frame says about itself, read by a cursor that cannot leave it.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_TAGS 2 // VLAN tags looked through: 802.1Q inside 802.1ad
#define FRAG_OFFSET 0x1fff
// The longest run of headers that is ever read: an ICMP error over an IPv4
// header with all options, quoting another such header and 8 bytes after it.
#define MAX_HEADERS (ETH_HLEN + MAX_TAGS * 4 + 60 + 8 + 60 + 8)

// cursor is the unread part of a frame.
struct cursor {
	void *pos;
	void *end;
};

// take returns the next n bytes, or 0 where the frame has fewer.
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
	FRAME_OTHER,  // not IPv4
	FRAME_BROKEN, // IPv4 that does not reveal its destination
	FRAME_IPV4,
};

// packet is what an IPv4 frame says. sport, dport and what follows proto mean
// something only if whole is set.
struct packet {
	__be32 saddr;
	__be32 daddr;
	__be16 sport; // 0 unless TCP or UDP
	__be16 dport; // 0 unless TCP or UDP
	__be16 tot_len;
	__sum16 check;
	__u8 proto;
	__u8 ttl;
	__u8 tos;
	__u8 tags;       // VLAN tags in front of the IPv4 header
	__u8 whole;      // the transport header is there: no later fragment, not cut
	__u8 opening;    // TCP with SYN and without ACK
	__u8 icmp_error; // ICMP about another packet; the cursor is at its quotation
};

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

static __always_inline int is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

// read_ethernet stores the frame's protocol behind at most MAX_TAGS tags, and
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

// icmp_header is RFC 792's. The system's <linux/icmp.h> wants a C library.
struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 rest;
};

// is_icmp_error knows the types that quote another packet: unreachable, source
// quench, redirect, time exceeded, parameter problem.
static __always_inline int is_icmp_error(__u8 type)
{
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

// read_transport fills ports and flags. room is the number of bytes that the
// IPv4 header claims to follow it. p->whole stays 0 if the header is cut,
// either by the frame's end or by that claim.
static __always_inline void read_transport(struct cursor *c, struct packet *p, int room)
{
	switch (p->proto) {
	case IPPROTO_TCP: {
		struct tcphdr *tcp = take(c, sizeof(*tcp));

		if (!tcp || room < (int)sizeof(*tcp))
			return;
		p->sport = tcp->source;
		p->dport = tcp->dest;
		p->opening = tcp->syn && !tcp->ack;
		break;
	}
	case IPPROTO_UDP: {
		struct udphdr *udp = take(c, sizeof(*udp));

		if (!udp || room < (int)sizeof(*udp))
			return;
		p->sport = udp->source;
		p->dport = udp->dest;
		break;
	}
	case IPPROTO_ICMP: {
		struct icmp_header *icmp = take(c, sizeof(*icmp));

		if (!icmp || room < (int)sizeof(*icmp))
			return;
		p->icmp_error = is_icmp_error(icmp->type);
		break;
	}
	}
	p->whole = 1;
}

// read_frame reads Ethernet, VLAN tags, IPv4 with its options and the
// transport header into p, which must be zeroed.
static __always_inline enum frame read_frame(struct cursor *c, struct packet *p)
{
	__be16 proto = 0;
	int tags = read_ethernet(c, &proto);
	struct iphdr *ip;
	int header, room;

	// A tag too many, or a cut one, may hide IPv4.
	if (tags < 0 || is_vlan(proto))
		return FRAME_BROKEN;
	if (proto != bpf_htons(ETH_P_IP))
		return FRAME_OTHER;
	ip = peek(c, sizeof(*ip));
	if (!ip || ip->version != 4)
		return FRAME_BROKEN;
	p->saddr = ip->saddr;
	p->daddr = ip->daddr;
	p->proto = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->check = ip->check;
	p->tot_len = ip->tot_len;
	p->tags = tags;
	header = ip->ihl * 4;
	// A length of 0 is how packets beyond 64 KiB come out of segmentation
	// offload; the receiver judges whether this is one.
	room = ip->tot_len ? bpf_ntohs(ip->tot_len) - header : MAX_HEADERS;
	if (header < (int)sizeof(*ip) || !take(c, header))
		return FRAME_IPV4;
	if (ip->frag_off & bpf_htons(FRAG_OFFSET))
		return FRAME_IPV4;
	read_transport(c, p, room);
	return FRAME_IPV4;
}
