package reduce

import (
	"bytes"
	"cmp"
	"debug/elf"
	"debug/gosym"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Program is an ELF file whose code may run in user space.
type Program struct {
	Name string // of its functions: "netperf" gives "netperf:send_tcp_rr"
	File io.ReaderAt
	// Role of the threads that run it: "client", "server", "helper"; or Ends, where both ends run the
	// same file: the one that connects is the client. Else the threads are named by the program.
	Role string
	// Of is the name of the program that alone uses this library; a library with Shared is used by all
	// and says nothing of its thread.
	Of     string
	Shared bool
}

// Ends is the role of a program that runs at both ends of a connection.
const Ends = "ends"

// file is a program that was read.
type file struct {
	Program
	main  int // index of the program that it is part of; -1 for shared libraries
	code  []section
	funcs []function
}

// section is an executable segment.
type section struct {
	addr  uint64
	bytes []byte
}

type function struct {
	addr, size uint64
	name       string
}

// readPrograms reads programs; main programs first get their index.
func readPrograms(list []Program) ([]file, error) {
	var files []file
	for _, p := range list {
		f, err := readProgram(p)
		if err != nil {
			return nil, fmt.Errorf("read program %s: %w", p.Name, err)
		}
		// A file may lie at two paths; its code would then never be of one place only.
		if slices.ContainsFunc(files, f.sameCode) {
			continue
		}
		files = append(files, f)
	}
	for i := range files {
		files[i].main = i
		if files[i].Shared {
			files[i].main = -1
		} else if of := files[i].Of; of != "" {
			if files[i].main = slices.IndexFunc(files, func(f file) bool { return f.Name == of }); files[i].main < 0 {
				return nil, fmt.Errorf("program %s is part of %s, which is not listed", files[i].Name, of)
			}
		}
	}
	return files, nil
}

// sameCode says whether g is the same file under another path.
func (f file) sameCode(g file) bool {
	return f.Name == g.Name && slices.EqualFunc(f.code, g.code, func(a, b section) bool {
		return a.addr == b.addr && bytes.Equal(a.bytes, b.bytes)
	})
}

func readProgram(p Program) (file, error) {
	e, err := elf.NewFile(p.File)
	if err != nil {
		return file{}, err
	}
	f := file{Program: p}
	for _, seg := range e.Progs {
		if seg.Type != elf.PT_LOAD || seg.Flags&elf.PF_X == 0 {
			continue
		}
		code := make([]byte, seg.Filesz)
		if _, err := seg.ReadAt(code, 0); err != nil && !errors.Is(err, io.EOF) {
			return file{}, fmt.Errorf("read code: %w", err)
		}
		f.code = append(f.code, section{seg.Vaddr, code})
	}
	f.funcs = functions(e)
	return f, nil
}

// functions are those of the symbol tables, of Go's own table of functions, and stubs of the linker.
func functions(e *elf.File) []function {
	static, _ := e.Symbols() // a stripped file has none
	dynamic, _ := e.DynamicSymbols()
	var out []function
	for _, s := range slices.Concat(static, dynamic) {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Section != elf.SHN_UNDEF && s.Value != 0 {
			out = append(out, function{s.Value, s.Size, s.Name})
		}
	}
	out = append(out, goFunctions(e)...)
	for _, s := range e.Sections {
		switch s.Name {
		case ".plt", ".plt.sec", ".plt.got":
			out = append(out, function{s.Addr, s.Size, "[plt]"})
		}
	}
	slices.SortFunc(out, func(a, b function) int {
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(b.size, a.size), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return slices.CompactFunc(out, func(a, b function) bool { return a.addr == b.addr })
}

func goFunctions(e *elf.File) (out []function) {
	lines, text := e.Section(".gopclntab"), e.Section(".text")
	if lines == nil || text == nil {
		return nil
	}
	data, err := lines.Data()
	if err != nil {
		return nil
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	if err != nil {
		return nil
	}
	for _, f := range table.Funcs {
		out = append(out, function{f.Entry, f.End - f.Entry, f.Name})
	}
	return out
}

// at names the function at an address of the file, and says whether it begins there.
func (f *file) at(addr uint64) (name string, begins bool) {
	i, found := slices.BinarySearchFunc(f.funcs, addr, func(x function, a uint64) int { return cmp.Compare(x.addr, a) })
	if !found {
		i--
	}
	if i < 0 || !found && addr-f.funcs[i].addr >= f.funcs[i].size {
		return f.Name + ":[text]", false
	}
	return f.Name + ":" + f.funcs[i].name, found && f.funcs[i].name != "[plt]"
}

// place is where a block's code is found: in which file, at which address of it.
type place struct {
	file int
	addr uint64
}

const pageSize = 4096

// places are all where the code could be from: files are mapped by pages, so the place in the page
// is that of the address.
func places(files []file, pc uint64, code []byte) (out []place) {
	for i := range files {
		for _, s := range files[i].code {
			first := (pc - s.addr) % pageSize
			for off := first; off+uint64(len(code)) <= uint64(len(s.bytes)); off += pageSize {
				if bytes.Equal(s.bytes[off:off+uint64(len(code))], code) {
					out = append(out, place{i, s.addr + off})
				}
			}
		}
	}
	return out
}

// load is a file mapped at an address.
type load struct {
	file int
	bias uint64
}

// matcher finds the files of blocks in user space. A block's code is of one page of memory, and so
// of one file, whatever runs it. Short blocks are found in several places: there the mappings decide
// that others have shown.
type matcher struct {
	files []file
	votes map[load]int
}

// enough is how many bytes of code, found in one place only, show a mapping.
const enough = 8

// match returns the place of a block. prefer is the program of the thread that runs it, or -1. sure
// is false where no mapping is known yet that would decide.
func (m *matcher) match(pc uint64, code []byte, prefer int) (best place, found, sure bool) {
	all := places(m.files, pc, code)
	if len(all) == 0 {
		return place{}, false, true
	}
	if len(all) == 1 && len(code) >= enough {
		m.votes[load{all[0].file, pc - all[0].addr}]++
		return all[0], true, true
	}
	return m.choose(all, pc, prefer)
}

// choose takes the place whose mapping has the most votes: of the thread's own program first, then of
// libraries that all use.
func (m *matcher) choose(all []place, pc uint64, prefer int) (best place, found, sure bool) {
	most, programs := 0, 0
	for _, p := range all {
		votes, main := m.votes[load{p.file, pc - p.addr}], m.files[p.file].main
		switch {
		case votes == 0:
			continue
		case main >= 0 && main != prefer:
			votes = 1
			programs++
		default:
			votes++
		}
		if votes > most {
			best, most = p, votes
		}
	}
	return best, most > 0, most > 1 || most == 1 && programs == 1 && prefer < 0
}
