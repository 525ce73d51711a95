package report

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// resultSections are one for each stratum, with a table for each workload and metric.
func resultSections(e *summary.Estimator) []table.Section {
	var out []table.Section
	for _, s := range e.Strata {
		sec := table.Section{ID: "results-" + table.Slug(s.String()), Title: "Results, " + s.String()}
		for _, w := range e.Workloads {
			if groups := e.Ordered(s, w); len(groups) > 0 {
				sec.Tables = append(sec.Tables, workloadTables(e, s, w, groups)...)
			}
		}
		if len(sec.Tables) > 0 {
			out = append(out, sec)
		}
	}
	return out
}

func workloadTables(e *summary.Estimator, in summary.Stratum, workload string, groups []*summary.Group) []table.Table {
	var main []string
	for _, m := range e.Measures() {
		if m.Workload == workload {
			main = append(main, m.Metric)
		}
	}
	shown := slices.Clone(main)
	for _, m := range summary.Metrics(groups) {
		if e.IsResult(m) && !slices.Contains(shown, m) {
			shown = append(shown, m)
		}
	}
	var out []table.Table
	for _, m := range shown {
		t := resultTable(e, in, workload, m)
		t.Folded = !slices.Contains(main, m) && !summary.IsInstructions(m)
		out = append(out, t)
	}
	return out
}

func resultTable(e *summary.Estimator, in summary.Stratum, workload, metric string) table.Table {
	all := e.Summaries(in, workload, metric)
	sc := e.Scale(e.Units[metric], summary.Medians(all))
	t := table.Table{ID: table.Slug(in.String() + "-" + workload + "-" + metric), Title: workload + " " + metric + ", " + in.String()}
	t.Columns = []table.Column{table.Text("arm"), table.Number("N"), table.Number(sc.Titled(e.EstimatorTitle())), table.Text("interval"), table.Number("confidence"), table.Number("CoV"), table.Number("n"), table.Text("against N = 0")}
	if e.Reference != "" {
		t.Columns = append(t.Columns, table.Text("against "+e.Reference))
	}
	t.Columns = append(t.Columns, table.Text("problems"))
	for _, s := range all {
		t.Rows = append(t.Rows, resultRow(e, s, sc))
	}
	return t
}

func resultRow(e *summary.Estimator, s summary.Summary, sc table.Scale) table.Row {
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
	row.Cells = append(row.Cells, table.RatioWithInterval(s.VsZero, e.Confidence))
	if e.Reference != "" {
		row.Cells = append(row.Cells, table.RatioWithInterval(s.VsReference, e.Confidence))
	}
	row.Cells = append(row.Cells, summary.MissingNote(s))
	return row
}

