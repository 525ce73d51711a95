package reduce

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/trace"
	"hookbed/driver/watch"
)

// A script is a stream as text, a line a block:
//
//	FUNCTION[+OFFSET] N[/M] [KIND] [SP]
//
// The block begins OFFSET bytes (hexadecimal) after the function does, has M instructions of one byte
// each and executed N of them; SP is where the last one wrote or read a return address, in the
// current stack. "program:function" is in user space. Other lines: "stack NAME" chooses the kernel
// stack that SPs are in, "clock [IDLE]" follows a block that read the clock, IDLE ns after what its
// instructions take, "begin" and "end" are the marks.
type script struct {
	t       *testing.T
	h       watch.Handler
	address map[string]uint64
	blocks  map[string]*watch.Block
	stacks  map[string]uint64
	stack   uint64
	ns      uint64
	counted bool // between the marks
}

// functionSize is the distance between functions, in bytes.
const functionSize = 0x40

const kernelText = 0xffffffff81000000

// testPrograms have a function for each name, of invented code.
func testPrograms() []Program {
	return []Program{
		{Name: "netperf", Role: "client", File: testELF(1, "main", "send_tcp_rr", "send_request")},
		{Name: "netserver", Role: "server", File: testELF(2, "main", "recv_tcp_rr")},
		{Name: "iperf3", Role: Ends, File: testELF(3, "main")},
		{Name: "libc", Shared: true, File: testELF(4, "send", "recv")},
		{Name: "helper", Role: "helper", File: testELF(5, "main")},
	}
}

func testFunctions(program string) []string {
	return map[string][]string{"netperf": {"main", "send_tcp_rr", "send_request"}, "netserver": {"main", "recv_tcp_rr"},
		"iperf3": {"main"}, "libc": {"send", "recv"}, "helper": {"main"}}[program]
}

func testCode(seed uint64, functions int) []byte {
	random := rand.New(rand.NewPCG(seed, 0))
	code := make([]byte, functions*functionSize)
	for i := range code {
		code[i] = byte(random.Uint32())
	}
	return code
}

const (
	testVaddr = 0x1000 // of the first function, in its file
	testBias  = 0x555555554000
)

var testSeeds = map[string]uint64{"netperf": 1, "netserver": 2, "iperf3": 3, "libc": 4, "helper": 5}

// testELF is a file with one executable segment and a symbol for each function.
func testELF(seed uint64, functions ...string) *bytes.Reader {
	code := testCode(seed, len(functions))
	names, symbols := []byte{0}, []elf.Sym64{{}}
	for i, f := range functions {
		symbols = append(symbols, elf.Sym64{Name: uint32(len(names)), Info: byte(elf.STT_FUNC), Shndx: 1, Value: testVaddr + uint64(i)*functionSize, Size: functionSize})
		names = append(append(names, f...), 0)
	}
	sections := []byte("\x00.text\x00.symtab\x00.strtab\x00")
	var symtab bytes.Buffer
	must(binary.Write(&symtab, binary.LittleEndian, symbols))
	const header, program = 64, 56
	text := uint64(header + program)
	syms := text + uint64(len(code))
	strs := syms + uint64(symtab.Len())
	shstrs := strs + uint64(len(names))
	table := shstrs + uint64(len(sections))
	var out bytes.Buffer
	head := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: header, Shoff: table,
		Ehsize: header, Phentsize: program, Phnum: 1, Shentsize: 64, Shnum: 5, Shstrndx: 4}
	copy(head.Ident[:], "\x7fELF\x02\x01\x01")
	for _, part := range []any{
		head,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_X | elf.PF_R), Off: text, Vaddr: testVaddr, Filesz: uint64(len(code)), Memsz: uint64(len(code)), Align: pageSize},
		code, symtab.Bytes(), names, sections,
		[]elf.Section64{{},
			{Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_EXECINSTR), Addr: testVaddr, Off: text, Size: uint64(len(code))},
			{Name: 7, Type: uint32(elf.SHT_SYMTAB), Off: syms, Size: uint64(symtab.Len()), Link: 3, Entsize: 24},
			{Name: 15, Type: uint32(elf.SHT_STRTAB), Off: strs, Size: uint64(len(names))},
			{Name: 15, Type: uint32(elf.SHT_STRTAB), Off: shstrs, Size: uint64(len(sections))}},
	} {
		must(binary.Write(&out, binary.LittleEndian, part))
	}
	return bytes.NewReader(out.Bytes())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// kinds of a script.
var kinds = map[string]watch.Kind{
	"call": watch.Call, "ret": watch.Return, "iret": watch.IReturn, "jump": watch.Jump, "branch": watch.Branch, "syscall": watch.Syscall,
	"sysret": watch.Sysret, "halt": watch.Halt, "jumpany": watch.JumpAny, "callany": watch.CallAny, "rdtsc": watch.ReadClock,
}

// play feeds a script to a handler.
func play(t *testing.T, text string, h watch.Handler) {
	s := &script{t: t, h: h, address: map[string]uint64{}, blocks: map[string]*watch.Block{}, stacks: map[string]uint64{}, ns: 1000}
	lines := strings.Split(text, "\n")
	s.symbols(lines)
	for i, line := range lines {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if err := s.line(f); err != nil {
			t.Fatalf("line %d, %q: %v", i+1, line, err)
		}
	}
}

