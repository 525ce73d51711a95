package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/table"
)

// results is a section a stratum: a table a workload and metric.
func (e *estimator) results() []table.Section {
	var out []table.Section
	for _, s := range e.strata {
		sec := table.Section{ID: "results-" + table.Slug(s.String()), Title: "Results, " + s.String()}
		for _, w := range e.workloads {
			if groups := e.sorted(s, w); len(groups) > 0 {
				sec.Tables = append(sec.Tables, e.workloadTables(s, w, groups)...)
			}
		}
		if len(sec.Tables) > 0 {
			out = append(out, sec)
		}
	}
	return out
}

func (e *estimator) workloadTables(in Stratum, workload string, groups []*group) []table.Table {
	var main []string
	for _, m := range e.measures() {
		if m.workload == workload {
			main = append(main, m.metric)
		}
	}
	shown := slices.Clone(main)
	for _, m := range metrics(groups) {
		if e.isResult(m) && !slices.Contains(shown, m) {
			shown = append(shown, m)
		}
	}
	var out []table.Table
	for _, m := range shown {
		t := e.resultTable(in, workload, m)
		t.Folded = !slices.Contains(main, m) && !isInstructions(m)
		out = append(out, t)
	}
	return out
}

func (e *estimator) resultTable(in Stratum, workload, metric string) table.Table {
	all := e.summaries(in, workload, metric)
	sc := e.scale(e.Units[metric], mediansOf(all))
	t := table.Table{ID: table.Slug(in.String() + "-" + workload + "-" + metric), Title: workload + " " + metric + ", " + in.String()}
	t.Columns = []table.Column{table.Text("arm"), table.Number("N"), table.Number(sc.Titled(e.estimatorTitle())), table.Text("interval"), table.Number("confidence"), table.Number("CoV"), table.Number("n"), table.Text("against N = 0")}
	if e.ref != "" {
		t.Columns = append(t.Columns, table.Text("against "+e.ref))
	}
	t.Columns = append(t.Columns, table.Text("problems"))
	for _, s := range all {
		t.Rows = append(t.Rows, e.resultRow(s, sc))
	}
	return t
}

func (e *estimator) resultRow(s Summary, sc table.Scale) table.Row {
	row := table.Row{Cells: []string{s.Arm, strconv.Itoa(s.Policies)}}
	if s.Median == nil {
		row.Class = "failed"
		row.Cells = append(row.Cells, table.None, table.None, table.None, table.None, "0")
	} else {
		interval, confidence := sc.Bound(s.Median.Low)+" to "+sc.Bound(s.Median.High), table.Percent(s.Median.Confidence)
		if s.Median.Confidence == 0 {
			interval, confidence = table.None, table.None
		}
		row.Cells = append(row.Cells, sc.Format(s.Median.Estimate), interval, confidence, table.Percent(value(s.CoV)), strconv.Itoa(s.N))
	}
	row.Cells = append(row.Cells, table.RatioWithInterval(s.VsZero, e.confidence))
	if e.ref != "" {
		row.Cells = append(row.Cells, table.RatioWithInterval(s.VsReference, e.confidence))
	}
	row.Cells = append(row.Cells, missingNote(s))
	return row
}

