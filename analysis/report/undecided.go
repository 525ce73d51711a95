package report

import (
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// need is how many trials, blocks or seeds would decide what a ratio leaves open;
// nil where it is decided, or there is no ratio.
func (e estimator) need(r *Interval) *stat.Need {
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
func (e estimator) verdict(r *Interval, higherIsBetter bool) string {
	w := word(r, higherIsBetter, e.confidence)
	return withNeed(w, w, e.need(r))
}
