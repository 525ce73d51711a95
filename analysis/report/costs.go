package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// Cost is what policies cost an arm: intercept and slope apart.
type Cost struct {
	Scenario string       `json:"scenario"` // name of the stratum
	Workload string       `json:"workload"`
	Of       string       `json:"of"`   // "time per transaction"
	Unit     string       `json:"unit"` // of Fit, "s" or "1"
	Arm      string       `json:"arm"`  // name of the line
	Fit      stat.CostFit `json:"fit"`

	stratum summary.Stratum
	line    summary.Line
	measure summary.CostMeasure
	points  stat.Points
}

// costFits are what policies cost each line that was measured at three or more N.
func costFits(e *summary.Estimator) []Cost {
	var out []Cost
	for _, s := range e.Strata {
		for _, m := range e.CostMeasures() {
			for _, line := range e.Lines {
				p := pointsOf(e, s, line, m)
				if len(levelsIn(p)) < 3 {
					continue
				}
				fit, err := stat.FitCost(p, e.CostOptions())
				if err != nil {
					continue // too few points, or blocks that do not match: nothing to say
				}
				out = append(out, Cost{s.String(), m.Workload, m.Of, m.Unit, line.String(), fit, s, line, m, p})
			}
		}
	}
	return out
}

// pointsOf are a line's costs: with two blocks or more, one for each block and N, of
// the blocks that have every N; else one for each trial.
func pointsOf(e *summary.Estimator, in summary.Stratum, line summary.Line, m summary.CostMeasure) stat.Points {
	var cells []*summary.Group
	for _, g := range e.Ordered(in, m.Workload) {
		if g.Line == line && len(g.Samples(m.Metric)) > 0 {
			cells = append(cells, g)
		}
	}
	seen := map[runs.BlockID]int{}
	var order []runs.BlockID
	for _, g := range cells {
		for _, b := range g.Blocks(m.Metric) {
			if seen[b.ID]++; seen[b.ID] == 1 {
				order = append(order, b.ID)
			}
		}
	}
	order = slices.DeleteFunc(order, func(id runs.BlockID) bool { return seen[id] < len(cells) })
	var p stat.Points
	add := func(g *summary.Group, v float64, block int) {
		p.N, p.Y = append(p.N, float64(g.N)), append(p.Y, m.Cost(v))
		if block >= 0 {
			p.Block = append(p.Block, block)
		}
	}
	for _, g := range cells {
		for _, b := range g.Blocks(m.Metric) {
			i := slices.Index(order, b.ID)
			switch {
			case len(order) < 2:
				for _, v := range b.Values {
					add(g, v, -1)
				}
			case i >= 0:
				add(g, e.Reduce(m.Metric)(b.Values), i)
			}
		}
	}
	return p
}

func levelsIn(p stat.Points) []float64 {
	return slices.Compact(slices.Sorted(slices.Values(p.N)))
}

// costSection shows the fits, and where arms cross.
func costSection(e *summary.Estimator, costs []Cost) table.Section {
	sec := table.Section{ID: "costs", Title: "What each policy costs",
		Note: "Least squares per arm. The path is the linear model's intercept, the cost of N = 0; the slope what each policy adds. The model is the one of the least AICc among flat, linear, hinge and quadratic, with its Akaike weight. Flat: whether the linear model at the most policies is within 5 % of that at the fewest (two one-sided tests). " +
			stat.RoughNote}
	for _, s := range e.Strata {
		for _, m := range e.CostMeasures() {
			of := slices.DeleteFunc(slices.Clone(costs), func(c Cost) bool {
				return c.stratum != s || c.Workload != m.Workload || c.Of != m.Of
			})
			if len(of) > 0 {
				sec.Tables = append(sec.Tables, costTable(e, of))
			}
		}
	}
	if t := turnTable(e, costs); len(t.Rows) > 0 {
		sec.Tables = append(sec.Tables, t)
	}
	return sec
}

