// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// The positive control: a tc program that passes every packet, with a loop that
// costs a known number of instructions. Linux 5.10 or later.
#include "headers/stats.h"
#include <linux/pkt_cls.h>

const volatile __u32 spin = 0; // iterations for each packet; 0: there is no loop

// burn spins n times. In assembly, so that an iteration is exactly these
// instructions, and the compiler does not remove a loop without effect.
static __always_inline void burn(__u64 n)
{
	asm volatile("%[n] += -1\n\t"
		     "if %[n] != 0 goto -2"
		     : [n] "+r"(n));
}

// tc_control counts and passes every packet.
SEC("tc")
int tc_control(struct __sk_buff *skb)
{
	__u32 n = spin;

	count(PASSED, skb->len);
	if (n)
		burn(n);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
