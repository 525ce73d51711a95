package figure

import (
	"fmt"
	"slices"
	"strconv"

	"hookbed/analysis/catalog"
	"hookbed/analysis/explain"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// Explanations are, for each explanation, the shares of the gain and the cost of each
// policy by arm, where it has them.
func Explanations(e *summary.Estimator, all []explain.Explanation) []Figure {
	var out []Figure
	for _, x := range all {
		if b := shareBars(e, x); len(b.rows) > 0 {
			out = append(out, b.rendered())
		}
		if len(x.Slopes) > 0 {
			out = append(out, slopeBars(e, x).rendered())
		}
	}
	return out
}

func shareBars(e *summary.Estimator, x explain.Explanation) barChart {
	b := barChart{Name: "explain-" + x.ID(), Title: "What explains it: " + x.Title(), scale: table.Scale{Unit: "%", Divisor: 0.01},
		Subtitle: fmt.Sprintf("share of the logarithm of the whole gain, N = %d", x.Policies),
		Caption:  "Shares of structure, path and mechanism in the study's contrast, " + x.Title() + "."}
	for _, d := range x.Orders {
		if d.Total == nil || !d.Total.Excludes(1) || d.Empty() {
			continue
		}
		for i, kind := range []string{explain.Structure, explain.Path, explain.Mechanism} {
			s := d.Steps[slices.IndexFunc(d.Steps, func(s explain.Step) bool { return s.Kind == kind })]
			row := bar{label: kind, color: i, value: s.Share, why: "not said"}
			if i == 0 {
				row.head = fmt.Sprintf("%s, ×%s in all", d.Order, table.Ratio(d.Total.Estimate))
			}
			b.rows = append(b.rows, row)
		}
	}
	return b
}

func slopeBars(e *summary.Estimator, x explain.Explanation) barChart {
	b := barChart{Name: "each-policy-" + x.ID(), Title: "What each policy costs: " + x.Title(), scale: explain.SlopeScale(e, x),
		Subtitle: x.Slopes[0].Of + ", per policy, lower is better",
		Caption:  "Cost of each policy by arm, " + x.Title() + "."}
	for i, kind := range structuresOf(x.Slopes) {
		first := true
		for _, s := range x.Slopes {
			if s.Structure != kind {
				continue
			}
			row := bar{label: s.What, color: i, value: &s.Each}
			if known := slices.Index([]string{catalog.Hash, catalog.List}, kind); known >= 0 {
				row.color = known
			}
			if first {
				row.head, first = headOfStructure(kind), false
			}
			b.rows = append(b.rows, row)
		}
	}
	return b
}

// structuresOf lists the structures of arms: the catalog's in a fixed order, others in
// the order of the arms, and "" last.
func structuresOf(slopes []explain.Slope) []string {
	out := []string{catalog.List, catalog.Hash, catalog.Prefixes, catalog.HashAndList}
	for _, s := range slopes {
		if s.Structure != "" && !slices.Contains(out, s.Structure) {
			out = append(out, s.Structure)
		}
	}
	return append(out, "")
}

func headOfStructure(kind string) string {
	switch kind {
	case catalog.List:
		return "lists"
	case "":
		return "others"
	}
	return kind
}

// Overlays are what overlays add, a picture for each measure that is a time: the arms
// in the order of the plan, with a bar for each N.
func Overlays(e *summary.Estimator, all []explain.OverlayCost) []Figure {
	var out []Figure
	for _, group := range explain.Grouped(all) {
		if group[0].Unit != "s" {
			continue
		}
		var values []float64
		for _, o := range group {
			values = append(values, o.Adds.Estimate)
		}
		b := barChart{Name: "overlay-" + table.Slug(group[0].Title()), Title: "What the overlay costs: " + group[0].Title(), scale: e.Scale("s", values),
			Subtitle: "the arm with the overlay less the same arm without, lower is better", Caption: "What the overlay adds, " + group[0].Title() + "."}
		for i, o := range group {
			row := bar{label: "N = " + strconv.Itoa(o.Policies), color: colorOf(group, o), value: &o.Adds}
			if i == 0 || group[i-1].Arm != o.Arm {
				row.head = o.What
			}
			b.rows = append(b.rows, row)
		}
		out = append(out, b.rendered())
	}
	return out
}

// colorOf gives arms that differ only in the overlay's options one color.
func colorOf(group []explain.OverlayCost, o explain.OverlayCost) int {
	var seen []string
	for _, g := range group {
		if !slices.Contains(seen, g.Without) {
			seen = append(seen, g.Without)
		}
	}
	return slices.Index(seen, o.Without)
}
