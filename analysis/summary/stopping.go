package summary

import (
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// stopConfidence is that of the interval which ends a cell.
const stopConfidence = 0.95

// applyStop takes trials that the stopping rule passed over out of the plan, and marks
// the cells that reached the rule's max. With several runs, the cells of which ended
// apart, it changes nothing.
func (d *Data) applyStop(g *Group) {
	if len(d.Runs) != 1 || d.Runs[0].Plan == nil || d.Runs[0].Plan.Spec.Measure.Stop == nil {
		return
	}
	stop := d.Runs[0].Plan.Spec.Measure.Stop
	w, _ := d.Words.Workload(g.Workload)
	metric := w.Stopping()
	ok, narrow := g.Count(record.StatusOK), d.narrow(g.Samples(metric.Name), metric.Higher, stop.CI)
	g.RanIntoMax = ok >= stop.Max && !narrow
	switch {
	case ok >= stop.Max || ok >= stop.Min && narrow:
		g.Planned = g.Tried()
	default:
		g.Planned = min(g.Planned, max(stop.Max, g.Tried()))
	}
}

// narrow reports whether an interval is narrow enough, by the rule of the driver.
func (d *Data) narrow(x []float64, higherIsFaster bool, ci float64) bool {
	if d.Runs[0].Estimator() == runs.EstimatorMedian {
		return stat.NarrowEnough(stat.MedianInterval(x, stopConfidence), stopConfidence, ci)
	}
	e, ok := stat.Bootstrap{Seed: d.Runs[0].Plan.Spec.Seed}.FasterHalfInterval(x, higherIsFaster, stopConfidence)
	return ok && stat.NarrowEnough(e, stopConfidence, ci)
}
