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
	"hookbed/analysis/table"
)

// controls is the section of what says how far the other numbers can be
// believed; it is empty if the run has no controls.
func (e *estimator) controls() table.Section {
	sec := table.Section{ID: "controls", Title: "Controls",
		Note: "The same datapath under two names must not differ (A/A), and a program of known cost must be seen to cost that (positive control)."}
	for _, t := range []table.Table{e.sameArms(), e.knownCost()} {
		if len(t.Rows) > 0 {
			sec.Tables = append(sec.Tables, t)
		}
	}
	return sec
}

// sameArms compares arms that differ in nothing but the name.
func (e *estimator) sameArms() table.Table {
	t := table.Table{ID: "aa", Title: "A/A: the same datapath under two names",
		Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Number("N"), table.Text("arms"), table.Text("metric"), table.Text("ratio"), table.Text("excludes 1")}}
	excluding, total := 0, 0
	for _, s := range e.strata {
		for _, m := range e.measures() {
			groups := e.sorted(s, m.workload)
			for i, a := range groups {
				for _, b := range groups[i+1:] {
					if !twins(a, b) {
						continue
					}
					r := e.ratio(a, b, m.metric)
					word := "no interval"
					switch {
					case r == nil || r.Confidence == 0:
					case r.Confidence < e.confidence: // says nothing of how often such intervals err
						word = wordUndecided
					default:
						total++
						word = "no"
						if r.Excludes(1) {
							excluding++
							word = "yes"
						}
					}
					t.Rows = append(t.Rows, table.Row{Cells: []string{s.String(), m.workload, strconv.Itoa(a.policies), a.line.String() + " over " + b.line.String(), m.metric, table.RatioWithInterval(r, e.confidence), word}})
				}
			}
		}
	}
	if total > 0 {
		rate := stat.FalsePositives(excluding, total, e.confidence)
		t.Note = fmt.Sprintf("False positives: %d of %d comparisons exclude 1, %s (%s to %s); at %s intervals %s are to be expected.", excluding, total,
			table.Percent(rate.Estimate), table.Percent(rate.Low), table.Percent(rate.High), table.Percent(e.confidence), table.Percent(1-e.confidence))
	}
	return t
}

// twins are groups of one N whose factors differ in the arm's name alone.
func twins(a, b *group) bool {
	x, y := maps.Clone(a.Factors), maps.Clone(b.Factors)
	delete(x, runs.FactorArm)
	delete(y, runs.FactorArm)
	return a.line != b.line && maps.Equal(x, y)
}

// Metrics of the positive control. An arm that reports what it is known to add is one.
const (
	controlKnown = "known_added_instructions" // per packet through the hook
	hookPackets  = "hook_packets"
)

// knownCost compares what the control program adds, in instructions per packet
// through its hook, with what it is known to add. The base is the control with
// the lowest known cost in the same scenario and workload.
func (e *estimator) knownCost() table.Table {
	t := table.Table{ID: "positive-control", Title: "Positive control: instructions that the program adds to each packet",
		Note:    "Measured: instructions per unit of work beyond those of the base, over packets per unit of work. Packets are those the hook saw while the workload ran.",
		Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Number("N"), table.Text("arm"), table.Text("base"), table.Number("known"), table.Number("measured"), table.Text("interval"), table.Number("measured over known")}}
	for _, s := range e.strata {
		for _, w := range e.workloads {
			var controls []*group
			for _, g := range e.sorted(s, w) {
				if len(g.Samples(controlKnown)) > 0 {
					controls = append(controls, g)
				}
			}
			if len(controls) < 2 {
				continue
			}
			base := slices.MinFunc(controls, func(a, b *group) int {
				return int(stat.Median(a.Samples(controlKnown)) - stat.Median(b.Samples(controlKnown)))
			})
			for _, g := range controls {
				if row, ok := e.knownRow(g, base); ok && g != base {
					t.Rows = append(t.Rows, row)
				}
			}
		}
	}
	return t
}

func (e *estimator) knownRow(g, base *group) (table.Row, bool) {
	w, _ := e.Words.Workload(g.workload)
	metric, rate := w.Work.Instructions, w.Rate()
	seconds, err := time.ParseDuration(g.Get("duration"))
	p := runs.Pair(g.Cell, base.Cell, metric, e.reduce(metric))
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
	measured, sc := stat.MedianInterval(added, e.confidence), table.ScaleFor("1", append(slices.Clone(added), known))
	return table.Row{Cells: []string{g.stratum.String(), g.workload, strconv.Itoa(g.policies), g.line.String(), base.line.String(), sc.Format(known), sc.Format(measured.Estimate),
		table.Interval(measured, sc, e.confidence), "×" + table.Ratio(measured.Estimate/known)}}, true
}

// claimSection shows the claims that the run's arms fit.
func claimSection(verdicts []claims.Verdict) table.Section {
	sec := table.Section{ID: "claims", Title: "Claims",
		Note: "Sentences of the 2017 study, and hookbed's, with margins fixed beforehand. Directions are judged by 90 % intervals, sameness by two one-sided tests. Claims about arms that this run does not have are left out."}
	t := table.Table{ID: "claims", Columns: []table.Column{table.Text("claim"), table.Text("source"), table.Text("verdict"), table.Text("decided by"), table.Text("ratio"), table.Number("margin"), table.Text("rests on")}}
	for _, v := range verdicts {
		row := table.Row{Cells: []string{v.Sentence, v.Source + ", " + v.Scenario, v.Verdict, table.None, table.None, table.Percent(v.Margin), v.Claim.Reason}}
		if v.Verdict != claims.Reproduced {
			row.Class = "failed"
		}
		row.Cells[6] = v.Reason
		if c := v.Deciding(); c != nil {
			row.Cells[3] = fmt.Sprintf("%s, %s N=%d over %s N=%d", c.Metric, c.Arm, c.Policies, c.Against, c.AgainstPolicies)
			row.Cells[4] = table.RatioWithInterval(&c.Ratio, 1-2*claims.Alpha)
			row.Cells[6] += fmt.Sprintf(": %d and %d trials", c.Trials, c.AgainstTrials)
			if c.Paired {
				row.Cells[6] += fmt.Sprintf(", paired in %d blocks", c.Blocks)
			}
			if n := v.Decides(); n != nil {
				row.Cells[6] += "; " + n.String()
			}
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

// judgedClaims judges the study's claims, without those that the runs do not fit.
func judgedClaims(set *runs.Set) ([]claims.Verdict, error) {
	list, err := claims.Study()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(claims.Judge(set, list), func(v claims.Verdict) bool { return v.Missing }), nil
}
