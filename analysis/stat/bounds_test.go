package stat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// positiveSamples draw positive values of every kind that intervals must take.
func positiveSamples() map[string]func(r *rand.Rand, i int) float64 {
	return map[string]func(*rand.Rand, int) float64{
		"alike":      func(r *rand.Rand, _ int) float64 { return 20 + 0.01*r.Float64() },
		"equal":      func(*rand.Rand, int) float64 { return 3.5 },
		"rounded":    func(r *rand.Rand, _ int) float64 { return float64(1 + r.IntN(3)) },
		"log-normal": func(r *rand.Rand, _ int) float64 { return math.Exp(2 * r.NormFloat64()) },
		"Cauchy":     func(r *rand.Rand, _ int) float64 { return math.Abs(r.NormFloat64() / r.NormFloat64()) },
		"one outlier": func(r *rand.Rand, i int) float64 {
			if i == 0 {
				return 1e9 * (1 + r.Float64())
			}
			return 1e-6 * (1 + 0.1*r.Float64())
		},
		"one near 0": func(r *rand.Rand, i int) float64 {
			if i == 0 {
				return 1e-12
			}
			return 1 + r.Float64()
		},
		"hundreds of decades": func(r *rand.Rand, _ int) float64 { return math.Pow(10, 250*(2*r.Float64()-1)) },
	}
}

// checkPositive refuses a bound of a positive quantity that is not a positive
// finite number, whatever its confidence.
func checkPositive(t *testing.T, what string, e Estimate) {
	t.Helper()
	for _, v := range []float64{e.Low, e.High} {
		if !(v > 0) || math.IsInf(v, 0) {
			t.Errorf("%s: %+v has a bound that no positive quantity has", what, e)
			return
		}
	}
	if e.Low > e.High {
		t.Errorf("%s: %+v is upside down", what, e)
	}
}

// The bounds of every interval of a positive quantity are positive: cells,
// ratios, the cost of a path, equivalence. Differences such as a slope may have
// any bounds.
func TestPositiveQuantitiesHavePositiveBounds(t *testing.T) {
	t.Parallel()
	for name, draw := range positiveSamples() {
		rng := rand.New(rand.NewPCG(7, uint64(len(name))))
		for range 100 {
			n := 2 + rng.IntN(39)
			a, b := make([]float64, n), make([]float64, n)
			for i := range a {
				a[i], b[i] = draw(rng, i), draw(rng, n-1-i)
			}
			what := fmt.Sprintf("%s, n=%d", name, n)
			boundsOfCells(t, what, a, quick(rng))
			boundsOfRatios(t, what, a, b, quick(rng))
			boundsOfPath(t, what, slices.Concat(a, b), quick(rng))
		}
	}
}

func boundsOfCells(t *testing.T, what string, x []float64, b Bootstrap) {
	t.Helper()
	for _, confidence := range []float64{0.8, 0.95, 0.999} {
		checkPositive(t, what+", median", MedianInterval(x, confidence))
		for _, up := range []bool{false, true} {
			if e, ok := b.FasterHalfInterval(x, up, confidence); ok {
				checkPositive(t, what+", faster half", e)
			}
		}
		if e, ok := b.MedianBCa(x, confidence); ok {
			checkPositive(t, what+", smoothed median", e)
		}
		if e, ok := b.Percentile(x, Mean, confidence); ok {
			checkPositive(t, what+", percentile of the mean", e)
		}
		if e, ok := b.BCa(x, Mean, confidence); ok {
			checkPositive(t, what+", BCa of the mean", e)
		}
	}
}

func boundsOfRatios(t *testing.T, what string, x, y []float64, b Bootstrap) {
	t.Helper()
	checkRatio(t, what+", ratio", b.Ratio(x, y, 0.95))
	checkRatio(t, what+", paired", PairedRatio(x, y, 0.95))
	checkRatio(t, what+", TOST", TOST(x, y, 0.05, 0.05).Ratio)
	checkRatio(t, what+", Welch", TOSTUnpaired(x, y, 0.05, 0.05).Ratio)
	if e, ok := b.FasterHalfRatio(x, y, false, 0.95); ok {
		checkRatio(t, what+", faster halves", e)
	}
}

// checkRatio is checkPositive if the quotient is a positive finite number.
func checkRatio(t *testing.T, what string, e Estimate) {
	t.Helper()
	if e.Estimate > 0 && !math.IsInf(e.Estimate, 1) {
		checkPositive(t, what, e)
	}
}

// boundsOfPath checks the cost at N = 0 of lines through points at two or three n.
func boundsOfPath(t *testing.T, what string, y []float64, b Bootstrap) {
	t.Helper()
	for _, levels := range []int{2, 3} {
		for _, blocks := range []bool{false, true} {
			p := Points{Y: y}
			for i := range y {
				p.N = append(p.N, []float64{0, 100, 1000}[i%levels])
				if blocks {
					p.Block = append(p.Block, i/levels)
				}
			}
			if len(y)%levels != 0 && blocks {
				continue // the last block would not have every n
			}
			f, err := FitCost(p, CostOptions{Relative: true, Bootstrap: b})
			if err != nil {
				continue // too few points
			}
			if f.T0.Confidence > 0 {
				checkPositive(t, what+", path", f.T0)
			}
			if f.Flat.Ratio.Confidence > 0 {
				checkPositive(t, what+", flat", f.Flat.Ratio)
			}
		}
	}
}

// If the line's intercept is 0 or less, the line is wrong: no path costs less
// than 0.
func TestPathBelowNothingHasNoConfidence(t *testing.T) {
	f, err := FitCost(Points{N: []float64{0, 0, 100, 100, 1000, 1000}, Y: []float64{1, 1.1, 1, 1.1, 100, 101}}, CostOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if f.T0.Estimate >= 0 || f.T0.Confidence != 0 {
		t.Errorf("%+v, want a negative intercept without confidence", f.T0)
	}
}