// symbols gives an address to each function of the kernel, in the order of names, and announces them.
func (s *script) symbols(lines []string) {
	var names []string
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 2 || strings.Contains(f[0], ":") && !strings.HasPrefix(f[0], "bpf:") {
			continue
		}
		if _, err := strconv.Atoi(strings.Split(f[1], "/")[0]); err == nil && f[0] != "clock" {
			names = append(names, strings.Split(f[0], "+")[0])
		}
	}
	slices.Sort(names)
	var text strings.Builder
	for i, name := range slices.Compact(names) {
		s.address[name] = kernelText + uint64(i)*functionSize
		if program, ok := strings.CutPrefix(name, "bpf:"); ok {
			fmt.Fprintf(&text, "%016x t bpf_prog_6deef7357e7b4530_%s\t[bpf]\n", s.address[name], program)
			continue
		}
		fmt.Fprintf(&text, "%016x T %s\n", s.address[name], name)
	}
	s.h.Symbols([]byte(text.String()))
}

func (s *script) line(f []string) error {
	switch f[0] {
	case "begin", "end":
		id := watch.MarkBegin
		if s.counted = f[0] == "begin"; !s.counted {
			id = watch.MarkEnd
		}
		s.h.Mark(id, 0, 0, s.ns)
	case "stack":
		base, ok := s.stacks[f[1]]
		if !ok {
			base = 0xffffc90000000000 + uint64(len(s.stacks)+1)<<stackBits
			s.stacks[f[1]] = base
		}
		s.stack = base
	case "clock":
		if len(f) > 1 {
			idle, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return err
			}
			s.ns += idle
		}
		s.h.Clock(s.ns)
	default:
		return s.block(f)
	}
	return nil
}

// block runs one.
func (s *script) block(f []string) error {
	ran, of, partial := strings.Cut(f[1], "/")
	n, err := strconv.Atoi(ran)
	if err != nil {
		return err
	}
	m := n
	if partial {
		if m, err = strconv.Atoi(of); err != nil {
			return err
		}
	}
	kind := watch.None
	var stack []watch.StackAccess
	for _, word := range f[2:] {
		if k, ok := kinds[word]; ok {
			kind = k
			continue
		}
		sp, err := strconv.ParseUint(word, 16, 64)
		if err != nil {
			return err
		}
		if sp < 1<<stackBits {
			sp += s.stack
		}
		stack = append(stack, watch.StackAccess{Kind: kind, Address: sp})
	}
	key := fmt.Sprint(f[0], m, kind)
	b := s.blocks[key]
	if b == nil {
		if b, err = s.define(f[0], m, kind); err != nil {
			return err
		}
		s.blocks[key] = b
	}
	if s.counted {
		s.ns += uint64(n) * 8
	}
	s.h.Ran(b, n, stack)
	return nil
}

func (s *script) define(name string, n int, kind watch.Kind) (*watch.Block, error) {
	function, offset, _ := strings.Cut(name, "+")
	off := uint64(0)
	if offset != "" {
		var err error
		if off, err = strconv.ParseUint(offset, 16, 64); err != nil {
			return nil, err
		}
	}
	b := &watch.Block{ID: uint32(len(s.blocks)), Size: slices.Repeat([]uint8{1}, n), Kind: kind}
	if addr, ok := s.address[function]; ok {
		b.PC = addr + off
	} else {
		program, function, _ := strings.Cut(function, ":")
		i := slices.Index(testFunctions(program), function)
		if i < 0 {
			return nil, fmt.Errorf("no program has %s", name)
		}
		at := uint64(i)*functionSize + off
		b.PC = testBias + testVaddr + at
		b.Code = testCode(testSeeds[program], len(testFunctions(program)))[at : at+uint64(n)]
	}
	s.h.Define(b)
	return b, nil
}

// show is a trace as text.
func show(tr *trace.Trace) string {
	var b strings.Builder
	w := tr.Window
	fmt.Fprintf(&b, "instructions %d = (%d ns - %d ns idle) / %d; measured %d; clocks %d, off %d; blocks %d, faults %d, misrooted %d, unnamed %d\n",
		w.Instructions, w.ClockNS, w.IdleNS, w.NSPerInstruction, w.Measured, w.Clocks, w.ClocksOff, w.Blocks, w.Faults, w.Misrooted, w.Unnamed)
	for _, r := range w.Roots {
		fmt.Fprintf(&b, "misrooted: %s of %s, %d\n", r.Name, r.Role, r.Instructions)
	}
	fmt.Fprintf(&b, "%g %ss\n", tr.Units, tr.Unit)
	showTree(&b, "measured", tr.Measured)
	showTree(&b, "around", tr.Around)
	p := tr.Path
	fmt.Fprintf(&b, "path: %d instructions; %d of %d units, %d paths, %d to %d instructions\n", p.Instructions, p.Same, p.Units, p.Paths, p.Least, p.Most)
	showCalls(&b, p.Calls, 1)
	for _, o := range p.Others {
		fmt.Fprintf(&b, "other: %s in %d units, %+g calls, %+g instructions\n", o.Name, o.Units, o.More, o.Cost)
	}
	return b.String()
}

func showTree(b *strings.Builder, title string, t trace.Tree) {
	fmt.Fprintf(b, "%s: self, calls\n", title)
	kids := map[int][]int{}
	for i, n := range t.Nodes {
		kids[n.Parent] = append(kids[n.Parent], i)
	}
	var walk func(i, depth int)
	walk = func(i, depth int) {
		for _, k := range kids[i] {
			fmt.Fprintf(b, "%6d %3d %s%s\n", t.Nodes[k].Self, t.Nodes[k].Calls, strings.Repeat("  ", depth), t.Nodes[k].Name)
			walk(k, depth+1)
		}
	}
	walk(0, 0)
}

func showCalls(b *strings.Builder, calls []*trace.Call, depth int) {
	for _, c := range calls {
		resumed := ""
		if c.Resumed {
			resumed = " (resumed)"
		}
		fmt.Fprintf(b, "%6d %3d %s%s%s\n", c.Total, c.Self, strings.Repeat("  ", depth), c.Name, resumed)
		showCalls(b, c.Calls, depth+1)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
