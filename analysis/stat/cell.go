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

// FasterHalfInterval is FasterHalf with the interval of a symmetric bootstrap t
// (Hall 1988), studentised as trimmed means are, by the Winsorised standard
// deviation (Tukey and McLaughlin 1963), here Winsorised on the slower side
// only. ok is false below MinFasterHalf samples.
func (b Bootstrap) FasterHalfInterval(x []float64, higherIsFaster bool, confidence float64) (e Estimate, ok bool) {
	if len(x) < MinFasterHalf {
		return Estimate{}, false
	}
	est := FasterHalf(x, higherIsFaster)
	e = Estimate{Estimate: est, Low: est, High: est, Confidence: confidence, N: len(x), Method: MethodBootstrapT}
	times := slowerUp(x, higherIsFaster)
	center, se := halfWithError(times)
	if se == 0 {
		return e, true // no spread: the interval is the point
	}
	rng, reps, buf := b.rand(), make([]float64, 0, b.resamples()), make([]float64, len(x))
	for range b.resamples() {
		slices.Sort(resample(rng, times, buf))
		if m, s := halfWithError(buf); s > 0 {
			reps = append(reps, math.Abs(m-center)/s)
		}
	}
	if len(reps) == 0 {
		return Estimate{}, false
	}
	slices.Sort(reps)
	half := quantile(reps, confidence) * se
	e.Low, e.High = est-half, est+half
	return e, true
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
// cover (see Ho and Lee 2005); a normal kernel smooths it. ok is false below
// MinMedianBCa samples.
func (b Bootstrap) MedianBCa(x []float64, confidence float64) (e Estimate, ok bool) {
	if len(x) < MinMedianBCa {
		return Estimate{}, false
	}
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
		Confidence: confidence, N: len(x), Method: MethodMedianBCa}, true
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
