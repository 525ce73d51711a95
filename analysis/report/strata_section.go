package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/table"
)

// strataSections has one section for each factor that a plan compares: which arm
// runs on which level, and what it costs there.
func (e *estimator) strataSections() []table.Section {
	var out []table.Section
	for _, b := range stratumFactors() {
		levels := e.compared[b.factor]
		if len(levels) == 0 {
			continue
		}
		sec := table.Section{ID: "boots-" + b.factor, Title: b.title,
			Note: "Numbers of two of them are never put together: everywhere else in this report each has tables and figures of its own. ok: every trial of the arm gave a number. A word with a mark has its reason in the table below."}
		support, why := e.support(b.factor, levels)
		sec.Tables = append(sec.Tables, support)
		if len(why.Rows) > 0 {
			sec.Tables = append(sec.Tables, why)
		}
		for _, m := range e.measures() {
			sec.Tables = append(sec.Tables, e.acrossTables(b.factor, levels, m)...)
		}
		out = append(out, sec)
	}
	return out
}

// support is the table arm x level, and the reasons of what is not ok.
func (e *estimator) support(factor string, levels []string) (support, why table.Table) {
	support = table.Table{ID: "support-" + factor, Title: "Which arm runs where", Columns: []table.Column{table.Text("arm")}}
	for _, l := range levels {
		support.Columns = append(support.Columns, table.Text(l))
	}
	why = table.Table{ID: "support-" + factor + "-why", Title: "Why not", Columns: []table.Column{table.Text("mark"), table.Text("reason, as first met")}}
	marks := map[string]string{}
	for _, line := range e.lines {
		row := table.Row{Cells: []string{line.String()}}
		for _, l := range levels {
			status, reason := e.ended(factor, l, line.String())
			if reason != "" {
				mark := marks[shape(reason)]
				if mark == "" {
					mark = strconv.Itoa(len(marks) + 1)
					marks[shape(reason)] = mark
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
func (e *estimator) ended(factor, level, arm string) (status, reason string) {
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
				reasons[t.Status] = reasonOr(t.Reason)
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

// acrossTables show a measure of every arm at each level, a table a scenario.
// The last column compares the last level with the first.
func (e *estimator) acrossTables(factor string, levels []string, m measure) []table.Table {
	var out []table.Table
	for _, rest := range e.restsOf(factor) {
		t, all := e.acrossTable(factor, levels, m, rest)
		if len(all) > 0 && len(t.Rows) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// restsOf lists the strata, each without its level of one of the factors.
func (e *estimator) restsOf(factor string) []Stratum {
	var out []Stratum
	for _, s := range e.strata {
		rest := s.with(factor, "")
		if slices.Contains(e.compared[factor], s.level(factor)) && !slices.Contains(out, rest) {
			out = append(out, rest)
		}
	}
	return out
}

func (e *estimator) acrossTable(factor string, levels []string, m measure, rest Stratum) (table.Table, []Summary) {
	at := map[string]Stratum{} // by level
	for _, l := range levels {
		at[l] = rest.with(factor, l)
	}
	var all []Summary
	for _, l := range levels {
		all = append(all, e.summaries(at[l], m.workload, m.metric)...)
	}
	sc := e.scale(e.Units[m.metric], mediansOf(all))
	t := table.Table{ID: table.Slug("across-" + factor + "-" + rest.String() + "-" + m.workload), Title: sc.Titled(table.SentenceCase(m.name)) + ", " + m.workload + ", " + rest.String()}
	t.Columns = []table.Column{table.Text("arm"), table.Number("N")}
	for _, l := range levels {
		t.Columns = append(t.Columns, table.Number(l))
	}
	t.Columns = append(t.Columns, table.Text(levels[len(levels)-1]+" over "+levels[0]))
	seen := map[point]bool{}
	for _, s := range all {
		p := point{line: s.point.line, policies: s.Policies}
		if seen[p] {
			continue
		}
		seen[p] = true
		row := table.Row{Cells: []string{s.Arm, strconv.Itoa(s.Policies)}}
		for _, l := range levels {
			text := table.None
			if g := e.groups[point{at[l], m.workload, s.point.line, s.Policies}]; g != nil {
				if sum := e.summary(g, m.metric); sum.Median != nil {
					text = sc.Format(sum.Median.Estimate)
				}
			}
			row.Cells = append(row.Cells, text)
		}
		row.Cells = append(row.Cells, e.firstToLast(point{at[levels[len(levels)-1]], m.workload, s.point.line, s.Policies}, at[levels[0]], m.metric))
		t.Rows = append(t.Rows, row)
	}
	return t, all
}

// firstToLast is the ratio of a group to the same one in another stratum.
func (e *estimator) firstToLast(p point, base Stratum, metric string) string {
	g := e.groups[p]
	p.stratum = base
	if g == nil || e.groups[p] == nil || len(g.Samples(metric)) == 0 || len(e.groups[p].Samples(metric)) == 0 {
		return table.None
	}
	return table.RatioWithInterval(e.ratio(g, e.groups[p], metric), e.confidence)
}
