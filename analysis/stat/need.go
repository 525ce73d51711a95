package stat

import (
	"fmt"
	"math"
	"sort"
	"strings"

	"gonum.org/v1/gonum/stat/distuv"
)

// Bounds of a Need: what its number is.
const (
	NeedAbout   = "about"     // N values decide, if they spread as the measured ones do
	NeedAtLeast = "at least"  // the spread is not known; N is the fewest that the method takes
	NeedMore    = "more than" // N is MaxNeed, and it takes more
	NeedNone    = "no number" // the estimate equals a ratio that it must be distinguished from
)

// MaxNeed is the largest number of values that a Need names.
const MaxNeed = 1000

// needPower is the probability that the planned number of values decides.
const needPower = 0.8

// Units of a Need: what its values are.
const (
	NeedTrials = "trials a cell"
	NeedBlocks = "blocks"
	NeedSeeds  = "seeds"
)

// Need is the number of values that would decide what an interval leaves
// undecided: the values of either cell in total, with those already measured.
type Need struct {
	N     int    `json:"n"` // 0 for NeedNone
	Bound string `json:"bound"`
	Of    string `json:"of"`
}

// String is the need as a clause for reports.
func (n Need) String() string {
	switch n.Bound {
	case NeedNone:
		return "no number of " + strings.TrimSuffix(n.Of, " a cell") + " like these would decide"
	case NeedAbout:
		return fmt.Sprintf("about %d %s would decide", n.N, n.Of)
	}
	return fmt.Sprintf("it takes %s %d %s", n.Bound, n.N, n.Of)
}

// Finite reports whether some number of values up to MaxNeed would decide.
func (n Need) Finite() bool { return n.Bound == NeedAbout || n.Bound == NeedAtLeast }

// Above reports whether n takes more values than other; both are of one unit.
func (n Need) Above(other Need) bool {
	rank := func(n Need) int {
		switch n.Bound {
		case NeedNone:
			return MaxNeed + 2
		case NeedMore:
			return MaxNeed + 1
		}
		return n.N
	}
	return rank(n) > rank(other)
}

// Question is what the interval of a ratio must decide.
type Question struct {
	Confidence float64   // that the interval must have, 0..1
	Of         string    // the unit: NeedTrials, NeedBlocks or NeedSeeds
	Apart      []float64 // ratios that must all lie outside the interval; nil = 1
	Least      int       // the fewest values to plan with; 0 = the method's own
}

// Needed plans the number of values with which the interval of a ratio would
// answer a question in 8 of 10 runs, if effect and spread stay as they were seen
// (the sample size formula of a t test on logs: Julious 2010, Sample Sizes for
// Clinical Trials, chapter 3): the smallest n with
// (t(confidence) + t(0.8)) s/sqrt(n) <= d. d is the distance of the estimate's
// logarithm from the nearest ratio of q.Apart. s is the standard deviation of one
// value, computed back from the interval: its half width on the logs over the
// quantile of its method, times sqrt(n). An estimate of spread from a few values
// is itself uncertain, and so is n.
func (e Estimate) Needed(q Question) Need {
	out := Need{N: max(q.least(e.Method), e.N+1), Bound: NeedAtLeast, Of: q.Of}
	distance := q.distance(e.Estimate)
	switch each := e.spreadOfOne(); {
	case !(distance > 1e-9): // none, or NaN
		return Need{Bound: NeedNone, Of: q.Of}
	case !(each > 0):
		return out
	default:
		// More values never have a wider interval, so halving finds the first.
		out.Bound = NeedAbout
		out.N += sort.Search(MaxNeed+1-out.N, func(more int) bool {
			n := out.N + more
			t := quantileOf(methodAt(e.Method, n), n)
			return (t((1+q.Confidence)/2)+t(needPower))*each/math.Sqrt(float64(n)) <= distance
		})
	}
	if out.N > MaxNeed {
		return Need{N: MaxNeed, Bound: NeedMore, Of: q.Of}
	}
	return out
}

// distance is the distance of a ratio's logarithm from the nearest one of Apart;
// NaN if the ratio has no logarithm.
func (q Question) distance(ratio float64) float64 {
	apart := q.Apart
	if len(apart) == 0 {
		apart = []float64{1}
	}
	nearest := math.Inf(1)
	for _, a := range apart {
		nearest = min(nearest, math.Abs(math.Log(ratio/a)))
	}
	if math.IsInf(nearest, 0) {
		return math.NaN()
	}
	return nearest
}

// least is the smallest number of values to plan with.
func (q Question) least(method string) int {
	if q.Least > 0 {
		return q.Least
	}
	switch method {
	case MethodExtremes, MethodPercentile:
		return MinRatioBootstrap
	case MethodBootstrapT:
		return MinFasterHalf
	}
	return 2
}

// methodAt is the method of the interval of n values, given that of fewer.
func methodAt(method string, n int) string {
	if method == MethodExtremes && n >= MinRatioBootstrap {
		return MethodPercentile
	}
	return method
}

// quantileOf are the quantiles of an estimate's error over its standard error.
func quantileOf(method string, n int) func(p float64) float64 {
	df := float64(n - 1)
	switch method {
	case MethodPercentile:
		return distuv.UnitNormal.Quantile
	case MethodWelch:
		df *= 2
	case MethodBootstrapT: // of the faster half
		df = float64((n+1)/2 - 1)
	}
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: df}.Quantile
}

// spreadOfOne is the standard error of the ratio's logarithm that one value of
// each cell would give; 0 if the interval does not show it.
func (e Estimate) spreadOfOne() float64 {
	half := math.Log(e.High/e.Low) / 2
	if e.Confidence <= 0 || e.Confidence >= 1 || e.N < 2 || !(half > 0) || math.IsInf(half, 1) {
		return 0
	}
	if e.Method == MethodExtremes {
		// Both cells' ranges add up to twice half. Ratios of medians: a median's
		// standard error is sqrt(pi/2) of a mean's if values are normal.
		return half / meanRange(e.N) * math.Sqrt(2*math.Pi/2)
	}
	return half / quantileOf(e.Method, e.N)((1+e.Confidence)/2) * math.Sqrt(float64(e.N))
}

// meanRange is the mean range of n standard normal values (Tippett 1925), for
// samples so small that their only interval is that of their extremes.
func meanRange(n int) float64 {
	table := []float64{1.128, 1.693, 2.059, 2.326}
	return table[min(max(n-2, 0), len(table)-1)]
}
