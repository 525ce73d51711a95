// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Counters per verdict and CPU.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// verdict indexes the map stats. The constants in bpf.go must be equal.
enum verdict {
	ACCEPTED, // subject to policy, and admitted
	DROPPED,  // subject to policy or unreadable, and dropped
	PASSED,   // not subject to policy
	VERDICTS,
};

struct stat {
	__u64 packets;
	__u64 bytes; // whole frames; for segmentation offload the unsegmented one
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, struct stat);
} stats SEC(".maps");

// count adds one frame. Programs of one CPU do not interrupt each other here,
// so a plain addition is exact.
static __always_inline void count(__u32 verdict, __u64 bytes)
{
	struct stat *s = bpf_map_lookup_elem(&stats, &verdict);

	if (!s)
		return;
	s->packets++;
	s->bytes += bytes;
}
