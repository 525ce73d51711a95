// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
// Small programs for the helper's own tests: each counts the packets it sees
// under a verdict that a variable chooses, and lets them pass or drops them.
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define uint_attr(name, val) int(*name)[val]
#define type_attr(name, val) typeof(val) *name

enum { map_hash = 1, map_percpu_array = 6, map_lpm = 11 };
enum { xdp_drop = 1, xdp_pass = 2, tc_ok = 0, tc_shot = 2 };

static void *(*lookup)(void *map, const void *key) = (void *)1;

struct stat {
	u64 packets;
	u64 bytes;
};

struct {
	uint_attr(type, map_percpu_array);
	uint_attr(max_entries, 3);
	type_attr(key, u32);
	type_attr(value, struct stat);
} stats SEC(".maps");

struct {
	uint_attr(type, map_hash);
	uint_attr(max_entries, 16);
	type_attr(key, u32);
	type_attr(value, u64);
} policy SEC(".maps");

struct lpm_key {
	u32 prefixlen;
	u32 addr;
};

struct {
	uint_attr(type, map_lpm);
	uint_attr(max_entries, 64);
	uint_attr(map_flags, 1);
	type_attr(key, struct lpm_key);
	type_attr(value, u64);
} tree SEC(".maps");

const volatile u32 verdict = 0;
const volatile u32 link_index = 0;
const volatile u8 drop = 0;

static int count(void)
{
	u32 index = verdict;
	struct stat *s = lookup(&stats, &index);

	if (s) {
		s->packets += 1;
		s->bytes += link_index;
	}
	return drop;
}

SEC("xdp")
int xdp_count(void *ctx)
{
	return count() ? xdp_drop : xdp_pass;
}

SEC("tc")
int tc_count(void *ctx)
{
	return count() ? tc_shot : tc_ok;
}

/* Touches the maps that only user space fills, so that they are kept. */
SEC("tc")
int tc_lookup(void *ctx)
{
	struct lpm_key key = { 32, 0 };
	u32 zero = 0;

	return lookup(&policy, &zero) && lookup(&tree, &key) ? tc_shot : tc_ok;
}

/* Reads far outside its stack: the verifier must refuse it. */
SEC("tc")
int tc_broken(void *ctx)
{
	return *(volatile u64 *)(ctx + 100000);
}

char _license[] SEC("license") = "GPL";
