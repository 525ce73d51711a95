package explain

import (
	"math"
	"slices"

	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
)

// sample is one metric of several cells, arranged so that any two of them may
// be compared and ratios along them multiply to that of the ends.
type sample struct {
	values [][]float64 // a slice for each cell
	paired bool        // values[k][i] is block i
	halves bool        // a cell is represented by its faster half, not by the median
	metric string
	e      *Explainer
}

// sample pairs cells by the blocks that all share, if these are enough.
func (e *Explainer) sample(metric string, cells ...*runs.Cell) sample {
	s := sample{metric: metric, e: e, paired: true}
	seen := map[runs.BlockID]int{}
	for _, c := range cells {
		for _, b := range c.Blocks(metric) {
			seen[b.ID]++
		}
	}
	shared, enough := 0, runs.MinBlocks
	for id, n := range seen {
		if n == len(cells) {
			shared++
			enough = runs.Enough(id)
		}
	}
	s.paired = shared >= enough
	for _, c := range cells {
		var values []float64
		for _, b := range c.Blocks(metric) {
			switch {
			case s.paired && seen[b.ID] == len(cells):
				values = append(values, e.Reduce(metric)(b.Values))
			case !s.paired && e.Clock() == runs.ClockVirtual: // only seeds vary
				values = append(values, e.Reduce(metric)(b.Values))
			case !s.paired:
				values = append(values, b.Values...)
			}
		}
		s.values = append(s.values, values)
	}
	few := func(x []float64) bool { return len(x) < stat.MinFasterHalf }
	s.halves = !s.paired && e.EstimatorName() == runs.EstimatorFasterHalf && !slices.ContainsFunc(s.values, few)
	return s
}

// gain is how many times as fast cell to is as cell from.
func (s sample) gain(from, to int) *stat.Estimate {
	num, den := s.values[from], s.values[to]
	if s.e.Words.HigherIsBetter(s.metric) {
		num, den = den, num
	}
	if s.paired {
		return summary.FiniteEstimate(stat.PairedRatio(num, den, s.e.Confidence))
	}
	if s.halves {
		if r, ok := s.e.Bootstrap.FasterHalfRatio(num, den, s.e.Words.HigherIsBetter(s.metric), s.e.Confidence); ok {
			return summary.FiniteEstimate(r)
		}
	}
	return summary.FiniteEstimate(s.e.Bootstrap.Ratio(num, den, s.e.Confidence))
}

// share is the part of the way from the first cell to the last that the step
// between two makes.
func (s sample) share(from, to int) *stat.Estimate {
	if s.paired {
		return summary.FiniteEstimate(stat.PairedShare(s.values, from, to, s.e.Confidence))
	}
	if s.halves {
		if r, ok := s.e.Bootstrap.FasterHalfShare(s.values, from, to, s.e.Words.HigherIsBetter(s.metric), s.e.Confidence); ok {
			return summary.FiniteEstimate(r)
		}
	}
	return summary.FiniteEstimate(s.e.Bootstrap.Share(s.values, from, to, s.e.Confidence))
}

// Slope is what each policy costs an arm between N = 0 and its most.
type Slope struct {
	Arm      string        `json:"arm"`
	What     string        `json:"what"` // "bridge+tc-hash"
	Policies int           `json:"policies"`
	Of       string        `json:"of"` // "time per transaction"
	Unit     string        `json:"unit"`
	Each     stat.Estimate `json:"each"`
	// structure is the filter's.
	Structure string `json:"-"`
}

// slopes are those of all arms that have N = 0 and more.
func (e *Explainer) slopes(c *context, workload string) []Slope {
	all := e.CostMeasures()
	i := slices.IndexFunc(all, func(m summary.CostMeasure) bool { return m.Workload == workload })
	if i < 0 {
		return nil // its unit is of no work
	}
	m := all[i]
	var out []Slope
	for _, x := range c.subjects {
		n := most(x, x)
		if x.cells[0] == nil || n < 0 {
			continue
		}
		if each, ok := e.slope(x.cells[0], x.cells[n], m, float64(n)); ok {
			out = append(out, Slope{x.arm, x.title(), n, m.Of, m.Unit, each, x.is.Structure})
		}
	}
	return out
}

// slope is the difference of two cells over n. Of one trial each it has no
// interval.
func (e *Explainer) slope(zero, at *runs.Cell, m summary.CostMeasure, n float64) (stat.Estimate, bool) {
	s := e.sample(m.Metric, zero, at)
	if len(s.values[0]) == 0 || len(s.values[1]) == 0 {
		return stat.Estimate{}, false
	}
	var p stat.Points
	for k, values := range s.values {
		for i, v := range values {
			p.N, p.Y = append(p.N, float64(k)*n), append(p.Y, m.Cost(v))
			if s.paired {
				p.Block = append(p.Block, i)
			}
		}
	}
	if fit, err := stat.FitCost(p, e.CostOptions()); err == nil {
		return fit.Slope, isFinite(fit.Slope.Low) && isFinite(fit.Slope.High)
	}
	d := (stat.Median(p.Y[len(s.values[0]):]) - stat.Median(p.Y[:len(s.values[0])])) / n
	return stat.Estimate{Estimate: d, Low: d, High: d, N: 1}, isFinite(d)
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
