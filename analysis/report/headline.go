package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// headline makes the sentence that answers one measure in one stratum.
type headline struct {
	*summary.Estimator
	in      summary.Stratum
	measure summary.Measure
	scale   table.Scale
}

// change is one arm in a headline: its ratio, and the values of the two points.
type change struct {
	line     summary.Line
	ratio    *stat.Estimate // nil if there is no number
	from, to *stat.Estimate
	n        int // policies of to
}

// headlineOf is the answer of one measure in one stratum, in a sentence with numbers, the
// arms that it names, and how many differ by more than little. Like the verdicts it takes
// for decided only what has the confidence wanted.
func headlineOf(e *summary.Estimator, in summary.Stratum, m summary.Measure, sc table.Scale) (text string, named []summary.Line, decided int) {
	h := headline{e, in, m, sc}
	own, others := h.both()
	clearOwn, clearOthers := h.clear(own), h.clear(others)
	switch {
	case h.settled(own) > 0:
		text, named = h.changes(own, clearOwn)
	case h.settled(others) > 0:
		text, named = h.differences(others, clearOthers)
	default:
		text, named = h.spread(own, others)
	}
	return "On " + in.String() + ", " + text + ".", named, max(len(clearOwn), len(clearOthers))
}

// both are the arms against themselves without policies, and against the reference.
func (h headline) both() (own, others []change) {
	for _, line := range h.Lines {
		g := h.Largest(h.in, h.measure.Workload, line)
		if g == nil {
			continue
		}
		s := h.Summary(g, h.measure.Metric)
		c := change{line: line, ratio: s.VsZero, to: s.Median, n: g.N}
		if zero := h.At(h.in, h.measure.Workload, line, 0); g.N > 0 && zero != nil {
			c.from = h.Summary(zero, h.measure.Metric).Median
			own = append(own, c)
		}
		ref := summary.Line{Arm: h.Reference, Clients: line.Clients}
		if base := h.At(h.in, h.measure.Workload, ref, 0); base != nil && line != ref {
			c.ratio, c.from = s.VsReference, h.Summary(base, h.measure.Metric).Median
			others = append(others, c)
		}
	}
	return own, others
}

// held reports whether a ratio has the confidence wanted.
func (h headline) held(c change) bool { return c.ratio != nil && c.ratio.Confidence >= h.Confidence }

// settled counts the arms whose ratio has the confidence wanted.
func (h headline) settled(all []change) (n int) {
	for _, c := range all {
		if h.held(c) {
			n++
		}
	}
	return n
}

// clear are the arms that differ, decided and by more than little, the most first.
func (h headline) clear(all []change) []change {
	out := slices.DeleteFunc(slices.Clone(all), func(c change) bool {
		return !h.held(c) || !c.ratio.Excludes(1) || far(c) <= math.Log1p(little)
	})
	slices.SortStableFunc(out, func(a, b change) int { return cmp.Compare(far(b), far(a)) })
	return out
}

// far is how far a ratio is from 1, the same for a number and its inverse.
func far(c change) float64 { return math.Abs(math.Log(c.ratio.Estimate)) }

// nearest is the arm whose ratio is nearest to 1 of those with the confidence wanted.
func (h headline) nearest(all []change) change {
	held := slices.DeleteFunc(slices.Clone(all), func(c change) bool { return !h.held(c) })
	return slices.MinFunc(held, func(a, b change) int { return cmp.Compare(far(a), far(b)) })
}

// changes says what the most policies do: to the arm that changes most, and to the one
// that changes least.
func (h headline) changes(all, clear []change) (string, []summary.Line) {
	least := h.nearest(all)
	if len(clear) == 0 {
		return fmt.Sprintf("%d policies change %s of no arm clearly, least of %s (%s)%s", least.n, h.measure.Name, least.line, h.amounts(least), h.open(all)), linesOf(least)
	}
	most := clear[0]
	text := fmt.Sprintf("%d policies make %s %s for %s (%s)", most.n, h.measure.Name, multiple(most), most.line, h.amounts(most))
	if least.line != most.line {
		text += fmt.Sprintf(" but %s for %s (%s)", multiple(least), least.line, h.amounts(least))
	}
	return text + h.share(all, clear, "change"), linesOf(most, least)
}

