// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// The policy as a list of rules, of which the first that matches decides.
//
// A scan reads only what rules match, which is stored together, in blocks; their
// actions are in a second map, which is read once a rule matches. A free element is
// zero in both maps: a zero match matches every packet, so that a scan ends there at
// the latest, and a zero action means that there is no rule. So a rule is in force
// from the write of its 8-byte action on, after its match was written, until another
// such write.
#pragma once

#include "policy.h"

#define BLOCK_RULES 16
// Blocks in one call. The verifier follows all of them, and for each rule keeps a
// branch to return to, of which it accepts 8192.
#define CHUNK_BLOCKS 64
#define MAX_CHUNKS 64

// match matches a packet whose key is equal to value in the bits of mask. The key
// is the source, the port and the protocol as on the wire, and a zero byte.
struct match {
	__u64 value;
	__u64 mask;
};

struct block {
	struct match rules[BLOCK_RULES];
};

// match6 has the source separate from the rest.
struct match6 {
	struct addr6 value;
	struct addr6 mask;
	__u32 l4_value;
	__u32 l4_mask;
};

struct block6 {
	struct match6 rules[BLOCK_RULES];
};

#define RULE_USED 1 // without it there is no rule here, nor further on
#define RULE_DENY 2

struct rule {
	__u32 flags;
	__u32 index; // of the policy's counters
};

#define ARRAY(name, entries, of)                          \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY);         \
		__uint(max_entries, entries);             \
		__type(key, __u32);                       \
		__type(value, of);                        \
	} name SEC(".maps")

ARRAY(list, 16384, struct rule);
ARRAY(list6, 16384, struct rule);
ARRAY(list_match, 16384 / BLOCK_RULES, struct block);
ARRAY(list_match6, 16384 / BLOCK_RULES, struct block6);

// The result of a scan: the index of the first match, or one of these.
#define FOUND_NOTHING -1 // go on behind
#define FOUND_END -2     // of the map

static __always_inline __u32 l4_key(const struct packet *p)
{
	return p->dport | (__u32)p->proto << 16;
}

// list_scan scans CHUNK_BLOCKS blocks, beginning with first. It is a global
// function, so the verifier checks it once, separately from its callers.
__noinline int list_scan(__u64 key, __u32 first)
{
	// 64 bits wide: the verifier does not track the value of a narrower variable on
	// the stack.
	for (__u64 i = 0; i < CHUNK_BLOCKS; i++) {
		__u32 at = first + i;
		struct block *b;

		if (structure != STRUCTURE_LINEAR)
			return FOUND_END;
		b = bpf_map_lookup_elem(&list_match, &at);
		if (!b)
			return FOUND_END;
#pragma unroll
		for (int j = 0; j < BLOCK_RULES; j++)
			if (!((b->rules[j].value ^ key) & b->rules[j].mask))
				return at * BLOCK_RULES + j;
	}
	return FOUND_NOTHING;
}

__noinline int list_scan6(__u64 high, __u64 low, __u32 l4, __u32 first)
{
	for (__u64 i = 0; i < CHUNK_BLOCKS; i++) {
		__u32 at = first + i;
		struct block6 *b;

		if (structure != STRUCTURE_LINEAR)
			return FOUND_END;
		b = bpf_map_lookup_elem(&list_match6, &at);
		if (!b)
			return FOUND_END;
#pragma unroll
		for (int j = 0; j < BLOCK_RULES; j++) {
			const struct match6 *m = &b->rules[j];

			if (!(((m->value.low ^ low) & m->mask.low) | ((m->value.high ^ high) & m->mask.high) |
			      ((m->l4_value ^ l4) & m->l4_mask)))
				return at * BLOCK_RULES + j;
		}
	}
	return FOUND_NOTHING;
}

// list_find is the index of the first match.
static __always_inline int list_find(const struct packet *p, int six)
{
	__u32 l4 = l4_key(p);
	int found = FOUND_NOTHING;

	for (__u64 i = 0; i < MAX_CHUNKS && found == FOUND_NOTHING; i++) {
		if (six)
			found = list_scan6(p->saddr6.high, p->saddr6.low, l4, i * CHUNK_BLOCKS);
		else
			found = list_scan(p->saddr | (__u64)l4 << 32, i * CHUNK_BLOCKS);
	}
	return found;
}

static __always_inline int list_admits(const struct packet *p, __u64 bytes, int six)
{
	int found = list_find(p, six);
	__u32 at = found;
	struct rule *r;

	if (found < 0)
		return default_admit;
	r = six ? bpf_map_lookup_elem(&list6, &at) : bpf_map_lookup_elem(&list, &at);
	if (!r || !(r->flags & RULE_USED))
		return default_admit;
	account(r->index, bytes);
	return !(r->flags & RULE_DENY);
}
