package watch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// plugin builds a program of the plugin's own code. Given lines, it returns what the plugin makes of
// each, and what it says.
func plugin(t *testing.T) func(lines ...string) (answers []string, said string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "said")
	cc := exec.Command(compiler, "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function", "-fsanitize=undefined", "-I", sourceDir,
		"-o", program, filepath.Join("testdata", "said.c"))
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(lines ...string) (answers []string, said string) {
		t.Helper()
		cmd := exec.Command(program)
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		var text strings.Builder
		cmd.Stderr = &text
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, text.String())
		}
		answers = strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		if len(answers) != len(lines) {
			t.Fatalf("%d answers to %d lines: %q", len(answers), len(lines), out)
		}
		return answers, text.String()
	}
}

// ending is an instruction, by its bytes, and how it ends a block.
type ending struct {
	code, what, want string
	kind             Kind
}

// endings have every prefix that compilers and the kernel put before an instruction.
func endings() []ending {
	return []ending{
		{"e810000000", "call", "+16", Call},
		{"e8f0ffffff", "call backwards", "-16", Call},
		{"f2e810000000", "bnd call", "+16", Call},
		{"c3", "ret", "anywhere", Return},
		{"f3c3", "rep ret", "anywhere", Return},
		{"f2c3", "bnd ret", "anywhere", Return},
		{"c20800", "ret 8", "anywhere", Return},
		{"cb", "far return", "anywhere", Return},
		{"48cb", "lretq", "anywhere", Return},
		{"cf", "iret", "anywhere", IReturn},
		{"48cf", "iretq", "anywhere", IReturn},
		{"eb10", "jmp", "+16", Jump},
		{"ebfe", "jmp to itself", "-2 sign", Jump},
		{"e900010000", "long jmp", "+256", Jump},
		{"f2e900010000", "bnd jmp", "+256", Jump},
		{"7410", "je", "+0 or +16", Branch},
		{"3e7410", "predicted je", "+0 or +16", Branch},
		{"0f8400010000", "long je", "+0 or +256", Branch},
		{"e2fe", "loop", "+0 or -2 sign", Branch},
		{"90,75fd", "jne to the block's beginning", "+0 or -3 sign", Branch},
		{"90,75fc", "jne to the block before", "+0 or -4", Branch},
		{"e310", "jrcxz", "+0 or +16", Branch},
		{"0f05", "syscall", "anywhere", Syscall},
		{"0f34", "sysenter", "anywhere", Syscall},
		{"480f07", "sysretq", "anywhere", Sysret},
		{"0f07", "sysretl", "anywhere", Sysret},
		{"f4", "hlt", "anywhere", Halt},
		{"0f01c9", "mwait", "anywhere", Halt},
		{"ffe0", "jmp *%rax", "anywhere", JumpAny},
		{"41ffe3", "jmp *%r11", "anywhere", JumpAny},
		{"3effe0", "notrack jmp *%rax", "anywhere", JumpAny},
		{"3e41ffe3", "notrack jmp *%r11", "anywhere", JumpAny},
		{"ff2500000000", "jmp *(%rip)", "anywhere reads", JumpAny},
		{"f2ff2500000000", "bnd jmp *(%rip)", "anywhere reads", JumpAny},
		{"ff24c500000000", "jmp *(,%rax,8)", "anywhere reads", JumpAny},
		{"48ff2c24", "ljmp *(%rsp)", "anywhere reads", JumpAny},
		{"ffd0", "call *%rax", "anywhere", CallAny},
		{"41ffd3", "call *%r11", "anywhere", CallAny},
		{"2effd0", "call *%rax after cs", "anywhere", CallAny},
		{"ff5018", "call *24(%rax)", "anywhere", CallAny},
		{"6548ff1425c0010000", "call *%gs:448", "anywhere", CallAny},
		{"0f31", "rdtsc", "+0", ReadClock},
		{"0f01f9", "rdtscp", "+0", ReadClock},
		{"0f01ca", "clac", "+0", None},
		{"ff00", "incl (%rax)", "+0", None},
		{"ff30", "push (%rax)", "+0", None},
		{"90", "nop", "+0", None},
		{"f3a4", "rep movsb", "+0 or -2 sign", None},
		{"f348a5", "rep movsq", "+0 or -3 sign", None},
		{"f2ae", "repne scasb", "+0 or -2 sign", None},
		{"90,f3a4", "rep movsb after another", "+0 or -2 sign", None},
		{"a4", "movsb", "+0", None},
		{"0f0b", "ud2", "+0 undefined", None},
		{"cc", "int3", "+0", None},
		{"cd80", "int 0x80", "+0", None},
		{"fb", "sti", "+0", None},
		{"c5f877", "vzeroupper", "+0", None},
		{"62f17c4828c3", "an EVEX move that ends in c3", "+0", None},
		{"f0480fb10f", "lock cmpxchg", "+0", None},
		{"0f1f80686f6f6b", "the mark", "+0", None},
		{"f30f1efa", "endbr64", "+0", None},
		{"4889c3", "mov that ends in c3", "+0", None},
	}
}

// TestEndsOfBlocks: how an instruction ends a block.
func TestEndsOfBlocks(t *testing.T) {
	table := endings()
	var lines []string
	for _, tt := range table {
		lines = append(lines, "end "+tt.code)
	}
	got, said := plugin(t)(lines...)
	for i, tt := range table {
		if want := strconv.Itoa(int(tt.kind)) + " " + tt.want; got[i] != want {
			t.Errorf("%s (%s): %s, want %s", tt.what, tt.code, got[i], want)
		}
	}
	if said != "" {
		t.Errorf("it says %s", said)
	}
}

