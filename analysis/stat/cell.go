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
// It suits noise that only ever slows. NaN if the sample is empty.
func FasterHalf(x []float64, higherIsFaster bool) float64 {
	s := ascending(x)
	h := (len(s) + 1) / 2
	if higherIsFaster {
		return Mean(s[len(s)-h:])
	}
	return Mean(s[:h])
}

// leastError is the least that the standard error of a resample counts for, in
// standard errors of the sample. A resample may draw one value of the faster half
// again and again; its own error is then next to nothing, and what it divides is
// as large as one likes. By simulation a quarter bounds the interval and leaves
// its coverage as it is for every shape; a half takes 4 points of it, and
// Student's t or a percentile bootstrap in its place 5 to 15 (docs/statistics.md).
const leastError = 0.25

// FasterHalfInterval is FasterHalf with the interval of a symmetric bootstrap t
// (Hall 1988) of its logarithm, so that no bound of positive values is 0 or less.
// It is studentised as trimmed means are, by the Winsorised standard deviation
// (Tukey and McLaughlin 1963), here Winsorised on the slower side only, with no
// error below leastError. A sample with a value of 0 or less has no logarithm:
// its interval is of the values themselves, and ends at 0 if none is below. ok is
// false below MinFasterHalf samples.
func (b Bootstrap) FasterHalfInterval(x []float64, higherIsFaster bool, confidence float64) (e Estimate, ok bool) {
	if len(x) < MinFasterHalf {
		return Estimate{}, false
	}
	est := FasterHalf(x, higherIsFaster)
	e = Estimate{Estimate: est, Low: est, High: est, Confidence: confidence, N: len(x), Method: MethodBootstrapT}
	positive := slices.Min(x) > 0
	h := halfOf(slowerUp(x, higherIsFaster), positive)
	if h.se == 0 {
		return e, true // no spread: the interval is the point
	}
	half := b.halfQuantile(slowerUp(x, higherIsFaster), positive, confidence) * h.se
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

// halfQuantile takes the place of Student's t: the quantile of the studentised
// bootstrap distribution of a sample in order, whichever its sign.
func (b Bootstrap) halfQuantile(times []float64, positive bool, confidence float64) float64 {
	rng, reps, buf, whole := b.rand(), make([]float64, b.resamples()), make([]float64, len(times)), halfOf(times, positive)
	for i := range reps {
		slices.Sort(resample(rng, times, buf))
		h := halfOf(buf, positive)
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

// slowerUp are the values in order, the faster ones first.
func slowerUp(x []float64, higherIsFaster bool) []float64 {
	s := slices.Clone(x)
	if higherIsFaster {
		for i := range s {
			s[i] = -s[i]
		}
	}
	slices.Sort(s)
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
// sqrt(n): by simulation, little enough not to overcover samples of 20 and
// enough for those of MinMedianBCa (docs/statistics.md).
const medianBandwidth = 1.7

// MedianBCa is the median with a smoothed BCa bootstrap interval (Efron 1987;
// Silverman and Young 1987). The jackknife cannot give a median's constants,
// theory does: its influence function has two values of opposite sign, so the
// acceleration is 0, and by the symmetry of ranks half its bootstrap
// distribution lies on either side, so the bias correction is 0 as well. What
// is left is a percentile interval, which resampling alone makes too coarse to
// cover (see Ho and Lee 2005); a normal kernel smooths it, that of the logs where
// all values are positive, so that no bound is 0 or less. ok is false below
// MinMedianBCa samples.
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

// robustStdDev is the smaller of the standard deviation and what the
// interquartile range says it is (Silverman 1986, section 3.4.2).
func robustStdDev(x []float64) float64 {
	s := ascending(x)
	sd, iqr := StdDev(x), (quantile(s, 0.75)-quantile(s, 0.25))/1.349
	if iqr > 0 {
		return min(sd, iqr)
	}
	return sd
}
