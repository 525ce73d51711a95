package summary

import (
	"cmp"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/table"
)

// Measure is a headline metric of a workload.
type Measure struct {
	Workload, Metric string
	Name             string // for people: "throughput"
	HigherIsBetter   bool
}

// Measures are the headline metrics that get figures and verdicts: one for each
// workload that the data has. Of the alternatives the first that was measured is
// taken.
func (d *Data) Measures() []Measure {
	var out []Measure
	for _, w := range d.Words.Workloads {
		if len(w.Headline) == 0 || !slices.Contains(d.Workloads, w.Name) {
			continue
		}
		chosen := measureOf(w, w.Headline[0]) // shown as failed if nothing was measured
		for _, metric := range w.Headline {
			if m := measureOf(w, metric); d.hasMetric(m) {
				chosen = m
				break
			}
		}
		out = append(out, chosen)
	}
	return out
}

func measureOf(w catalog.Workload, m catalog.Metric) Measure {
	return Measure{w.Name, m.Name, cmp.Or(m.Title, m.Name), m.Higher}
}

func (d *Data) hasMetric(m Measure) bool {
	for _, s := range d.Strata {
		if slices.Contains(Metrics(d.Ordered(s, m.Workload)), m.Metric) {
			return true
		}
	}
	return false
}

// IsResult reports whether a metric is what the workload itself reported.
func (d *Data) IsResult(metric string) bool {
	for _, w := range d.Words.Workloads {
		if slices.ContainsFunc(w.Headline, func(m catalog.Metric) bool { return m.Name == metric }) {
			return true
		}
	}
	return metric == "throughput" || metric == "retransmits" || metric == "rate" || strings.HasPrefix(metric, "latency_") || metric == "rtt_mean" || IsInstructions(metric)
}

// IsInstructions reports whether a metric counts instructions per unit of work.
func IsInstructions(metric string) bool { return strings.HasPrefix(metric, "instructions_per_") }

// CostMeasure is a metric as a cost per unit of work: the more, the worse.
type CostMeasure struct {
	Workload, Metric string
	Quantity         string                // "time" or "instructions"
	Of               string                // with the unit of work: "time per transaction"
	Unit             string                // of the cost: "s" or "1"
	Cost             func(float64) float64 // cost of a value of the metric, in Unit
}

// CostMeasures are the workloads' headline metrics as time per unit of their work,
// then their instructions per unit.
func (d *Data) CostMeasures() []CostMeasure {
	var out []CostMeasure
	for _, w := range d.Words.Workloads {
		if len(w.Headline) == 0 || w.Work.Name == "" {
			continue
		}
		if cost := timeOf(w.Headline[0], w.Work); cost != nil {
			out = append(out, CostMeasure{w.Name, w.Headline[0].Name, "time", "time per " + w.Work.Name, "s", cost})
		}
	}
	for _, w := range d.Words.Workloads {
		if w.Work.Instructions != "" {
			out = append(out, CostMeasure{w.Name, w.Work.Instructions, "instructions", "instructions per " + w.Work.Name, "1", same})
		}
	}
	return out
}

func same(v float64) float64 { return v }

// timeOf converts values of a metric to the time of one unit of work, in seconds; nil
// if the metric's unit does not give it.
func timeOf(m catalog.Metric, work catalog.Work) func(float64) float64 {
	switch {
	case m.Unit == "s":
		return same
	case m.Unit == "1/s":
		return func(v float64) float64 { return 1 / v }
	case m.Unit == "bit/s" && work.Bytes > 0:
		return func(v float64) float64 { return 8 * work.Bytes / v }
	}
	return nil
}

// Scale is table.ScaleFor, with the clock in the unit where it is virtual.
func (d *Data) Scale(unit string, values []float64) table.Scale {
	s := table.ScaleFor(unit, values)
	if d.Clock() == runs.ClockVirtual {
		return s.Virtual()
	}
	return s
}

// CostOptions are those of every fit of costs.
func (e *Estimator) CostOptions() stat.CostOptions {
	return stat.CostOptions{Confidence: e.Confidence, Relative: true, Bootstrap: e.Bootstrap}
}