// TestHowFarABlockRan: what is on the stack when the next block begins is an interrupt's frame (address,
// code segment), or that of an exception with an error code (code, address).
func TestHowFarABlockRan(t *testing.T) {
	const (
		cs      = "10"
		handler = "ffff0000"
		plain   = "90,90,90"     // 0x1000, 0x1001, 0x1002, ends at 0x1003
		branch  = "90,90,7410"   // to 0x1014
		loop    = "90,90,75fc"   // to 0x1000
		inner   = "90,90,75fd"   // to 0x1001
		ret     = "90,90,c3"     //
		repeat  = "90,90,f348a5" // at 0x1002, ends at 0x1005
		single  = "f348a5"       // at 0x1000, ends at 0x1003
		undef   = "90,90,0f0b"   // at 0x1002, ends at 0x1004
		fault   = "6"            // an error code
	)
	table := []struct{ what, block, pc, reached, frame0, frame1, want string }{
		{"on to the next", plain, "1003", "0", "0", "0", "3"},
		{"an interrupt after it", plain, handler, "0", "1003", cs, "3"},
		{"a fault of the first instruction", plain, handler, "0", fault, "1000", "0"},
		{"a fault of the last instruction", plain, handler, "0", fault, "1002", "2"},
		{"an exception without a code", plain, handler, "0", "1001", cs, "1"},
		{"the next one cannot be fetched", plain, handler, "0", fault, "1003", "3"},
		{"the emulator goes on inside", plain, "1002", "0", "0", "0", "2"},
		{"the emulator begins again", plain, "1000", "0", "0", "0", "0"},
		{"then an interrupt inside", plain, handler, "0", "1002", cs, "2"},
		{"the branch is taken", branch, "1014", "0", "0", "0", "3"},
		{"and an interrupt after it", branch, handler, "0", "1014", cs, "3"},
		{"it is not taken, and an interrupt", branch, handler, "0", "1004", cs, "3"},
		{"once more", loop, "1000", "1", "0", "0", "3"},
		{"an interrupt between two rounds", loop, handler, "1", "1000", cs, "3"},
		{"a fault at the beginning of a round", loop, handler, "0", fault, "1000", "0"},
		{"the emulator begins the round again", loop, "1000", "0", "0", "0", "0"},
		{"a round inside", inner, "1001", "1", "0", "0", "3"},
		{"the emulator goes on where a round begins", inner, "1001", "0", "0", "0", "1"},
		{"and an interrupt there", inner, handler, "0", "1001", cs, "1"},
		{"a return", ret, "5000", "1", "0", "0", "3"},
		{"a return that faults", ret, handler, "0", fault, "1002", "2"},
		{"a fault before the return", ret, handler, "0", fault, "1001", "1"},
		{"a repetition", repeat, "1002", "1", "0", "0", "3"},
		{"the last repetition", repeat, "1005", "1", "0", "0", "3"},
		{"an interrupt between repetitions", repeat, handler, "1", "1002", cs, "3"},
		{"a fault of a repetition", repeat, handler, "1", fault, "1002", "2"},
		{"the emulator goes on at it", repeat, "1002", "0", "0", "0", "2"},
		{"a repetition alone", single, "1000", "1", "0", "0", "1"},
		{"an interrupt between those", single, handler, "1", "1000", cs, "1"},
		{"a fault of one", single, handler, "1", fault, "1000", "0"},
		{"an undefined opcode", undef, handler, "0", "1002", cs, "3"},
		{"a fault before it", undef, handler, "0", fault, "1001", "1"},
	}
	var lines []string
	for _, tt := range table {
		lines = append(lines, strings.Join([]string{"ran", tt.block, tt.pc, tt.reached, tt.frame0, tt.frame1}, " "))
	}
	got, _ := plugin(t)(lines...)
	for i, tt := range table {
		if got[i] != tt.want {
			t.Errorf("%s (%s): %s instructions, want %s", tt.what, lines[i], got[i], tt.want)
		}
	}
}

// TestThePluginRefuses: what it cannot work with, by name.
func TestThePluginRefuses(t *testing.T) {
	table := map[string]string{
		"install 1 3 x86_64 1":  "version 4 of QEMU's plugin interface, this QEMU has 1 to 3",
		"install 5 6 x86_64 1":  "version 4 of QEMU's plugin interface, this QEMU has 5 to 6",
		"install 2 4 x86_64 2":  "machines of x86_64 with one virtual CPU only",
		"install 2 4 aarch64 1": "machines of x86_64 with one virtual CPU only",
		"install 2 4 x86_64 1":  "it needs out=FIFO",
	}
	install := plugin(t)
	for line, want := range table {
		got, said := install(line)
		if got[0] != "1" || !strings.Contains(said, "hookbed's trace plugin: ") || !strings.Contains(said, want) {
			t.Errorf("%s: returns %s and says %q, want 1 and %q", line, got[0], said, want)
		}
	}
}

// TestTheSourcesSayTheirLicence: QEMU may load only what fits its own.
func TestTheSourcesSayTheirLicence(t *testing.T) {
	for _, file := range []string{"plugin/trace.c", "plugin/interface.h", "testdata/said.c"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(data), "/* SPDX-License-Identifier: GPL-2.0-or-later\n") {
			t.Errorf("%s does not begin with its licence", file)
		}
	}
}
