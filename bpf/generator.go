package bpf

import "bytes"

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types generator generator.bpf.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// ProgGenerate is the program of GeneratorObject, for BPF_PROG_TEST_RUN in its
// live-frames mode.
const ProgGenerate = "generate"

// Variables of GeneratorObject.
const (
	// VarHead (80 bytes) is the frame to send.
	VarHead = "head"
	// VarLinkIndex (4 bytes, little endian) is the index of the link that sends it.
	VarLinkIndex = "link_index"
	// VarGenerated (8 bytes) counts the frames since the program was loaded.
	VarGenerated = "generated"
)

// GeneratorObject returns the ELF object of the packet generator.
func GeneratorObject() []byte { return bytes.Clone(_GeneratorBytes) }
