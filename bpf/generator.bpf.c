// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
//go:build ignore

// The packet generator: BPF_PROG_TEST_RUN runs it in live-frames mode, and it sends
// each frame out of a link. Linux 5.18 or later.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define WORDS 10 // 8 bytes each: Go's bundle.FrameSize

struct head {
	__u64 word[WORDS];
};

const volatile struct head head = {}; // the frame
const volatile __u32 link_index = 0;  // where to

__u64 generated = 0; // frames, on the one CPU that runs the program

// generate writes the whole frame each time: the kernel recycles the page of a
// consumed frame, with the changes made on its path.
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct head *to = (void *)(long)ctx->data;

	if ((void *)(to + 1) > end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		to->word[i] = head.word[i];
	generated++;
	return bpf_redirect(link_index, 0);
}

char LICENSE[] SEC("license") = "GPL";
