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

// A node's clock measures the trial. Between two readings it must have advanced as
// far as the driver's, within the share clockLimit, which is also the error of the
// trial's number. Machines whose clocks are disciplined (NTP slews by up to 0.05 %)
// stay far within the limit; an emulated machine that calibrated its clock badly when
// it booted does not. clockGrain is the error of the readings themselves: two clocks
// are not read at the same moment.
const (
	clockLimit = 0.02
	clockGrain = 2 * time.Millisecond
)

// clockFault returns what is wrong with the clock of any node, by readings before
// and after a trial, or "".
func clockFault(before, after lab.Clocks) string {
	for _, node := range slices.Sorted(maps.Keys(before)) {
		if wrong := clockWrong(before[node], after[node]); wrong != "" {
			return fmt.Sprintf("the clock of %s %s", node, wrong)
		}
	}
	return ""
}

// clockWrong compares one node's clock with the driver's. The time between two
// readings is known within the time that the readings took.
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

// outside reports whether a duration is outside least to most by more than the
// tolerance.
func outside(d, least, most time.Duration) bool {
	slack := time.Duration(clockLimit*float64(most)) + clockGrain
	return d < least-slack || d > most+slack
}

// around is what was observed around a trial.
type around struct {
	clock  string  // what is wrong with a node's clock, or ""
	waited float64 // seconds in which tasks of this computer waited for a CPU; 0 if its kernel does not report it
}

// watched proves and runs a bundle, and observes clocks and waiting around it. A
// wrong clock of a machine that the run made is a fault of the rig: the machine is
// booted again, and the trial is done again. The clock also decides if something
// failed, because a clock that runs too fast ends every wait too early.
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

// waitedHere is the time, in seconds since boot, in which tasks of this computer
// waited for a CPU; nil if its kernel does not report it (Linux 4.20, CONFIG_PSI).
func waitedHere() *float64 {
	data, err := os.ReadFile(bundle.PressureFile)
	if err != nil {
		return nil
	}
	return bundle.ParseWaited(string(data))
}
