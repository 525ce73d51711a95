package reduce

import "slices"

// step is what was executed in one stack without a change. begins: its function began with it.
type step struct {
	node   int32
	n      uint32
	begins bool
}

// Limits, so that a long window takes no more memory than a short one.
const (
	mostSteps     = 1 << 20 // of one unit; a longer one has no path
	mostKept      = 4 << 20 // steps of all units that are kept because they may be the path shown
	mostCompared  = 4 << 20 // nodes of all paths that are kept to be compared
	mostCandidate = 64      // calls that are kept before the client is known
	adopted       = 8       // calls of one place in one thread that make it the client's
)

// caller is a place in user space from which a life calls the kernel.
type caller struct {
	life int
	site uint64 // address of the last call in its main program
}

// stretch is the time from one call that may begin a unit to the next.
type stretch struct {
	by     caller
	clocks []reading // the last that the caller made before
	counts []count   // what did not fit into steps
	long   bool
	steps  []step
}

// units cuts what is executed into units.
type units struct {
	every, last int
	tree        *nodes

	steps   []step
	now     step    // not yet in steps
	spilled tallies // what did not fit into steps
	long    bool    // something did not
	entry   struct {
		life int // that entered the kernel last, from user space; -1 if its step is not there
		at   int // index of its first step
	}

	open       bool    // a stretch has begun
	begun      stretch // it, without its steps
	candidates []stretch

	known  bool // who the client is
	client caller
	calls  int // of the client's, in this unit; -1 before the first

	clocks        map[int][]reading // by life, the last it made in user space
	before, after []reading         // the client's: before its first call, after its last
	made          int               // calls of the client, in all

	sum   tallies // of one unit
	paths paths
	ring  ring
}

func newUnits(cfg Config, tree *nodes) units {
	u := units{every: cfg.Cut.Every, last: cfg.Units, tree: tree, calls: -1, clocks: map[int][]reading{}, paths: newPaths(), ring: newRing()}
	u.now.node = -1
	u.entry.life = -1
	return u
}

// ran counts n instructions in a stack.
func (u *units) ran(node int32, n int, begins bool) {
	if node == u.now.node && !begins {
		u.now.n += uint32(n)
		return
	}
	u.flush()
	u.now = step{node, uint32(n), begins}
}

func (u *units) flush() {
	if u.now.node < 0 {
		return
	}
	if len(u.steps) >= mostSteps {
		u.spill()
	}
	u.steps = append(u.steps, u.now)
	u.now.node = -1
}

// spill makes room for steps: what lies before the last entry cannot be cut any more.
func (u *units) spill() {
	to := len(u.steps)
	if u.entry.life >= 0 && u.entry.at > 0 {
		to = u.entry.at
	} else {
		u.entry.life = -1
	}
	if u.open {
		u.spilled.steps(u.steps[:to])
		u.long = true
	} else {
		u.around(u.steps[:to])
	}
	u.shift(to)
}

// shift removes the first steps.
func (u *units) shift(n int) {
	u.steps = u.steps[:copy(u.steps, u.steps[n:])]
	u.entry.at -= n
}

// around counts steps that are of no unit.
func (u *units) around(steps []step) {
	for _, s := range steps {
		t := &u.tree.list[s.node].around
		t.self += uint64(s.n)
		if s.begins {
			t.calls++
		}
	}
}

// enter notes that a life enters the kernel from user space.
func (u *units) enter(life int) {
	u.flush()
	u.entry.life, u.entry.at = life, len(u.steps)
}

// read notes that a life has read the clock.
func (u *units) read(life int, at reading) {
	const most = 8
	list := append(u.clocks[life], at)
	if len(list) > most {
		list = list[len(list)-most:]
	}
	u.clocks[life] = list
	if u.known && life == u.client.life && len(u.after) < most {
		u.after = append(u.after, at)
	}
}

// cut is called when the kernel's function of a cut begins.
func (u *units) cut(life int, site uint64) {
	by := caller{life, site}
	next := u.known && by.site == u.client.site && by.life > u.client.life
	if u.known && by != u.client && !next {
		return
	}
	at := len(u.steps)
	u.flush()
	if u.entry.life == life {
		at = u.entry.at
	}
	if u.known {
		tail := slices.Clone(u.steps[at:])
		u.steps = u.steps[:at]
		if next {
			u.restart(by)
		}
		u.boundary()
		u.steps = append(u.steps, tail...)
		u.entry.life = -1
		return
	}
	u.candidate(by, at)
}

