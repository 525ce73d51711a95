package report

import (
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// Verdict is one judged comparison: an arm at its largest N against itself at
// N = 0, or against the reference arm.
type Verdict struct {
	Scenario string         `json:"scenario"`
	Workload string         `json:"workload"`
	Metric   string         `json:"metric"`
	Measure  string         `json:"measure"` // "throughput"
	Arm      string         `json:"arm"`
	Policies int            `json:"policies"`
	Against  string         `json:"against"` // arm at N = 0
	Ratio    *stat.Estimate `json:"ratio"`
	Word     string         `json:"word"`
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
func word(r *stat.Estimate, higherIsBetter bool, confidence float64) string {
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
func (e *estimator) verdicts() []Verdict {
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

func (e *estimator) lineVerdicts(in Stratum, m measure, line Line) []Verdict {
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
func (e *estimator) largest(s Stratum, workload string, line Line) *group {
	var out *group
	for _, g := range e.sorted(s, workload) {
		if g.line == line {
			out = g
		}
	}
	return out
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

// need is how many trials, blocks or seeds would decide what a ratio leaves open;
// nil where it is decided, or there is no ratio.
func (e *estimator) need(r *stat.Estimate) *stat.Need {
	if r == nil || r.Confidence >= e.confidence && r.Excludes(1) {
		return nil
	}
	q := stat.Question{Confidence: e.confidence, Of: stat.NeedTrials}
	switch {
	case e.clock() == runs.ClockVirtual: // only seeds vary
		q.Of, q.Least = stat.NeedSeeds, runs.MinSeeds
	case r.Method == stat.MethodPaired:
		q.Of, q.Least = stat.NeedBlocks, runs.MinBlocks
	}
	n := r.Needed(q)
	return &n
}

// behind puts how many trials would decide a verdict behind a text.
func (v Verdict) behind(text string) string { return withNeed(text, v.Word, v.Decides) }

// withNeed puts how many trials would decide a word behind a text. What cannot be
// distinguished carries it only where there is such a number.
func withNeed(text, word string, n *stat.Need) string {
	if n == nil || word == wordSame && !n.Finite() {
		return text
	}
	return text + "; " + n.String()
}

// verdict is a ratio's word with how many trials would decide it.
func (e *estimator) verdict(r *stat.Estimate, higherIsBetter bool) string {
	w := word(r, higherIsBetter, e.confidence)
	return withNeed(w, w, e.need(r))
}
