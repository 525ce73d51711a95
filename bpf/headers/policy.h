// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The policy table and the order in which it is asked.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// policy_key names a peer by its identity (tc) or by its IPv4 address (XDP);
// 0 stands for any. Port 0 with protocol 0 stands for any of both.
struct policy_key {
	__u32 peer;
	__be16 dport;
	__u8 proto;
	__u8 direction; // 0: towards the endpoint, the only one
};

struct policy_value {
	__u32 deny; // 0: admit
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
} policy SEC(".maps");

// policy_admits asks for the peer and port, the peer on any port, anyone on
// the port, anyone on any port. The first entry found decides; none denies.
static __always_inline int policy_admits(__u32 peer, __be16 dport, __u8 proto)
{
	struct policy_key exact = {.peer = peer, .dport = dport, .proto = proto};
	struct policy_key any_port = {.peer = peer};
	struct policy_key any_peer = {.dport = dport, .proto = proto};
	struct policy_key any = {};
	struct policy_value *v;

	v = bpf_map_lookup_elem(&policy, &exact);
	if (!v)
		v = bpf_map_lookup_elem(&policy, &any_port);
	if (!v)
		v = bpf_map_lookup_elem(&policy, &any_peer);
	if (!v)
		v = bpf_map_lookup_elem(&policy, &any);
	return v && !v->deny;
}
