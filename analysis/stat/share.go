package stat

import "math"

// PairedShare is the part of a contrast that one of its steps makes, on a
// logarithmic scale: log(arms[from]/arms[to]) over log(arms[0]/arms[last]).
// arms[k][i] is arm k in block i. The estimate is the ratio of the two mean
// logs, its interval Fieller's (1954), which allows for their being correlated.
// Without confidence where the contrast itself is not told from nothing, since
// then any share would do. NaN unless all arms are of one length and positive.
func PairedShare(arms [][]float64, from, to int, confidence float64) Estimate {
	part, all := pairedLogs(arms[from], arms[to]), pairedLogs(arms[0], arms[len(arms)-1])
	e := Estimate{N: len(all), Method: MethodFieller, Rough: len(all) < MinPairs}
	e.Estimate = Mean(part) / Mean(all)
	e.Low, e.High = e.Estimate, e.Estimate
	if len(part) < 2 || len(part) != len(all) {
		return e
	}
	p, a := logDifference(part, MethodPaired), logDifference(all, MethodPaired)
	if p.se == 0 && a.se == 0 {
		if p.df >= 2 && a.est != 0 {
			e.Confidence = confidence
		}
		return e
	}
	t := p.quantile((1 + confidence) / 2)
	A, B, C := a.est*a.est-t*t*a.se*a.se, p.est*a.est-t*t*covarianceOfMeans(part, all), p.est*p.est-t*t*p.se*p.se
	if A <= 0 || a.se == 0 && a.est == 0 {
		return e
	}
	root := math.Sqrt(max(0, B*B-A*C))
	e.Low, e.High, e.Confidence = (B-root)/A, (B+root)/A, confidence
	return e
}

func covarianceOfMeans(x, y []float64) float64 {
	mx, my, sum := Mean(x), Mean(y), 0.0
	for i := range x {
		sum += (x[i] - mx) * (y[i] - my)
	}
	n := float64(len(x))
	return sum / (n - 1) / n
}

// Share is PairedShare for arms measured independently, each given with its
// interval. The interval of the share spans what it is at every corner of
// theirs: between corners a quotient of linear terms is monotone. It holds with
// at least the product of the confidences of the arms that it depends on.
// Without confidence if an arm has none, or if the contrast can vanish.
func Share(arms []Estimate, from, to int) Estimate {
	last := len(arms) - 1
	e := Estimate{Estimate: shareOf(arms, from, to, func(i int) float64 { return arms[i].Estimate }), N: arms[0].N, Method: MethodExtremes}
	e.Low, e.High = e.Estimate, e.Estimate
	confidence, low, high := 1.0, math.Inf(1), math.Inf(-1)
	positive, negative := false, false
	for i, a := range arms {
		if e.N = min(e.N, a.N); i == 0 || i == last || i == from || i == to {
			confidence *= a.Confidence
		}
		if !(a.Low > 0) {
			return e
		}
	}
	for corner := range 1 << len(arms) {
		at := func(i int) float64 {
			if corner>>i&1 == 1 {
				return arms[i].High
			}
			return arms[i].Low
		}
		all := math.Log(at(0) / at(last))
		positive, negative = positive || all >= 0, negative || all <= 0
		v := shareOf(arms, from, to, at)
		low, high = min(low, v), max(high, v)
	}
	if confidence > 0 && positive != negative {
		e.Low, e.High, e.Confidence = low, high, confidence
	}
	return e
}

func shareOf(arms []Estimate, from, to int, at func(int) float64) float64 {
	return math.Log(at(from)/at(to)) / math.Log(at(0)/at(len(arms)-1))
}
