package reduce

import "hookbed/driver/watch"

// life is the time in which a thread runs one program: from its start, or from an exec, to its end
// or the next exec.
type life struct {
	node    int32 // its calls are below
	parent  int   // the life that made the thread; -1 if that is not known
	blocks  []uint64
	program int // index of the program that it runs; -1 before that is known
	idle    bool
	kernel  bool // a thread of the kernel
	wasUser bool

	connects, accepts, sends, receives uint64
}

// thread is known by its kernel stack.
type thread struct {
	region uint64 // of the kernel stack, 0 before that is known
	life   int
	user   bool // it runs in user space
	exec   bool // the next code in user space is another program's

	stack []frame
	above int32 // node of what called the function that runs
	leaf  int32 // node of the function that runs
	sym   int32 // the function that runs
	way   uint8 // on which its next block is reached

	unknown int32 // node of what the thread had called before the window, 0 if there is none
	outward bool  // it has returned into that
	fresh   bool  // nothing is known of it but that it runs

	inUser struct {
		sym  int32
		way  uint8
		site uint64 // of its last call in a main program
	}
}

// Kinds of frames.
const (
	called  = iota // a call
	within         // a call within a function: only its stack pointer counts
	entered        // an entry to the kernel: system call, interrupt, exception
)

// frame is what was interrupted by a call or an entry.
type frame struct {
	kind  uint8
	way   uint8
	base  bool   // of within: in an entry's own code
	sp    uint64 // where the return address is
	back  uint64 // the return address
	above int32
	leaf  int32
	sym   int32
	entry int32 // of entered: node of the entry
}

// A kernel stack has 16 KiB and begins at a multiple of that (THREAD_SIZE of x86-64, with
// VMAP_STACK). The CPUs' entry stacks lie in an area of their own
// (Documentation/arch/x86/x86_64/mm.rst: 0xfffffe0000000000, 0.5 TiB).
const (
	stackBits  = 14
	entryBegin = 0xfffffe0000000000
	entryEnd   = 0xfffffe8000000000
)

func ofEntryStack(sp uint64) bool { return sp >= entryBegin && sp < entryEnd }

func (t *thread) top() *frame {
	if len(t.stack) == 0 {
		return nil
	}
	return &t.stack[len(t.stack)-1]
}

// entry returns the node of the entry if the thread is in the entry's own code, else 0.
func (t *thread) entry() int32 {
	if f := t.top(); f != nil && (f.kind == entered || f.kind == within && f.base) {
		return f.entry
	}
	return 0
}

// inUser counts a block in user space. Calls are not followed there.
func (r *Reducer) inUser(b *watch.Block, k *known, n int, whole bool) {
	t := r.cur
	if !t.user {
		t.stack, t.user, t.outward = t.stack[:0], true, false
		if t.exec {
			t.life, t.exec = r.begin(r.lives[t.life].parent), false
			t.inUser.sym, t.inUser.site = -1, 0
		}
		t.sym, t.way = t.inUser.sym, t.inUser.way
	}
	l := &r.lives[t.life]
	l.wasUser = true
	if k.file >= 0 {
		if main := r.code.files[k.file].main; main >= 0 {
			l.blocks[main]++
			if l.program < 0 || l.blocks[main] > l.blocks[l.program] {
				l.program = main
			}
			if b.Kind == watch.Call || b.Kind == watch.CallAny {
				t.inUser.site = b.PC
			}
		}
	}
	begins := k.begin && (t.way == byCall || k.sym != t.sym)
	r.units.ran(r.tree.kid(l.node, k.sym), n, begins)
	if begins {
		r.span.called(t.life, k.sym)
	}
	t.sym, t.way = k.sym, byFlow
	if whole && (b.Kind == watch.Call || b.Kind == watch.CallAny) {
		t.way = byCall
	}
}

// inKernel counts a block in the kernel.
func (r *Reducer) inKernel(k *known, n int) {
	t := r.cur
	begins := true
	if t.way == byOdd && !t.user {
		t.findBack(k.pc)
	}
	switch {
	case t.user:
		r.fromUser(t, k)
	case k.vector && (t.way != byJump || t.entry() == 0):
		r.interrupt(t, k)
	case k.fork && (t.way == byOdd || t.way == byReturn):
		r.forked(t, k)
	case t.entry() != 0:
		t.leaf, begins = t.entry(), false
		t.sym = r.tree.list[t.leaf].sym
	default:
		begins = r.follow(t, k)
	}
	if len(k.rest) == 0 || t.entry() != 0 {
		r.units.ran(t.leaf, n, begins)
		r.deed(t, k.sym, begins)
		return
	}
	r.fallThrough(t, k, n, begins)
}

