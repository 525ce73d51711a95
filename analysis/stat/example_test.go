package stat

import (
	"math"
	"slices"
	"testing"
)

func exps(x []float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = math.Exp(v)
	}
	return out
}

// sleep is R's data set of that name (Student 1908, Biometrika 6:1): extra
// hours of sleep of ten people under two drugs. Its exponentials are a pair of
// samples whose log ratios are the differences that the literature works with.
func sleep() (group1, group2 []float64) {
	return []float64{0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0},
		[]float64{1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4}
}

func nearLog(t *testing.T, what string, e Estimate, est, low, high, tol float64) {
	t.Helper()
	near(t, what, math.Log(e.Estimate), est, tol)
	near(t, what+", low", math.Log(e.Low), low, tol)
	near(t, what+", high", math.Log(e.High), high, tol)
}

// R: t.test(extra ~ group, data = sleep, paired = TRUE).
func TestPairedRatioPublishedExample(t *testing.T) {
	g1, g2 := sleep()
	e := PairedRatio(exps(g1), exps(g2), 0.95)
	nearLog(t, "mean of the differences", e, -1.58, -2.4598858, -0.7001142, 1e-7)
	if e.Method != MethodPaired || e.N != 10 || e.Confidence != 0.95 || !e.Excludes(1) {
		t.Errorf("%+v", e)
	}
}

// R: help page of t.test, t.test(extra ~ group, data = sleep).
func TestWelchPublishedExample(t *testing.T) {
	g1, g2 := sleep()
	e := TOSTUnpaired(exps(g1), exps(g2), 1, 0.025).Ratio
	nearLog(t, "difference of the means", e, -1.58, -3.3654832, 0.2054832, 1e-7)
	near(t, "degrees of freedom", welch(exps(g1), exps(g2)).df, 17.7764735161785, 1e-9)
}

// Caldwell, "An Introduction to t_TOST" (vignette of the R package TOSTER):
// t_TOST(extra ~ group, data = sleep, eqb = .5), Welch.
func TestTOSTPublishedExample(t *testing.T) {
	g1, g2 := sleep()
	margin := math.Expm1(0.5)
	e := TOSTUnpaired(exps(g1), exps(g2), margin, 0.05)
	nearLog(t, "difference", e.Ratio, -1.58, -3.053381, -0.10661850, 1e-6)
	near(t, "p of the lower test", e.P, 0.89010996, 1e-8)
	if e.Equivalent || e.Different || e.Ratio.Method != MethodWelch {
		t.Errorf("%+v", e)
	}
	mirrored := TOSTUnpaired(exps(g2), exps(g1), margin, 0.05)
	near(t, "p with the groups exchanged", mirrored.P, e.P, 1e-12)
	s := welch(exps(g2), exps(g1))
	near(t, "p of the upper test", s.upper(-0.5), 0.01245133, 1e-8)
}

func TestPairedRatioOfFewPairs(t *testing.T) {
	tests := []struct {
		name             string
		num, den         []float64
		est, low, high   float64
		confidence       float64
		excludesOne, nan bool
	}{
		{"one pair", []float64{2}, []float64{1}, 2, 2, 2, 0, false, false},
		{"two alike", []float64{2, 4}, []float64{1, 2}, 2, 2, 2, 0, false, false},
		{"three alike", []float64{2, 4, 6}, []float64{1, 2, 3}, 2, 2, 2, 0.95, true, false},
		// t(0.975, 1) = 12.706205: log 2 ± 12.706205 log(4)/2.
		{"two apart", []float64{1, 4}, []float64{1, 1}, 2, 2 * math.Exp(-12.706205*math.Ln2), 2 * math.Exp(12.706205*math.Ln2), 0.95, false, false},
		{name: "lengths", num: []float64{1}, den: []float64{1, 2}, nan: true},
		{name: "zero", num: []float64{1}, den: []float64{0}, nan: true},
		{name: "nothing", nan: true},
	}
	for _, tt := range tests {
		e := PairedRatio(tt.num, tt.den, 0.95)
		if tt.nan {
			if !math.IsNaN(e.Estimate) || e.Confidence != 0 || e.Excludes(1) {
				t.Errorf("%s: %+v", tt.name, e)
			}
			continue
		}
		near(t, tt.name, e.Estimate, tt.est, 1e-12)
		near(t, tt.name+", low", e.Low, tt.low, 1e-6*tt.low)
		near(t, tt.name+", high", e.High, tt.high, 1e-6*tt.high)
		if e.Confidence != tt.confidence || e.Excludes(1) != tt.excludesOne {
			t.Errorf("%s: %+v", tt.name, e)
		}
	}
}

