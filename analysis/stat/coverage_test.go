package stat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// shape is a distribution around 1 from which samples are drawn.
type shape struct {
	name                   string
	draw                   func(*rand.Rand) float64
	mean, sd, median, half float64 // half: mean of the lower half
	logMean                float64
}

// shapes are the results of benchmarks at best (normal), usually (skewed:
// log-normal, sigma 0.5) and at worst (bimodal: three in ten fall into a
// second, slower mode). Mean, median and faster half are those of a million
// draws, which all tests share.
var shapes = sync.OnceValue(func() []shape {
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
		out[i].mean, out[i].sd, out[i].logMean = Mean(x), StdDev(x), Mean(logs(x))
		slices.Sort(x)
		out[i].median, out[i].half = sortedMedian(x), FasterHalf(x, false)
	}
	return out
})

func (s shape) sample(r *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = s.draw(r)
	}
	return x
}

// noise is a draw with mean 0.
func (s shape) noise(r *rand.Rand) float64 { return s.draw(r) - s.mean }

// claim is an experiment on intervals: with samples of n values, each of its
// lines in the table of docs/statistics.md must hold the truth as often as accepted.
type claim struct {
	n     int
	lines []accepted
	draw  func(s shape, r *rand.Rand) []outcome // one for each line
}

type accepted struct {
	name      string
	low, high float64
	rough     float64 // the least that is accepted of intervals marked Rough
}

// outcome is whether an interval held the truth, and whether it is marked Rough.
type outcome struct{ held, rough bool }

const coverageRounds = 2000

// TestCoverage measures how often nominal 95 % intervals hold the truth, over
// 2000 samples of each shape. With -v it prints the table of docs/statistics.md.
func TestCoverage(t *testing.T) {
	t.Parallel()
	all, claims := shapes(), coverageClaims()
	rows := make([][]string, len(claims))
	t.Run("claims", func(t *testing.T) {
		for i, c := range claims {
			t.Run(fmt.Sprintf("%s n=%d", c.lines[0].name, c.n), func(t *testing.T) {
				t.Parallel()
				rows[i] = c.check(t, all, uint64(i))
			})
		}
	})
	t.Logf("per cent held\n| interval | n | normal | skewed | bimodal |\n|---|---|---|---|---|\n%s", strings.Join(slices.Concat(rows...), "\n"))
}

func (c claim) check(t *testing.T, all []shape, seed uint64) []string {
	rows := make([]string, len(c.lines))
	for j, l := range c.lines {
		rows[j] = fmt.Sprintf("| %s | %d |", l.name, c.n)
	}
	for i, s := range all {
		rng, held, rough := rand.New(rand.NewPCG(seed, uint64(i))), make([]float64, len(c.lines)), make([]bool, len(c.lines))
		for range coverageRounds {
			for j, o := range c.draw(s, rng) {
				rough[j] = o.rough
				if o.held {
					held[j] += 1.0 / coverageRounds
				}
			}
		}
		for j, l := range c.lines {
			flag := ""
			if rough[j] {
				l.low, l.high, flag = l.rough, 1, " r"
			}
			rows[j] += fmt.Sprintf(" %.1f%s |", 100*held[j], flag)
			if !(held[j] >= l.low && held[j] <= l.high) {
				t.Errorf("%s, %s: %.4f, want %.3f to %.3f", l.name, s.name, held[j], l.low, l.high)
			}
		}
	}
	return rows
}

// within reports whether an interval that states a confidence holds the truth.
func within(e Estimate, truth float64) outcome {
	return outcome{e.Confidence > 0 && e.Low <= truth && truth <= e.High, e.Rough}
}

// nominal accepts 3 to 7 misses in a hundred instead of 5.
func nominal(name string) accepted { return accepted{name, 0.93, 0.97, 0.8} }

// nominal90 is for equivalence tests at 5 % on each side.
func nominal90(name string) accepted { return accepted{name + " (90 %)", 0.86, 0.94, 0.8} }

// unjust is for equivalence found where there is none, against an arm of the
// same shape or a steady one. Of three values, one time in three none is from
// the second mode; with 20, skewness still changes a one-sided test.
func unjust(test string) []accepted {
	return []accepted{{test + " at the margin: not equivalent", 0.93, 1, 0.93}, {test + " at the margin, against a steady arm", 0.92, 1, 0.75}}
}

func coverageClaims() []claim {
	return slices.Concat(cellClaims(), ratioClaims(), pairedClaims(), costClaims())
}

