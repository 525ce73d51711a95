package stat

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// FalsePositives is the share of comparisons of equal arms (A/A) whose
// interval excludes 1, with its Clopper-Pearson interval (Clopper and Pearson
// 1934). Without comparisons the confidence is 0.
func FalsePositives(excluding, total int, confidence float64) Estimate {
	e := Estimate{High: 1, N: total, Method: MethodClopperPearson}
	if total <= 0 || excluding < 0 || excluding > total {
		return e
	}
	x, n, tail := float64(excluding), float64(total), (1-confidence)/2
	e.Estimate, e.Confidence = x/n, confidence
	if excluding > 0 {
		e.Low = distuv.Beta{Alpha: x, Beta: n - x + 1}.Quantile(tail)
	}
	if excluding < total {
		e.High = distuv.Beta{Alpha: x + 1, Beta: n - x}.Quantile(1 - tail)
	}
	return e
}

// NarrowEnough is the rule that ends a cell early (plan.Stop): half the
// interval's width over the estimate is at most ci. An interval of less than
// the given confidence is never narrow enough.
func NarrowEnough(e Estimate, confidence, ci float64) bool {
	return e.Confidence >= confidence && (e.High-e.Low)/2 <= ci*math.Abs(e.Estimate)
}
