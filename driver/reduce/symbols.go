package reduce

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// kernelBegin is the lowest address of the kernel's half.
const kernelBegin = 1 << 63

// farthest is how far behind a symbol an address may be and still belong to it: kallsyms has no
// sizes, and no function of the kernel is as long.
const farthest = 1 << 20

// symbol is a function of the kernel, of a module or of a BPF program.
type symbol struct {
	addr   uint64
	name   string
	global bool
	bpf    bool
}

// symbols are sorted by address, one for each address.
type symbols []symbol

// parseSymbols reads the text of /proc/kallsyms.
func parseSymbols(text []byte) symbols {
	var all symbols
	for line := range bytes.Lines(text) {
		if s, ok := parseSymbol(line); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b symbol) int {
		return cmp.Or(cmp.Compare(a.addr, b.addr), alias(a, b))
	})
	return slices.CompactFunc(all, func(a, b symbol) bool { return a.addr == b.addr })
}

// parseSymbol reads "ffffffff81000000 T name" with "[module]" at its end for what is not the
// kernel's own.
func parseSymbol(line []byte) (symbol, bool) {
	f := bytes.Fields(line)
	if len(f) < 3 || len(f[1]) != 1 || !strings.Contains("tTwW", string(f[1])) {
		return symbol{}, false
	}
	addr, err := strconv.ParseUint(string(f[0]), 16, 64)
	if err != nil || addr < kernelBegin {
		return symbol{}, false
	}
	s := symbol{addr: addr, name: string(f[2]), global: f[1][0] == 'T' || f[1][0] == 'W'}
	if isMarker(s.name) {
		return symbol{}, false
	}
	if len(f) > 3 && string(f[3]) == "[bpf]" {
		s.name, s.bpf = programName(s.name), true
	}
	return s, true
}

// isMarker is true of symbols that name no function: paddings before functions, and the ends of
// sections.
func isMarker(name string) bool {
	if strings.HasPrefix(name, "__pfx_") || strings.HasPrefix(name, "__cfi_") || strings.HasPrefix(name, "__kstrtab") {
		return true
	}
	switch name {
	case "_text", "_stext", "_etext", "_sinittext", "_einittext", "__sched_text_start", "__sched_text_end":
		return true
	}
	return strings.HasSuffix(name, "text_start") || strings.HasSuffix(name, "text_end")
}

// programName makes "bpf:NAME" of bpf_prog_TAG_NAME; the tag is a digest of the program in 16
// digits (kernel/bpf/core.c, bpf_get_prog_name). Names of trampolines have a number that differs.
func programName(name string) string {
	const tag = 16
	if rest, ok := strings.CutPrefix(name, "bpf_prog_"); ok && len(rest) >= tag {
		if len(rest) > tag+1 {
			return "bpf:" + rest[tag+1:]
		}
		return "bpf:" + rest
	}
	for _, kind := range []string{"bpf_trampoline", "bpf_dispatcher"} {
		if strings.HasPrefix(name, kind) {
			return "bpf:[" + strings.TrimPrefix(kind, "bpf_") + "]"
		}
	}
	return "bpf:" + name
}

// alias orders names of one address; the first is the function's: a global one, the shorter.
func alias(a, b symbol) int {
	if a.global != b.global {
		if a.global {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
}

// at returns the index of the symbol that an address belongs to, -1 if there is none.
func (s symbols) at(pc uint64) int {
	i, found := slices.BinarySearchFunc(s, pc, func(x symbol, pc uint64) int { return cmp.Compare(x.addr, pc) })
	if found {
		return i
	}
	if i--; i < 0 || pc-s[i].addr > farthest {
		return -1
	}
	return i
}

// whole removes the suffix of a function's unlikely part, which compilers place elsewhere: it is
// jumped to, not called.
func whole(name string) (string, bool) {
	if i := strings.Index(name, ".cold"); i > 0 {
		return name[:i], true
	}
	return name, false
}

// Entries to the kernel, and the assembler code around them (arch/x86/entry/entry_64.S, 5.10 to
// 7.1). Symbols of this code lie within each other and are jumped between, so that they count for
// the entry that they are executed in.
const (
	entrySyscall   = "entry_SYSCALL_64"
	entryInterrupt = "asm_common_interrupt"
	entrySpurious  = "asm_spurious_interrupt"
	entryFork      = "ret_from_fork_asm" // before 6.5 ret_from_fork
	entryForkOld   = "ret_from_fork"
)

// entryOf says whether a symbol is such code, how the entry is called that it is of, and whether it
// is where the CPU itself begins an interrupt or exception.
func entryOf(name string) (entry string, ofEntry, vector bool) {
	switch {
	case strings.HasPrefix(name, "entry_SYSCALL_64"), strings.HasPrefix(name, "entry_SYSRETQ"), name == "syscall_return_via_sysret":
		return entrySyscall, true, false
	case strings.HasPrefix(name, "irq_entries_start"):
		return entryInterrupt, true, true
	case strings.HasPrefix(name, "spurious_entries_start"):
		return entrySpurious, true, true
	case strings.HasPrefix(name, "asm_exc_"), strings.HasPrefix(name, "asm_sysvec_"), name == entryInterrupt, name == entrySpurious:
		return name, true, true
	case name == entryFork:
		return name, true, false
	}
	switch name {
	case "swapgs_restore_regs_and_return_to_usermode", "common_interrupt_return", "restore_regs_and_return_to_kernel",
		"native_iret", "native_irq_return_iret", "native_irq_return_ldt", "early_xen_iret_patch", "error_return", "paranoid_exit":
		return name, true, false
	}
	return "", false, false
}