// quick is a bootstrap with few resamples, enough to count coverage.
func quick(r *rand.Rand) Bootstrap { return Bootstrap{Seed: r.Uint64(), Resamples: 200} }

func cellClaims() []claim {
	var out []claim
	for _, n := range []int{2, 3, 5, 10, 20} {
		stated := MedianInterval(make([]float64, n), 0.95).Confidence
		name := fmt.Sprintf("MedianInterval (%.1f %%)", 100*stated)
		out = append(out, claim{n, []accepted{{name: name, low: stated - 0.02, high: stated + 0.02}}, func(s shape, r *rand.Rand) []outcome {
			return []outcome{within(MedianInterval(s.sample(r, n), 0.95), s.median)}
		}})
	}
	for _, n := range []int{MinMedianBCa, 8, 10, 20} {
		out = append(out, claim{n, []accepted{nominal("MedianBCa")}, func(s shape, r *rand.Rand) []outcome {
			e, _ := quick(r).MedianBCa(s.sample(r, n), 0.95)
			return []outcome{within(e, s.median)}
		}})
	}
	for _, n := range []int{MinFasterHalf, 8, 10, 20} {
		out = append(out, claim{n, []accepted{nominal("FasterHalfInterval")}, func(s shape, r *rand.Rand) []outcome {
			e, _ := quick(r).FasterHalfInterval(s.sample(r, n), false, 0.95)
			return []outcome{within(e, s.half)}
		}})
	}
	for _, n := range []int{MinBootstrap} {
		out = append(out, claim{n, []accepted{nominal("Percentile of the mean"), nominal("BCa of the mean")}, func(s shape, r *rand.Rand) []outcome {
			x, b := s.sample(r, n), quick(r)
			p, _ := b.Percentile(x, Mean, 0.95)
			c, _ := b.BCa(x, Mean, 0.95)
			return []outcome{within(p, s.mean), within(c, s.mean)}
		}})
	}
	return append(out, stopped(0.3), stopped(0.6))
}

// stopped is the median of a cell that ends early, after 6 to 30 trials, as
// soon as the interval is narrow enough relative to the spread of the values.
func stopped(ci float64) claim {
	return claim{30, []accepted{nominal(fmt.Sprintf("MedianInterval, stopped at %.1f sd", ci))}, func(s shape, r *rand.Rand) []outcome {
		x := s.sample(r, 30)
		e := MedianInterval(x, 0.95)
		for n := 6; n < 30 && !NarrowEnough(e, 0.95, ci*s.sd/e.Estimate); n++ {
			e = MedianInterval(x[:n], 0.95)
		}
		return []outcome{within(e, s.median)}
	}}
}

// ratioClaims are of two independent arms that are equal (A/A: 100 minus these
// percentages is the share of false positives) or differ by a factor of 2.
func ratioClaims() []claim {
	var out []claim
	for _, n := range []int{2, 3, 4, MinRatioBootstrap, 6, 10, 20} {
		line := accepted{name: "Ratio, A/A", low: 0.93, high: 0.98} // with 2000 resamples 96.5 to 97: on the safe side
		if n < MinRatioBootstrap {
			stated := math.Pow(orderCoverage(n, 1), 2)
			line = accepted{name: fmt.Sprintf("Ratio, A/A (at least %.1f %%)", 100*stated), low: stated - 0.02, high: 1}
		}
		out = append(out, claim{n, []accepted{line}, func(s shape, r *rand.Rand) []outcome {
			return []outcome{within(quick(r).Ratio(s.sample(r, n), s.sample(r, n), 0.95), 1)}
		}})
	}
	for _, n := range []int{2, 3, 5, 10, 20} {
		lines := append([]accepted{nominal90("TOSTUnpaired, interval")}, unjust("TOSTUnpaired")...)
		out = append(out, claim{n, lines, func(s shape, r *rand.Rand) []outcome {
			e := TOSTUnpaired(scale(s.sample(r, n), 2), s.sample(r, n), 1, 0.05)
			f := TOSTUnpaired(scale(s.sample(r, n), 1.2/math.Exp(s.logMean)), steadySample(r, n), 0.2, 0.05)
			return []outcome{within(e.Ratio, 2), {!e.Equivalent, e.Ratio.Rough}, {!f.Equivalent, f.Ratio.Rough}}
		}})
	}
	return out
}

