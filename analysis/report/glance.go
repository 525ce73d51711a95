package report

import (
	"fmt"
	"slices"
	"strings"
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
}

// Words of a verdict. "Seems" marks an interval that excludes 1 but has less
// confidence than was asked for.
const (
	wordSlower      = "slower"
	wordFaster      = "faster"
	wordSame        = "not distinguishable"
	wordNoInterval  = "one trial, no interval"
	wordNoNumber    = "no valid number"
	wordSeemsPrefix = "seems "
)

// word judges a ratio only by its interval.
func word(r *Interval, higherIsBetter bool, confidence float64) string {
	switch {
	case r == nil:
		return wordNoNumber
	case r.Confidence == 0:
		return wordNoInterval
	case !r.Excludes(1):
		return wordSame
	}
	w := wordFaster
	if (r.Estimate < 1) == higherIsBetter {
		w = wordSlower
	}
	if r.Confidence < confidence {
		return wordSeemsPrefix + w
	}
	return w
}

// verdicts judges every arm of every scenario and headline measure.
func (e estimator) verdicts() []Verdict {
	var out []Verdict
	for _, s := range e.scenarios {
		for _, m := range e.measures() {
			for _, arm := range e.arms {
				out = append(out, e.armVerdicts(s, m, arm)...)
			}
		}
	}
	return out
}

func (e estimator) armVerdicts(scenario string, m measure, arm string) []Verdict {
	g := e.largest(scenario, m.workload, arm)
	if g == nil {
		return nil
	}
	s := e.summary(g, m.metric)
	v := Verdict{Scenario: scenario, Workload: m.workload, Metric: m.metric, Measure: m.name, Arm: arm, Policies: g.policies}
	var out []Verdict
	if g.policies > 0 && e.groups[point{scenario, m.workload, arm, 0}] != nil {
		v.Against, v.Ratio = arm, s.VsZero
		v.Word = word(v.Ratio, m.higherIsBetter, e.confidence)
		out = append(out, v)
	}
	if e.ref != "" && arm != e.ref && e.groups[point{scenario, m.workload, e.ref, 0}] != nil {
		v.Against, v.Ratio = e.ref, s.VsReference
		v.Word = word(v.Ratio, m.higherIsBetter, e.confidence)
		out = append(out, v)
	}
	return out
}

// largest is the group of an arm with the most policies.
func (e estimator) largest(scenario, workload, arm string) *group {
	var out *group
	for _, g := range e.sorted(scenario, workload) {
		if g.arm == arm {
			out = g
		}
	}
	return out
}

// glanceLine is one sentence of "At a glance".
type glanceLine struct {
	Scenario string
	Lead     string // "throughput (TCP_STREAM)"
	Items    []glanceItem
}

type glanceItem struct {
	Arm, Word, Ratio, Class string
	N                       int
}

// glance groups verdicts into sentences: one a scenario, measure and kind of
// comparison.
func glance(verdicts []Verdict) []glanceLine {
	var out []glanceLine
	index := map[string]int{}
	for _, v := range verdicts {
		lead := fmt.Sprintf("%s (%s)", v.Measure, v.Workload)
		if v.Against == v.Arm {
			lead += ", most policies against none"
		} else {
			lead += ", against " + v.Against + " with none"
		}
		key := v.Scenario + "\x00" + lead
		i, ok := index[key]
		if !ok {
			i = len(out)
			index[key] = i
			out = append(out, glanceLine{Scenario: v.Scenario, Lead: lead})
		}
		out[i].Items = append(out[i].Items, itemOf(v))
	}
	slices.SortStableFunc(out, func(a, b glanceLine) int {
		return strings.Compare(kind(a), kind(b)) // the study's own question first
	})
	return byScenario(out)
}

func kind(l glanceLine) string {
	if strings.HasSuffix(l.Lead, "most policies against none") {
		return "a"
	}
	return "b"
}

func byScenario(lines []glanceLine) []glanceLine {
	var order []string
	for _, l := range lines {
		if !slices.Contains(order, l.Scenario) {
			order = append(order, l.Scenario)
		}
	}
	slices.SortStableFunc(lines, func(a, b glanceLine) int {
		return slices.Index(order, a.Scenario) - slices.Index(order, b.Scenario)
	})
	return lines
}

func itemOf(v Verdict) glanceItem {
	it := glanceItem{Arm: v.Arm, Word: v.Word, N: v.Policies, Class: classOf(v.Word)}
	if v.Ratio != nil {
		it.Ratio = ratioWithInterval(*v.Ratio)
		if v.Ratio.Confidence > 0 {
			it.Ratio = strings.TrimSuffix(it.Ratio, ")") + ", " + stated(*v.Ratio) + ")"
		}
	}
	return it
}

// classOf is how a verdict is coloured.
func classOf(word string) string {
	switch strings.TrimPrefix(word, wordSeemsPrefix) {
	case wordSlower:
		return "slower"
	case wordFaster:
		return "faster"
	case wordSame:
		return "same"
	}
	return "unknown"
}

// text is a line without markup.
func (l glanceLine) text() string {
	var parts []string
	for _, it := range l.Items {
		parts = append(parts, it.text())
	}
	return l.Scenario + ": " + l.Lead + ": " + strings.Join(parts, "; ")
}

func (it glanceItem) text() string {
	s := fmt.Sprintf("%s at N = %d %s", it.Arm, it.N, it.Word)
	if it.Ratio != "" {
		s += " " + it.Ratio
	}
	return s
}
