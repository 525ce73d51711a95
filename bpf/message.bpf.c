// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// Policies of HTTP requests as in request.bpf.c, judged at the client: by the first bytes of
// what its sockets are given to send at once (sk_msg). Linux 5.10 or later.
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "headers/stats.h"

#define FIRST 64 // bytes that are judged: Go's RequestBytes

const volatile __u16 request_port = 0; // that policies are about, host byte order
const volatile __u8 enforce = 0;       // 0: everything is admitted

// request is the beginning of a request, and how many bits of it a policy names.
struct request {
	__u32 bits;
	__u8 first[FIRST];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct request);
	__type(value, __u8);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} requests SEC(".maps");

// sockets are those with which the client connected, by their port.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__type(key, __u64);
	__type(value, __u64);
	__uint(max_entries, 65536);
} sockets SEC(".maps");

// message_connected is for the cgroup of the client: it has the kernel show message_sent what
// sockets that are connected to the port are given to send.
SEC("sockops")
int message_connected(struct bpf_sock_ops *ops)
{
	__u64 key = ops->local_port;

	if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && bpf_ntohl(ops->remote_port) == request_port)
		bpf_sock_hash_update(ops, &sockets, &key, BPF_ANY);
	return 1;
}

// admits judges a message's first bytes.
static __always_inline int admits(struct sk_msg_md *msg)
{
	struct request r = { .bits = 8 * FIRST };
	__u32 size = msg->size;
	__u8 *data, *end;

	if (!enforce)
		return 1;
	if (size > FIRST)
		size = FIRST;
	// They may be in several pieces, of which the program only sees the first.
	if (!size || bpf_msg_pull_data(msg, 0, size, 0))
		return 0;
	data = msg->data;
	end = msg->data_end;
#pragma unroll
	for (int i = 0; i < FIRST; i++) {
		if (data + i + 1 > end)
			break;
		r.first[i] = data[i];
	}
	return bpf_map_lookup_elem(&requests, &r) != 0;
}

// message_sent has a message that it does not admit refused to its sender (EACCES).
SEC("sk_msg")
int message_sent(struct sk_msg_md *msg)
{
	__u32 size = msg->size;

	if (!admits(msg)) {
		count(DROPPED, size);
		return SK_DROP;
	}
	count(ACCEPTED, size);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