// pairedClaims are of arms paired by blocks that differ far more than trials do.
func pairedClaims() []claim {
	var out []claim
	for _, n := range []int{2, 3, 5, 10, 20} {
		lines := append([]accepted{nominal("PairedRatio, A/A"), nominal("PairedRatio, against a steady arm"), nominal90("TOST, interval")}, unjust("TOST")...)
		out = append(out, claim{n, lines, func(s shape, r *rand.Rand) []outcome {
			num, den := s.sample(r, n), s.sample(r, n)
			for i := range num {
				block := math.Exp(r.NormFloat64())
				num[i], den[i] = num[i]*block, den[i]*block
			}
			aa := within(PairedRatio(num, den, 0.95), 1)
			steady := within(PairedRatio(s.sample(r, n), steadySample(r, n), 0.95), math.Exp(s.logMean))
			e := TOST(scale(num, 2), den, 1, 0.05)
			f := TOST(scale(s.sample(r, n), 1.2/math.Exp(s.logMean)), steadySample(r, n), 0.2, 0.05)
			return []outcome{aa, steady, within(e.Ratio, 2), {!e.Equivalent, e.Ratio.Rough}, {!f.Equivalent, f.Ratio.Rough}}
		}})
	}
	return out
}

// steadySample is of an arm that hardly varies, so that nothing compensates the
// shape of the other arm.
func steadySample(r *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = math.Exp(steady().draw(r))
	}
	return x
}

func scale(x []float64, f float64) []float64 {
	for i := range x {
		x[i] *= f
	}
	return x
}

// costNoise is one way in which points deviate from a line.
type costNoise struct {
	name   string
	opt    CostOptions
	reps   []int // points at each n
	blocks bool
	draw   func(s shape, r *rand.Rand, y, speed float64) float64
}

// costClaims are of lines 20 + 0.02 n and 28 at the study's numbers of policies:
// with noise of one size, with noise that grows with the value, and in blocks
// of which each has its own speed.
func costClaims() []claim {
	var out []claim
	for _, k := range []costNoise{
		{"points", CostOptions{}, []int{1, 5}, false, func(s shape, r *rand.Rand, y, _ float64) float64 { return y + s.noise(r) }},
		{"relative", CostOptions{Relative: true}, []int{1, 5}, false, func(s shape, r *rand.Rand, y, _ float64) float64 {
			return y * (1 + 0.2*s.noise(r))
		}},
		{"blocks", CostOptions{}, []int{3, 5, MinBlocks}, true, func(s shape, r *rand.Rand, y, speed float64) float64 {
			return y * speed * (1 + 0.2*s.noise(r))
		}},
	} {
		for _, reps := range k.reps {
			n := reps
			if !k.blocks {
				n *= len(studyLevels())
			}
			lines := []accepted{nominal("FitCost, " + k.name + ": T0"), nominal("FitCost, " + k.name + ": Slope"),
				nominal90("FitCost, " + k.name + ": Flat"), nominal("Crossover, " + k.name)}
			out = append(out, claim{n, lines, func(s shape, r *rand.Rand) []outcome { return k.outcomes(s, r, reps) }})
		}
	}
	return out
}

func (k costNoise) outcomes(s shape, r *rand.Rand, reps int) []outcome {
	speeds := make([]float64, reps)
	for i := range speeds {
		speeds[i] = 1 + 0.1*s.noise(r)
	}
	a, b := k.points(s, r, CostModel{T0: 20, Slope: 0.02}, speeds), k.points(steady(), r, CostModel{T0: 28}, speeds)
	opt := k.opt.withDefaults()
	opt.Bootstrap = quick(r)
	var f CostFit // without the models, which take most of the time
	if err := f.linear(a, a.weights(opt.Relative), studyLevels(), opt); err != nil {
		panic(err)
	}
	tp, err := Crossover(a, b, 1000, opt)
	if err != nil {
		panic(err)
	}
	return []outcome{within(f.T0, 20), within(f.Slope, 0.02), within(f.Flat.Ratio, 2), within(tp.N, 400)}
}

// steady is an arm that hardly varies.
func steady() shape {
	return shape{draw: func(r *rand.Rand) float64 { return 0.01 * r.NormFloat64() }}
}

func (k costNoise) points(s shape, r *rand.Rand, m CostModel, speeds []float64) Points {
	var p Points
	for block, speed := range speeds {
		for _, n := range studyLevels() {
			p.N, p.Y = append(p.N, n), append(p.Y, k.draw(s, r, m.At(n), speed))
			if k.blocks {
				p.Block = append(p.Block, block)
			}
		}
	}
	return p
}
