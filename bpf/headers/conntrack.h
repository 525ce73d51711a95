// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Connections of this node's endpoints, kept under the tuple of whoever spoke
// first. Packets the other way are found under the reversed tuple.
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

static __always_inline struct flow_key forward_key(const struct packet *p)
{
	return (struct flow_key){
		.saddr = p->saddr, .daddr = p->daddr, .sport = p->sport, .dport = p->dport, .proto = p->proto,
	};
}

static __always_inline struct flow_key reverse_key(const struct flow_key *k)
{
	return (struct flow_key){
		.saddr = k->daddr, .daddr = k->saddr, .sport = k->dport, .dport = k->sport, .proto = k->proto,
	};
}

// flow_find finds a connection by a tuple of either direction's making. An
// opening packet belongs to none: its ports may have served an earlier one.
static __always_inline struct flow *flow_find(const struct packet *p, const struct flow_key *k)
{
	return p->opening ? 0 : bpf_map_lookup_elem(&conntrack, k);
}

static __always_inline void flow_open(const struct flow_key *k, __u32 flags)
{
	struct flow f = {.opened_ns = bpf_ktime_get_ns(), .flags = flags};

	bpf_map_update_elem(&conntrack, k, &f, BPF_ANY);
}

// flow_quoted says whether an ICMP error, with the cursor at the packet that it
// quotes, is about a packet that its receiver sent in a tracked connection.
static __always_inline int flow_quoted(struct cursor *c, const struct packet *p)
{
	struct flow_key sent = {}, answered;
	struct iphdr *ip = peek(c, sizeof(*ip));
	struct {
		__be16 source;
		__be16 dest;
	} *ports;

	if (!ip || ip->version != 4 || ip->ihl < 5 || ip->saddr != p->daddr || ip->frag_off & bpf_htons(FRAG_OFFSET))
		return 0;
	sent.saddr = ip->saddr;
	sent.daddr = ip->daddr;
	sent.proto = ip->protocol;
	if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
		if (!take(c, ip->ihl * 4))
			return 0;
		ports = take(c, sizeof(*ports));
		if (!ports)
			return 0;
		sent.sport = ports->source;
		sent.dport = ports->dest;
	}
	answered = reverse_key(&sent);
	return bpf_map_lookup_elem(&conntrack, &sent) || bpf_map_lookup_elem(&conntrack, &answered);
}