// differences says how arms differ from the reference: the best and the worst of them.
func (h headline) differences(all, clear []change) (string, []summary.Line) {
	if len(clear) == 0 {
		least := h.nearest(all)
		return fmt.Sprintf("no arm differs clearly from %s in %s, least %s (%s, %s)%s", h.Reference, h.measure.Name, least.line, multiple(least), h.amounts(least), h.open(all)), linesOf(least)
	}
	ordered := slices.Clone(clear)
	slices.SortStableFunc(ordered, func(a, b change) int {
		if h.measure.HigherIsBetter {
			a, b = b, a
		}
		return cmp.Compare(a.ratio.Estimate, b.ratio.Estimate)
	})
	best, worst := ordered[0], ordered[len(ordered)-1]
	text := fmt.Sprintf("%s is %s that of %s with %s (%s)", h.measure.Name, multiple(best), h.Reference, best.line, h.amounts(best))
	if best.line != worst.line {
		text += fmt.Sprintf(" and %s with %s (%s)", multiple(worst), worst.line, h.amounts(worst))
	}
	return text + h.share(all, clear, "differ"), linesOf(best, worst)
}

// share says how many arms are clear, and how many are open.
func (h headline) share(all, clear []change, verb string) string {
	if len(all) < 3 {
		return h.open(all)
	}
	return fmt.Sprintf("; %d of %d arms %s by more than 2 %%%s", len(clear), len(all), verb, h.open(all))
}

// open counts the arms of which nothing is decided, "" for none.
func (h headline) open(all []change) string {
	if n := len(all) - h.settled(all); n > 0 {
		return fmt.Sprintf(", %d undecided", n)
	}
	return ""
}

// spread says where the numbers lie that no ratio decides anything of.
func (h headline) spread(own, others []change) (string, []summary.Line) {
	var all []change
	for _, line := range h.Lines {
		if g := h.Largest(h.in, h.measure.Workload, line); g != nil {
			if m := h.Summary(g, h.measure.Metric).Median; m != nil {
				all = append(all, change{line: line, to: m, n: g.N})
			}
		}
	}
	if len(all) == 0 {
		return "no arm gave a valid number of " + h.measure.Name, nil
	}
	slices.SortStableFunc(all, func(a, b change) int { return cmp.Compare(a.to.Estimate, b.to.Estimate) })
	low, high := all[0], all[len(all)-1]
	text := fmt.Sprintf("%s is %s with %s", h.measure.Name, h.amount(low.to), h.at(low))
	if len(all) > 1 {
		text = fmt.Sprintf("%s lies between %s with %s and %s with %s", h.measure.Name, h.amount(low.to), h.at(low), h.amount(high.to), h.at(high))
	}
	if len(own)+len(others) > 0 {
		text += fmt.Sprintf("; with %s a cell no direction is decided", table.Plural(mostTrials(h.Estimator), "trial"))
	}
	return text, linesOf(low, high)
}

// linesOf are the arms of changes.
func linesOf(all ...change) (out []summary.Line) {
	for _, c := range all {
		out = append(out, c.line)
	}
	return out
}

// at names an arm, with its policies if it has any.
func (h headline) at(c change) string {
	if c.n == 0 {
		return c.line.String()
	}
	return fmt.Sprintf("%s at N\u00a0=\u00a0%d", c.line, c.n)
}

// multiple is "×1.53".
func multiple(c change) string { return "×" + table.Ratio(c.ratio.Estimate) }

// amount is a value with its unit.
func (h headline) amount(v *stat.Estimate) string {
	return strings.TrimSpace(h.scale.Format(v.Estimate) + "\u00a0" + h.scale.Unit)
}

// amounts are the values of both points: "26.0 to 39.8 µs".
func (h headline) amounts(c change) string {
	if c.from == nil || c.to == nil {
		return "no valid number"
	}
	return h.scale.Format(c.from.Estimate) + " to " + h.amount(c.to)
}
