// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// The XDP filter: stateless policy on packets to one endpoint, at its eth0 or at
// the node's NIC, and a control that only counts. Linux 5.10 or later.
#include <linux/bpf.h>

#define CONTEXT struct xdp_md
#include "headers/parse.h"
#include "headers/stats.h"
#include "headers/policy.h"
#include "headers/list.h"

const volatile __be32 endpoint_ip = 0;        // the endpoint's address as on the wire
const volatile struct addr6 endpoint_ip6 = {}; // the same of IPv6
const volatile __u8 enforce = 0;              // 0: there is no policy

// policy_key6 is policy_key with an IPv6 address; :: means any.
struct policy_key6 {
	struct addr6 peer;
	__be16 dport;
	__u8 proto;
	__u8 direction;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_key6);
	__type(value, struct policy_value);
} policy6 SEC(".maps");

// hash_find6 searches in the order of hash_find.
static __always_inline struct policy_value *hash_find6(const struct packet *p)
{
	struct policy_key6 exact = {.peer = p->saddr6, .dport = p->dport, .proto = p->proto};
	struct policy_key6 any_port = {.peer = p->saddr6};
	struct policy_key6 any_peer = {.dport = p->dport, .proto = p->proto};
	struct policy_key6 any = {};
	struct policy_value *v = 0;

	if (wildcards & KIND_EXACT)
		v = bpf_map_lookup_elem(&policy6, &exact);
	if (!v && wildcards & KIND_ANY_PORT)
		v = bpf_map_lookup_elem(&policy6, &any_port);
	if (!v && wildcards & KIND_ANY_PEER)
		v = bpf_map_lookup_elem(&policy6, &any_peer);
	if (!v && wildcards & KIND_ANY)
		v = bpf_map_lookup_elem(&policy6, &any);
	return v;
}

static __always_inline int admits(const struct packet *p, __u64 bytes, int six)
{
	switch (structure) {
	case STRUCTURE_LINEAR:
		return list_admits(p, bytes, six);
	case STRUCTURE_LPM:
		return decided(trie_find(p, six), bytes);
	default:
		return decided(six ? hash_find6(p) : hash_find(p->saddr, p->dport, p->proto), bytes);
	}
}

// judge_packet decides on a packet to the endpoint.
static __always_inline enum verdict judge_packet(const struct packet *p, __u64 bytes, int six)
{
	if (!enforce)
		return ACCEPTED;
	if (p->tags)
		return DROPPED;
	if (six && p->discovery)
		return PASSED;
	if (!p->whole)
		return DROPPED;
	return admits(p, bytes, six) ? ACCEPTED : DROPPED;
}

static __always_inline enum verdict judge(struct xdp_md *ctx)
{
	struct cursor c = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	__u64 bytes = c.end - c.pos;
	struct packet p = {};
	struct addr6 here;

	switch (read_frame(ctx, &c, &p)) {
	case FRAME_BROKEN:
		return enforce ? DROPPED : PASSED;
	case FRAME_IPV4:
		return p.daddr == endpoint_ip ? judge_packet(&p, bytes, 0) : PASSED;
	case FRAME_IPV6:
		here = endpoint_ip6;
		return same6(&p.daddr6, &here) ? judge_packet(&p, bytes, 1) : PASSED;
	default:
		return PASSED;
	}
}

static __always_inline int leave(struct xdp_md *ctx, enum verdict v)
{
	count(v, (void *)(long)ctx->data_end - (void *)(long)ctx->data);
	return v == DROPPED ? XDP_DROP : XDP_PASS;
}

// xdp_policy drops packets to the endpoint that the policy does not admit.
SEC("xdp")
int xdp_policy(struct xdp_md *ctx)
{
	return leave(ctx, judge(ctx));
}

// xdp_pass is the control: an XDP program that does not read packets.
SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	return leave(ctx, PASSED);
}

char LICENSE[] SEC("license") = "GPL";
