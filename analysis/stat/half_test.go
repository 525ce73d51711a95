package stat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// hardShapes are worse than those of shapes, as a busy machine makes them.
func hardShapes() []shape {
	out := []shape{
		{name: "heavy tail", draw: func(r *rand.Rand) float64 { return math.Exp(r.NormFloat64()) }},
		{name: "outliers", draw: func(r *rand.Rand) float64 {
			v := 1 + 0.02*r.NormFloat64()
			if r.Float64() < 0.15 {
				v *= 3
			}
			return v
		}},
		{name: "two modes", draw: func(r *rand.Rand) float64 {
			v := 1 + 0.05*r.NormFloat64()
			if r.Float64() < 0.5 {
				v += 0.3
			}
			return v
		}},
		{name: "exponential", draw: func(r *rand.Rand) float64 { return 1 + 0.3*r.ExpFloat64() }},
	}
	rng := rand.New(rand.NewPCG(43, 44))
	for i := range out {
		out[i].half = FasterHalf(out[i].sample(rng, 1_000_000), false)
	}
	return out
}

// TestFasterHalfOfHardShapes checks the interval of the faster half with shapes
// that no other interval is checked with. It draws fewer samples than
// TestCoverage and accepts two points less. With -v it prints the table of
// docs/statistics.md: coverage, and the upper bound over the lower one, of half
// of the intervals and of 99 in a hundred.
func TestFasterHalfOfHardShapes(t *testing.T) {
	t.Parallel()
	all, sizes := slices.Concat(shapes(), hardShapes()), []int{MinFasterHalf, 8, 10, 20}
	lines := make([]string, len(sizes))
	t.Run("sizes", func(t *testing.T) {
		for k, n := range sizes {
			t.Run(fmt.Sprintf("n=%d", n), func(t *testing.T) {
				t.Parallel()
				lines[k] = checkHalves(t, all, n)
			})
		}
	})
	t.Logf("\n%s", strings.Join(lines, "\n"))
}

// checkHalves is one line of the table: samples of n values of every shape.
func checkHalves(t *testing.T, all []shape, n int) string {
	t.Helper()
	line := fmt.Sprintf("| %d |", n)
	for i, s := range all {
		held, widths := coverHalf(s, rand.New(rand.NewPCG(uint64(n), uint64(i))), n)
		line += fmt.Sprintf(" %.1f, ×%.2f, ×%.2f |", 100*held, widths[len(widths)/2], widths[len(widths)*99/100])
		if held < 0.91 || held > 0.99 {
			t.Errorf("%s, n=%d: %.4f held", s.name, n, held)
		}
		if s.name == "normal" && widths[len(widths)*99/100] > 4 {
			t.Errorf("n=%d: one normal sample in a hundred has an upper bound of %.1f times the lower", n, widths[len(widths)*99/100])
		}
	}
	return line
}

const hardRounds = 800

func coverHalf(s shape, r *rand.Rand, n int) (held float64, widths []float64) {
	for range hardRounds {
		e, _ := quick(r).FasterHalfInterval(s.sample(r, n), false, 0.95)
		if within(e, s.half).held {
			held += 1.0 / hardRounds
		}
		widths = append(widths, e.High/e.Low)
	}
	slices.Sort(widths)
	return held, widths
}

// Eight latencies within a tenth of each other once had an interval from below
// zero to four times their mean, because of resamples with almost no spread.
func TestFasterHalfOfAlikeTrials(t *testing.T) {
	x := []float64{20.6, 20.61, 20.62, 20.6, 22.1, 22.4, 22.5, 22.6}
	for i := range 20 {
		e, ok := Bootstrap{Seed: uint64(i)}.FasterHalfInterval(x, false, 0.95)
		if !ok || e.Confidence != 0.95 || e.Low < 18 || e.High > 24 {
			t.Errorf("seed %d: %+v, want within 18 to 24", i, e)
		}
	}
	rates := make([]float64, len(x))
	for i, v := range x {
		rates[i] = 1 / v
	}
	if e, ok := (Bootstrap{}).FasterHalfInterval(rates, true, 0.95); !ok || e.Low < 1.0/24 || e.High > 1.0/18 {
		t.Errorf("as rates: %+v", e)
	}
}

// Counts may be 0, but not less.
func TestFasterHalfOfCounts(t *testing.T) {
	e, ok := Bootstrap{}.FasterHalfInterval([]float64{0, 0, 1, 5, 0, 2, 9, 7}, false, 0.95)
	if !ok || e.Low != 0 || !(e.High > e.Estimate) || math.IsInf(e.High, 0) {
		t.Errorf("%+v, want an interval that begins at 0", e)
	}
}
