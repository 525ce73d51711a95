package reduce

import "fmt"

// account holds the guest's clock against what was executed.
type account struct {
	rate uint64 // ns an instruction

	begin, end, last uint64 // ns
	since            uint64 // instructions since the last reading
	halted           bool   // since the last reading
	idle             uint64 // ns

	instructions, blocks, faults uint64
	clocks, off                  uint64
	wrong                        string // of the first reading that was off
}

// reading is a moment at which the clock was read.
type reading struct {
	ns, instructions, idle uint64
}

func (a *account) reading() reading { return reading{a.last, a.instructions, a.idle} }

func (a *account) start(ns uint64) { a.begin, a.last = ns, ns }

func (a *account) ran(n int) {
	a.instructions += uint64(n)
	a.since += uint64(n)
	a.blocks++
}

// clock holds the time since the last reading against the instructions since then: equal, or more
// if the CPU was halted, which is then idle time.
func (a *account) clock(ns uint64) {
	passed, spent := ns-a.last, a.since*a.rate
	a.clocks++
	switch {
	case passed == spent:
	case a.halted && ns >= a.last && passed > spent:
		a.idle += passed - spent
	default:
		if a.off++; a.off == 1 {
			a.wrong = fmt.Sprintf("reading %d: %d ns passed, and %d instructions take %d ns", a.clocks, int64(passed), a.since, spent)
		}
	}
	a.last, a.since, a.halted = ns, 0, false
}

// check says by how much the clock and the instructions differ.
func (a *account) check(counted uint64) error {
	if counted != a.instructions {
		return fmt.Errorf("stacks hold %d instructions and blocks executed %d", counted, a.instructions)
	}
	busy := a.end - a.begin - a.idle
	if busy != a.instructions*a.rate {
		return fmt.Errorf("blocks executed %d instructions, the clock says %d (%d ns less %d ns idle, at %d ns each), %+d; %d of %d readings are off, first %s",
			a.instructions, busy/a.rate, a.end-a.begin, a.idle, a.rate, int64(a.instructions)-int64(busy/a.rate), a.off, a.clocks, a.wrong)
	}
	return nil
}