func TestEquivalenceVerdicts(t *testing.T) {
	even := []float64{100, 101, 99, 100, 102, 98}
	scaled := func(f float64) []float64 {
		out := make([]float64, len(even))
		for i, v := range even {
			out[(i+1)%len(even)] = v * f // another order, so that pairs differ
		}
		return out
	}
	tests := []struct {
		name                  string
		ratio                 float64
		equivalent, different bool
	}{
		{"equal", 1, true, false}, {"far above", 1.2, false, true}, {"far below", 0.8, false, true}, {"at the edge", 1.05, false, false},
	}
	for _, tt := range tests {
		for name, e := range map[string]Equivalence{
			"paired": TOST(scaled(tt.ratio), even, 0.05, 0.05), "unpaired": TOSTUnpaired(scaled(tt.ratio), even, 0.05, 0.05)} {
			if e.Equivalent != tt.equivalent || e.Different != tt.different || e.Equivalent != (e.P < 0.05) || e.Ratio.Confidence != 0.9 {
				t.Errorf("%s, %s: %+v", tt.name, name, e)
			}
		}
	}
}

func TestEquivalenceOfExactValues(t *testing.T) {
	same := TOST([]float64{5, 5, 5}, []float64{5, 5, 5}, 0.02, 0.05)
	if !same.Equivalent || same.Different || same.P != 0 {
		t.Errorf("three equal pairs: %+v", same)
	}
	apart := TOST([]float64{6, 6, 6}, []float64{5, 5, 5}, 0.02, 0.05)
	if apart.Equivalent || !apart.Different || apart.P != 1 {
		t.Errorf("three pairs 20 %% apart: %+v", apart)
	}
	for name, e := range map[string]Equivalence{
		"two equal pairs": TOST([]float64{5, 5}, []float64{5, 5}, 0.02, 0.05),
		"one pair":        TOST([]float64{5}, []float64{5}, 0.02, 0.05),
		"one value":       TOSTUnpaired([]float64{5}, []float64{5, 5}, 0.02, 0.05),
		"nothing":         TOSTUnpaired(nil, nil, 0.02, 0.05),
		"not positive":    TOST([]float64{1, 2, 3}, []float64{0, 1, 2}, 0.02, 0.05),
	} {
		if e.Equivalent || e.Different || e.P != 1 || e.Ratio.Confidence != 0 {
			t.Errorf("%s is not undecided: %+v", name, e)
		}
	}
}

// Montgomery, Design and Analysis of Experiments, the looms: strength of four
// pieces from each of four looms; MS within 1.90 (22.75/12), between 29.73,
// variance of looms 6.96.
func TestComponentsPublishedExample(t *testing.T) {
	between, within := Components([][]float64{{98, 97, 99, 96}, {91, 90, 93, 92}, {96, 95, 97, 95}, {95, 96, 99, 98}})
	near(t, "variance of looms", between*between, 6.96, 0.005)
	near(t, "variance within", within*within, 1.90, 0.005)
}

// Treated mice of Efron and Tibshirani 1993, table 2.1; table 2.2 has the
// bootstrap standard errors of mean and median in the limit of many resamples,
// 23.36 and 37.83.
func TestResamplingPublishedExample(t *testing.T) {
	mice := []float64{94, 197, 16, 38, 99, 141, 23}
	b := Bootstrap{Seed: 5, Resamples: 50000}
	near(t, "standard error of the mean", StdDev(b.replicates(mice, Mean)), 23.36, 0.25)
	near(t, "standard error of the median", StdDev(b.replicates(mice, Median)), 37.83, 0.4)
}

