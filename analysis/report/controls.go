package report

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"hookbed/analysis/claims"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// controlsSection has what says how far the other numbers can be believed; it is empty
// if the run has no controls.
func controlsSection(e *summary.Estimator) table.Section {
	sec := table.Section{ID: "controls", Title: "Controls",
		Note: "The same datapath under two names must not differ (A/A), and a program of known cost must be seen to cost that (positive control)."}
	for _, t := range []table.Table{sameArms(e), knownCost(e)} {
		if len(t.Rows) > 0 {
			sec.Tables = append(sec.Tables, t)
		}
	}
	return sec
}

// sameArms compares arms that differ in nothing but the name.
func sameArms(e *summary.Estimator) table.Table {
	t := table.Table{ID: "aa", Title: "A/A: the same datapath under two names",
		Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Number("N"), table.Text("arms"), table.Text("metric"), table.Text("ratio"), table.Text("excludes 1")}}
	excluding, total := 0, 0
	for _, s := range e.Strata {
		for _, m := range e.Measures() {
			groups := e.Ordered(s, m.Workload)
			for i, a := range groups {
				for _, b := range groups[i+1:] {
					if !twins(a, b) {
						continue
					}
					r := e.Ratio(a, b, m.Metric)
					word := "no interval"
					switch {
					case r == nil || r.Confidence == 0:
					case r.Confidence < e.Confidence: // says nothing of how often such intervals err
						word = summary.Undecided
					default:
						total++
						word = "no"
						if r.Excludes(1) {
							excluding++
							word = "yes"
						}
					}
					t.Rows = append(t.Rows, table.Row{Cells: []string{s.String(), m.Workload, strconv.Itoa(a.N), a.Line.String() + " over " + b.Line.String(), m.Metric, table.RatioWithInterval(r, e.Confidence), word}})
				}
			}
		}
	}
	if total > 0 {
		rate := stat.FalsePositives(excluding, total, e.Confidence)
		t.Note = fmt.Sprintf("False positives: %d of %d comparisons exclude 1, %s (%s to %s); at %s intervals %s are to be expected.", excluding, total,
			table.Percent(rate.Estimate), table.Percent(rate.Low), table.Percent(rate.High), table.Percent(e.Confidence), table.Percent(1-e.Confidence))
	}
	return t
}

// twins reports whether two groups differ in nothing but the arm's name.
func twins(a, b *summary.Group) bool {
	x, y := maps.Clone(a.Factors), maps.Clone(b.Factors)
	delete(x, runs.FactorArm)
	delete(y, runs.FactorArm)
	return a.Line != b.Line && maps.Equal(x, y)
}

// Metrics of the positive control. An arm that reports what it is known to add is one.
const (
	controlKnown = "known_added_instructions" // per packet through the hook
	hookPackets  = "hook_packets"
)

// knownCost compares what the control program adds, in instructions per packet
// through its hook, with what it is known to add. The base is the control with
// the lowest known cost in the same stratum and workload.
func knownCost(e *summary.Estimator) table.Table {
	t := table.Table{ID: "positive-control", Title: "Positive control: instructions that the program adds to each packet",
		Note:    "Measured: instructions per unit of work beyond those of the base, over packets per unit of work. Packets are those the hook saw while the workload ran.",
		Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Number("N"), table.Text("arm"), table.Text("base"), table.Number("known"), table.Number("measured"), table.Text("interval"), table.Number("measured over known")}}
	for _, s := range e.Strata {
		for _, w := range e.Workloads {
			var controls []*summary.Group
			for _, g := range e.Ordered(s, w) {
				if len(g.Samples(controlKnown)) > 0 {
					controls = append(controls, g)
				}
			}
			if len(controls) < 2 {
				continue
			}
			base := slices.MinFunc(controls, func(a, b *summary.Group) int {
				return int(stat.Median(a.Samples(controlKnown)) - stat.Median(b.Samples(controlKnown)))
			})
			for _, g := range controls {
				if row, ok := knownRow(e, g, base); ok && g != base {
					t.Rows = append(t.Rows, row)
				}
			}
		}
	}
	return t
}