func value(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

// proof says, for each setup, what was proven before its numbers were taken.
func (e *estimator) proof() table.Section {
	sec := table.Section{ID: "proof", Title: "Proof of enforcement",
		Note: "Before each trial an allowed connection had to be made, forbidden ones had to stay unanswered, and the kernel had to hold the policies; a trial that failed any of this is not ok. Ranges are over trials."}
	t := table.Table{ID: "proof", Columns: []table.Column{table.Text("scenario"), table.Text("arm"), table.Number("N"), table.Number("trials ok"), table.Number("tried")}}
	columns := []struct{ metric, title string }{
		{"policies_realised", "policies realised"}, {"probes_allowed", "probes allowed"}, {"probes_denied", "probes denied"}, {"hook_packets", "packets seen by the hook"},
	}
	have := metrics(e.all())
	for _, c := range columns {
		if slices.Contains(have, c.metric) {
			t.Columns = append(t.Columns, table.Number(c.title))
		}
	}
	e.eachSetup(func(in Stratum, line Line, policies int, groups []*group) {
		row := table.Row{Cells: []string{in.String(), line.String(), strconv.Itoa(policies)}}
		ok, tried := 0, 0
		for _, g := range groups {
			ok += g.Count(record.StatusOK)
			for _, status := range record.Statuses() {
				tried += g.Count(status)
			}
		}
		if ok < tried || tried == 0 {
			row.Class = "failed"
		}
		row.Cells = append(row.Cells, strconv.Itoa(ok), strconv.Itoa(tried))
		for _, c := range columns {
			if slices.Contains(have, c.metric) {
				row.Cells = append(row.Cells, rangeOf(groups, c.metric))
			}
		}
		t.Rows = append(t.Rows, row)
	})
	sec.Tables = []table.Table{t}
	return sec
}

// eachSetup visits stratum, line and N with the groups of all workloads.
func (e *estimator) eachSetup(visit func(in Stratum, line Line, policies int, groups []*group)) {
	for _, s := range e.strata {
		for _, line := range e.lines {
			byN := map[int][]*group{}
			for _, w := range e.workloads {
				for _, g := range e.sorted(s, w) {
					if g.line == line {
						byN[g.policies] = append(byN[g.policies], g)
					}
				}
			}
			for _, n := range slices.Sorted(maps.Keys(byN)) {
				visit(s, line, n, byN[n])
			}
		}
	}
}

func rangeOf(groups []*group, metric string) string {
	var all []float64
	for _, g := range groups {
		all = append(all, g.Samples(metric)...)
	}
	if len(all) == 0 {
		return table.None
	}
	low, high := strconv.FormatFloat(slices.Min(all), 'f', 0, 64), strconv.FormatFloat(slices.Max(all), 'f', 0, 64)
	if low == high {
		return low
	}
	return low + " to " + high
}

// Problem is trials that are not numbers, for one reason.
type Problem struct {
	Status string   `json:"status"`
	Reason string   `json:"reason"`
	Trials int      `json:"trials"`
	Cells  []string `json:"cells"`
}

func (d *dataset) problems() []Problem {
	index := map[string]int{}
	var out []Problem
	for _, g := range d.all() {
		cell := fmt.Sprintf("%s %s %s N=%d", g.stratum, g.workload, g.line, g.policies)
		for _, a := range g.Trials {
			if a.Status == record.StatusOK || a.Superseded {
				continue
			}
			key := a.Status + "\x00" + shape(a.Reason)
			i, ok := index[key]
			if !ok {
				i = len(out)
				index[key] = i
				out = append(out, Problem{Status: a.Status, Reason: reasonOr(a.Reason)})
			}
			out[i].Trials++
			if !slices.Contains(out[i].Cells, cell) {
				out[i].Cells = append(out[i].Cells, cell)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		return cmp.Compare(slices.Index(record.Statuses(), a.Status), slices.Index(record.Statuses(), b.Status))
	})
	return out
}

// trouble is the section of what is not a number, guards included.
func (d *dataset) trouble() table.Section {
	sec := table.Section{ID: "trouble", Title: "Trials that are not numbers",
		Note: "failed: the datapath or workload did not do what it should. unsupported: this kernel or tool cannot run it. void: a guard around the trial failed, so its number is not used. rig: the testbed failed."}
	t := table.Table{ID: "trouble", Columns: []table.Column{table.Text("status"), table.Number("trials"), table.Text("reason"), table.Text("cells")}}
	for _, p := range d.problems() {
		t.Rows = append(t.Rows, table.Row{Cells: []string{p.Status, strconv.Itoa(p.Trials), p.Reason, table.Some(p.Cells)}, Class: "failed"})
	}
	if len(t.Rows) == 0 {
		sec.Note = "None: every trial that was recorded is ok, and no guard fired."
		return sec
	}
	sec.Tables = []table.Table{t}
	return sec
}

// activity is the section of what the nodes did while the workload ran.
func (e *estimator) activity() table.Section {
	sec := table.Section{ID: "cpu", Title: "CPU and softirq work",
		Note: "Medians over trials. cpu is CPU seconds busy per wall second of the node, all CPUs together; counts of softirqs are per second."}
	for _, s := range e.strata {
		for _, w := range e.workloads {
			groups := e.sorted(s, w)
			var cols []string
			for _, m := range metrics(groups) {
				if isActivity(m) {
					cols = append(cols, m)
				}
			}
			if len(cols) == 0 {
				continue
			}
			sec.Tables = append(sec.Tables, e.mediansTable("cpu-"+table.Slug(s.String()+"-"+w), w+", "+s.String(), groups, cols))
		}
	}
	for i := range sec.Tables {
		sec.Tables[i].Folded = true
	}
	return sec
}

func isActivity(metric string) bool {
	return strings.HasPrefix(metric, "cpu") || strings.HasPrefix(metric, "softirq") || strings.HasPrefix(metric, "load1")
}

// others is the section of metrics that no other section shows.
func (e *estimator) others() table.Section {
	sec := table.Section{ID: "others", Title: "Everything else that was measured", Note: "Medians over trials, in the unit of the column."}
	for _, s := range e.strata {
		for _, w := range e.workloads {
			groups := e.sorted(s, w)
			var cols []string
			for _, m := range metrics(groups) {
				if !isActivity(m) && !e.isResult(m) && !isProof(m) {
					cols = append(cols, m)
				}
			}
			if len(cols) > 0 {
				t := e.mediansTable("others-"+table.Slug(s.String()+"-"+w), w+", "+s.String(), groups, cols)
				t.Folded = true
				sec.Tables = append(sec.Tables, t)
			}
		}
	}
	return sec
}

func isProof(metric string) bool {
	return metric == "policies_realised" || strings.HasPrefix(metric, "probes_") || metric == "hook_packets"
}

func (e *estimator) mediansTable(id, title string, groups []*group, cols []string) table.Table {
	t := table.Table{ID: id, Title: title, Columns: []table.Column{table.Text("arm"), table.Number("N")}}
	scales := make([]table.Scale, len(cols))
	for i, m := range cols {
		var meds []float64
		for _, g := range groups {
			meds = append(meds, stat.Median(g.Samples(m)))
		}
		scales[i] = e.scale(e.Units[m], meds)
		t.Columns = append(t.Columns, table.Number(scales[i].Titled(m)))
	}
	for _, g := range groups {
		row := table.Row{Cells: []string{g.line.String(), strconv.Itoa(g.policies)}}
		for i, m := range cols {
			row.Cells = append(row.Cells, scales[i].Format(stat.Median(g.Samples(m))))
		}
		if g.Count(record.StatusOK) == 0 {
			row.Class = "failed"
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// variance is the section that splits the spread between boots and trials.
func (e *estimator) variance(all []Summary) table.Section {
	sec := table.Section{ID: "blocks", Title: "Variation between and within blocks",
		Note: "A block is one boot of the lab. Both columns are coefficients of variation (one-way analysis of variance); a large first one means that boots differ and more blocks, not more trials, would narrow the intervals."}
	t := table.Table{ID: "blocks", Folded: true, Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Text("metric"), table.Text("arm"), table.Number("N"), table.Number("between blocks"), table.Number("within a block")}}
	if e.clock() == runs.ClockVirtual {
		sec.Title = "Variation between and within seeds"
		sec.Note = "A block is one boot under one seed. The spread is the coefficient of variation of the seeds' numbers; between and within split it by one-way analysis of variance, where seeds have several trials."
		t.Columns = slices.Insert(t.Columns, 5, table.Number("seeds"), table.Number("spread between seeds"))
	}
	for _, s := range all {
		row := table.Row{Cells: []string{s.Scenario, s.Workload, s.Metric, s.Arm, strconv.Itoa(s.Policies)}}
		switch {
		case e.clock() == runs.ClockVirtual && s.SeedCoV != nil:
			row.Cells = append(row.Cells, strconv.Itoa(s.Blocks), table.Percent(*s.SeedCoV))
		case e.clock() == runs.ClockVirtual || s.Between == nil || s.Within == nil:
			continue
		}
		row.Cells = append(row.Cells, table.Percent(value(s.Between)), table.Percent(value(s.Within)))
		t.Rows = append(t.Rows, row)
	}
	if len(t.Rows) > 0 {
		sec.Tables = []table.Table{t}
	}
	return sec
}
