package reduce

import (
	"fmt"
	"strings"

	"hookbed/driver/watch"
)

// known is what is known of a block.
type known struct {
	ready bool
	user  bool
	begin bool // the block begins where its function does
	// Of the kernel: code of an entry, where the CPU itself enters, by an exception, where a new
	// thread begins, a program of BPF; and the entry's name.
	ofEntry, vector, fault, fork, bpf bool
	entry                             int32
	pc, end                           uint64

	sym  int32
	file int32 // of user space: index of the file; -1 if it is of none
	rest []piece
}

// piece is the part of a block that lies in another function than its beginning does: code that
// falls through from one function into the next.
type piece struct {
	sym  int32
	from int // index of its first instruction
}

// unsure is code that was found in several places: which one is decided when the window is over.
type unsure struct {
	sym  int32
	pc   uint64
	code []byte
	life int // that ran it first; -1 if that was in another window
}

// deed is what a thread does when it calls a function of the kernel.
type deed uint16

const (
	doesCut deed = 1 << iota
	doesIdle
	doesConnect
	doesAccept
	doesSend
	doesReceive
	doesExec
	doesFork
	doesLeave
	doesSchedule
	doesSwitchMemory
)

// intern gives a name its number.
func (r *Reducer) intern(name string) int32 {
	if id, ok := r.ids[name]; ok {
		return id
	}
	id := int32(len(r.names))
	r.ids[name] = id
	r.names = append(r.names, name)
	d := deedOf(name)
	if name == r.cfg.Cut.Call {
		d |= doesCut
	}
	r.does = append(r.does, d)
	return id
}

// deedOf does not mind what compilers append to the names of functions that they changed.
func deedOf(name string) deed {
	name, _, _ = strings.Cut(name, ".")
	switch name {
	case "do_idle":
		return doesIdle
	case "tcp_v4_connect", "tcp_v6_connect":
		return doesConnect
	case "inet_accept":
		return doesAccept
	case "tcp_sendmsg":
		return doesSend
	case "tcp_recvmsg":
		return doesReceive
	case "begin_new_exec":
		return doesExec
	case "__switch_to_asm":
		return doesLeave
	case "copy_process":
		return doesFork
	case "__schedule":
		return doesSchedule
	case "switch_mm_irqs_off":
		return doesSwitchMemory
	}
	return 0
}

// resolve finds the function, or functions, of a block.
func (r *Reducer) resolve(k *known, b *watch.Block) {
	*k = known{ready: true, file: -1, pc: b.PC, end: b.PC}
	for _, size := range b.Size {
		k.end += uint64(size)
	}
	if b.PC < kernelBegin {
		k.user = true
		r.resolveUser(k, b)
		return
	}
	i := r.kernel.at(b.PC)
	if i < 0 {
		k.sym = r.intern(fmt.Sprintf("[%x]", b.PC&^0xfff))
		return
	}
	s := r.kernel[i]
	k.begin, k.bpf = s.addr == b.PC, s.bpf
	name, cold := whole(s.name)
	k.sym, k.begin = r.intern(name), k.begin && !cold
	if entry, ofEntry, vector := entryOf(name); ofEntry {
		k.entry, k.ofEntry = r.intern(entry), true
		k.vector = vector && (s.addr == b.PC || strings.HasSuffix(name, "entries_start"))
		k.fault = k.vector && strings.HasPrefix(name, "asm_exc_")
	}
	k.fork = k.begin && (name == entryFork || name == entryForkOld)
	r.split(k, b, i)
}

// split finds other functions that begin within the block.
func (r *Reducer) split(k *known, b *watch.Block, i int) {
	pc := b.PC
	for j, size := range b.Size {
		for i+1 < len(r.kernel) && r.kernel[i+1].addr <= pc {
			i++
			if name, cold := whole(r.kernel[i].name); r.kernel[i].addr == pc && j > 0 && !cold {
				if _, ofEntry, _ := entryOf(name); !ofEntry {
					k.rest = append(k.rest, piece{r.intern(name), j})
				}
			}
		}
		pc += uint64(size)
	}
}

// resolveUser finds the file of a block in user space.
func (r *Reducer) resolveUser(k *known, b *watch.Block) {
	at, found, sure := r.code.match(b.PC, b.Code, r.lives[r.cur.life].program)
	switch {
	case !found && sure:
		k.sym = r.unknownPage(b)
	case !sure:
		k.sym = int32(len(r.names))
		r.names, r.does = append(r.names, "[unsure]"), append(r.does, 0)
		r.later = append(r.later, unsure{k.sym, b.PC, b.Code, r.cur.life})
	default:
		name, begins := r.code.files[at.file].at(at.addr)
		k.sym, k.begin, k.file = r.intern(name), begins, int32(at.file)
		r.span.name(r.cfg.Cut, name, k.sym)
	}
}

// unknownPage names code of no file by its page. A page in which the clock is read is of the code that
// the kernel gives to each program, the vDSO.
func (r *Reducer) unknownPage(b *watch.Block) int32 {
	page := b.PC &^ (pageSize - 1)
	if r.pages == nil {
		r.pages, r.vdso = map[uint64]int32{}, map[uint64]bool{}
	}
	if b.Kind == watch.ReadClock {
		r.vdso[page] = true
	}
	sym, ok := r.pages[page]
	if !ok {
		sym = int32(len(r.names))
		r.names, r.does = append(r.names, unknownCode), append(r.does, 0)
		r.pages[page] = sym
	}
	return sym
}

// Names of code that is of no file.
const (
	unknownCode = "[unknown]"
	vdsoCode    = "vdso:[text]"
)

// inVDSO says whether an address of no file is in the vDSO: in a page in which the clock is read, or
// next to one. Since Linux 6.11 it has two pages; getrandom and its cipher are in the second
// (arch/x86/entry/vdso).
func (r *Reducer) inVDSO(pc uint64) bool {
	page := pc &^ (pageSize - 1)
	return r.vdso[page] || r.vdso[page-pageSize] || r.vdso[page+pageSize]
}

// settle names what could not be named at first.
func (r *Reducer) settle() {
	for page, sym := range r.pages {
		if r.inVDSO(page) {
			r.names[sym] = vdsoCode
		}
	}
	for _, u := range r.later {
		program := -1
		if u.life >= 0 {
			program = r.lives[u.life].program
		}
		at, found, _ := r.code.match(u.pc, u.code, program)
		switch {
		case found:
			r.names[u.sym], _ = r.code.files[at.file].at(at.addr)
		case r.inVDSO(u.pc):
			r.names[u.sym] = vdsoCode
		default:
			r.names[u.sym] = unknownCode
		}
	}
}
