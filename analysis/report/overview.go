package report

import (
	"fmt"
	"slices"
	"strings"

	"hookbed/analysis/stat"
)

// Verdict is one judged comparison: an arm at its largest N against itself at
// N = 0, or against the reference arm.
type Verdict struct {
	Scenario string    `json:"scenario"`
	Workload string    `json:"workload"`
	Metric   string    `json:"metric"`
	Measure  string    `json:"measure"` // "throughput"
	Arm      string    `json:"arm"`
	Policies int       `json:"policies"`
	Against  string    `json:"against"` // arm at N = 0
	Ratio    *Interval `json:"ratio"`
	Word     string    `json:"word"`
	// Decides is how many trials, blocks or seeds would decide what is undecided or
	// not distinguishable.
	Decides *stat.Need `json:"decides,omitempty"`

	point point // that is judged
}

// Words of a verdict. An interval with less confidence than was asked for decides
// nothing, whatever it excludes.
const (
	wordSlower    = "slower"
	wordFaster    = "faster"
	wordSame      = "not distinguishable"
	wordUndecided = "undecided"
	wordOneTrial  = "undecided (one trial)"
	wordFewTrials = "undecided (too few trials)"
	wordNoNumber  = "no valid number"
)

// word judges a ratio only by its interval: it gives no direction below the
// confidence asked for.
func word(r *Interval, higherIsBetter bool, confidence float64) string {
	switch {
	case r == nil:
		return wordNoNumber
	case r.Confidence == 0 && r.N < 2:
		return wordOneTrial
	case r.Confidence == 0:
		return wordFewTrials
	case r.Confidence < confidence:
		return wordUndecided
	case !r.Excludes(1):
		return wordSame
	case (r.Estimate < 1) == higherIsBetter:
		return wordSlower
	}
	return wordFaster
}

// verdicts judges every line of every stratum and measure.
func (e estimator) verdicts() []Verdict {
	var out []Verdict
	for _, s := range e.strata {
		for _, m := range e.measures() {
			for _, line := range e.lines {
				out = append(out, e.lineVerdicts(s, m, line)...)
			}
		}
	}
	return out
}

func (e estimator) lineVerdicts(in Stratum, m measure, line Line) []Verdict {
	g := e.largest(in, m.workload, line)
	if g == nil {
		return nil
	}
	s := e.summary(g, m.metric)
	v := Verdict{point: g.point, Scenario: in.String(), Workload: m.workload, Metric: m.metric, Measure: m.name, Arm: line.String(), Policies: g.policies}
	var out []Verdict
	if g.policies > 0 && e.groups[point{in, m.workload, line, 0}] != nil {
		v.Against, v.Ratio = line.String(), s.VsZero
		v.Word, v.Decides = word(v.Ratio, m.higherIsBetter, e.confidence), e.need(v.Ratio)
		out = append(out, v)
	}
	if ref, ok := e.against(g, e.ref); ok && line != ref && e.groups[point{in, m.workload, ref, 0}] != nil {
		v.Against, v.Ratio = ref.String(), s.VsReference
		v.Word, v.Decides = word(v.Ratio, m.higherIsBetter, e.confidence), e.need(v.Ratio)
		out = append(out, v)
	}
	return out
}

// largest is the group of a line with the most policies.
func (e estimator) largest(s Stratum, workload string, line Line) *group {
	var out *group
	for _, g := range e.sorted(s, workload) {
		if g.line == line {
			out = g
		}
	}
	return out
}

// overviewTable is the verdicts of a scenario and kind of comparison: a line an
// arm, a column a measure.
type overviewTable struct {
	Title    string
	Measures []string
	Rows     []overviewRow
	Folded   bool // the comparison with the reference, of second rank
}

type overviewRow struct {
	Arm   string
	N     int
	Cells []overviewCell
}

type overviewCell struct{ Word, Ratio, Class string }

// overviewPart is what "At a glance" says of one scenario.
type overviewPart struct {
	Name     string
	Sentence string // its verdicts in words, "" if no arm has both N = 0 and more
	Tables   []overviewTable
}

