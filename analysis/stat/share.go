package stat

import (
	"math"
	"slices"
)

// MinHalfShare is the number of values from which on FasterHalfShare has its
// stated confidence whatever the shape of the values; below, it is Rough.
const MinHalfShare = 12

// Shares: a contrast between the first and the last of several arms is split
// into steps. The share of the step between two of them is
// log(arms[from]/arms[to]) over log(arms[0]/arms[last]), so the shares of all
// steps add up to 1. A share has no confidence where the interval of the contrast
// itself includes 0, since any share would then be possible.

// PairedShare is a share of arms measured in the same blocks or seeds:
// arms[k][i] is arm k in block i. The estimate is the ratio of the two mean
// logs, its interval Fieller's (1954), which allows for their being correlated.
// NaN unless all arms are of one length and positive.
func PairedShare(arms [][]float64, from, to int, confidence float64) Estimate {
	part, all := pairedLogs(arms[from], arms[to]), pairedLogs(arms[0], arms[len(arms)-1])
	e := Estimate{N: len(all), Method: MethodFieller, Rough: len(all) < MinPairs}
	e.Estimate = Mean(part) / Mean(all)
	e.Low, e.High = e.Estimate, e.Estimate
	if len(part) < 2 || len(part) != len(all) {
		return e
	}
	p, a := logDifference(part, MethodPaired), logDifference(all, MethodPaired)
	if p.se == 0 && a.se == 0 && p.df < 2 {
		return e
	}
	q := quotient{p.est, a.est, p.se * p.se, a.se * a.se, covarianceOfMeans(part, all)}
	return q.interval(e, p.quantile((1+confidence)/2), confidence)
}

func covarianceOfMeans(x, y []float64) float64 {
	mx, my, sum := Mean(x), Mean(y), 0.0
	for i := range x {
		sum += (x[i] - mx) * (y[i] - my)
	}
	n := float64(len(x))
	return sum / (n - 1) / n
}

// quotient is part over all with the covariance of the two.
type quotient struct{ part, all, varPart, varAll, cov float64 }

// interval is Fieller's: every share whose contrast part - share all is within
// t standard errors of 0. If these shares are not an interval, it is e unchanged.
func (q quotient) interval(e Estimate, t, confidence float64) Estimate {
	t *= t
	a, b, c := q.all*q.all-t*q.varAll, q.part*q.all-t*q.cov, q.part*q.part-t*q.varPart
	if !(a > 0) {
		return e
	}
	root := math.Sqrt(max(0, b*b-a*c))
	e.Low, e.High, e.Confidence = (b-root)/a, (b+root)/a, confidence
	return e
}

// Share is a share of arms measured independently, of their medians. From
// MinRatioBootstrap values of each arm on, its interval is a percentile bootstrap
// that resamples all arms. Below, it spans the share at every corner of the arms'
// extremes; its confidence is the probability that these enclose the medians of
// all arms that the share depends on. NaN if an arm is empty or has a value <= 0.
func (b Bootstrap) Share(arms [][]float64, from, to int, confidence float64) Estimate {
	e := Estimate{Estimate: math.NaN(), Low: math.NaN(), High: math.NaN(), N: len(arms[0]), Method: MethodPercentile}
	for _, x := range arms {
		if e.N = min(e.N, len(x)); len(x) == 0 || slices.Min(x) <= 0 {
			return e
		}
	}
	e.Estimate = shareOf(len(arms), from, to, func(i int) float64 { return Median(arms[i]) })
	e.Low, e.High = e.Estimate, e.Estimate
	if e.N < MinRatioBootstrap {
		return cornerShare(e, arms, from, to)
	}
	shares, all := b.shares(arms, from, to)
	tail := (1 - confidence) / 2
	if quantile(all, tail) > 0 || quantile(all, 1-tail) < 0 {
		e.Low, e.High, e.Confidence = quantile(shares, tail), quantile(shares, 1-tail), confidence
	}
	return e
}

// shares are the share and the log of the whole contrast in each resample, both
// in ascending order.
func (b Bootstrap) shares(arms [][]float64, from, to int) (shares, all []float64) {
	rng, at, draws := b.rand(), make([]float64, len(arms)), make([]*resampler, len(arms))
	for k, x := range arms {
		draws[k] = newResampler(x)
	}
	shares, all = make([]float64, b.resamples()), make([]float64, b.resamples())
	for i := range shares {
		for k, d := range draws {
			at[k] = sortedMedian(d.draw(rng))
		}
		shares[i] = shareOf(len(arms), from, to, func(k int) float64 { return at[k] })
		all[i] = math.Log(at[0] / at[len(at)-1])
	}
	slices.Sort(shares)
	slices.Sort(all)
	return shares, all
}

// shareOf is the share of the step from -> to of arms whose values are at(arm).
func shareOf(arms, from, to int, at func(int) float64) float64 {
	return math.Log(at(from)/at(to)) / math.Log(at(0)/at(arms-1))
}

