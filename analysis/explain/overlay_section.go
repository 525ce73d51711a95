package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/table"
)

// OverlaySection shows what overlays add to the cost of a path.
func (e *Explainer) OverlaySection(all []OverlayCost) table.Section {
	sec := table.Section{ID: "overlay", Title: "What the overlay costs",
		Note: "An arm with the overlay less the same arm without: fabric, filter, options and number of policies are equal, and intervals are of differences within blocks where enough are shared. " +
			"Work that is a known number of packets is counted by the packet, one each way; bulk data by the byte of payload, because segmentation offload carries many packets as one. " +
			"What an arm costs without the overlay is all of it, endpoints and workload included. " + stat.RoughNote}
	if e.Clock() == runs.ClockVirtual {
		sec.Note += " The clock is virtual: time is instructions, not caches or parallelism."
	}
	for _, group := range Grouped(all) {
		sec.Tables = append(sec.Tables, e.overlayTable(group))
	}
	for _, group := range Grouped(all) {
		if t := e.overlaySlopes(group); len(t.Rows) > 0 {
			sec.Tables = append(sec.Tables, t)
		}
	}
	if t := e.sameOverlay(); len(t.Rows) > 0 {
		sec.Tables = append(sec.Tables, t)
	}
	return sec
}

// Grouped splits costs by stratum, workload, measure and context, in their order.
func Grouped(all []OverlayCost) [][]OverlayCost {
	var out [][]OverlayCost
	for _, o := range all {
		if k := len(out) - 1; k >= 0 && out[k][0].Title() == o.Title() {
			out[k] = append(out[k], o)
			continue
		}
		out = append(out, []OverlayCost{o})
	}
	return out
}

// Title is "time per packet, TCP_RR, localhost", followed by Where.
func (o OverlayCost) Title() string {
	out := fmt.Sprintf("%s, %s, %s", o.Of, o.Workload, o.Scenario)
	if o.Where != "" {
		out += ", " + o.Where
	}
	return out
}

func (e *Explainer) overlayTable(group []OverlayCost) table.Table {
	var values, bases []float64
	for _, o := range group {
		values, bases = append(values, o.Adds.Estimate), append(bases, o.Base)
	}
	adds, base := e.Scale(group[0].Unit, values), e.Scale(group[0].Unit, bases)
	t := table.Table{ID: table.Slug("overlay-" + group[0].Title()), Title: table.SentenceCase(group[0].Title()), Note: overlaySentence(group),
		Columns: []table.Column{table.Text("arm"), table.Text("what"), table.Number("N"), table.Number(base.Titled("without")), table.Number(adds.Titled("overlay adds")), table.Text("interval"), table.Text("cost with over without"), table.Text("verdict")}}
	for _, o := range group {
		t.Rows = append(t.Rows, table.Row{Cells: []string{o.Arm, o.What, strconv.Itoa(o.Policies), base.Format(o.Base), table.Signed(adds, o.Adds.Estimate), table.Interval(o.Adds, adds, e.Confidence),
			table.RatioWithInterval(o.Ratio, e.Confidence), o.word()}})
	}
	return t
}

// word says whether what the overlay adds is distinguishable from nothing.
func (o OverlayCost) word() string {
	switch {
	case o.Adds.Confidence == 0:
		return "no interval"
	case !o.Adds.Excludes(0):
		return "not distinguishable from 0"
	case o.Adds.Estimate < 0:
		return "cheaper with it"
	}
	return "costs"
}

// overlaySentence says whether the filter changes what the overlay costs.
func overlaySentence(group []OverlayCost) string {
	var grows, same, unsaid []string
	for _, o := range group {
		switch {
		case o.EachWith == nil:
		case o.EachAdds == nil || o.EachAdds.Confidence == 0:
			unsaid = append(unsaid, o.Arm)
		case o.EachAdds.Excludes(0):
			grows = append(grows, o.Arm)
		default:
			same = append(same, o.Arm)
		}
	}
	var parts []string
	if len(same) > 0 {
		parts = append(parts, "A policy costs the same with and without the overlay, as far as intervals tell: "+table.List(same)+".")
	}
	if len(grows) > 0 {
		parts = append(parts, "A policy costs something else with the overlay: "+table.List(grows)+".")
	}
	if len(unsaid) > 0 {
		parts = append(parts, "Whether a policy costs the same cannot be said: "+table.List(unsaid)+".")
	}
	return strings.Join(parts, " ")
}

// overlaySlopes shows each policy's cost with and without the overlay.
func (e *Explainer) overlaySlopes(group []OverlayCost) table.Table {
	t := table.Table{ID: table.Slug("overlay-slopes-" + group[0].Title()), Title: "Each policy, with and without the overlay: " + group[0].Title(), Folded: true,
		Note: "The cost at the most policies less that at N = 0, over N; the last column is the difference of the two before it, within blocks."}
	var values []float64
	for _, o := range group {
		if o.EachWith != nil && o.EachWithout != nil {
			values = append(values, o.EachWith.Estimate, o.EachWithout.Estimate)
		}
	}
	sc := e.Scale(group[0].Unit, values)
	t.Columns = []table.Column{table.Text("arm"), table.Text("what"), table.Number("N"), table.Text(sc.Titled("each policy without")), table.Text(sc.Titled("each policy with")), table.Text(sc.Titled("overlay adds to each"))}
	for _, o := range group {
		if o.EachWith == nil || o.EachWithout == nil {
			continue
		}
		t.Rows = append(t.Rows, table.Row{Cells: []string{o.Arm, o.What, strconv.Itoa(o.Policies), table.ValueWithInterval(o.EachWithout, sc, e.Confidence), table.ValueWithInterval(o.EachWith, sc, e.Confidence), table.ValueWithInterval(o.EachAdds, sc, e.Confidence)}})
	}
	return t
}

// sameOverlay compares the study's two ends where both are over the same overlay, or
// over none.
func (e *Explainer) sameOverlay() table.Table {
	t := table.Table{ID: "overlay-both-sides", Title: "The study's two sides over the same overlay",
		Note:    fmt.Sprintf("How many times as fast %s is as %s, with the same overlay, or none, on both sides.", e.contrast.To.Name(), e.contrast.From.Name()),
		Columns: []table.Column{table.Text("scenario"), table.Text("workload"), table.Text("overlay of both"), table.Text("state"), table.Number("N"), table.Text("gain"), table.Text("verdict")}}
	for _, s := range e.Strata {
		for _, m := range e.Measures() {
			for _, c := range e.contexts(s, m.Workload) {
				for _, a := range c.subjects {
					b := c.find(e.contrast.To.Fabric, e.contrast.To.Filter, catalog.AsStudy, a.own)
					if a.fabric != e.contrast.From.Fabric || a.filter != e.contrast.From.Filter || b == nil {
						continue
					}
					for _, n := range slices.Sorted(maps.Keys(a.cells)) {
						if b.cells[n] == nil {
							continue
						}
						gain := e.sample(m.Metric, a.cells[n], b.cells[n]).gain(0, 1)
						t.Rows = append(t.Rows, table.Row{Cells: []string{s.String(), m.Workload, cmp.Or(e.of(a.own, catalog.RoleOverlay), noOverlay), a.regime, strconv.Itoa(n), table.RatioWithInterval(gain, e.Confidence), e.WordWithNeed(gain, true)}})
					}
				}
			}
		}
	}
	if !slices.ContainsFunc(t.Rows, func(r table.Row) bool { return r.Cells[2] != noOverlay }) {
		t.Rows = nil
	}
	return t
}
