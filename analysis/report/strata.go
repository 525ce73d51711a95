package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// strataSections has one section for each factor that a plan compares: which arm
// runs on which level, and what it costs there.
func strataSections(e *summary.Estimator) []table.Section {
	var out []table.Section
	for _, f := range summary.Factors() {
		levels := e.Levels(f)
		if len(levels) == 0 {
			continue
		}
		sec := table.Section{ID: "boots-" + f.Name, Title: f.Title,
			Note: "Numbers of two of them are never put together: everywhere else in this report each has tables and figures of its own. ok: every trial of the arm gave a number. A word with a mark has its reason in the table below."}
		support, why := supportTables(e, f.Name, levels)
		sec.Tables = append(sec.Tables, support)
		if len(why.Rows) > 0 {
			sec.Tables = append(sec.Tables, why)
		}
		for _, m := range e.Measures() {
			sec.Tables = append(sec.Tables, acrossTables(e, f, levels, m)...)
		}
		out = append(out, sec)
	}
	return out
}

// supportTables are the table arm x level, and the reasons of what is not ok.
func supportTables(e *summary.Estimator, factor string, levels []string) (support, why table.Table) {
	support = table.Table{ID: "support-" + factor, Title: "Which arm runs where", Columns: []table.Column{table.Text("arm")}}
	for _, l := range levels {
		support.Columns = append(support.Columns, table.Text(l))
	}
	why = table.Table{ID: "support-" + factor + "-why", Title: "Why not", Columns: []table.Column{table.Text("mark"), table.Text("reason, as first met")}}
	marks := map[string]string{}
	for _, line := range e.Lines {
		row := table.Row{Cells: []string{line.String()}}
		for _, l := range levels {
			status, reason := ended(e, factor, l, line.String())
			if reason != "" {
				mark := marks[summary.ReasonShape(reason)]
				if mark == "" {
					mark = strconv.Itoa(len(marks) + 1)
					marks[summary.ReasonShape(reason)] = mark
					why.Rows = append(why.Rows, table.Row{Cells: []string{mark, reason}})
				}
				status += " (" + mark + ")"
			}
			row.Cells = append(row.Cells, status)
		}
		support.Rows = append(support.Rows, row)
	}
	return support, why
}

// ended says how an arm's trials at one level ended: the worst status among them,
// and the first reason.
func ended(e *summary.Estimator, factor, level, arm string) (status, reason string) {
	count := map[string]int{}
	reasons := map[string]string{}
	for _, c := range e.Cells {
		if c.Get(factor) != level || c.Get(runs.FactorArm) != arm {
			continue
		}
		for _, t := range c.Trials {
			if t.Superseded {
				continue
			}
			count[t.Status]++
			if reasons[t.Status] == "" {
				reasons[t.Status] = summary.ReasonText(t.Reason)
			}
		}
	}
	total := 0
	for _, n := range count {
		total += n
	}
	if total == 0 {
		return "not run", ""
	}
	if count[record.StatusOK] == total {
		return record.StatusOK, ""
	}
	worst := slices.MaxFunc(slices.Sorted(maps.Keys(count)), func(a, b string) int {
		return cmp.Compare(slices.Index(record.Statuses(), a), slices.Index(record.Statuses(), b))
	})
	if ok := count[record.StatusOK]; ok > 0 {
		return fmt.Sprintf("%d of %d ok, else %s", ok, total, worst), reasons[worst]
	}
	return worst, reasons[worst]
}

// acrossTables show a measure of every line at each level, a table for each stratum.
// The last column compares the last level with the first.
func acrossTables(e *summary.Estimator, f summary.Factor, levels []string, m summary.Measure) []table.Table {
	var out []table.Table
	for _, rest := range restsOf(e, f) {
		t, all := acrossTable(e, f, levels, m, rest)
		if len(all) > 0 && len(t.Rows) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// restsOf lists the strata, each without its level of one of the factors.
func restsOf(e *summary.Estimator, f summary.Factor) []summary.Stratum {
	var out []summary.Stratum
	for _, s := range e.Strata {
		rest := s.With(f, "")
		if slices.Contains(e.Levels(f), s.Level(f)) && !slices.Contains(out, rest) {
			out = append(out, rest)
		}
	}
	return out
}

func acrossTable(e *summary.Estimator, f summary.Factor, levels []string, m summary.Measure, rest summary.Stratum) (table.Table, []summary.Summary) {
	at := map[string]summary.Stratum{} // by level
	for _, l := range levels {
		at[l] = rest.With(f, l)
	}
	var all []summary.Summary
	for _, l := range levels {
		all = append(all, e.Summaries(at[l], m.Workload, m.Metric)...)
	}
	sc := e.Scale(e.Units[m.Metric], summary.Medians(all))
	t := table.Table{ID: table.Slug("across-" + f.Name + "-" + rest.String() + "-" + m.Workload), Title: sc.Titled(table.SentenceCase(m.Name)) + ", " + m.Workload + ", " + rest.String()}
	t.Columns = []table.Column{table.Text("arm"), table.Number("N")}
	for _, l := range levels {
		t.Columns = append(t.Columns, table.Number(l))
	}
	t.Columns = append(t.Columns, table.Text(levels[len(levels)-1]+" over "+levels[0]))
	seen := map[summary.Point]bool{}
	first, last := at[levels[0]], at[levels[len(levels)-1]]
	for _, s := range all {
		p := s.Point
		if p.Stratum = rest; seen[p] {
			continue
		}
		seen[p] = true
		row := table.Row{Cells: []string{s.Arm, strconv.Itoa(s.Policies)}}
		for _, l := range levels {
			text := table.None
			if g := e.At(at[l], m.Workload, p.Line, p.N); g != nil {
				if sum := e.Summary(g, m.Metric); sum.Median != nil {
					text = sc.Format(sum.Median.Estimate)
				}
			}
			row.Cells = append(row.Cells, text)
		}
		row.Cells = append(row.Cells, ratioOf(e, e.At(last, m.Workload, p.Line, p.N), e.At(first, m.Workload, p.Line, p.N), m.Metric))
		t.Rows = append(t.Rows, row)
	}
	return t, all
}

// ratioOf is the ratio of two groups in words, table.None where one has no numbers.
func ratioOf(e *summary.Estimator, g, base *summary.Group, metric string) string {
	if g == nil || base == nil || len(g.Samples(metric)) == 0 || len(base.Samples(metric)) == 0 {
		return table.None
	}
	return table.RatioWithInterval(e.Ratio(g, base, metric), e.Confidence)
}
