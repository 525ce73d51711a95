// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// The XDP filter: stateless policy on what enters one endpoint, at its eth0 or
// at the node's NIC, and a control that does nothing. Linux 5.10 or later.
#include "headers/parse.h"
#include "headers/stats.h"
#include "headers/policy.h"

const volatile __be32 endpoint_ip = 0; // the endpoint's address as on the wire
const volatile __u8 enforce = 0;       // 0: there is no policy

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
	return policy_admits(p.saddr, p.dport, p.proto) ? ACCEPTED : DROPPED;
}

static __always_inline int leave(struct xdp_md *ctx, enum verdict v)
{
	count(v, (void *)(long)ctx->data_end - (void *)(long)ctx->data);
	return v == DROPPED ? XDP_DROP : XDP_PASS;
}

// xdp_hash admits to the endpoint only what has an entry in the policy table.
SEC("xdp")
int xdp_hash(struct xdp_md *ctx)
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