func TestFasterHalf(t *testing.T) {
	x := []float64{5, 1, 4, 2, 3}
	near(t, "fewer is faster", FasterHalf(x, false), 2, 0)
	near(t, "more is faster", FasterHalf(x, true), 4, 0)
	near(t, "even", FasterHalf([]float64{4, 1, 2, 3}, false), 1.5, 0)
	near(t, "one", FasterHalf([]float64{7}, true), 7, 0)
	if !math.IsNaN(FasterHalf(nil, true)) {
		t.Error("faster half of nothing is not NaN")
	}
}

// Worked by hand: 1, 2, 3, 4, 100 has the faster half 1, 2, 3; Winsorized 1,
// 2, 3, 3, 3 with variance 0.8; standard error sqrt(0.8 * 5) / 3.
func TestHalfWithError(t *testing.T) {
	m, se := halfWithError([]float64{1, 2, 3, 4, 100})
	near(t, "mean", m, 2, 1e-12)
	near(t, "standard error", se, 2.0/3, 1e-12)
}

// Values of either sign: positive ones would have the interval of their
// logarithms, and negative values have no logarithm.
func TestFasterHalfIntervalIsMirrored(t *testing.T) {
	x := []float64{1, 0.5, 1.2, -1, 1.1, 0.8, 1.3, -2, 1.05}
	mirrored := make([]float64, len(x))
	for i, v := range x {
		mirrored[i] = -v
	}
	b := Bootstrap{Seed: 2}
	up, _ := b.FasterHalfInterval(x, true, 0.95)
	down, _ := b.FasterHalfInterval(mirrored, false, 0.95)
	near(t, "estimate", up.Estimate, -down.Estimate, 1e-12)
	near(t, "low", up.Low, -down.High, 1e-12)
	if !(up.Low < up.Estimate && up.Estimate < up.High) {
		t.Errorf("%+v", up)
	}
}

// The interval of positive values is symmetric on the logs, and does not depend on
// the unit.
func TestFasterHalfIntervalOfPositiveValues(t *testing.T) {
	x := []float64{9, 8.5, 9.2, 7, 9.1, 8.8, 9.3, 6, 9.05}
	for _, up := range []bool{true, false} {
		e, _ := Bootstrap{Seed: 2}.FasterHalfInterval(x, up, 0.95)
		f, _ := Bootstrap{Seed: 2}.FasterHalfInterval(scale(slices.Clone(x), 1e-6), up, 0.95)
		near(t, "low times high", e.Low*e.High, e.Estimate*e.Estimate, 1e-9)
		near(t, "low in another unit", f.Low*1e6, e.Low, 1e-9)
		near(t, "high in another unit", f.High*1e6, e.High, 1e-9)
		if !(e.Low < e.Estimate && e.Estimate < e.High) {
			t.Errorf("%+v", e)
		}
	}
}

func TestCellIntervalsAtTheirLimits(t *testing.T) {
	same := []float64{4, 4, 4, 4, 4, 4, 4}
	b := Bootstrap{}
	m, okM := b.MedianBCa(same, 0.95)
	f, okF := b.FasterHalfInterval(same, false, 0.95)
	for name, e := range map[string]Estimate{"median": m, "faster half": f} {
		if e.Estimate != 4 || e.Low != 4 || e.High != 4 || e.Confidence != 0.95 {
			t.Errorf("%s of equal values: %+v", name, e)
		}
	}
	if !okM || !okF {
		t.Error("equal values refused")
	}
	if _, ok := b.MedianBCa(same[:MinMedianBCa-1], 0.95); ok {
		t.Error("median interval of too few values")
	}
	if _, ok := b.FasterHalfInterval(same[:MinFasterHalf-1], false, 0.95); ok {
		t.Error("faster half's interval of too few values")
	}
	x := []float64{1, 2, 3, 4, 5, 6, 7, 8}
	one, _ := Bootstrap{Seed: 1}.MedianBCa(x, 0.95)
	again, _ := Bootstrap{Seed: 1}.MedianBCa(x, 0.95)
	other, _ := Bootstrap{Seed: 2}.MedianBCa(x, 0.95)
	if one != again || one == other {
		t.Errorf("not seeded: %+v, %+v, %+v", one, again, other)
	}
}
