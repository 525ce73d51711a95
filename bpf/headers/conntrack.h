// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Connections of this node's endpoints, by the tuple of the first packet. Packets
// in the other direction are found by the reversed tuple. Each family has a map, so
// that the keys of IPv4 stay small. If a function has a parameter six, it is a
// constant in each call.
#pragma once

#include "parse.h"

struct flow_key {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

struct flow_key6 {
	struct addr6 saddr;
	struct addr6 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

#define FLOW_ADMITTED 1 // by a policy, not for want of one

struct flow {
	__u64 opened_ns; // bpf_ktime_get_ns of the first packet
	__u32 flags;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow_key);
	__type(value, struct flow);
} conntrack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow_key6);
	__type(value, struct flow);
} conntrack6 SEC(".maps");

// way selects a tuple of a packet.
enum way {
	FORWARD, // its own
	REVERSE, // that of what it would be a reply to
};

static __always_inline struct flow_key key_of(const struct packet *p, enum way way)
{
	if (way == FORWARD)
		return (struct flow_key){
			.saddr = p->saddr, .daddr = p->daddr, .sport = p->sport, .dport = p->dport, .proto = p->proto,
		};
	return (struct flow_key){
		.saddr = p->daddr, .daddr = p->saddr, .sport = p->dport, .dport = p->sport, .proto = p->proto,
	};
}

static __always_inline struct flow_key6 key6_of(const struct packet *p, enum way way)
{
	if (way == FORWARD)
		return (struct flow_key6){
			.saddr = p->saddr6, .daddr = p->daddr6, .sport = p->sport, .dport = p->dport, .proto = p->proto,
		};
	return (struct flow_key6){
		.saddr = p->daddr6, .daddr = p->saddr6, .sport = p->dport, .dport = p->sport, .proto = p->proto,
	};
}

// flow_of finds the connection of a tuple.
static __always_inline struct flow *flow_of(const struct packet *p, enum way way, int six)
{
	if (six) {
		struct flow_key6 k = key6_of(p, way);

		return bpf_map_lookup_elem(&conntrack6, &k);
	}
	struct flow_key k = key_of(p, way);

	return bpf_map_lookup_elem(&conntrack, &k);
}

// flow_find is flow_of for a packet that may be in a connection. An opening packet
// is in none: an earlier connection may have had its ports.
static __always_inline struct flow *flow_find(const struct packet *p, enum way way, int six)
{
	return p->opening ? 0 : flow_of(p, way, six);
}

static __always_inline void flow_open(const struct packet *p, __u32 flags, int six)
{
	struct flow f = {.opened_ns = bpf_ktime_get_ns(), .flags = flags};

	if (six) {
		struct flow_key6 k = key6_of(p, FORWARD);

		bpf_map_update_elem(&conntrack6, &k, &f, BPF_ANY);
		return;
	}
	struct flow_key k = key_of(p, FORWARD);

	bpf_map_update_elem(&conntrack, &k, &f, BPF_ANY);
}

// read_ports moves the cursor behind the ports of a quoted packet, which may end
// there. It returns 0 if the packet ends before.
static __always_inline int read_ports(struct cursor *c, struct packet *p)
{
	struct {
		__be16 source;
		__be16 dest;
	} *ports;

	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
		return 1;
	ports = take(c, sizeof(*ports));
	if (!ports)
		return 0;
	p->sport = ports->source;
	p->dport = ports->dest;
	return 1;
}

static __always_inline int read_quoted4(struct cursor *c, struct packet *p)
{
	struct iphdr *ip = peek(c, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5 || ip->frag_off & bpf_htons(FRAG_OFFSET))
		return 0;
	p->saddr = ip->saddr;
	p->daddr = ip->daddr;
	p->proto = ip->protocol;
	// Without ports, the fixed part of the header suffices.
	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
		return 1;
	return take(c, ip->ihl * 4) && read_ports(c, p);
}

static __always_inline int read_quoted6(CONTEXT *ctx, struct cursor *c, struct packet *p)
{
	struct ipv6hdr *ip = take(c, sizeof(*ip));

	if (!ip || ip->version != 6)
		return 0;
	copy6(&p->saddr6, &ip->saddr);
	copy6(&p->daddr6, &ip->daddr);
	p->proto = ip->nexthdr;
	return to_transport(ctx, c, &p->proto) >= 0 && read_ports(c, p);
}

// flow_quoted: whether an ICMP error, with the cursor at the packet that it quotes,
// is about a packet that its receiver sent in a tracked connection.
static __always_inline int flow_quoted(CONTEXT *ctx, struct cursor *c, const struct packet *p, int six)
{
	struct packet sent = {};

	if (six) {
		if (!read_quoted6(ctx, c, &sent) || !same6(&sent.saddr6, &p->daddr6))
			return 0;
	} else if (!read_quoted4(c, &sent) || sent.saddr != p->daddr) {
		return 0;
	}
	return flow_of(&sent, FORWARD, six) || flow_of(&sent, REVERSE, six);
}
