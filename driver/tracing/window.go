package tracing

import (
	"errors"
	"fmt"

	"hookbed/analysis/trace"
	"hookbed/driver/watch"
)

// measuredSetup is the setup of a block of one cell whose trial is measured. The one before it warms
// the guest up (campaign.Compose).
const measuredSetup = 1

// window passes on to its observers what is about the measured trial: to each one what is about one
// of the parts that the guest marks, in their order.
type window struct {
	parts   []Observer
	inside  Observer // of the part that is open; nil: none is
	windows int
}

// Symbols passes on the kernel's symbols.
func (w *window) Symbols(text []byte) {
	for _, o := range w.parts {
		o.Symbols(text)
	}
}

// Define passes on what runs in the window.
func (w *window) Define(b *watch.Block) {
	if w.inside != nil {
		w.inside.Define(b)
	}
}

// Ran passes on what ran in the window.
func (w *window) Ran(b *watch.Block, n int, stack []watch.StackAccess) {
	if w.inside != nil {
		w.inside.Ran(b, n, stack)
	}
}

// Clock passes on what the clock was in the window.
func (w *window) Clock(ns uint64) {
	if w.inside != nil {
		w.inside.Clock(ns)
	}
}

// Mark opens and closes the window.
func (w *window) Mark(id watch.MarkID, a, b int64, ns uint64) {
	if a != measuredSetup || id != watch.MarkBegin && id != watch.MarkEnd {
		return
	}
	if id == watch.MarkBegin {
		w.inside = nil
		if w.windows++; w.windows <= len(w.parts) {
			w.inside = w.parts[w.windows-1]
		}
	}
	if w.inside != nil {
		w.inside.Mark(id, a, b, ns)
	}
	if id == watch.MarkEnd {
		w.inside = nil
	}
}

// results are the traces of the parts.
func (w *window) results() (out []*trace.Trace, err error) {
	switch {
	case w.windows == 0:
		return nil, errors.New("the guest set no mark where the workload begins")
	case w.windows != len(w.parts):
		return nil, fmt.Errorf("the guest set %d marks where a measured part begins, want %d", w.windows, len(w.parts))
	case w.inside != nil:
		return nil, errors.New("the guest set no mark where a measured part ends")
	}
	for _, o := range w.parts {
		t, err := o.Result()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// misrootedLimit is the share of instructions whose stacks may be unknown at their root.
const misrootedLimit = 0.001

// check refuses a trace whose account of the guest's time is not exact: every instruction is in a
// stack, and the clock advanced for nothing but instructions and halts.
func check(t *trace.Trace) error {
	w := t.Window
	switch {
	case w.Instructions == 0:
		return errors.New("no instruction was seen")
	case w.ClocksOff > 0:
		return fmt.Errorf("between %d of %d readings of the clock it did not advance by the time of the instructions", w.ClocksOff, w.Clocks)
	case w.Off() != 0:
		return fmt.Errorf("the clock advanced by %d ns, %d instructions and %d ns of halts account for %+d ns less",
			w.ClockNS, w.Instructions, w.IdleNS, w.Off())
	case t.Units <= 0:
		return errors.New("no whole unit of work was seen")
	case float64(w.Misrooted) > misrootedLimit*float64(w.Instructions):
		return fmt.Errorf("of %d instructions %d, more than %g %%, have a stack that does not begin where the kernel is entered; the largest begin with %s",
			w.Instructions, w.Misrooted, 100*misrootedLimit, w.Misroots())
	}
	return nil
}
