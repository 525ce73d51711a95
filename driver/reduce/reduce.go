// Package reduce makes a trace of the stream of a traced boot, while the guest runs: who executed
// each block, in which stack of calls, and what one unit of the workload's work took. It sees
// addresses of blocks and of return addresses only; what it says of the kernel follows from them and
// from the symbols.
package reduce

import (
	"errors"
	"slices"

	"hookbed/analysis/trace"
	"hookbed/driver/watch"
)

// Config says what is known of the boot.
type Config struct {
	Programs []Program
	Cut      Cut
	// Unit is what a unit is called, Size how many of that one is: 1 if it is 0.
	Unit string
	Size float64
	// Units limits Measured to so many units, the last of the window: 0 means all.
	Units int
	// NSPerInstruction is how far the guest's clock advances for each instruction: 8 if it is 0.
	NSPerInstruction uint64
}

// Cut says where a unit begins: where the client enters the kernel for a system call. The calls
// that count are those of one place in one thread of the client, the first that makes several, so
// that what a tool sends to steer the other end is none. If another process or thread of the client
// makes the same call later, that one counts: the former was a warm-up.
type Cut struct {
	Call  string // the kernel's function: "__x64_sys_sendto"
	Every int    // a unit has so many of these calls; 0 means 1
	// From and To are functions of the server's program, or of its libraries, in which it reads the
	// clock when what it reports begins and ends. "": the client computes the figures, by its readings
	// before it connects and after its last unit.
	From, To string
}

// Kinds of ways on which a block was reached.
const (
	byFlow   = iota // from the block before it, also by conditional jumps and after faults
	byJump          // unconditional jump
	byCall          // call
	byReturn        // return to the caller that is on the stack
	byOdd           // ret to an address that no call has pushed: retpolines, new threads
)

// Reducer implements watch.Handler. It has to be used by one goroutine.
type Reducer struct {
	cfg    Config
	err    error
	code   matcher
	kernel symbols
	// seesMemory: the kernel has a function with which the scheduler switches to another memory.
	seesMemory bool

	names []string
	ids   map[string]int32
	does  []deed // by name
	vdso  map[uint64]bool
	pages map[uint64]int32 // of unknown code in user space: the page's name
	later []unsure

	blocks []known // by the block's ID

	tree    nodes
	lives   []life
	threads map[uint64]*thread // by the region of the kernel stack
	cur     *thread
	forks   []int // lives that are about to have a child
	leaving bool  // __switch_to_asm has begun: the next stack is another thread's
	// The scheduler chose a thread that has no memory of its own, one of the kernel: it has not switched
	// to another memory since it began (kernel/sched/core.c, context_switch; 5.10 to 7.3).
	noMemory bool

	units   units
	span    span
	account account
	window  bool
	done    bool
}

var _ watch.Handler = (*Reducer)(nil)

// New makes a reducer. Errors in the config come out of Result.
func New(cfg Config) *Reducer {
	if cfg.NSPerInstruction == 0 {
		cfg.NSPerInstruction = 8
	}
	if cfg.Size == 0 {
		cfg.Size = 1
	}
	cfg.Cut.Every = max(1, cfg.Cut.Every)
	r := &Reducer{cfg: cfg, ids: map[string]int32{}, span: newSpan(-1, -1)}
	files, err := readPrograms(cfg.Programs)
	r.err = err
	r.code = matcher{files: files, votes: map[load]int{}}
	r.reset()
	return r
}

// reset forgets what a window gave. What is known of blocks and programs stays.
func (r *Reducer) reset() {
	r.tree = newNodes()
	r.lives = nil
	r.threads = map[uint64]*thread{}
	r.forks, r.leaving, r.noMemory = nil, false, false
	r.cur = &thread{user: true, sym: -1}
	r.cur.life = r.begin(-1)
	r.units = newUnits(r.cfg, &r.tree)
	r.span = newSpan(r.span.from, r.span.to)
	r.account = account{rate: r.cfg.NSPerInstruction}
	for i := range r.later {
		r.later[i].life = -1
	}
}

// begin makes the life of a thread: the time in which it runs one program.
func (r *Reducer) begin(parent int) int {
	i := len(r.lives)
	r.lives = append(r.lives, life{node: r.tree.add(0, int32(i), ofThread), parent: parent, program: -1, blocks: make([]uint64, len(r.code.files))})
	return i
}

// Define implements watch.Handler.
func (r *Reducer) Define(b *watch.Block) {
	for uint32(len(r.blocks)) <= b.ID {
		r.blocks = append(r.blocks, known{})
	}
	r.blocks[b.ID] = known{}
}

// Symbols implements watch.Handler.
func (r *Reducer) Symbols(kallsyms []byte) {
	r.kernel = parseSymbols(kallsyms)
	r.seesMemory = slices.ContainsFunc(r.kernel, func(s symbol) bool { return deedOf(s.name) == doesSwitchMemory })
	clear(r.blocks) // those of the kernel may have been resolved by older symbols
}

// Mark implements watch.Handler. A boot may have several windows; the last one counts.
func (r *Reducer) Mark(id watch.MarkID, _, _ int64, ns uint64) {
	switch {
	case id == watch.MarkBegin:
		r.reset()
		r.window, r.done = true, false
		r.account.start(ns)
		if r.err == nil && len(r.kernel) == 0 {
			r.err = errors.New("the window begins before the kernel's symbols are known: the guest has to pass them before its first mark")
		}
	case id == watch.MarkEnd && r.window:
		r.account.clock(ns)
		r.account.end = ns
		r.units.end()
		r.window, r.done = false, true
	}
}

// Clock implements watch.Handler.
func (r *Reducer) Clock(ns uint64) {
	if !r.window {
		return
	}
	r.account.clock(ns)
	if r.cur.user {
		r.units.read(r.cur.life, r.account.reading())
		r.span.read(r.cur.life, r.account.reading())
	}
}

// Ran implements watch.Handler.
func (r *Reducer) Ran(b *watch.Block, n int, stack []watch.StackAccess) {
	if !r.window || n == 0 {
		return
	}
	r.account.ran(n)
	k := &r.blocks[b.ID]
	if !k.ready {
		r.resolve(k, b)
	}
	whole := n == len(b.Size)
	if k.user {
		r.inUser(b, k, n, whole)
		return
	}
	r.inKernel(k, n)
	t := r.cur
	t.way = byFlow
	if !whole {
		return
	}
	switch b.Kind {
	case watch.Jump, watch.JumpAny:
		t.way = byJump
	case watch.Halt:
		r.account.halted = true
		r.lives[t.life].idle = true
	}
	for i, s := range stack {
		if s.Address >= kernelBegin && (i == 0 || s.Kind != watch.IReturn) {
			r.access(s, k)
		}
	}
}

// Result returns the trace of the last window. Cell, Factors and Seed are the caller's to fill.
func (r *Reducer) Result() (*trace.Trace, error) {
	if r.err != nil {
		return nil, r.err
	}
	if !r.done {
		return nil, errors.New("the stream ended before the window did: the guest did not reach its second mark")
	}
	t, err := r.finish()
	if err != nil {
		return nil, err
	}
	return t, nil
}
