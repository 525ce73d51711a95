package bpf

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf/features"
	"golang.org/x/arch/x86/x86asm"
)

// machineCode disassembles what the kernel's compiler made of a program.
type machineCode struct {
	insts []x86asm.Inst
	at    []int // offset of each in the code
}

// endbr64 is where a kernel with indirect branch tracking (CONFIG_X86_KERNEL_IBT)
// may jump to. Package x86asm does not decode the instruction; elsewhere it is a NOP.
var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

func (r *rig) machineCode(program string) machineCode {
	r.t.Helper()
	info, err := r.coll.Programs[program].Info()
	if err != nil {
		r.t.Fatal(err)
	}
	code, ok := info.JitedInsns()
	if !ok || len(code) == 0 {
		r.t.Fatal("the kernel shows no machine code of BPF programs: net.core.bpf_jit_enable must be 1 and kernel.kptr_restrict below 2")
	}
	var m machineCode
	for pos := 0; pos < len(code); {
		inst, err := x86asm.Decode(code[pos:], 64)
		if bytes.HasPrefix(code[pos:], endbr64) {
			inst, err = x86asm.Inst{Op: x86asm.NOP, Len: len(endbr64)}, nil
		}
		if err != nil {
			r.t.Fatalf("decode byte %d of %x: %v", pos, code, err)
		}
		m.insts, m.at = append(m.insts, inst), append(m.at, pos)
		pos += inst.Len
	}
	return m
}

// loop finds the instructions from the target of the only jump backwards to
// that jump. Jumps out of the program are calls and the return thunk.
func (m machineCode) loop(t testing.TB) []x86asm.Inst {
	t.Helper()
	var found []x86asm.Inst
	for i, inst := range m.insts {
		rel, ok := inst.Args[0].(x86asm.Rel)
		target := m.at[i] + inst.Len + int(rel)
		if !ok || target < 0 || target > m.at[i] {
			continue
		}
		first := slices.Index(m.at, target)
		if first < 0 || found != nil {
			t.Fatalf("instruction %d, %v, jumps into an instruction, or is the second to jump back: %v", i, inst, m.insts)
		}
		found = m.insts[first : i+1]
	}
	return found
}

// TestControlInstructions counts the known cost in the machine code that the
// kernel runs: an iteration's instructions, and those that are there more than
// without the loop, each of which a packet meets once.
func TestControlInstructions(t *testing.T) {
	without := loadSpinning(t, 0).machineCode(ProgControl)
	if l := without.loop(t); l != nil {
		t.Fatalf("spin = 0 leaves a loop of %v", l)
	}
	for _, spin := range spins[1:] {
		t.Run(fmt.Sprintf("spin=%d", spin), func(t *testing.T) {
			m := loadSpinning(t, spin).machineCode(ProgControl)
			loop := m.loop(t)
			t.Logf("the loop is %v", loop)
			around := len(m.insts) - len(loop) - len(without.insts)
			got := float64(len(loop)*int(spin) + around)
			want := ControlInstructions(int(spin))
			if v, err := features.LinuxVersionCode(); err == nil && v >= 7<<16|3<<8 {
				want -= controlEntry
			}
			if got != want {
				t.Errorf("%d instructions in the loop and %d more around it come to %v, want %v\n%v", len(loop), around, got, want, m.insts)
			}
		})
	}
}
