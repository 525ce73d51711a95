package reduce

import (
	"bytes"
	"testing"

	"hookbed/driver/watch"
)

// FuzzSymbols: symbols are sorted, have one name for each address, each of the text, and the first
// address of a function is its own.
func FuzzSymbols(f *testing.F) {
	f.Add([]byte("ffffffff81000000 T _stext\nffffffff81000010 t a\nffffffff81000010 T b\nffffffff81000040 W c.cold\n"))
	f.Add([]byte("ffffffffc0000000 t bpf_prog_0123456789abcdef_hb_tc_ingress\t[bpf]\nffffffffc0000100 t bpf_trampoline_6442 [bpf]\n"))
	f.Add([]byte("0000000000000000 A fixed_percpu_data\n ffffffffc0200000 t nf_hook [nf]\r\nffffffff T x\n\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all := parseSymbols(text)
		for i, s := range all {
			if i > 0 && all[i-1].addr >= s.addr {
				t.Errorf("%s at %x comes after %s at %x", s.name, s.addr, all[i-1].name, all[i-1].addr)
			}
			if s.addr < kernelBegin || s.name == "" || !s.bpf && !bytes.Contains(text, []byte(s.name)) {
				t.Errorf("%+v is none of the kernel's functions", s)
			}
			if got := all.at(s.addr); got != i {
				t.Errorf("%x is of symbol %d, want %d", s.addr, got, i)
			}
			if got := all.at(s.addr + farthest + 1); got >= 0 && s.addr+farthest+1-all[got].addr > farthest {
				t.Errorf("%x is of %s at %x, which is too far", s.addr+farthest+1, all[got].name, all[got].addr)
			}
			if entry, is, vector := entryOf(s.name); is != (entry != "") || vector && !is {
				t.Errorf("%s is of the entry %q, %v, %v", s.name, entry, is, vector)
			}
			if name, cold := whole(s.name); cold == (name == s.name) {
				t.Errorf("%s is a part of %s, %v", s.name, name, cold)
			}
		}
	})
}

// TestVDSO: code of no file is of the vDSO if its page, or the one next to it, reads the clock.
func TestVDSO(t *testing.T) {
	r := New(Config{Programs: testPrograms()})
	r.Symbols([]byte("ffffffff81000000 T do_syscall_64\n"))
	r.Mark(watch.MarkBegin, 0, 0, 0)
	const page = 0x7ffff7fc5000
	ns := uint64(0)
	for i, b := range []watch.Block{
		{PC: page + 0x8e6, Kind: watch.ReadClock}, // clock_gettime
		{PC: page + pageSize + 0x20},              // getrandom
		{PC: page + 3*pageSize},
	} {
		b.ID, b.Size, b.Code = uint32(i), []uint8{3, 2}, []byte{0x0f, 0xae, 0xe8, 0x0f, 0x31}
		r.Define(&b)
		r.Ran(&b, 2, nil)
		if ns += 16; b.Kind == watch.ReadClock {
			r.Clock(ns)
		}
	}
	r.Mark(watch.MarkEnd, 0, 0, ns)
	tr, err := r.Result()
	if err != nil {
		t.Fatal(err)
	}
	self := map[string]uint64{}
	for _, n := range tr.Around.Nodes {
		self[n.Name] += n.Self
	}
	if self[vdsoCode] != 4 || self[unknownCode] != 2 || tr.Window.Unnamed != 2 {
		t.Errorf("instructions by function %v, unnamed %d; want 4 of the vDSO and 2 of no name", self, tr.Window.Unnamed)
	}
}
