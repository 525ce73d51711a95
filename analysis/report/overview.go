package report

import (
	"fmt"
	"slices"
	"strings"

	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// overviewTable is the verdicts of a stratum and kind of comparison: a row for each
// line, a column for each measure.
type overviewTable struct {
	Title    string
	Measures []string
	Rows     []overviewRow
	Folded   bool // the comparison with the reference, of second rank
}

type overviewRow struct {
	Arm   string // name of the line
	N     int
	Cells []overviewCell
}

type overviewCell struct{ Word, Ratio, Class string }

// overviewPart is what the overview says of one stratum.
type overviewPart struct {
	Name     string   // of the stratum
	Sentence string   // its verdicts in words, "" if no arm has both N = 0 and more
	Points   []string // the same, an item for each phrase, for the page
	Tables   []overviewTable
}

// overviewOf arranges verdicts by stratum, then by kind of comparison.
func overviewOf(e *summary.Estimator, verdicts []summary.Verdict) []overviewPart {
	var out []overviewPart
	for _, s := range e.Strata {
		var own, others []summary.Verdict
		for _, v := range verdicts {
			switch {
			case v.Point.Stratum != s:
			case v.Against == v.Arm:
				own = append(own, v)
			default:
				others = append(others, v)
			}
		}
		g := overviewPart{Name: s.String(), Sentence: sentence(s, own), Points: points(own)}
		if len(own) > 0 {
			g.Tables = append(g.Tables, overviewTableOf(e, "Most policies against none", own))
		}
		if len(others) > 0 {
			t := overviewTableOf(e, "Against "+e.Reference+" without policies", others)
			t.Folded = len(own) > 0
			g.Tables = append(g.Tables, t)
		}
		if len(g.Tables) > 0 {
			out = append(out, g)
		}
	}
	return out
}

func overviewTableOf(e *summary.Estimator, title string, verdicts []summary.Verdict) overviewTable {
	t := overviewTable{Title: title}
	measures := e.Measures()
	for _, m := range measures {
		t.Measures = append(t.Measures, fmt.Sprintf("%s (%s)", m.Name, m.Workload))
	}
	for _, line := range e.Lines {
		row := overviewRow{Arm: line.String(), Cells: make([]overviewCell, len(t.Measures))}
		found := false
		for _, v := range verdicts {
			if v.Point.Line == line {
				i := slices.IndexFunc(measures, func(m summary.Measure) bool { return m.Workload == v.Workload && m.Metric == v.Metric })
				row.Cells[i], row.N, found = cellOf(e, v), v.Policies, true
			}
		}
		if found {
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func cellOf(e *summary.Estimator, v summary.Verdict) overviewCell {
	c := overviewCell{Word: v.Word, Class: summary.Class(v.Word)}
	if v.Ratio == nil {
		return c
	}
	c.Ratio = v.WithNeed(table.RatioWithInterval(v.Ratio, e.Confidence))
	return c
}

// sentence says in words what more policies did in a stratum: lines with the same
// verdicts share a phrase.
func sentence(s summary.Stratum, verdicts []summary.Verdict) string {
	most := 0
	for _, v := range verdicts {
		most = max(most, v.Policies)
	}
	var phrases []string
	for _, p := range phrasesOf(verdicts) {
		phrases = append(phrases, table.List(p.arms)+" "+p.text)
	}
	if len(phrases) == 0 {
		return ""
	}
	return fmt.Sprintf("On %s, from N = 0 to N = %d: %s.", s, most, strings.Join(phrases, "; "))
}

// points are the phrases of sentence with at most named arms in each.
func points(verdicts []summary.Verdict) (out []string) {
	for _, p := range phrasesOf(verdicts) {
		out = append(out, table.List(upTo(p.arms))+": "+p.text)
	}
	return out
}

// shared is a phrase, and the arms that it is true of.
type shared struct {
	text string
	arms []string
}

// phrasesOf are the verdicts in words, in the order of the arms.
func phrasesOf(verdicts []summary.Verdict) (out []shared) {
	var arms []string
	of := map[string][]summary.Verdict{}
	for _, v := range verdicts {
		if of[v.Arm] == nil {
			arms = append(arms, v.Arm)
		}
		of[v.Arm] = append(of[v.Arm], v)
	}
	for _, arm := range arms {
		text := phrase(of[arm])
		i := slices.IndexFunc(out, func(s shared) bool { return s.text == text })
		if i < 0 {
			i, out = len(out), append(out, shared{text: text})
		}
		out[i].arms = append(out[i].arms, arm)
	}
	return out
}

// phrase is the verdicts of one line: "slower in throughput (×0.608)".
func phrase(verdicts []summary.Verdict) string {
	var words []string
	measures := map[string][]string{}
	for _, v := range verdicts {
		if measures[v.Word] == nil {
			words = append(words, v.Word)
		}
		m := v.Measure
		if c := summary.Class(v.Word); c == "slower" || c == "faster" {
			m += " (×" + table.Ratio(v.Ratio.Estimate) + ")"
		} else if c == "unknown" && v.Decides != nil {
			m += " (" + v.Decides.String() + ")"
		}
		measures[v.Word] = append(measures[v.Word], m)
	}
	var parts []string
	for _, w := range words {
		in := " in "
		if summary.Class(w) == "unknown" {
			in = " for "
		}
		parts = append(parts, w+in+table.List(measures[w]))
	}
	return strings.Join(parts, ", ")
}
