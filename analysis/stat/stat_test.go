package stat

import (
	"math"
	"testing"
)

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s = %v, want %v ± %v", what, got, want, tol)
	}
}

func TestMedian(t *testing.T) {
	near(t, "odd", Median([]float64{9, 1, 5}), 5, 0)
	near(t, "even", Median([]float64{9, 1, 5, 6}), 5.5, 0)
	near(t, "one", Median([]float64{4}), 4, 0)
	if !math.IsNaN(Median(nil)) {
		t.Error("median of nothing is not NaN")
	}
	x := []float64{3, 1, 2}
	Median(x)
	if x[0] != 3 {
		t.Error("Median sorted its argument")
	}
}

// Worked by hand: 2, 4, 4, 4, 5, 5, 7, 9 has mean 5 and
// sum of squared deviations 32.
func TestSpread(t *testing.T) {
	x := []float64{2, 4, 4, 4, 5, 5, 7, 9}
	near(t, "mean", Mean(x), 5, 0)
	near(t, "standard deviation", StdDev(x), math.Sqrt(32.0/7), 1e-12)
	near(t, "CoV", CoV(x), math.Sqrt(32.0/7)/5, 1e-12)
	for name, v := range map[string]float64{"sd of one": StdDev(x[:1]), "CoV around 0": CoV([]float64{-1, 1}), "mean of none": Mean(nil)} {
		if !math.IsNaN(v) {
			t.Errorf("%s = %v, want NaN", name, v)
		}
	}
}

// Ranks and coverages as tabulated in Le Boudec, Performance Evaluation of
// Computer and Communication Systems (EPFL Press 2010), table of confidence
// intervals for the median, for the sizes where its pair is symmetric; and the
// extremes of samples too small for 95 %.
func TestMedianIntervalPublishedRanks(t *testing.T) {
	tests := []struct {
		n, low, high int
		coverage     float64
	}{
		{1, 1, 1, 0}, {2, 1, 2, 0.5}, {3, 1, 3, 0.75}, {4, 1, 4, 0.875}, {5, 1, 5, 0.938},
		{6, 1, 6, 0.969}, {9, 2, 8, 0.961}, {10, 2, 9, 0.979}, {12, 3, 10, 0.961}, {15, 4, 12, 0.965},
		{17, 5, 13, 0.951}, {20, 6, 15, 0.959}, {30, 10, 21, 0.957},
	}
	for _, tt := range tests {
		x := make([]float64, tt.n)
		for i := range x {
			x[i] = float64(tt.n - i) // descending, so the function must sort
		}
		e := MedianInterval(x, 0.95)
		if e.Low != float64(tt.low) || e.High != float64(tt.high) || e.N != tt.n {
			t.Errorf("n=%d: [%v, %v], want ranks [%d, %d]", tt.n, e.Low, e.High, tt.low, tt.high)
		}
		near(t, "coverage", e.Confidence, tt.coverage, 0.0006)
	}
}

func TestMedianIntervalOfNothing(t *testing.T) {
	e := MedianInterval(nil, 0.95)
	if !math.IsNaN(e.Estimate) || e.Confidence != 0 || e.Excludes(1) {
		t.Errorf("interval of nothing: %+v", e)
	}
}

// spatial is data set A of Efron and Tibshirani, An Introduction to the
// Bootstrap (1993), table 14.1; the statistic is the plug-in variance.
func spatial() []float64 {
	return []float64{48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41}
}

func plugInVariance(x []float64) float64 {
	m, ss := Mean(x), 0.0
	for _, v := range x {
		ss += (v - m) * (v - m)
	}
	return ss / float64(len(x))
}

// Efron and Tibshirani 1993, table 14.2: 90 % intervals of the variance,
// percentile (100.8, 233.9), BCa (115.8, 259.6); acceleration 0.061.
func TestBootstrapPublishedExample(t *testing.T) {
	b := Bootstrap{Seed: 1, Resamples: 20000}
	p := b.percentile(spatial(), plugInVariance, 0.05)
	near(t, "variance", p.Estimate, 171.5, 0.05)
	near(t, "percentile low", p.Low, 100.8, 3)
	near(t, "percentile high", p.High, 233.9, 3)
	c := b.bca(spatial(), plugInVariance, 0.05)
	near(t, "BCa low", c.Low, 115.8, 3)
	near(t, "BCa high", c.High, 259.6, 5)
	near(t, "acceleration", acceleration(spatial(), plugInVariance), 0.061, 0.0006)
}

