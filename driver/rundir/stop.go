package rundir

import (
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
	"hookbed/analysis/stat"
	"hookbed/driver/plan"
)

// stopConfidence is the confidence of the stopping rule's interval.
const stopConfidence = 0.95

// sample is the value of one ok trial in the metric of the stopping rule.
type sample struct {
	order int // of the trial in the run
	value float64
}

// stopping is the metric of a cell's workload that decides when the cell ends.
func (d *Dir) stopping(factors map[string]string) catalog.Metric {
	w, _ := d.words.Workload(factors[plan.FactorWorkload])
	return w.Stopping()
}

// note keeps a row's value if it is for the stopping rule.
func (d *Dir) note(r record.Row) {
	if d.plan.Spec.Measure.Stop == nil || r.Status != record.StatusOK || r.Metric != d.stopping(r.Factors).Name {
		return
	}
	d.samples[r.Cell] = append(d.samples[r.Cell], sample{r.Order, r.Value})
}

// Stopped reports whether the plan's stopping rule passes a trial over. It is a
// pure function of the plan and the rows of earlier trials, so that a resumed run
// decides the same, and rows.csv alone shows why.
//
// A cell has at least ceil(min/blocks) trials in every block, so that all blocks
// measure it. A further trial is passed over once the cell has min ok trials and the
// 95 % interval of its estimate (of the metric catalog.Workload.Stopping) is narrow
// enough, or once it has max ok trials.
func (d *Dir) Stopped(t plan.Trial) bool {
	m, blocks := d.plan.Spec.Measure, d.plan.Spec.CellBlocks()
	if m.Stop == nil || t.Trial <= (m.Stop.Min+blocks-1)/blocks {
		return false
	}
	if _, ran := d.status[keyOf(t)]; ran {
		return false
	}
	before := d.before(t)
	switch {
	case len(before) < m.Stop.Min:
		return false
	case len(before) >= m.Stop.Max:
		return true
	}
	cell, _ := d.plan.CellByID(t.Cell)
	return narrowEnough(m, d.plan.Spec.Seed, before, d.stopping(cell.Factors).Higher)
}

// before are the values of a trial's cell from trials earlier in the plan.
func (d *Dir) before(t plan.Trial) []float64 {
	own := slices.Clone(d.samples[t.Cell])
	slices.SortFunc(own, func(a, b sample) int { return a.order - b.order })
	var out []float64
	for _, s := range own {
		if s.order < t.Order {
			out = append(out, s.value)
		}
	}
	return out
}

// narrowEnough reports whether the interval of the plan's estimator is narrow enough
// to end a cell.
func narrowEnough(m plan.Measure, seed uint64, values []float64, higherIsFaster bool) bool {
	if m.Estimator == plan.EstimatorMedian {
		return stat.NarrowEnough(stat.MedianInterval(values, stopConfidence), stopConfidence, m.Stop.CI)
	}
	e, ok := stat.Bootstrap{Seed: seed}.FasterHalfInterval(values, higherIsFaster, stopConfidence)
	return ok && stat.NarrowEnough(e, stopConfidence, m.Stop.CI)
}