func knownRow(e *summary.Estimator, g, base *summary.Group) (table.Row, bool) {
	w, _ := e.Words.Workload(g.Workload)
	metric, rate := w.Work.Instructions, w.Rate()
	seconds, err := time.ParseDuration(g.Get("duration"))
	p := runs.Pair(g.Cell, base.Cell, metric, e.Reduce(metric))
	packets, done := stat.Median(g.Samples(hookPackets)), stat.Median(g.Samples(rate.Name))*seconds.Seconds()
	if w.Work.Bytes > 0 {
		done /= 8 * w.Work.Bytes
	}
	if err != nil || len(p.A) == 0 || len(p.B) == 0 || !(packets > 0) || !(done > 0) {
		return table.Row{}, false
	}
	var added []float64
	for i, v := range p.A {
		other := stat.Median(p.B)
		if p.Paired {
			other = p.B[i]
		}
		added = append(added, (v-other)*done/packets)
	}
	known := stat.Median(g.Samples(controlKnown)) - stat.Median(base.Samples(controlKnown))
	measured, sc := stat.MedianInterval(added, e.Confidence), table.ScaleFor("1", append(slices.Clone(added), known))
	return table.Row{Cells: []string{g.Stratum.String(), g.Workload, strconv.Itoa(g.N), g.Line.String(), base.Line.String(), sc.Format(known), sc.Format(measured.Estimate),
		table.Interval(measured, sc, e.Confidence), "×" + table.Ratio(measured.Estimate/known)}}, true
}

// claimSection shows the claims that the run's arms fit.
func claimSection(verdicts []claims.Verdict) table.Section {
	sec := table.Section{ID: claimsID, Title: "Claims",
		Note: "Sentences of the 2017 study, and hookbed's, with margins fixed beforehand. Directions are judged by 90 % intervals, sameness by two one-sided tests. Claims about arms that this run does not have are left out."}
	t := table.Table{ID: "claims", Columns: []table.Column{table.Text("claim"), table.Text("source"), table.Text("verdict"), table.Text("decided by"), table.Text("ratio"), table.Number("margin"), table.Text("rests on")}}
	for _, v := range verdicts {
		row := table.Row{Cells: []string{v.Sentence, v.Source + ", " + v.Scenario, v.Verdict, table.None, table.None, table.Percent(v.Margin), v.Claim.Reason}}
		if v.Verdict != claims.Reproduced {
			row.Class = "failed"
		}
		row.Cells[6] = restsOn(v)
		if c := v.Deciding(); c != nil {
			row.Cells[3], row.Cells[4] = decidedBy(c), table.RatioWithInterval(&c.Ratio, 1-2*claims.Alpha)
		}
		t.Rows = append(t.Rows, row)
	}
	if claims.Rough(verdicts) {
		sec.Note += " " + stat.RoughNote
	}
	if len(t.Rows) > 0 {
		sec.Tables = []table.Table{t}
	}
	return sec
}

// decidedBy names the two points whose ratio decided a claim, or left it open.
func decidedBy(c *claims.Comparison) string {
	return fmt.Sprintf("%s, %s N=%d over %s N=%d", c.Metric, c.Arm, c.Policies, c.Against, c.AgainstPolicies)
}

// restsOn is what a verdict rests on, and what would decide it.
func restsOn(v claims.Verdict) string {
	c := v.Deciding()
	if c == nil {
		return v.Reason
	}
	text := fmt.Sprintf("%s: %d and %d trials", v.Reason, c.Trials, c.AgainstTrials)
	if c.Paired {
		text += fmt.Sprintf(", paired in %d blocks", c.Blocks)
	}
	if n := v.Decides(); n != nil {
		text += "; " + n.String()
	}
	return text
}

// judgedClaims judges the study's claims, without those that the runs do not fit.
func judgedClaims(set *runs.Set) ([]claims.Verdict, error) {
	list, err := claims.Study()
	if err != nil {
		return nil, err
	}
	list = append(list, claims.OfOriginals(list, set.Words)...)
	return slices.DeleteFunc(claims.Judge(set, list), func(v claims.Verdict) bool { return v.Missing }), nil
}