// overview arranges verdicts for reading.
func (e estimator) overview(verdicts []Verdict) []overviewPart {
	var out []overviewPart
	for _, s := range e.strata {
		var own, others []Verdict
		for _, v := range verdicts {
			switch {
			case v.point.stratum != s:
			case v.Against == v.Arm:
				own = append(own, v)
			default:
				others = append(others, v)
			}
		}
		g := overviewPart{Name: s.String(), Sentence: sentence(s, own)}
		if len(own) > 0 {
			g.Tables = append(g.Tables, e.overviewTable("Most policies against none", own))
		}
		if len(others) > 0 {
			t := e.overviewTable("Against "+e.ref+" without policies", others)
			t.Folded = len(own) > 0
			g.Tables = append(g.Tables, t)
		}
		if len(g.Tables) > 0 {
			out = append(out, g)
		}
	}
	return out
}

func (e estimator) overviewTable(title string, verdicts []Verdict) overviewTable {
	t := overviewTable{Title: title}
	for _, m := range e.measures() {
		t.Measures = append(t.Measures, fmt.Sprintf("%s (%s)", m.name, m.workload))
	}
	for _, line := range e.lines {
		row := overviewRow{Arm: line.String(), Cells: make([]overviewCell, len(t.Measures))}
		found := false
		for _, v := range verdicts {
			if v.point.line == line {
				i := slices.Index(t.Measures, fmt.Sprintf("%s (%s)", v.Measure, v.Workload))
				row.Cells[i], row.N, found = e.cellOf(v), v.Policies, true
			}
		}
		if found {
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func (e estimator) cellOf(v Verdict) overviewCell {
	c := overviewCell{Word: v.Word, Class: classOf(v.Word)}
	if v.Ratio == nil {
		return c
	}
	c.Ratio = v.behind(ratioWithInterval(v.Ratio, e.confidence))
	return c
}

// sentence says in words what more policies did in a stratum: arms with the
// same verdicts share a phrase.
func sentence(s Stratum, verdicts []Verdict) string {
	var arms []string
	most := 0
	of := map[string][]Verdict{}
	for _, v := range verdicts {
		if of[v.Arm] == nil {
			arms = append(arms, v.Arm)
		}
		of[v.Arm] = append(of[v.Arm], v)
		most = max(most, v.Policies)
	}
	if len(arms) == 0 {
		return ""
	}
	var phrases []string
	sharing := map[string][]string{}
	for _, arm := range arms {
		p := phrase(of[arm])
		if sharing[p] == nil {
			phrases = append(phrases, p)
		}
		sharing[p] = append(sharing[p], arm)
	}
	for i, p := range phrases {
		phrases[i] = list(sharing[p]) + " " + p
	}
	return fmt.Sprintf("On %s, from N = 0 to N = %d: %s.", s, most, strings.Join(phrases, "; "))
}

// phrase is the verdicts of one arm: "slower in throughput (×0.608)".
func phrase(verdicts []Verdict) string {
	var words []string
	measures := map[string][]string{}
	for _, v := range verdicts {
		if measures[v.Word] == nil {
			words = append(words, v.Word)
		}
		m := v.Measure
		if c := classOf(v.Word); c == "slower" || c == "faster" {
			m += " (×" + ratio(v.Ratio.Estimate) + ")"
		} else if c == "unknown" && v.Decides != nil {
			m += " (" + v.Decides.String() + ")"
		}
		measures[v.Word] = append(measures[v.Word], m)
	}
	var parts []string
	for _, w := range words {
		in := " in "
		if classOf(w) == "unknown" {
			in = " for "
		}
		parts = append(parts, w+in+list(measures[w]))
	}
	return strings.Join(parts, ", ")
}

func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// classOf is how a verdict is coloured.
func classOf(word string) string {
	switch word {
	case wordSlower:
		return "slower"
	case wordFaster:
		return "faster"
	case wordSame:
		return "same"
	}
	return "unknown"
}
