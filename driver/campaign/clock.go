package campaign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
)

// A node's clock measures the trial. Between two readings it must have gone on as
// far as the driver's, within clockLimit of that, which is what a trial's own number
// would be off by. Machines whose clocks are disciplined (NTP slews by up to 0.05 %)
// stay far within it; an emulated one that calibrated its clock badly when it booted
// does not. clockGrain is for the readings' own: two clocks are not read at once.
const (
	clockLimit = 0.02
	clockGrain = 2 * time.Millisecond
)

// clockFault returns what is wrong with the clock of a node, of which there are
// readings before and after a trial, or "".
func clockFault(before, after lab.Clocks) string {
	for _, node := range slices.Sorted(maps.Keys(before)) {
		if wrong := clockWrong(before[node], after[node]); wrong != "" {
			return fmt.Sprintf("the clock of %s %s", node, wrong)
		}
	}
	return ""
}

// clockWrong holds one node's clock against the driver's. How much time passed
// between the readings is known within the time that they took.
func clockWrong(a, b lab.Reading) string {
	least, most := b.Before-a.After, b.After-a.Before
	mono, realtime := time.Duration(b.Mono-a.Mono), time.Duration(b.Real-a.Real)
	switch {
	case outside(mono, least, most):
		return fmt.Sprintf("went on by %.3f s while %.3f to %.3f s passed", mono.Seconds(), least.Seconds(), most.Seconds())
	case outside(realtime, mono, mono):
		return fmt.Sprintf("was set by %+.3f s during the trial", (realtime - mono).Seconds())
	}
	return ""
}

// outside says whether a duration is off what it should be by more than is tolerated.
func outside(d, least, most time.Duration) bool {
	slack := time.Duration(clockLimit*float64(most)) + clockGrain
	return d < least-slack || d > most+slack
}

// around is what was noticed around a trial.
type around struct {
	clock  string  // what is wrong with a node's clock, or ""
	waited float64 // for how long tasks of this computer waited for a CPU, in s; 0 where it does not say
}

// watched proves and runs a bundle, and looks at what is around. A wrong clock of a
// machine that is the run's own is a fault of the rig: it is booted again, and what
// it did is done again. It also decides where something failed, because a clock that
// runs away ends every wait too early.
func (r *runner) watched(ctx context.Context, b *bundle.Bundle, t datapath.Topology) (proof, measured lab.Execution, seen around, err error) {
	before, err := r.lab.Clocks(ctx, t)
	if err != nil {
		return proof, measured, seen, err
	}
	waited := waitedHere()
	proof, measured, err = r.proveAndRun(ctx, b)
	if now := waitedHere(); waited != nil && now != nil {
		seen.waited = *now - *waited
	}
	if err != nil && statusOf(err) == record.StatusRig {
		return proof, measured, seen, err
	}
	after, clockErr := r.lab.Clocks(ctx, t)
	if clockErr != nil {
		return proof, measured, seen, clockErr
	}
	seen.clock = clockFault(before, after)
	if seen.clock == "" {
		return proof, measured, seen, err
	}
	if r.Plan.Spec.Lab.Capabilities().VMs {
		return proof, measured, seen, &lab.Fault{Kind: bundle.FaultRig, Err: errors.New(seen.clock)}
	}
	if err != nil {
		err = &lab.Fault{Kind: bundle.FaultVoid, Err: fmt.Errorf("%s: %w", seen.clock, err)}
	}
	return proof, measured, seen, err
}

// waitedHere is for how long tasks of this computer have had to wait for a CPU, ever;
// nil where its kernel does not say.
func waitedHere() *float64 {
	data, err := os.ReadFile(bundle.PressureFile)
	if err != nil {
		return nil
	}
	return bundle.ParseWaited(string(data))
}
