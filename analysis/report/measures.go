package report

import (
	"cmp"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/table"
)

// measure is a headline metric of a workload.
type measure struct {
	workload, metric string
	name             string // "throughput"
	higherIsBetter   bool
}

// measures are the headline metrics that get figures and verdicts: one for each
// workload that the data has. Of the alternatives the first that was measured is
// taken.
func (d *dataset) measures() []measure {
	var out []measure
	for _, w := range d.Words.Workloads {
		if len(w.Headline) == 0 || !slices.Contains(d.workloads, w.Name) {
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

func measureOf(w catalog.Workload, m catalog.Metric) measure {
	return measure{w.Name, m.Name, cmp.Or(m.Title, m.Name), m.Higher}
}

func (d *dataset) hasMetric(m measure) bool {
	for _, s := range d.strata {
		if slices.Contains(metrics(d.sorted(s, m.workload)), m.metric) {
			return true
		}
	}
	return false
}

// isResult says whether a metric is what the workload itself reported.
func (d *dataset) isResult(metric string) bool {
	for _, w := range d.Words.Workloads {
		if slices.ContainsFunc(w.Headline, func(m catalog.Metric) bool { return m.Name == metric }) {
			return true
		}
	}
	return metric == "throughput" || metric == "retransmits" || metric == "rate" || strings.HasPrefix(metric, "latency_") || metric == "rtt_mean" || isInstructions(metric)
}

// isInstructions says whether a metric counts instructions per unit of work.
func isInstructions(metric string) bool { return strings.HasPrefix(metric, "instructions_per_") }

// costMeasure is a metric as a cost per unit of work.
type costMeasure struct {
	workload, metric, of, unit string
	cost                       func(float64) float64
}

// costMeasures are the workloads' headline metrics as time per unit of their work,
// then their instructions per unit.
func (d *dataset) costMeasures() []costMeasure {
	var out []costMeasure
	for _, w := range d.Words.Workloads {
		if len(w.Headline) == 0 || w.Work.Name == "" {
			continue
		}
		if cost := timeOf(w.Headline[0], w.Work); cost != nil {
			out = append(out, costMeasure{w.Name, w.Headline[0].Name, "time per " + w.Work.Name, "s", cost})
		}
	}
	for _, w := range d.Words.Workloads {
		if w.Work.Instructions != "" {
			out = append(out, costMeasure{w.Name, w.Work.Instructions, "instructions per " + w.Work.Name, "1", same})
		}
	}
	return out
}

func same(v float64) float64 { return v }

// timeOf makes the time of one unit of work of a metric; nil if its unit does not say.
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

// scale is scaleFor with the clock in the unit.
func (d *dataset) scale(unit string, values []float64) table.Scale {
	s := table.ScaleFor(unit, values)
	if d.clock() == runs.ClockVirtual {
		return s.Virtual()
	}
	return s
}

func (e *estimator) costOptions() stat.CostOptions {
	return stat.CostOptions{Confidence: e.confidence, Relative: true, Bootstrap: e.boot}
}
