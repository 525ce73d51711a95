// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The structures in which policies are kept, and how each is searched.
#pragma once

#include "parse.h"

enum structure {
	STRUCTURE_PASS,   // there is no policy
	STRUCTURE_LINEAR, // a list; the first match decides (list.h)
	STRUCTURE_HASH,
	STRUCTURE_LPM,      // a trie of source prefixes; the longest decides
	STRUCTURE_CILIUM09, // identities in a hash, ports in an array (tc)
};

// One object serves all structures: these values are constants when a program is
// loaded, and the verifier removes code that cannot be reached.
const volatile __u8 structure = STRUCTURE_HASH;
const volatile __u8 default_admit = 0; // what no policy names is admitted
const volatile __u8 accounting = 0;    // enum accounting
// The kinds of entries that may exist; others are not searched.
const volatile __u8 wildcards = 15;

#define KIND_EXACT 1    // a source and a port
#define KIND_ANY_PORT 2 // a source on any port
#define KIND_ANY_PEER 4 // any source on a port
#define KIND_ANY 8      // any source on any port

enum accounting {
	ACCOUNT_OFF,
	ACCOUNT_PER_CPU,
	ACCOUNT_ATOMIC, // one counter for all CPUs
};

// hit counts the frames that matched a policy.
struct hit {
	__u64 packets;
	__u64 bytes;
};

// Both have room for one policy only, unless the loader sets more.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hit);
} hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hit);
} hits_shared SEC(".maps");

// account adds one frame to the counters of a policy.
static __always_inline void account(__u32 index, __u64 bytes)
{
	struct hit *h;

	if (accounting == ACCOUNT_PER_CPU) {
		h = bpf_map_lookup_elem(&hits, &index);
		if (!h)
			return;
		h->packets++;
		h->bytes += bytes;
	} else if (accounting == ACCOUNT_ATOMIC) {
		h = bpf_map_lookup_elem(&hits_shared, &index);
		if (!h)
			return;
		__sync_fetch_and_add(&h->packets, 1);
		__sync_fetch_and_add(&h->bytes, bytes);
	}
}

// policy_value is a policy's value in a table.
struct policy_value {
	__u8 deny;
	__u8 bits; // of the source's prefix, in the trie
	__u16 pad;
	__u32 index; // of the policy's counters
};

// policy_key names a peer by its identity (tc) or by its IPv4 address (XDP);
// 0 means any. Port 0 with protocol 0 means any of both.
struct policy_key {
	__u32 peer;
	__be16 dport;
	__u8 proto;
	__u8 direction; // 0: towards the endpoint, the only one
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
} policy SEC(".maps");

// hash_find searches for the peer and port, the peer on any port, any peer on the
// port, any peer on any port. The first entry that exists decides.
static __always_inline struct policy_value *hash_find(__u32 peer, __be16 dport, __u8 proto)
{
	struct policy_key exact = {.peer = peer, .dport = dport, .proto = proto};
	struct policy_key any_port = {.peer = peer};
	struct policy_key any_peer = {.dport = dport, .proto = proto};
	struct policy_key any = {};
	struct policy_value *v = 0;

	if (wildcards & KIND_EXACT)
		v = bpf_map_lookup_elem(&policy, &exact);
	if (!v && wildcards & KIND_ANY_PORT)
		v = bpf_map_lookup_elem(&policy, &any_port);
	if (!v && wildcards & KIND_ANY_PEER)
		v = bpf_map_lookup_elem(&policy, &any_peer);
	if (!v && wildcards & KIND_ANY)
		v = bpf_map_lookup_elem(&policy, &any);
	return v;
}

// trie_key finds the longest prefix of the source with a port and protocol; both
// are 0 for policies of any port.
struct trie_key {
	__u32 prefixlen; // TRIE_FIXED and bits of the address
	__be16 dport;
	__u8 proto;
	__u8 pad;
	__be32 addr;
};

struct trie_key6 {
	__u32 prefixlen;
	__be16 dport;
	__u8 proto;
	__u8 pad;
	struct addr6 addr;
} __attribute__((packed));

#define TRIE_FIXED 32

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct trie_key);
	__type(value, struct policy_value);
} trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct trie_key6);
	__type(value, struct policy_value);
} trie6 SEC(".maps");

static __always_inline struct policy_value *trie_lookup(const struct packet *p, __be16 dport, __u8 proto, int six)
{
	if (six) {
		struct trie_key6 k = {.prefixlen = TRIE_FIXED + 128, .dport = dport, .proto = proto, .addr = p->saddr6};

		return bpf_map_lookup_elem(&trie6, &k);
	}
	struct trie_key k = {.prefixlen = TRIE_FIXED + 32, .dport = dport, .proto = proto, .addr = p->saddr};

	return bpf_map_lookup_elem(&trie, &k);
}

// trie_find searches for the longest prefix of the source on the port, and on any
// port. The longer of the two decides, or the one on the port if they are equal:
// for whole addresses, that is the order of hash_find.
static __always_inline struct policy_value *trie_find(const struct packet *p, int six)
{
	struct policy_value *v = 0, *w;

	if (wildcards & (KIND_EXACT | KIND_ANY_PEER))
		v = trie_lookup(p, p->dport, p->proto, six);
	if (!(wildcards & (KIND_ANY_PORT | KIND_ANY)) || (v && v->bits == (six ? 128 : 32)))
		return v;
	w = trie_lookup(p, 0, 0, six);
	return v && (!w || w->bits <= v->bits) ? v : w;
}

// decided is the verdict of a table's value, where 0 is no value.
static __always_inline int decided(const struct policy_value *v, __u64 bytes)
{
	if (!v)
		return default_admit;
	account(v->index, bytes);
	return !v->deny;
}
