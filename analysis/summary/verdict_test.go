package summary

import (
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

func TestWord(t *testing.T) {
	r := func(low, est, high, confidence float64) *stat.Estimate {
		return &stat.Estimate{Estimate: est, Low: low, High: high, Confidence: confidence, N: 9, Method: stat.MethodPercentile}
	}
	tests := []struct {
		r      *stat.Estimate
		higher bool
		want   string
	}{
		{nil, true, "no valid number"},
		{r(0.4, 0.5, 0.6, 0.95), true, "slower"},
		{r(0.4, 0.5, 0.6, 0.95), false, "faster"},
		{r(1.1, 1.2, 1.3, 0.95), true, "faster"},
		{r(1.1, 1.2, 1.3, 0.95), false, "slower"},
		{r(0.9, 0.95, 1, 0.95), true, "not distinguishable"},
		{r(0.4, 0.5, 0.6, 0.25), true, "undecided"},
		{r(0.9, 0.95, 1, 0.25), true, "undecided"},
		{r(0.4, 0.5, 0.6, 0.949), true, "undecided"},
		{r(0.5, 0.5, 0.5, 0), true, "undecided (too few trials)"},
		{&stat.Estimate{Estimate: 0.5, Low: 0.5, High: 0.5, N: 1}, true, "undecided (one trial)"},
	}
	for _, tt := range tests {
		if got := Word(tt.r, tt.higher, 0.95); got != tt.want {
			t.Errorf("word(%+v, %v) = %q, want %q", tt.r, tt.higher, got, tt.want)
		}
	}
}

// TestHalvesOfNoisyTrialsHaveAnInterval: eight trials that differ much are no
// reason to have none.
func TestHalvesOfNoisyTrialsHaveAnInterval(t *testing.T) {
	e := Estimator{Data: &Data{Set: &runs.Set{Words: catalog.Schema1()}}, Confidence: 0.95}
	at100, at0 := []float64{33.7, 32.7, 37, 34.5, 32.8, 19.1, 22.4, 35.7}, []float64{37.5, 38.6, 30, 38, 36.7, 30.9, 35.1, 37.7}
	r := e.halvesRatio(at100, at0, "throughput")
	if r.Confidence != 0.95 || r.Low <= 0 || r.Low >= r.Estimate || r.High <= r.Estimate {
		t.Errorf("%+v, want an interval of 95 %%", r)
	}
	if r = e.halvesRatio(at100[:3], at0[:3], "throughput"); r.Confidence != 0 || Word(&r, true, 0.95) != "undecided (too few trials)" {
		t.Errorf("%+v of three trials, want no interval", r)
	}
}
