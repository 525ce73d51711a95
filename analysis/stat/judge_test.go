package stat

import (
	"math"
	"testing"
)

// R: help page of binom.test, binom.test(682, 682 + 243) (Conover 1971,
// Mendel's peas); 0 of 20 by hand, 1 - 0.025^(1/20).
func TestFalsePositivesPublishedExample(t *testing.T) {
	e := FalsePositives(682, 925, 0.95)
	near(t, "share", e.Estimate, 0.7372973, 1e-7)
	near(t, "low", e.Low, 0.7076683, 1e-7)
	near(t, "high", e.High, 0.7654066, 1e-7)
	none := FalsePositives(0, 20, 0.95)
	near(t, "none, low", none.Low, 0, 0)
	near(t, "none, high", none.High, 1-math.Pow(0.025, 0.05), 1e-9)
	all := FalsePositives(20, 20, 0.95)
	near(t, "all, low", all.Low, math.Pow(0.025, 0.05), 1e-9)
	near(t, "all, high", all.High, 1, 0)
	if e := FalsePositives(0, 0, 0.95); e.Confidence != 0 || e.Low != 0 || e.High != 1 {
		t.Errorf("no comparisons: %+v", e)
	}
}

// Clopper-Pearson covers at least as often as it says, summed exactly.
func TestFalsePositivesCoverage(t *testing.T) {
	for _, n := range []int{20, 50, 100, 200} {
		for _, p := range []float64{0.01, 0.05, 0.1, 0.5} {
			sum := 0.0
			for k := range n + 1 {
				if e := FalsePositives(k, n, 0.95); e.Low <= p && p <= e.High {
					sum += math.Exp(logChoose(n, k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
				}
			}
			if !(sum >= 0.95-1e-9) {
				t.Errorf("n=%d, p=%v: covers %.4f", n, p, sum)
			}
		}
	}
}

func TestNarrowEnough(t *testing.T) {
	for _, tt := range []struct {
		name string
		e    Estimate
		want bool
	}{
		{"narrow", Estimate{Estimate: 100, Low: 99, High: 102, Confidence: 0.96}, true},
		{"at the limit", Estimate{Estimate: 100, Low: 98, High: 102, Confidence: 0.95}, true},
		{"wide", Estimate{Estimate: 100, Low: 97, High: 102, Confidence: 0.95}, false},
		{"not sure enough", Estimate{Estimate: 100, Low: 100, High: 100, Confidence: 0.94}, false},
		{"negative", Estimate{Estimate: -100, Low: -101, High: -99, Confidence: 0.95}, true},
		{"unknown", Estimate{Estimate: math.NaN(), Low: math.NaN(), High: math.NaN(), Confidence: 0.95}, false},
		{"around nothing", Estimate{Estimate: 0, Low: -1, High: 1, Confidence: 0.95}, false},
	} {
		if got := NarrowEnough(tt.e, 0.95, 0.02); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
