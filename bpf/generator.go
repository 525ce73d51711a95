package bpf

import "bytes"

//go:generate go run ./compile generator

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
