// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// The XDP filter: stateless policy on what enters one endpoint, at its eth0 or
// at the node's NIC, and a control that does nothing. Linux 5.10 or later.
#include "headers/parse.h"
#include "headers/stats.h"
#include "headers/policy.h"

const volatile __be32 endpoint_ip = 0; // the endpoint's address as on the wire
const volatile __u8 enforce = 0;       // 0: there is no policy

static __always_inline int admits(const struct packet *p, __u32 bytes)
{
	switch (structure) {
	case STRUCTURE_LINEAR:
		return list_admits(p, bytes);
	case STRUCTURE_LPM:
		return trie_admits(p, bytes);
	default:
		return hash_admits(p, p->saddr, bytes);
	}
}

static __always_inline enum verdict judge(struct xdp_md *ctx)
{
	struct cursor c = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct packet p = {};
	enum frame f = read_frame(&c, &p);

	if (f == FRAME_BROKEN)
		return enforce ? DROPPED : PASSED;
	if (f == FRAME_OTHER || p.daddr != endpoint_ip)
		return PASSED;
	if (!enforce)
		return ACCEPTED;
	if (p.tags || !p.whole)
		return DROPPED;
	return admits(&p, ctx->data_end - ctx->data) ? ACCEPTED : DROPPED;
}

static __always_inline int leave(struct xdp_md *ctx, enum verdict v)
{
	count(v, (void *)(long)ctx->data_end - (void *)(long)ctx->data);
	return v == DROPPED ? XDP_DROP : XDP_PASS;
}

// xdp_policy admits to the endpoint what the policies admit.
SEC("xdp")
int xdp_policy(struct xdp_md *ctx)
{
	return leave(ctx, judge(ctx));
}

// xdp_pass is the control: an XDP program that reads nothing.
SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	return leave(ctx, PASSED);
}

char LICENSE[] SEC("license") = "GPL";