func value(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

// proofSection says, for each setup, what was proven before its numbers were taken.
func proofSection(e *summary.Estimator) table.Section {
	sec := table.Section{ID: "proof", Title: "Proof of enforcement",
		Note: "Before each trial an allowed connection had to be made, forbidden ones had to stay unanswered, and the kernel had to hold the policies; a trial that failed any of this is not ok. Ranges are over trials."}
	t := table.Table{ID: "proof", Columns: []table.Column{table.Text("scenario"), table.Text("arm"), table.Number("N"), table.Number("trials ok"), table.Number("tried")}}
	columns := []struct{ metric, title string }{
		{"policies_realised", "policies realised"}, {"probes_allowed", "probes allowed"}, {"probes_denied", "probes denied"}, {"hook_packets", "packets seen by the hook"},
		{revisionMetric, "revision of the policies"},
	}
	have := summary.Metrics(e.All())
	for _, c := range columns {
		if slices.Contains(have, c.metric) {
			t.Columns = append(t.Columns, table.Number(c.title))
		}
	}
	eachSetup(e, func(in summary.Stratum, line summary.Line, policies int, groups []*summary.Group) {
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
func eachSetup(e *summary.Estimator, visit func(in summary.Stratum, line summary.Line, policies int, groups []*summary.Group)) {
	for _, s := range e.Strata {
		for _, line := range e.Lines {
			byN := map[int][]*summary.Group{}
			for _, w := range e.Workloads {
				for _, g := range e.Ordered(s, w) {
					if g.Line == line {
						byN[g.N] = append(byN[g.N], g)
					}
				}
			}
			for _, n := range slices.Sorted(maps.Keys(byN)) {
				visit(s, line, n, byN[n])
			}
		}
	}
}

func rangeOf(groups []*summary.Group, metric string) string {
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

// problemsOf lists the problems of all groups, by status. Reasons that differ in
// numbers only are one.
func problemsOf(e *summary.Estimator) []Problem {
	type kind struct{ status, reason string }
	index := map[kind]int{}
	var out []Problem
	for _, g := range e.All() {
		cell := g.Point.String()
		for _, a := range g.Trials {
			if a.Status == record.StatusOK || a.Superseded {
				continue
			}
			key := kind{a.Status, summary.ReasonShape(a.Reason)}
			i, ok := index[key]
			if !ok {
				i = len(out)
				index[key] = i
				out = append(out, Problem{Status: a.Status, Reason: summary.ReasonText(a.Reason)})
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

// troubleSection has the trials that are not numbers, guards included.
func troubleSection(e *summary.Estimator) table.Section {
	sec := table.Section{ID: "trouble", Title: "Trials that are not numbers",
		Note: "failed: the datapath or workload did not do what it should. unsupported: this kernel or tool cannot run it. void: a guard around the trial failed, so its number is not used. rig: the testbed failed."}
	t := table.Table{ID: "trouble", Columns: []table.Column{table.Text("status"), table.Number("trials"), table.Text("reason"), table.Text("cells")}}
	for _, p := range problemsOf(e) {
		t.Rows = append(t.Rows, table.Row{Cells: []string{p.Status, strconv.Itoa(p.Trials), p.Reason, table.Some(p.Cells)}, Class: "failed"})
	}
	if len(t.Rows) == 0 {
		sec.Note = "None: every trial that was recorded is ok, and no guard fired."
		return sec
	}
	sec.Tables = []table.Table{t}
	return sec
}

// activitySection has what the nodes did while the workload ran.
func activitySection(e *summary.Estimator) table.Section {
	sec := table.Section{ID: "cpu", Title: "CPU and softirq work",
		Note: "Medians over trials. cpu is CPU seconds busy per wall second of the node, all CPUs together; counts of softirqs are per second."}
	for _, s := range e.Strata {
		for _, w := range e.Workloads {
			groups := e.Ordered(s, w)
			var cols []string
			for _, m := range summary.Metrics(groups) {
				if isActivity(m) {
					cols = append(cols, m)
				}
			}
			if len(cols) == 0 {
				continue
			}
			sec.Tables = append(sec.Tables, mediansTable(e, "cpu-"+table.Slug(s.String()+"-"+w), w+", "+s.String(), groups, cols))
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

// otherSection has the metrics that no other section shows.
func otherSection(e *summary.Estimator) table.Section {
	sec := table.Section{ID: "others", Title: "Everything else that was measured", Note: "Medians over trials, in the unit of the column."}
	for _, s := range e.Strata {
		for _, w := range e.Workloads {
			groups := e.Ordered(s, w)
			var cols []string
			for _, m := range summary.Metrics(groups) {
				if !isActivity(m) && !e.IsResult(m) && !isProof(m) {
					cols = append(cols, m)
				}
			}
			if len(cols) > 0 {
				t := mediansTable(e, "others-"+table.Slug(s.String()+"-"+w), w+", "+s.String(), groups, cols)
				t.Folded = true
				sec.Tables = append(sec.Tables, t)
			}
		}
	}
	return sec
}

func isProof(metric string) bool {
	return metric == "policies_realised" || strings.HasPrefix(metric, "probes_") || slices.Contains([]string{"hook_packets", revisionMetric, versionMetric, untestedMetric}, metric)
}

func mediansTable(e *summary.Estimator, id, title string, groups []*summary.Group, cols []string) table.Table {
	t := table.Table{ID: id, Title: title, Columns: []table.Column{table.Text("arm"), table.Number("N")}}
	scales := make([]table.Scale, len(cols))
	for i, m := range cols {
		var meds []float64
		for _, g := range groups {
			meds = append(meds, stat.Median(g.Samples(m)))
		}
		scales[i] = e.Scale(e.Units[m], meds)
		t.Columns = append(t.Columns, table.Number(scales[i].Titled(m)))
	}
	for _, g := range groups {
		row := table.Row{Cells: []string{g.Line.String(), strconv.Itoa(g.N)}}
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

// varianceSection splits the spread into that between boots and that between trials.
func varianceSection(e *summary.Estimator, all []summary.Summary) table.Section {
	sec := table.Section{ID: "blocks", Title: "Variation between and within blocks",
		Note: "A block is one boot of the lab. Both columns are coefficients of variation (one-way analysis of variance); a large first one means that boots differ and more blocks, not more trials, would narrow the intervals."}
	t := table.Table{ID: "blocks", Folded: true, Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Text("metric"), table.Text("arm"), table.Number("N"), table.Number("between blocks"), table.Number("within a block")}}
	if e.Clock() == runs.ClockVirtual {
		sec.Title = "Variation between and within seeds"
		sec.Note = "A block is one boot under one seed. The spread is the coefficient of variation of the seeds' numbers; between and within split it by one-way analysis of variance, where seeds have several trials."
		t.Columns = slices.Insert(t.Columns, 5, table.Number("seeds"), table.Number("spread between seeds"))
	}
	for _, s := range all {
		row := table.Row{Cells: []string{s.Scenario, s.Workload, s.Metric, s.Arm, strconv.Itoa(s.Policies)}}
		switch {
		case e.Clock() == runs.ClockVirtual && s.SeedCoV != nil:
			row.Cells = append(row.Cells, strconv.Itoa(s.Blocks), table.Percent(*s.SeedCoV))
		case e.Clock() == runs.ClockVirtual || s.Between == nil || s.Within == nil:
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
