// Package stat has the estimators of hookbed: cells, ratios, equivalence and
// cost models, with intervals that state their true confidence. It is pure (the
// same samples and seed give the same numbers), and it does not know runs, arms
// or metrics: it takes slices of values. Which estimator is used for what, and
// how often each interval holds the truth, is in docs/statistics.md.
package stat

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Methods of an interval, as they appear in Estimate.Method.
const (
	MethodOrder      = "order statistics"
	MethodPercentile = "percentile bootstrap"
	MethodBCa        = "BCa bootstrap"
	MethodExtremes   = "extremes"
	MethodPaired     = "paired t on logs"
	MethodWelch      = "Welch's t on logs"
	MethodLeastSq    = "t of least squares"
	MethodFieller    = "Fieller's t"
	MethodBlocks     = "t over blocks"
	MethodBootstrapT = "bootstrap t"
	MethodMedianBCa  = "smoothed BCa bootstrap"

	MethodClopperPearson = "Clopper-Pearson"
)

// Estimate is a number with an interval around it.
type Estimate struct {
	Estimate   float64 `json:"estimate"`
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	Confidence float64 `json:"confidence"` // the true confidence of the interval, 0..1; 0 = none can be given
	N          int     `json:"n"`          // number of values; for a ratio, of the smaller sample
	Method     string  `json:"method"`     // one of the Method constants
	// Rough marks an interval of few points: its confidence is right for values that
	// are normal, and too high for skewed or bimodal ones (docs/statistics.md).
	Rough bool `json:"rough,omitempty"`
}

// RoughMark follows each Rough interval wherever intervals are shown, and
// RoughNote, shown once with them, explains it.
const (
	RoughMark = "~"
	RoughNote = "An interval marked ~ rests on too few values to hold for any shape: it has its stated confidence if they are about normal, and less if they are skewed or have two modes."
)

// Excludes reports whether x lies outside the interval. An interval without
// confidence excludes nothing.
func (e Estimate) Excludes(x float64) bool {
	return e.Confidence > 0 && (x < e.Low || x > e.High)
}

// bounded takes the confidence from the interval of a positive quantity if a
// bound is not a positive finite number.
func (e Estimate) bounded() Estimate {
	if !(e.Low > 0) || !(e.High > 0) || math.IsInf(e.High, 1) {
		e.Low, e.High, e.Confidence = e.Estimate, e.Estimate, 0
	}
	return e
}

// boundedIf is bounded if the quantity is positive, else the interval as it is.
func (e Estimate) boundedIf(positive bool) Estimate {
	if positive {
		return e.bounded()
	}
	return e
}

// Median is the middle value of a sample, or the mean of the two middle values;
// NaN if the sample is empty.
func Median(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	return sortedMedian(ascending(x))
}

// sortedMedian is Median of a sample in ascending order that is not empty.
func sortedMedian(s []float64) float64 {
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return s[n/2-1]/2 + s[n/2]/2
}

// Mean is the arithmetic mean; NaN if the sample is empty.
func Mean(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	return stat.Mean(x, nil)
}

// StdDev is the sample standard deviation (n-1); NaN below two values.
func StdDev(x []float64) float64 {
	if len(x) < 2 {
		return math.NaN()
	}
	return stat.StdDev(x, nil)
}

// CoV is the coefficient of variation, standard deviation over mean; NaN below
// two values or for a mean of 0.
func CoV(x []float64) float64 {
	m := Mean(x)
	if m == 0 {
		return math.NaN()
	}
	return StdDev(x) / math.Abs(m)
}

// MedianInterval is the median with the narrowest interval between two order
// statistics x(k) and x(n+1-k) whose exact coverage reaches confidence,
// whatever the distribution (David and Nagaraja, Order Statistics, section
// 7.1). Confidence of the result is that coverage. A sample that is too small
// has the interval of its extremes with their coverage: 50 % for two values,
// none for one.
func MedianInterval(x []float64, confidence float64) Estimate {
	s := ascending(x)
	n := len(s)
	e := Estimate{Estimate: Median(s), N: n, Method: MethodOrder}
	if n == 0 {
		e.Low, e.High = math.NaN(), math.NaN()
		return e
	}
	k := 1
	for ; k+1 <= n/2 && orderCoverage(n, k+1) >= confidence; k++ {
	}
	e.Low, e.High, e.Confidence = s[k-1], s[n-k], orderCoverage(n, k)
	return e
}

// orderCoverage is the probability that the median of a continuous
// distribution lies between x(k) and x(n+1-k): 1 - 2 P(Bin(n, 1/2) < k).
func orderCoverage(n, k int) float64 {
	below := 0.0
	for i := range k {
		below += math.Exp(logChoose(n, i) - float64(n)*math.Ln2)
	}
	return max(0, 1-2*below)
}

func logChoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

// Components splits the variance of a sample that was taken in groups (the
// trials of each block) by one-way analysis of variance; both results are
// standard deviations. Between is 0 where the groups differ no more than
// their members do. Both are NaN unless there are at least two groups that are
// not empty, and one of them has at least two values.
func Components(groups [][]float64) (between, within float64) {
	var all []float64
	var ssWithin, sumSq float64
	k := 0
	for _, g := range groups {
		if len(g) == 0 {
			continue
		}
		k++
		m := Mean(g)
		for _, v := range g {
			ssWithin += (v - m) * (v - m)
		}
		sumSq += float64(len(g) * len(g))
		all = append(all, g...)
	}
	n := len(all)
	if k < 2 || n <= k {
		return math.NaN(), math.NaN()
	}
	grand, ssBetween := Mean(all), 0.0
	for _, g := range groups {
		if len(g) > 0 {
			ssBetween += float64(len(g)) * math.Pow(Mean(g)-grand, 2)
		}
	}
	msWithin := ssWithin / float64(n-k)
	msBetween := ssBetween / float64(k-1)
	n0 := (float64(n) - sumSq/float64(n)) / float64(k-1) // size of a group when sizes differ
	return math.Sqrt(max(0, (msBetween-msWithin)/n0)), math.Sqrt(msWithin)
}

func ascending(x []float64) []float64 {
	s := slices.Clone(x)
	slices.Sort(s)
	return s
}