func costTable(e *summary.Estimator, costs []Cost) table.Table {
	c := costs[0]
	var paths, slopes []float64
	for _, c := range costs {
		paths, slopes = append(paths, pathOf(c.Fit)), append(slopes, c.Fit.Slope.Estimate)
	}
	path, slope := e.Scale(c.Unit, paths), e.Scale(c.Unit, slopes)
	t := table.Table{ID: table.Slug("cost-" + c.Scenario + "-" + c.Workload + "-" + c.Of), Title: table.SentenceCase(c.Of) + ", " + c.Workload + ", " + c.Scenario}
	t.Columns = []table.Column{table.Text("arm"), table.Number("points"), table.Text("model"), table.Number(path.Titled("path")), table.Text("interval"), table.Number(slope.Titled("each policy")), table.Text("interval"), table.Text("flat")}
	for _, c := range costs {
		t.Rows = append(t.Rows, table.Row{Cells: []string{c.Arm, strconv.Itoa(len(c.points.N)), fmt.Sprintf("%s (%.2f)", c.Fit.Best.Name, c.Fit.Best.Weight),
			path.Format(pathOf(c.Fit)), table.Interval(c.Fit.T0, path, e.Confidence), slope.Format(c.Fit.Slope.Estimate), table.Interval(c.Fit.Slope, slope, e.Confidence), flatWord(c.Fit.Flat)}})
	}
	return t
}

// pathOf is what the path costs; NaN where the fit has it at 0 or below, which no path
// costs.
func pathOf(f stat.CostFit) float64 {
	if f.T0.Estimate > 0 {
		return f.T0.Estimate
	}
	return math.NaN()
}

func flatWord(q stat.Equivalence) string {
	switch {
	case q.Equivalent:
		return "flat"
	case q.Different:
		return "not flat"
	}
	return "undecided"
}

// turnTable lists the lines of the report whose fits cross.
func turnTable(e *summary.Estimator, costs []Cost) table.Table {
	t := table.Table{ID: "turn-points", Title: "Turn points",
		Note:    "The number of policies from which on one arm costs more than another, where the two lines cross and the data bound where. An end of the interval at 0 or at the most policies is no bound.",
		Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Text("cost"), table.Text("arm"), table.Text("costs more than"), table.Number("from N"), table.Text("interval")}}
	count := table.Scale{Divisor: 1}
	type costKey struct {
		stratum      summary.Stratum
		workload, of string
		line         summary.Line
	}
	points := map[costKey]stat.Points{} // of lines that are compared with every other one
	for _, a := range costs {
		most := slices.Max(a.points.N)
		for _, line := range e.Lines {
			key := costKey{a.stratum, a.Workload, a.Of, line}
			b, ok := points[key]
			if !ok {
				b = pointsOf(e, a.stratum, line, a.measure)
				points[key] = b
			}
			if line == a.line || len(b.N) == 0 {
				continue
			}
			turn, err := stat.Crossover(a.points, b, most, e.CostOptions())
			if err != nil || turn.None || turn.N.Low <= 0 && turn.N.High >= most {
				continue
			}
			t.Rows = append(t.Rows, table.Row{Cells: []string{a.Scenario, a.Workload, a.Of, a.Arm, line.String(), count.Format(math.Ceil(turn.N.Estimate)), table.Interval(turn.N, count, e.Confidence)}})
		}
	}
	return t
}

// finiteCosts leaves out costs with NaN or infinity, which JSON does not have.
func finiteCosts(costs []Cost) []Cost {
	return slices.DeleteFunc(slices.Clone(costs), func(c Cost) bool {
		for _, v := range []stat.Estimate{c.Fit.T0, c.Fit.Slope, c.Fit.Flat.Ratio} {
			for _, x := range []float64{v.Estimate, v.Low, v.High} {
				if math.IsNaN(x) || math.IsInf(x, 0) {
					return true
				}
			}
		}
		return slices.ContainsFunc(c.Fit.Models, func(m stat.CostModel) bool { return math.IsNaN(m.AICc) || math.IsInf(m.AICc, 0) })
	})
}