// fallThrough counts a block that lies in several functions.
func (r *Reducer) fallThrough(t *thread, k *known, n int, begins bool) {
	from := 0
	for i := 0; from < n; i++ {
		to := n
		if i < len(k.rest) {
			to = min(n, k.rest[i].from)
		}
		r.units.ran(t.leaf, to-from, begins)
		r.deed(t, t.sym, begins)
		if from = to; from < n {
			t.sym, begins = k.rest[i].sym, true
			t.leaf = r.tree.kid(t.above, t.sym)
		}
	}
}

// deed notes what a function that begins says of its thread.
func (r *Reducer) deed(t *thread, sym int32, begins bool) {
	d := r.does[sym]
	if d == 0 || !begins {
		return
	}
	l := &r.lives[t.life]
	switch {
	case d&doesCut != 0 && r.mayCut(l):
		r.units.cut(t.life, t.inUser.site)
	case d&doesLeave != 0:
		r.leaving = true
	case d&doesSchedule != 0:
		r.noMemory = r.seesMemory
	case d&doesSwitchMemory != 0:
		r.noMemory = false
	case d&doesIdle != 0:
		l.idle = true
	case d&doesExec != 0:
		t.exec = true
	case d&doesFork != 0:
		r.forks = append(r.forks, t.life)
	}
	l.connects += uint64(d & doesConnect / doesConnect)
	l.accepts += uint64(d & doesAccept / doesAccept)
	l.sends += uint64(d & doesSend / doesSend)
	l.receives += uint64(d & doesReceive / doesReceive)
}

// mayCut is true of lives that may be the client's.
func (r *Reducer) mayCut(l *life) bool {
	if len(r.code.files) == 0 {
		return true
	}
	if l.program < 0 {
		return false
	}
	role := r.code.files[l.program].Role
	return role == roleClient || role == Ends && l.accepts == 0
}

// fromUser begins a system call, interrupt or exception in user space.
func (r *Reducer) fromUser(t *thread, k *known) {
	t.user = false
	t.inUser.sym, t.inUser.way = t.sym, t.way
	r.units.enter(t.life)
	above, sym := r.lives[t.life].node, k.entry
	if !k.ofEntry {
		above, sym = r.tree.add(above, -1, ofUnknown), k.sym
	}
	r.enter(t, frame{kind: entered, above: above, leaf: above, entry: r.tree.kid(above, sym)}, k)
}

// interrupt begins an interrupt or exception in the kernel. It is below what it interrupted.
func (r *Reducer) interrupt(t *thread, k *known) {
	r.enter(t, frame{kind: entered, way: t.way, above: t.above, leaf: t.leaf, sym: t.sym, entry: r.tree.kid(t.leaf, k.entry)}, k)
}

func (r *Reducer) enter(t *thread, f frame, k *known) {
	if k.fault {
		r.account.faults++
	}
	t.stack = append(t.stack, f)
	t.leaf, t.sym = f.entry, r.tree.list[f.entry].sym
	t.above = f.entry
}

// forked begins the life of a new thread. Its stack may have been another one's before.
func (r *Reducer) forked(t *thread, k *known) {
	parent := -1
	if len(r.forks) > 0 {
		parent, r.forks = r.forks[0], r.forks[1:]
	}
	if !t.fresh {
		t.life = r.begin(parent)
	}
	r.lives[t.life].parent, r.lives[t.life].kernel = parent, r.noMemory
	above := r.lives[t.life].node
	entry := r.tree.kid(above, k.sym)
	if t.unknown != 0 {
		r.tree.into[t.unknown] = entry
	}
	*t = thread{region: t.region, life: t.life, stack: t.stack[:0]}
	r.enter(t, frame{kind: entered, above: above, leaf: above, entry: entry}, k)
}

// follow finds the node of a block that is of a function, and whether the function begins with it.
func (r *Reducer) follow(t *thread, k *known) (begins bool) {
	if t.outward && len(t.stack) == 0 {
		return r.goOutward(t, k)
	}
	other := k.sym != t.sym
	switch t.way {
	case byCall:
		f := t.top()
		if begins = k.begin || other && !k.ofEntry; begins {
			t.above = t.leaf
			break
		}
		f.kind = within
		if f.base {
			t.leaf = f.entry
			return false
		}
	case byReturn, byFlow:
		begins = k.begin && other
	case byJump:
		begins = other && (k.begin || k.bpf) // a program's tail calls skip the beginning of the next
	case byOdd:
		begins = k.begin || k.bpf && other
	}
	t.leaf, t.sym = r.tree.kid(t.above, k.sym), k.sym
	return begins
}

