// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The policy tables, one for each structure, and how they are asked. Which one is
// used is known before loading, so the verifier removes the others.
#pragma once

#include "parse.h"

enum structure {
	STRUCTURE_PASS,     // no policy
	STRUCTURE_LINEAR,   // a list, the first entry that matches decides
	STRUCTURE_HASH,     // whole addresses or identities
	STRUCTURE_LPM,      // source prefixes, the longest decides
	STRUCTURE_CILIUM09, // identities in a hash, ports in an array (tc)
};

enum accounting {
	ACCOUNT_OFF,
	ACCOUNT_PER_CPU,
	ACCOUNT_ATOMIC, // one counter for all CPUs
};

const volatile __u8 structure = STRUCTURE_HASH;
const volatile __u8 default_admit = 0; // what no policy names is admitted: a deny list
const volatile __u8 accounting = ACCOUNT_OFF;
const volatile __u32 list_capacity = 64; // entries of the list that are looked at, at most

struct policy_value {
	__u32 deny;  // 0: admit
	__u32 index; // of the policy's counters
};

// hit counts what met a policy.
struct hit {
	__u64 packets;
	__u64 bytes;
};

// Both have room for one policy only, unless the loader gives them more.
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

static __always_inline void account(__u32 index, __u32 bytes)
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

// decided is what a table's answer means, 0 being no answer.
static __always_inline int decided(const struct policy_value *v, __u32 bytes)
{
	if (!v)
		return default_admit;
	account(v->index, bytes);
	return !v->deny;
}

// policy_key names a peer by its identity (tc) or by its IPv4 address (XDP);
// 0 stands for any. Port 0 with protocol 0 stands for any of both.
struct policy_key {
	__u32 peer;
	__be16 dport;
	__u8 proto;
	__u8 direction; // 0: towards the endpoint, the only one
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
} policy SEC(".maps");

// hash_admits asks for the peer and port, the peer on any port, anyone on
// the port, anyone on any port. The first entry found decides.
static __always_inline int hash_admits(const struct packet *p, __u32 peer, __u32 bytes)
{
	struct policy_key exact = {.peer = peer, .dport = p->dport, .proto = p->proto};
	struct policy_key any_port = {.peer = peer};
	struct policy_key any_peer = {.dport = p->dport, .proto = p->proto};
	struct policy_key any = {};
	struct policy_value *v;

	v = bpf_map_lookup_elem(&policy, &exact);
	if (!v)
		v = bpf_map_lookup_elem(&policy, &any_port);
	if (!v)
		v = bpf_map_lookup_elem(&policy, &any_peer);
	if (!v)
		v = bpf_map_lookup_elem(&policy, &any);
	return decided(v, bytes);
}

#define RULE_USED 1 // an entry without it is the end of the list
#define RULE_DENY 2

// rule is an entry of the list, of two words: an entry that has just one of them
// yet, while it is written, matches nobody or ends the list. (An address of 0 of
// which no bit is ignored is nobody's.)
struct rule {
	__be32 addr;
	__be32 ignored; // bits of the address that do not matter
	__be16 dport;   // 0: any
	__u8 proto;     // 0: any
	__u8 flags;
	__u32 index; // of the policy's counters
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct rule);
} list SEC(".maps");

#define LIST_PART 128

enum part {
	PART_NO_MATCH,
	PART_END, // of the list
	PART_ADMIT,
	PART_DENY,
};

// list_part walks a part of the list. It is a function of its own, so that the
// verifier goes through it once: within one program it keeps every way out of a
// loop in mind, and gives up after some thousand.
__noinline int list_part(__u32 first, __be32 saddr, __u16 dport, __u8 proto, __u32 bytes)
{
	// 64 bits wide, so that the verifier knows its value when it is kept on the
	// stack; the key is a copy.
	for (__u64 i = 0; i < LIST_PART; i++) {
		__u32 key = first + i;
		struct rule *r = bpf_map_lookup_elem(&list, &key);

		if (!r || !(r->flags & RULE_USED))
			return PART_END;
		if ((saddr ^ r->addr) & ~r->ignored)
			continue;
		if ((r->proto && r->proto != proto) || (r->dport && r->dport != dport))
			continue;
		account(r->index, bytes);
		return r->flags & RULE_DENY ? PART_DENY : PART_ADMIT;
	}
	return PART_NO_MATCH;
}

static __always_inline int list_admits(const struct packet *p, __u32 bytes)
{
	for (__u64 first = 0; first < list_capacity; first += LIST_PART) {
		int found = list_part(first, p->saddr, p->dport, p->proto, bytes);

		if (found == PART_ADMIT)
			return 1;
		if (found == PART_DENY)
			return 0;
		if (found != PART_NO_MATCH)
			break;
	}
	return default_admit;
}

// trie_key finds the longest prefix of the source under a port and protocol; both
// 0 for policies about any.
struct trie_key {
	__u32 prefixlen; // TRIE_FIXED and bits of the address
	__be16 dport;
	__u8 proto;
	__u8 pad;
	__be32 addr;
};

#define TRIE_FIXED 32

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct trie_key);
	__type(value, struct policy_value);
} trie SEC(".maps");

static __always_inline int trie_admits(const struct packet *p, __u32 bytes)
{
	struct trie_key k = {.prefixlen = TRIE_FIXED + 32, .dport = p->dport, .proto = p->proto, .addr = p->saddr};
	struct policy_value *v = bpf_map_lookup_elem(&trie, &k);

	if (!v) {
		k.dport = 0;
		k.proto = 0;
		v = bpf_map_lookup_elem(&trie, &k);
	}
	return decided(v, bytes);
}