func TestBootstrapRefusesSmallSamples(t *testing.T) {
	if _, ok := (Bootstrap{}).Percentile(spatial(), Mean, 0.95); ok {
		t.Error("percentile bootstrap took 26 samples")
	}
	if _, ok := (Bootstrap{}).BCa(spatial(), Mean, 0.95); ok {
		t.Error("BCa bootstrap took 26 samples")
	}
}

// twice is a sample large enough for Percentile and BCa.
func twice(x []float64) []float64 { return append(append([]float64{}, x...), x...) }

// Of a mean, both expanded intervals come close to Student's t.
func TestExpandedBootstrap(t *testing.T) {
	x := twice(spatial())
	b := Bootstrap{Seed: 1, Resamples: 20000}
	want := logDifference(x, "").interval(0.95)
	p, okP := b.Percentile(x, Mean, 0.95)
	c, okC := b.BCa(x, Mean, 0.95)
	if !okP || !okC {
		t.Fatal("52 samples refused")
	}
	near(t, "percentile low", p.Low, want.Low, 0.15)
	near(t, "percentile high", p.High, want.High, 0.15)
	near(t, "BCa width", c.High-c.Low, want.High-want.Low, 0.3)
	// z = t(0.025, 9) sqrt(10/9) = -2.262157 * 1.054093 = -2.384523.
	near(t, "tail", expanded(0.025, 10), 0.00855064, 1e-7)
}

func TestBootstrapIsSeeded(t *testing.T) {
	run := func(seed uint64) Estimate {
		e, _ := Bootstrap{Seed: seed}.BCa(twice(spatial()), Mean, 0.95)
		return e
	}
	if run(7) != run(7) {
		t.Error("one seed, two results")
	}
	if run(7) == run(8) {
		t.Error("two seeds, one result")
	}
}

func TestBCaWithoutSpread(t *testing.T) {
	e, ok := Bootstrap{}.BCa(make([]float64, MinBootstrap), Mean, 0.95)
	if !ok || e.Low != 0 || e.High != 0 {
		t.Errorf("constant sample: %+v", e)
	}
}

func TestRatioOfFewTrials(t *testing.T) {
	e := Bootstrap{}.Ratio([]float64{40, 50}, []float64{100, 80}, 0.95)
	near(t, "ratio", e.Estimate, 0.5, 1e-12)
	near(t, "low", e.Low, 0.4, 1e-12)
	near(t, "high", e.High, 0.625, 1e-12)
	near(t, "confidence", e.Confidence, 0.25, 1e-12)
	if e.Method != MethodExtremes || e.N != 2 || !e.Excludes(1) {
		t.Errorf("%+v", e)
	}
	one := Bootstrap{}.Ratio([]float64{40}, []float64{100, 80}, 0.95)
	if one.Confidence != 0 || one.Excludes(1) {
		t.Errorf("one trial gives confidence: %+v", one)
	}
	for _, den := range [][]float64{nil, {0, 1}} {
		if e := (Bootstrap{}).Ratio([]float64{1}, den, 0.95); !math.IsNaN(e.Estimate) || e.Excludes(1) {
			t.Errorf("ratio to %v: %+v", den, e)
		}
	}
}

func TestRatioBootstrap(t *testing.T) {
	num, den := make([]float64, 11), make([]float64, 11)
	for i := range num {
		num[i], den[i] = 45+float64(i), 95+float64(i)
	}
	e := Bootstrap{Seed: 3}.Ratio(num, den, 0.95)
	if e.Method != MethodPercentile || !(e.Low < 0.5 && 0.5 < e.High) || !e.Excludes(1) {
		t.Errorf("%+v", e)
	}
	near(t, "ratio", e.Estimate, 0.5, 1e-12)
}

// Worked one-way random-effects example by hand: groups {1, 3} and {7, 9}:
// MS within 2, MS between 36, so between^2 = (36-2)/2 = 17.
func TestComponents(t *testing.T) {
	between, within := Components([][]float64{{1, 3}, {7, 9}, {}})
	near(t, "between", between, math.Sqrt(17), 1e-12)
	near(t, "within", within, math.Sqrt(2), 1e-12)
	between, _ = Components([][]float64{{1, 9}, {2, 8}})
	near(t, "between alike groups", between, 0, 0)
	if b, _ := Components([][]float64{{1, 2}}); !math.IsNaN(b) {
		t.Errorf("one group: %v, want NaN", b)
	}
}
