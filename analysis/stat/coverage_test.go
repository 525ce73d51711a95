package stat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// shape is a distribution that samples are drawn from, around 1.
type shape struct {
	name               string
	draw               func(*rand.Rand) float64
	mean, median, half float64 // half: mean of the lower half
}

// shapes are what benchmarks look like at best (normal), as a rule (skewed:
// log-normal, sigma 0.5) and at worst (bimodal: three in ten fall into a
// second, slower mode). Mean, median and faster half are those of a million draws.
func shapes() []shape {
	out := []shape{
		{name: "normal", draw: func(r *rand.Rand) float64 { return 1 + 0.1*r.NormFloat64() }},
		{name: "skewed", draw: func(r *rand.Rand) float64 { return math.Exp(0.5 * r.NormFloat64()) }},
		{name: "bimodal", draw: func(r *rand.Rand) float64 {
			mode := 1.0
			if r.Float64() < 0.3 {
				mode = 1.3
			}
			return mode + 0.05*r.NormFloat64()
		}},
	}
	rng := rand.New(rand.NewPCG(41, 42))
	for i := range out {
		x := out[i].sample(rng, 1_000_000)
		out[i].mean, out[i].median, out[i].half = Mean(x), Median(x), FasterHalf(x, false)
	}
	return out
}

func (s shape) sample(r *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = s.draw(r)
	}
	return x
}

// noise is a draw with mean 0.
func (s shape) noise(r *rand.Rand) float64 { return s.draw(r) - s.mean }

// claim is one line of the table in docs/statistics.md: an interval, the size
// of its samples and how often it is to hold the truth.
type claim struct {
	name      string
	n         int
	low, high float64 // accepted coverage
	holds     func(s shape, r *rand.Rand) bool
}

const coverageRounds = 2000

// TestCoverage measures how often nominal 95 % intervals hold the truth, over
// 2000 samples of each shape. With -v it prints the table of docs/statistics.md.
func TestCoverage(t *testing.T) {
	all, rows := shapes(), make([]string, len(coverageClaims()))
	t.Run("claims", func(t *testing.T) {
		for i, c := range coverageClaims() {
			t.Run(fmt.Sprintf("%s n=%d", c.name, c.n), func(t *testing.T) {
				t.Parallel()
				row := fmt.Sprintf("| %s | %d |", c.name, c.n)
				for j, s := range all {
					share := c.share(s, rand.New(rand.NewPCG(uint64(i), uint64(j))))
					row += fmt.Sprintf(" %.1f |", 100*share)
					if !(share >= c.low && share <= c.high) {
						t.Errorf("%s: %.4f, want %.3f to %.3f", s.name, share, c.low, c.high)
					}
				}
				rows[i] = row
			})
		}
	})
	t.Logf("per cent held\n| interval | n | normal | skewed | bimodal |\n|---|---|---|---|---|\n%s", strings.Join(rows, "\n"))
}

func (c claim) share(s shape, r *rand.Rand) float64 {
	held := 0
	for range coverageRounds {
		if c.holds(s, r) {
			held++
		}
	}
	return float64(held) / coverageRounds
}

// within says whether an interval that claims confidence holds the truth.
func within(e Estimate, truth float64) bool {
	return e.Confidence > 0 && e.Low <= truth && truth <= e.High
}

func coverageClaims() []claim {
	out := append(cellClaims(), ratioClaims()...)
	return append(out, costClaims()...)
}

// quick is a bootstrap with as few resamples as do for counting.
func quick(r *rand.Rand) Bootstrap { return Bootstrap{Seed: r.Uint64(), Resamples: 300} }

func cellClaims() []claim {
	var out []claim
	for _, n := range []int{5, 10, 20} {
		stated := MedianInterval(make([]float64, n), 0.95).Confidence
		out = append(out, claim{"MedianInterval", n, stated - 0.02, stated + 0.02, func(s shape, r *rand.Rand) bool {
			return within(MedianInterval(s.sample(r, n), 0.95), s.median)
		}})
	}
	for _, n := range []int{MinMedianBCa, 10, 20, 30} {
		out = append(out, claim{"MedianBCa", n, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
			e, _ := quick(r).MedianBCa(s.sample(r, n), 0.95)
			return within(e, s.median)
		}})
	}
	for _, n := range []int{MinFasterHalf, 10, 20, 30} {
		out = append(out, claim{"FasterHalfInterval", n, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
			e, _ := quick(r).FasterHalfInterval(s.sample(r, n), false, 0.95)
			return within(e, s.half)
		}})
	}
	for _, n := range []int{10, 20, 30, 50} {
		out = append(out, claim{"Percentile of the mean", n, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
			e, _ := quick(r).Percentile(s.sample(r, n), Mean, 0.95)
			return within(e, s.mean)
		}}, claim{"BCa of the mean", n, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
			e, _ := quick(r).BCa(s.sample(r, n), Mean, 0.95)
			return within(e, s.mean)
		}})
	}
	return out
}