// restart makes a later life the client: what a former one did was a warm-up.
func (u *units) restart(client caller) {
	for _, c := range u.ring.units {
		u.aside(c.counts)
	}
	u.around(u.steps)
	u.aside(u.spilled.take())
	for i := range u.tree.list {
		n := &u.tree.list[i]
		n.around.add(n.measured)
		n.measured = tally{}
	}
	u.paths, u.ring = newPaths(), newRing()
	u.steps, u.long = u.steps[:0], false
	u.client, u.calls, u.made, u.before = client, -1, 0, slices.Clone(u.clocks[client.life])
}

// aside counts what is of no unit.
func (u *units) aside(list []count) {
	for _, c := range list {
		u.tree.list[c.node].around.add(c.tally)
	}
}

// candidate notes a call that may be the client's.
func (u *units) candidate(by caller, at int) {
	if u.open {
		u.keep(at)
	} else {
		u.around(u.steps[:at])
	}
	u.shift(at)
	u.entry.life = -1
	u.open = true
	u.begun = stretch{by: by, clocks: slices.Clone(u.clocks[by.life])}
	if best, calls := u.mostFrequent(); calls >= adopted || len(u.candidates) >= mostCandidate {
		u.adopt(best)
	}
}

// keep ends the open stretch.
func (u *units) keep(at int) {
	s := u.begun
	s.counts, s.long, s.steps = u.spilled.take(), u.long, slices.Clone(u.steps[:at])
	u.candidates = append(u.candidates, s)
	u.long = false
}

// mostFrequent is the caller with the most calls, the first of several.
func (u *units) mostFrequent() (best caller, calls int) {
	number := map[caller]int{u.begun.by: 1}
	for _, s := range u.candidates {
		number[s.by]++
	}
	for _, s := range append(u.candidates, u.begun) {
		if number[s.by] > calls {
			best, calls = s.by, number[s.by]
		}
	}
	return best, calls
}

// adopt makes a caller the client, and units of what was kept. The open stretch goes on.
func (u *units) adopt(client caller) {
	u.known, u.client = true, client
	tail, long, spilled := slices.Clone(u.steps), u.long, u.spilled.take()
	u.steps, u.long = u.steps[:0], false
	for _, s := range append(u.candidates, stretch{by: u.begun.by, clocks: u.begun.clocks, counts: spilled, long: long, steps: tail}) {
		if s.by == client {
			if u.calls < 0 {
				u.before = s.clocks
			}
			u.boundary()
		}
		if u.calls < 0 {
			u.around(s.steps)
			u.aside(s.counts)
			continue
		}
		u.steps = append(u.steps, s.steps...)
		u.spilled.counts(s.counts)
		u.long = u.long || s.long
	}
	u.candidates = nil
}

// boundary is where the client makes a call: the steps before it may end a unit.
func (u *units) boundary() {
	u.after = u.after[:0]
	u.made++
	if u.calls++; u.calls > 0 && u.calls < u.every {
		return
	}
	if u.calls > 0 {
		u.unit()
		u.calls = 0
	}
}

// unit counts the steps as one.
func (u *units) unit() {
	u.spilled.moveTo(&u.sum)
	u.sum.steps(u.steps)
	u.paths.add(u.steps, &u.sum, u.long)
	if u.last == 0 {
		for _, node := range u.sum.touched {
			u.tree.list[node].measured.add(u.sum.of[node])
		}
	} else {
		u.aside(u.ring.push(u.steps, &u.sum, u.long, u.last))
	}
	u.sum.clear()
	u.steps, u.long = u.steps[:0], false
}

// end counts what lies behind the last unit.
func (u *units) end() {
	u.flush()
	if u.open && !u.known {
		best, _ := u.mostFrequent()
		u.adopt(best)
	}
	u.around(u.steps)
	u.aside(u.spilled.take())
	u.steps = nil
	for _, c := range u.ring.units {
		for _, c := range c.counts {
			u.tree.list[c.node].measured.add(c.tally)
		}
	}
}

// number is how many units Measured has.
func (u *units) number() int {
	if u.last > 0 {
		return len(u.ring.units)
	}
	return u.paths.units
}

// span returns the readings of the clock by which the client itself measures: the one before it
// connects, if it reads the clock again for its first unit, and the last after its last unit.
func (u *units) span() (from, to reading, ok bool) {
	if len(u.before) < 2 || len(u.after) == 0 {
		return reading{}, reading{}, false
	}
	return u.before[len(u.before)-2], u.after[len(u.after)-1], true
}