// goOutward comes back to a function that was called before the window. What was found below the
// unknown caller is below this function, which itself has an unknown caller, unless it is an entry.
func (r *Reducer) goOutward(t *thread, k *known) (begins bool) {
	t.outward = false
	root := r.lives[t.life].node
	if k.ofEntry {
		entry := r.tree.kid(root, k.entry)
		r.tree.into[t.unknown] = entry
		t.unknown = 0
		t.stack = append(t.stack[:0], frame{kind: entered, above: root, leaf: root, entry: entry})
		t.above, t.leaf, t.sym = entry, entry, k.entry
		return false
	}
	unknown := r.tree.add(root, -1, ofUnknown)
	t.above, t.sym = unknown, k.sym
	t.leaf = r.tree.kid(unknown, k.sym)
	r.tree.into[t.unknown] = t.leaf
	t.unknown = unknown
	return false
}

// access follows the return address that a block wrote or read.
func (r *Reducer) access(s watch.StackAccess, k *known) {
	region := s.Address >> stackBits
	entryStack := ofEntryStack(s.Address)
	if r.leaving && region != r.cur.region && !entryStack {
		r.arrive(region, k)
	}
	t := r.cur
	switch s.Kind {
	case watch.Call, watch.CallAny:
		if t.region == 0 && !entryStack {
			t.region = region
			r.threads[region] = t
		}
		r.call(t, s.Address, k.end)
	case watch.Return:
		t.giveBack(s.Address)
	case watch.IReturn:
		t.leaveEntry(k)
	}
}

// arrive goes on with the thread that a kernel stack belongs to.
func (r *Reducer) arrive(region uint64, k *known) {
	r.leaving = false
	t := r.threads[region]
	if t == nil {
		t = &thread{region: region, life: r.begin(-1), fresh: true}
		r.lives[t.life].kernel = r.noMemory
		t.unknown = r.tree.add(r.lives[t.life].node, -1, ofUnknown)
		t.above, t.leaf = t.unknown, t.unknown
		t.inUser.sym = -1
		r.threads[region] = t
	}
	t.sym = k.sym
	t.leaf = r.tree.kid(t.above, k.sym)
	r.cur = t
}

// call notes that a return address was written.
func (r *Reducer) call(t *thread, sp, back uint64) {
	if t.drop(sp) {
		t.leaf = r.tree.kid(t.above, t.sym)
	}
	entry := t.entry()
	t.stack = append(t.stack, frame{kind: called, sp: sp, back: back, above: t.above, leaf: t.leaf, sym: t.sym, entry: entry, base: entry != 0})
	t.way = byCall
}

// drop forgets calls whose return addresses lie at a stack pointer or below, on the same stack: they
// were left by other means than ret. It says whether a function was left by that.
func (t *thread) drop(sp uint64) (left bool) {
	for f := t.top(); f != nil && f.kind != entered && f.sp <= sp && f.sp>>stackBits == sp>>stackBits; f = t.top() {
		t.above = f.above
		left = left || f.kind == called
		t.stack = t.stack[:len(t.stack)-1]
	}
	return left
}

// giveBack notes that a return address was read by ret.
func (t *thread) giveBack(sp uint64) {
	t.way = byOdd
	for i := len(t.stack) - 1; i >= 0; i-- {
		if f := &t.stack[i]; f.kind != entered && f.sp == sp {
			t.goBack(i)
			return
		}
	}
	t.drop(sp)
	t.outward = len(t.stack) == 0 && t.unknown != 0
}

// goBack ends a call.
func (t *thread) goBack(i int) {
	f := &t.stack[i]
	t.above = f.above
	if f.kind == called {
		t.leaf, t.sym, t.way = f.leaf, f.sym, byReturn
	}
	t.stack = t.stack[:i]
}

// findBack looks for the call that is returned from when the return address was not where it had
// been written: error_entry moves its own to make room for registers.
func (t *thread) findBack(pc uint64) {
	for i := len(t.stack) - 1; i >= 0 && t.stack[i].kind != entered; i-- {
		if t.stack[i].back == pc {
			t.goBack(i)
			return
		}
	}
}

// leaveEntry notes an iret. One outside the code of entries serializes the CPU, and goes on behind
// itself.
func (t *thread) leaveEntry(k *known) {
	if t.entry() == 0 && !k.ofEntry {
		return
	}
	i := len(t.stack) - 1
	for i >= 0 && t.stack[i].kind != entered {
		i--
	}
	if i < 0 {
		t.stack, t.way = t.stack[:0], byOdd
		t.outward = t.unknown != 0
		return
	}
	f := t.stack[i]
	t.above, t.leaf, t.sym, t.way = f.above, f.leaf, f.sym, f.way
	t.stack = t.stack[:i]
}