// cornerShare spans the share at every corner of the arms' extremes: a quotient
// of linear terms is monotone between corners.
func cornerShare(e Estimate, arms [][]float64, from, to int) Estimate {
	last := len(arms) - 1
	confidence, low, high := 1.0, math.Inf(1), math.Inf(-1)
	for k, x := range arms {
		if k == 0 || k == last || k == from || k == to {
			confidence *= orderCoverage(len(x), 1)
		}
	}
	positive, negative := false, false
	for corner := range 1 << len(arms) {
		at := func(i int) float64 {
			if corner>>i&1 == 1 {
				return slices.Max(arms[i])
			}
			return slices.Min(arms[i])
		}
		all, v := math.Log(at(0)/at(last)), shareOf(len(arms), from, to, at)
		positive, negative = positive || all >= 0, negative || all <= 0
		low, high = min(low, v), max(high, v)
	}
	e.Method = MethodExtremes
	if confidence > 0 && positive != negative {
		e.Low, e.High, e.Confidence = low, high, confidence
	}
	return e
}

// halves are the logs of the faster halves of several arms with their variances.
type halves struct{ log, variance []float64 }

func halvesOf(arms [][]float64, higherIsFaster bool) halves {
	h := halves{make([]float64, len(arms)), make([]float64, len(arms))}
	for k, x := range arms {
		h.set(k, fasterFirst(x, higherIsFaster))
	}
	return h
}

// set sets arm k from its values, the faster ones first.
func (h halves) set(k int, sorted []float64) {
	m, se := halfWithError(sorted)
	h.log[k], h.variance[k] = math.Log(math.Abs(m)), se*se/(m*m)
}

// contrast is a sum of the logs, each times its weight, with its variance.
func (h halves) contrast(weights []float64) (sum, variance float64) {
	for k, w := range weights {
		sum, variance = sum+w*h.log[k], variance+w*w*h.variance[k]
	}
	return sum, variance
}

// atLeast raises each variance of a resample to the limit that leastError sets
// by the sample's variance.
func (h halves) atLeast(sample halves) {
	for k, v := range sample.variance {
		h.variance[k] = max(h.variance[k], leastError*leastError*v)
	}
}

// critical replaces the quantile of Student's t for a contrast of faster halves:
// it is the quantile of the contrast's own absolute studentized bootstrap
// distribution (Hall 1988), 0 if no arm has any spread.
func (b Bootstrap) critical(arms [][]float64, higherIsFaster bool, h halves, weights []float64, confidence float64) float64 {
	observed, _ := h.contrast(weights)
	rng, reps, draws := b.rand(), make([]float64, 0, b.resamples()), make([]*resampler, len(arms))
	for k, x := range arms {
		draws[k] = newResampler(lowerIsFaster(x, higherIsFaster))
	}
	again := halves{make([]float64, len(arms)), make([]float64, len(arms))}
	for range b.resamples() {
		for k, d := range draws {
			again.set(k, d.draw(rng))
		}
		again.atLeast(h)
		if sum, variance := again.contrast(weights); variance > 0 {
			reps = append(reps, math.Abs(sum-observed)/math.Sqrt(variance))
		}
	}
	if len(reps) == 0 {
		return 0
	}
	slices.Sort(reps)
	return quantile(reps, confidence)
}

// FasterHalfRatio is the ratio of two independent samples' faster halves, num
// over den, with a symmetric bootstrap t interval of its log. ok is false below
// MinFasterHalf values on either side, and if a value is not positive.
func (b Bootstrap) FasterHalfRatio(num, den []float64, higherIsFaster bool, confidence float64) (e Estimate, ok bool) {
	arms := [][]float64{num, den}
	if !enoughForHalves(arms) {
		return Estimate{}, false
	}
	h, weights := halvesOf(arms, higherIsFaster), []float64{1, -1}
	est, variance := h.contrast(weights)
	half := b.critical(arms, higherIsFaster, h, weights, confidence) * math.Sqrt(variance)
	return Estimate{Estimate: math.Exp(est), Low: math.Exp(est - half), High: math.Exp(est + half), Confidence: confidence,
		N: min(len(num), len(den)), Method: MethodBootstrapT}.bounded(), true
}

// FasterHalfShare is a share of arms measured independently, of their faster
// halves: Fieller's interval, with the bootstrap quantile of FasterHalfRatio
// instead of that of Student's t. ok is as there.
func (b Bootstrap) FasterHalfShare(arms [][]float64, from, to int, higherIsFaster bool, confidence float64) (e Estimate, ok bool) {
	if !enoughForHalves(arms) {
		return Estimate{}, false
	}
	h, last := halvesOf(arms, higherIsFaster), len(arms)-1
	part, all, both := make([]float64, len(arms)), make([]float64, len(arms)), make([]float64, len(arms))
	part[from]++
	part[to]--
	all[0]++
	all[last]--
	var q quotient
	q.part, q.varPart = h.contrast(part)
	q.all, q.varAll = h.contrast(all)
	for k := range arms {
		q.cov += part[k] * all[k] * h.variance[k]
		both[k] = part[k] - q.part/q.all*all[k]
	}
	e = Estimate{Estimate: q.part / q.all, N: len(arms[0]), Method: MethodBootstrapT}
	for _, x := range arms {
		e.N = min(e.N, len(x))
	}
	e.Low, e.High, e.Rough = e.Estimate, e.Estimate, e.N < MinHalfShare
	return q.interval(e, b.critical(arms, higherIsFaster, h, both, confidence), confidence), true
}

func enoughForHalves(arms [][]float64) bool {
	return !slices.ContainsFunc(arms, func(x []float64) bool { return len(x) < MinFasterHalf || slices.Min(x) <= 0 })
}
