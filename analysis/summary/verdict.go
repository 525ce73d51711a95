package summary

import (
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// Verdict is one judged comparison: an arm at its largest N against itself at
// N = 0, or against the reference arm.
type Verdict struct {
	Scenario string         `json:"scenario"` // name of the stratum
	Workload string         `json:"workload"`
	Metric   string         `json:"metric"`
	Measure  string         `json:"measure"` // "throughput"
	Arm      string         `json:"arm"`     // name of the line
	Policies int            `json:"policies"`
	Against  string         `json:"against"` // line at N = 0
	Ratio    *stat.Estimate `json:"ratio"`
	Word     string         `json:"word"` // Slower, Faster, Same, or what is undecided
	// Decides is how many trials, blocks or seeds would decide what is undecided or
	// not distinguishable.
	Decides *stat.Need `json:"decides,omitempty"`

	Point Point `json:"-"` // that is judged
}

// Words of a verdict. An interval with less confidence than wanted decides nothing,
// even where it excludes 1.
const (
	Slower        = "slower"
	Faster        = "faster"
	Same          = "not distinguishable"
	Undecided     = "undecided"
	wordOneTrial  = "undecided (one trial)"
	wordFewTrials = "undecided (too few trials)"
	wordNoNumber  = "no valid number"
)

// Word judges a ratio by its interval alone: it gives no direction below the
// confidence wanted.
func Word(r *stat.Estimate, higherIsBetter bool, confidence float64) string {
	switch {
	case r == nil:
		return wordNoNumber
	case r.Confidence == 0 && r.N < 2:
		return wordOneTrial
	case r.Confidence == 0:
		return wordFewTrials
	case r.Confidence < confidence:
		return Undecided
	case !r.Excludes(1):
		return Same
	case (r.Estimate < 1) == higherIsBetter:
		return Slower
	}
	return Faster
}

// Verdicts judges every line of every stratum and measure.
func (e *Estimator) Verdicts() []Verdict {
	var out []Verdict
	for _, s := range e.Strata {
		for _, m := range e.Measures() {
			for _, line := range e.Lines {
				out = append(out, e.lineVerdicts(s, m, line)...)
			}
		}
	}
	return out
}

func (e *Estimator) lineVerdicts(in Stratum, m Measure, line Line) []Verdict {
	g := e.Largest(in, m.Workload, line)
	if g == nil {
		return nil
	}
	s := e.Summary(g, m.Metric)
	v := Verdict{Point: g.Point, Scenario: in.String(), Workload: m.Workload, Metric: m.Metric, Measure: m.Name, Arm: line.String(), Policies: g.N}
	var out []Verdict
	if g.N > 0 && e.groups[Point{in, m.Workload, line, 0}] != nil {
		v.Against, v.Ratio = line.String(), s.VsZero
		v.Word, v.Decides = Word(v.Ratio, m.HigherIsBetter, e.Confidence), e.Need(v.Ratio)
		out = append(out, v)
	}
	if ref, ok := e.against(g, e.Reference); ok && line != ref && e.groups[Point{in, m.Workload, ref, 0}] != nil {
		v.Against, v.Ratio = ref.String(), s.VsReference
		v.Word, v.Decides = Word(v.Ratio, m.HigherIsBetter, e.Confidence), e.Need(v.Ratio)
		out = append(out, v)
	}
	return out
}

// Largest is the group of a line with the most policies, nil if there is none.
func (e *Estimator) Largest(s Stratum, workload string, line Line) *Group {
	var out *Group
	for _, g := range e.Ordered(s, workload) {
		if g.Line == line {
			out = g
		}
	}
	return out
}

// Class is the CSS class of a verdict's word: "slower", "faster", "same" or "unknown".
func Class(word string) string {
	switch word {
	case Slower:
		return "slower"
	case Faster:
		return "faster"
	case Same:
		return "same"
	}
	return "unknown"
}

// Need is how many trials, blocks or seeds would decide what a ratio leaves open;
// nil where it is decided, or there is no ratio.
func (e *Estimator) Need(r *stat.Estimate) *stat.Need {
	if r == nil || r.Confidence >= e.Confidence && r.Excludes(1) {
		return nil
	}
	q := stat.Question{Confidence: e.Confidence, Of: stat.NeedTrials}
	switch {
	case e.Clock() == runs.ClockVirtual: // only seeds vary
		q.Of, q.Least = stat.NeedSeeds, runs.MinSeeds
	case r.Method == stat.MethodPaired:
		q.Of, q.Least = stat.NeedBlocks, runs.MinBlocks
	}
	n := r.Needed(q)
	return &n
}

// WithNeed is a text followed by how many trials would decide the verdict.
func (v Verdict) WithNeed(text string) string { return WithNeed(text, v.Word, v.Decides) }

// WithNeed is a text followed by how many trials would decide a word. For what cannot
// be distinguished it is the text alone where no number of trials would.
func WithNeed(text, word string, n *stat.Need) string {
	if n == nil || word == Same && !n.Finite() {
		return text
	}
	return text + "; " + n.String()
}

// WordWithNeed is Word followed by how many trials would decide it.
func (e *Estimator) WordWithNeed(r *stat.Estimate, higherIsBetter bool) string {
	w := Word(r, higherIsBetter, e.Confidence)
	return WithNeed(w, w, e.Need(r))
}
