package step

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/sysfs"
)

// learnJIT learns what the BPF JIT compiler does from a program that it loads: where
// the sysctls are not shown - in every network namespace but the machine's first, so
// in containers and under unshare - the compiler is the same for all. Names and
// values are those of readJIT. Of hardening it sees what is done to its own programs:
// 1 leaves those of CAP_BPF alone (bpf_jit_blinding_enabled in
// include/linux/filter.h), and so is 0 here.
//
// A kernel that hides a program's lengths, as it does from processes without CAP_BPF
// (bpf_prog_get_info_by_fd in kernel/bpf/syscall.c), leaves both out.
func learnJIT() (map[string]string, error) {
	ins := asm.Instructions{asm.Mov.Imm(asm.R0, 0x5eed), asm.Return()}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "hb_jit", Type: ebpf.SocketFilter, Instructions: ins, License: "GPL"})
	if err != nil {
		return nil, fmt.Errorf("load a program to learn of the JIT compiler: %w", err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return nil, fmt.Errorf("read program info: %w", err)
	}
	got := map[string]string{}
	size, err := info.TranslatedSize()
	if err != nil {
		return got, nil // hidden: nothing is learnt
	}
	if _, err := info.JitedSize(); err != nil {
		got["bpf_jit_enable"] = "0"
		return got, nil // that it has none is what is learnt
	}
	got["bpf_jit_enable"], got["bpf_jit_harden"] = "1", "0"
	// Blinding parts each constant in two, and so makes more instructions.
	if size > len(ins)*asm.InstructionSize {
		got["bpf_jit_harden"] = "2"
	}
	return got, nil
}

// fillJIT adds to what sysctls show of the JIT compiler what only a program can show.
func fillJIT(got map[string]string) error {
	if got["bpf_jit_enable"] != "" && got["bpf_jit_harden"] != "" {
		return nil
	}
	learnt, err := learnJIT()
	for name, value := range learnt {
		if got[name] == "" {
			got[name] = value
		}
	}
	return err
}

// readJIT reads the sysctls of the BPF JIT compiler as they are now, under the
// names of the facts. The kernel shows them in the machine's first network
// namespace only; where the helper was not started in that, a program shows them.
func readJIT() (map[string]string, error) {
	ns, err := netns.OpenOutside()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	got := map[string]string{}
	err = ns.Do(func() error {
		sysfs.SysctlFacts(got, []string{"net.core.bpf_jit_enable", "net.core.bpf_jit_harden"})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return got, fillJIT(got)
}