// ratioClaims are of two arms that are equal (A/A: 100 less these is the
// share of false positives) or differ by a known factor.
func ratioClaims() []claim {
	var out []claim
	for _, n := range []int{MinRatioBootstrap, 6, 10, 20} {
		out = append(out, claim{"Ratio, A/A", n, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
			return within(quick(r).Ratio(s.sample(r, n), s.sample(r, n), 0.95), 1)
		}})
	}
	for _, n := range []int{2, 3, 5, 10} {
		paired := func(s shape, r *rand.Rand, factor float64) (num, den []float64) {
			num, den = s.sample(r, n), s.sample(r, n)
			for i := range num {
				block := math.Exp(r.NormFloat64()) // boots differ far more than trials
				num[i], den[i] = num[i]*block*factor, den[i]*block
			}
			return num, den
		}
		out = append(out, claim{"PairedRatio, A/A", n, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
			num, den := paired(s, r, 1)
			return within(PairedRatio(num, den, 0.95), 1)
		}}, claim{"TOST at the margin's edge", n, 0.93, 1, func(s shape, r *rand.Rand) bool {
			num, den := paired(s, r, 2)
			return !TOST(num, den, 1, 0.05).Equivalent
		}}, claim{"TOSTUnpaired at the margin's edge", n, 0.93, 1, func(s shape, r *rand.Rand) bool {
			return !TOSTUnpaired(scale(s.sample(r, n), 2), s.sample(r, n), 1, 0.05).Equivalent
		}}, claim{"TOSTUnpaired, 90 % interval", n, 0.88, 0.92, func(s shape, r *rand.Rand) bool {
			return within(TOSTUnpaired(scale(s.sample(r, n), 2), s.sample(r, n), 1, 0.05).Ratio, 2)
		}})
	}
	return out
}

func scale(x []float64, f float64) []float64 {
	for i := range x {
		x[i] *= f
	}
	return x
}

// costClaims are of lines 20 + 0.02 n at the study's numbers of policies,
// measured reps times: with noise of one size, with noise that grows with the
// value, and in blocks of which each has its own speed.
func costClaims() []claim {
	var out []claim
	for _, reps := range []int{3, 5, 10} {
		for _, kind := range []struct {
			name string
			opt  CostOptions
			draw func(s shape, r *rand.Rand, y, speed float64) float64
		}{
			{"FitCost", CostOptions{}, func(s shape, r *rand.Rand, y, _ float64) float64 { return y + s.noise(r) }},
			{"FitCost, relative", CostOptions{Relative: true}, func(s shape, r *rand.Rand, y, _ float64) float64 { return y * (1 + 0.2*s.noise(r)) }},
			{"FitCost, blocks", CostOptions{}, func(s shape, r *rand.Rand, y, speed float64) float64 { return y * speed * (1 + 0.2*s.noise(r)) }},
		} {
			blocks := strings.HasSuffix(kind.name, "blocks")
			points := func(s shape, r *rand.Rand, t0, c float64, speeds []float64) Points {
				var p Points
				for rep := range reps {
					for _, n := range studyLevels() {
						p.N, p.Y = append(p.N, n), append(p.Y, kind.draw(s, r, t0+c*n, speeds[rep]))
						if blocks {
							p.Block = append(p.Block, rep)
						}
					}
				}
				return p
			}
			fit := func(s shape, r *rand.Rand) CostFit {
				f, err := FitCost(points(s, r, 20, 0.02, speeds(s, r, reps)), kind.opt)
				if err != nil {
					panic(err)
				}
				return f
			}
			out = append(out, claim{kind.name + ": t0", reps, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
				return within(fit(s, r).T0, 20)
			}}, claim{kind.name + ": slope", reps, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
				return within(fit(s, r).Slope, 0.02)
			}}, claim{kind.name + ": flat, 90 % interval", reps, 0.88, 0.92, func(s shape, r *rand.Rand) bool {
				return within(fit(s, r).Flat.Ratio, 2)
			}}, claim{strings.Replace(kind.name, "FitCost", "Crossover", 1), reps, 0.93, 0.97, func(s shape, r *rand.Rand) bool {
				v := speeds(s, r, reps)
				tp, err := Crossover(points(s, r, 20, 0.02, v), points(s, r, 28, 0, v), 1000, kind.opt)
				if err != nil {
					panic(err)
				}
				return within(tp.N, 400)
			}})
		}
	}
	return out
}

// speeds are those of blocks, with mean 1.
func speeds(s shape, r *rand.Rand, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = 1 + 0.1*s.noise(r)/s.mean
	}
	return out
}
