package reduce

import (
	"bytes"
	"testing"
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
