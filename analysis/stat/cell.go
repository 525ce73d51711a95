package stat

import (
	"math"
	"slices"
)

// MinMedianBCa and MinFasterHalf are the smallest samples whose nominal 95 %
// intervals hold the truth 93 to 97 times in a hundred, whether the values are
// normal, skewed or bimodal (docs/statistics.md).
const (
	MinMedianBCa  = 6
	MinFasterHalf = 7
)

// FasterHalf is the mean of the faster half of a sample, ceil(n/2) values: the
// larger ones where higher is faster (bit/s), else the smaller ones (seconds).
// It suits noise that can only slow a trial. NaN if the sample is empty.
func FasterHalf(x []float64, higherIsFaster bool) float64 {
	s := ascending(x)
	h := (len(s) + 1) / 2
	if higherIsFaster {
		return Mean(s[len(s)-h:])
	}
	return Mean(s[:h])
}

// leastError is the lower limit of a resample's standard error, in standard
// errors of the sample. A resample may draw one value of the faster half several
// times; its own error is then near 0, and a quotient by it has no limit. By
// simulation a quarter bounds the interval and leaves its coverage as it is for
// every shape; a half costs 4 points of coverage, and Student's t or a percentile
// bootstrap instead costs 5 to 15 (docs/statistics.md).
const leastError = 0.25

// FasterHalfInterval is FasterHalf with the interval of a symmetric bootstrap t
// (Hall 1988) of its logarithm, so that no bound of positive values is 0 or less.
// It is studentized as trimmed means are, by the Winsorized standard deviation
// (Tukey and McLaughlin 1963), here Winsorized on the slower side only, with no
// error below leastError. A sample with a value of 0 or less has no logarithm:
// its interval is of the values themselves, and ends at 0 if no value is below 0.
// ok is false below MinFasterHalf values.
func (b Bootstrap) FasterHalfInterval(x []float64, higherIsFaster bool, confidence float64) (e Estimate, ok bool) {
	if len(x) < MinFasterHalf {
		return Estimate{}, false
	}
	est := FasterHalf(x, higherIsFaster)
	e = Estimate{Estimate: est, Low: est, High: est, Confidence: confidence, N: len(x), Method: MethodBootstrapT}
	positive := slices.Min(x) > 0
	times := fasterFirst(x, higherIsFaster)
	h := halfOf(times, positive)
	if h.se == 0 {
		return e, true // no spread: the interval is the point
	}
	half := b.halfQuantile(times, positive, confidence) * h.se
	if positive {
		e.Low, e.High = est*math.Exp(-half), est*math.Exp(half)
		return e.bounded(), true
	}
	e.Low, e.High = est-half, est+half
	if slices.Min(x) == 0 {
		e.Low = max(0, e.Low)
	}
	return e, true
}

// halfQuantile replaces the quantile of Student's t: it is the quantile of the
// absolute studentized bootstrap distribution of a sample in ascending order.
func (b Bootstrap) halfQuantile(times []float64, positive bool, confidence float64) float64 {
	rng, reps, draws, whole := b.rand(), make([]float64, b.resamples()), newResampler(times), halfOf(times, positive)
	for i := range reps {
		h := halfOf(draws.draw(rng), positive)
		reps[i] = math.Abs(h.at-whole.at) / max(h.se, leastError*whole.se)
	}
	slices.Sort(reps)
	return quantile(reps, confidence)
}

// half is the mean of the faster half and its standard error, or, of positive
// values, the logarithm of that mean and its standard error.
type half struct{ at, se float64 }

func halfOf(sorted []float64, positive bool) half {
	m, se := halfWithError(sorted)
	if !positive {
		return half{m, se}
	}
	return half{math.Log(math.Abs(m)), se / math.Abs(m)}
}

// fasterFirst are the values in ascending order, the faster ones first: where
// higher is faster, they are negated.
func fasterFirst(x []float64, higherIsFaster bool) []float64 {
	s := lowerIsFaster(x, higherIsFaster)
	slices.Sort(s)
	return s
}

// lowerIsFaster are the values in their order, negated where higher is faster.
func lowerIsFaster(x []float64, higherIsFaster bool) []float64 {
	s := slices.Clone(x)
	if higherIsFaster {
		for i := range s {
			s[i] = -s[i]
		}
	}
	return s
}

// halfWithError is the mean of the lower half of a sorted sample and its
// standard error.
func halfWithError(s []float64) (mean, se float64) {
	h := (len(s) + 1) / 2
	n, slowest := float64(len(s)), s[h-1]
	sum := 0.0
	for _, v := range s[:h] {
		sum += v
	}
	m, ss := (sum+(n-float64(h))*slowest)/n, 0.0
	for _, v := range s[:h] {
		ss += (v - m) * (v - m)
	}
	ss += (n - float64(h)) * (slowest - m) * (slowest - m)
	return sum / float64(h), math.Sqrt(ss/(n-1)*n) / float64(h)
}

// medianBandwidth is the smoothing of MedianBCa in standard deviations over
// sqrt(n): by simulation, small enough not to cover too often with 20 values, and
// large enough for MinMedianBCa values (docs/statistics.md).
const medianBandwidth = 1.7

// MedianBCa is the median with a smoothed BCa bootstrap interval (Efron 1987;
// Silverman and Young 1987). The jackknife cannot give the constants of a median,
// but theory does: its influence function has two values of opposite sign, so the
// acceleration is 0, and by the symmetry of ranks half of its bootstrap
// distribution lies on either side, so the bias correction is 0 as well. The
// result is a percentile interval. Resampling alone makes it too coarse to cover
// (see Ho and Lee 2005), so a normal kernel smooths it; where all values are
// positive it smooths their logarithms, so that no bound is 0 or less. ok is
// false below MinMedianBCa values.
func (b Bootstrap) MedianBCa(x []float64, confidence float64) (e Estimate, ok bool) {
	if len(x) < MinMedianBCa {
		return Estimate{}, false
	}
	l := logs(x)
	if l == nil {
		return b.medianBCa(x, confidence), true
	}
	e = b.medianBCa(l, confidence)
	e.Estimate, e.Low, e.High = Median(x), math.Exp(e.Low), math.Exp(e.High)
	return e.bounded(), true
}

func (b Bootstrap) medianBCa(x []float64, confidence float64) Estimate {
	rng, reps, buf := b.rand(), make([]float64, b.resamples()), make([]float64, len(x))
	h := medianBandwidth * robustStdDev(x) / math.Sqrt(float64(len(x)))
	for i := range reps {
		resample(rng, x, buf)
		for j := range buf {
			buf[j] += h * rng.NormFloat64()
		}
		reps[i] = medianInPlace(buf)
	}
	slices.Sort(reps)
	tail := (1 - confidence) / 2
	return Estimate{Estimate: Median(x), Low: quantile(reps, tail), High: quantile(reps, 1-tail),
		Confidence: confidence, N: len(x), Method: MethodMedianBCa}
}

// robustStdDev is the smaller of the standard deviation and its estimate from
// the interquartile range (Silverman 1986, section 3.4.2).
func robustStdDev(x []float64) float64 {
	s := ascending(x)
	sd, iqr := StdDev(x), (quantile(s, 0.75)-quantile(s, 0.25))/1.349
	if iqr > 0 {
		return min(sd, iqr)
	}
	return sd
}
