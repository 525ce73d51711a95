// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// Policies of HTTP requests, judged by first bytes: of a segment (tc), or of what a
// socket receives at once (sk_skb). Bytes that begin as some policy does, by method and
// path, are admitted; others are dropped. Linux 5.10 or later.
#define CONTEXT struct __sk_buff

#include "headers/parse.h"
#include "headers/stats.h"
#include <linux/pkt_cls.h>

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

// sockets are those that the server accepted, by the other end's port.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__type(key, __u64);
	__type(value, __u64);
	__uint(max_entries, 65536);
} sockets SEC(".maps");

// admits judges the bytes of a packet from an offset on, of which there are left.
static __always_inline int admits(struct __sk_buff *skb, __u32 from, __u32 left)
{
	struct request r = { .bits = 8 * FIRST };

	if (!enforce)
		return 1;
	if (left > FIRST)
		left = FIRST;
	asm volatile("" : "+r"(left)); // so that the bound is checked where it is used
	if (left < 1 || left > FIRST || bpf_skb_load_bytes(skb, from, r.first, left))
		return 0;
	return bpf_map_lookup_elem(&requests, &r) != 0;
}

// request_tc is for tc ingress of the server's link. Segments without payload pass.
SEC("tc")
int request_tc(struct __sk_buff *skb)
{
	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	struct packet p = {};
	enum frame kind = read_frame(skb, &c, &p);
	__u32 at, network, end = skb->len;
	__u8 offset; // of the payload, in the upper half, in units of 4 bytes

	if ((kind != FRAME_IPV4 && kind != FRAME_IPV6) || p.proto != IPPROTO_TCP || !p.whole || p.dport != bpf_htons(request_port)) {
		count(PASSED, skb->len);
		return TC_ACT_OK;
	}
	at = (__u32)(c.pos - (void *)(long)skb->data) - sizeof(struct tcphdr);
	if (bpf_skb_load_bytes(skb, at + 12, &offset, 1)) {
		count(DROPPED, skb->len);
		return TC_ACT_SHOT;
	}
	at += offset / 16 * 4;
	// A short frame may be longer than its packet; one from segmentation offload
	// may not say how long it is.
	network = sizeof(struct ethhdr) + p.tags * sizeof(struct vlan_tag) + (kind == FRAME_IPV6 ? sizeof(struct ipv6hdr) : 0);
	if (p.tot_len && network + bpf_ntohs(p.tot_len) < end)
		end = network + bpf_ntohs(p.tot_len);
	if (at >= end) {
		count(PASSED, skb->len);
		return TC_ACT_OK;
	}
	if (!admits(skb, at, end - at)) {
		count(DROPPED, skb->len);
		return TC_ACT_SHOT;
	}
	count(ACCEPTED, skb->len);
	return TC_ACT_OK;
}

// request_accepted is for the cgroup of the server: it has the kernel show
// request_receive what accepted sockets of the port receive.
SEC("sockops")
int request_accepted(struct bpf_sock_ops *ops)
{
	__u64 key = ops->remote_port;

	if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && ops->local_port == request_port)
		bpf_sock_hash_update(ops, &sockets, &key, BPF_ANY);
	return 1;
}

// request_receive sees each piece of the stream before the server can read it.
SEC("sk_skb/stream_verdict")
int request_receive(struct __sk_buff *skb)
{
	if (!admits(skb, 0, skb->len)) {
		count(DROPPED, skb->len);
		return SK_DROP;
	}
	count(ACCEPTED, skb->len);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
