package report

import (
	"fmt"
	"slices"
	"strconv"

	"hookbed/analysis/table"
)

// dropSection is "Where a refused packet ends", without tables if no refused packet was traced.
func (s traceSet) dropSection() table.Section {
	sec := table.Section{ID: "refused", Title: "Where a refused packet ends",
		Note: "After the workload the client tried to connect several times where the policies refuse it, and every instruction of these attempts was traced: each is one packet. " +
			"To its end: from the beginning of the client's system call until the packet is freed; from the wire: of that, from where the client's device takes it. " +
			"The reason is the kernel's own, for other attempts of the same boot."}
	var seen []string
	for _, t := range s.all {
		if t.Drop == nil || slices.Contains(seen, t.Scenario) {
			continue
		}
		seen = append(seen, t.Scenario)
		sec.Tables = append(sec.Tables, s.dropTable(t.Scenario))
	}
	return sec
}

// dropTable has the refused packets of a stratum, the one that ends first on top.
func (s traceSet) dropTable(scenario string) table.Table {
	out := table.Table{ID: table.Slug("refused-" + scenario), Title: "A refused packet: " + scenario,
		Columns: []table.Column{table.Text("arm"), table.Number("N"), table.Text("ends at"), table.Text("given up by"), table.Text("reason"),
			table.Number("instructions to its end"), table.Number("from the wire"), table.Number("an attempt in all"), table.Text("on the path"), table.Text("path")}}
	var list []*traced
	for _, t := range s.all {
		if t.Drop != nil && t.Scenario == scenario {
			list = append(list, t)
		}
	}
	slices.SortStableFunc(list, func(a, b *traced) int { return int(int64(a.Drop.FromWire) - int64(b.Drop.FromWire)) })
	for _, t := range list {
		d := t.Drop
		out.Rows = append(out.Rows, table.Row{
			Cells: []string{t.Arm, strconv.Itoa(t.Policies), d.Where(), d.Function, d.Why(), rounded(float64(d.ToDrop)), rounded(float64(d.FromWire)), rounded(d.PerUnit),
				fmt.Sprintf("%d of %d", d.Same, d.Compared), "path"},
			Links: []string{"", "", "", "", "", "", "", "", "", t.DropPath},
		})
	}
	out.Points = dropPoints(list)
	return out
}

// dropPoints say which arm gives a refused packet up first, and which last.
func dropPoints(list []*traced) []string {
	if len(list) < 2 {
		return nil
	}
	first, last := list[0], list[len(list)-1]
	said := func(t *traced) string {
		return fmt.Sprintf("%s at N = %d, after %s instructions from the wire, at %s", t.Arm, t.Policies, rounded(float64(t.Drop.FromWire)), t.Drop.Where())
	}
	return []string{"A refused packet ends earliest with " + said(first) + ".", "It ends latest with " + said(last) + "."}
}
