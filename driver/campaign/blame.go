package campaign

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
)

// maxBroken is the number of different setups that may fail in a row by the lab's
// fault before the run stops: one may be chance, three are a broken lab.
const maxBroken = 3

// The reference: a measurement that every working lab can do.
const (
	referenceDatapath = "docker" // no filter, on the bridge
	referenceWorkload = "TCP_RR"
	referenceDuration = time.Second
)

// verdict is the status of trials that a rig fault ended twice.
type verdict struct {
	status, reason string
	lab            error // why the lab itself does not work, nil if it does
}

// blame decides whose fault it is that trials of a setup failed again. A fault
// that comes again in a fresh lab, while the lab works without the filter, is the
// setup's own: its trials have failed, and the lab is not blamed. first is nil if
// the setup was blamed for the same fault before.
func (r *runner) blame(ctx context.Context, block int, cell plan.Cell, first, fault error) (verdict, error) {
	if first == nil {
		return verdict{status: record.StatusFailed, reason: fmt.Sprintf("%v (as before, while the lab worked without the filter)", fault)}, nil
	}
	lab := r.reference(ctx, block, cell)
	switch {
	case ctx.Err() != nil:
		return verdict{}, ctx.Err()
	case lab != nil:
		r.recover(ctx)
		r.broken[cell.Setup] = true
		return verdict{record.StatusRig, fmt.Sprintf("%v (and without the filter: %v)", fault, lab), lab}, nil
	}
	clear(r.broken)
	if !alike(first, fault) {
		return verdict{status: record.StatusRig, reason: fmt.Sprintf("%v (before that: %v)", fault, first)}, nil
	}
	r.blamed[cell.Setup] = fault
	return verdict{status: record.StatusFailed, reason: fmt.Sprintf("%v (twice, the second time in a fresh lab, which worked without the filter)", fault)}, nil
}

// stopIfBroken ends the run if the lab no longer comes up, or if maxBroken
// different setups in a row failed by its fault.
func (r *runner) stopIfBroken(v verdict, fault error) error {
	if v.lab == nil {
		return nil
	}
	if fatal(v.lab) {
		return fmt.Errorf("%w: %w", ErrRig, v.lab)
	}
	if n := len(r.broken); n >= min(maxBroken, setupsIn(r.Plan, r.Trials)) {
		return fmt.Errorf("%w: the lab failed %d setups in a row, and works without a filter no more; the last: %w", ErrRig, n, fault)
	}
	return nil
}

// setupsIn counts the different setups of trials.
func setupsIn(p *plan.Plan, trials []plan.Trial) int {
	seen := map[string]bool{}
	for _, t := range trials {
		c, _ := p.CellByID(t.Cell)
		seen[c.Setup] = true
	}
	return len(seen)
}

// reference checks whether a lab that has just come up works: it applies, proves
// and measures, for one second, a setup in the scenario of a cell without its
// filter. It records nothing.
func (r *runner) reference(ctx context.Context, block int, like plan.Cell) error {
	cell, err := referenceCell(r.Plan, block, like)
	if err != nil {
		return err
	}
	if err := r.ensureLab(ctx, block); err != nil {
		return err
	}
	r.Progress.Phase("does the lab work without the filter?")
	setup, err := datapath.Render(cell)
	if err != nil {
		return err
	}
	b, err := Bundle(cell, setup)
	if err != nil {
		return err
	}
	_, err = r.applySetup(ctx, setup)
	if err == nil {
		_, _, _, err = r.watched(ctx, b, setup.Topology)
	}
	if end := r.lab.End(ctx, setup); err == nil {
		err = end
	}
	return err
}

// referenceCell is a cell in the scenario and boot of another, with no filter on
// the bridge and one short workload.
func referenceCell(p *plan.Plan, block int, like plan.Cell) (plan.Cell, error) {
	catalog := plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog()}
	s := p.Spec
	s.Lab = p.LabOf(block)
	s.Kernels, s.NICs, s.Clients, s.Streams = nil, nil, nil, nil
	s.Scenarios, s.Workloads, s.Policies = []string{like.Get(plan.FactorScenario)}, []string{referenceWorkload}, []int{0}
	s.Measure.Duration, s.Measure.Warmup, s.Measure.Count = referenceDuration, 0, nil
	for _, d := range catalog.Datapaths {
		if d.Name != referenceDatapath {
			continue
		}
		options := map[string]string{}
		for _, o := range d.Options {
			if !o.Silent && o.Applies(options) {
				options[o.Key] = o.Allowed[0]
			}
		}
		s.Arms = []plan.Arm{{Name: "reference", Datapath: d.Name, Options: options}}
	}
	of, err := plan.Expand(s, catalog)
	if err != nil {
		return plan.Cell{}, fmt.Errorf("make the reference: %w", err)
	}
	return of.Cells[0], nil
}

// varying are the parts of a fault's text that differ each time: numbers of
// processes, links and temporary files.
var varying = regexp.MustCompile(`[0-9]+`)

// alike reports whether two faults are the same except for varying numbers.
func alike(a, b error) bool {
	return a != nil && b != nil && varying.ReplaceAllString(a.Error(), "#") == varying.ReplaceAllString(b.Error(), "#")
}
