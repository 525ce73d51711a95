package stat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// pilot is a way to compare two cells, with the number of values of a first run.
type pilot struct {
	name string
	n    int
	of   func(num, den []float64, r *rand.Rand) Estimate
	q    Question
	// blocks: values of both cells share what a block changes.
	blocks bool
}

func pilots() []pilot {
	ratio := func(num, den []float64, r *rand.Rand) Estimate { return quick(r).Ratio(num, den, 0.95) }
	halves := func(num, den []float64, r *rand.Rand) Estimate {
		e, _ := quick(r).FasterHalfRatio(num, den, false, 0.95)
		return e
	}
	paired := func(num, den []float64, _ *rand.Rand) Estimate { return PairedRatio(num, den, 0.95) }
	tost := func(num, den []float64, _ *rand.Rand) Estimate { return TOSTUnpaired(num, den, 0.02, 0.05).Ratio }
	one := Question{Confidence: 0.95, Of: NeedTrials}
	return []pilot{
		{"ratio of medians", 2, ratio, one, false}, {"ratio of medians", 4, ratio, one, false}, {"ratio of medians", 6, ratio, one, false},
		{"faster halves", 8, halves, one, false}, {"paired", 3, paired, one, true}, {"paired", 5, paired, one, true},
		{"TOST, margin 2 %", 5, tost, Question{Confidence: 0.9, Of: NeedTrials, Apart: []float64{1 / 1.02, 1.02}}, false},
	}
}

const plannedRounds = 120

// TestPlannedTrialsDecide runs a pilot that decides nothing, plans, and runs again
// with as many values as planned: with effect and spread unchanged, most of these
// runs decide. The plan depends on the pilot's own spread and effect, so the test
// cannot require more than most. With -v it prints the table of docs/statistics.md.
func TestPlannedTrialsDecide(t *testing.T) {
	t.Parallel()
	all, some := pilots(), shapes()[:2]
	lines := make([]string, len(all)*len(some))
	t.Run("pilots", func(t *testing.T) {
		for i, p := range all {
			for j, s := range some {
				t.Run(fmt.Sprintf("%s n=%d %s", p.name, p.n, s.name), func(t *testing.T) {
					t.Parallel()
					lines[i*len(some)+j] = p.check(t, s, rand.New(rand.NewPCG(uint64(i), uint64(j))))
				})
			}
		}
	})
	t.Logf("\n%s", strings.Join(lines, "\n"))
}

// check is one line of the table: a pilot with values of one shape.
func (p pilot) check(t *testing.T, s shape, rng *rand.Rand) string {
	t.Helper()
	decided, plans, needs := 0, 0, []int{}
	for range plannedRounds {
		e := p.of(p.sample(s, rng, p.n, 1.12), p.sample(s, rng, p.n, 1), rng)
		n := e.Needed(p.q)
		if p.decides(e) || n.Bound != NeedAbout || n.N > 80 {
			continue // nothing to plan, or too long to run here
		}
		plans, needs = plans+1, append(needs, n.N)
		num, den := p.sample(s, rng, n.N, e.Estimate), p.sample(s, rng, n.N, 1)
		if p.decides(p.of(num, den, rng)) {
			decided++
		}
	}
	slices.Sort(needs)
	share := float64(decided) / float64(plans)
	if plans < 40 || share < 0.5 {
		t.Errorf("%s, n=%d, %s: %d of %d planned runs decide", p.name, p.n, s.name, decided, plans)
	}
	return fmt.Sprintf("| %s | %d | %s | %d | %.0f |", p.name, p.n, s.name, needs[len(needs)/2], 100*share)
}

// sample draws n values of a cell.
func (p pilot) sample(s shape, r *rand.Rand, n int, factor float64) []float64 {
	blocks := rand.New(rand.NewPCG(9, 9)) // the same of both cells
	x := s.sample(r, n)
	for i := range x {
		x[i] *= factor
		if p.blocks {
			x[i] *= math.Exp(blocks.NormFloat64())
		}
	}
	return x
}

// decides reports whether the interval answers the question.
func (p pilot) decides(e Estimate) bool {
	for _, a := range p.q.Apart {
		if !e.Excludes(a) {
			return false
		}
	}
	return e.Confidence >= p.q.Confidence && (len(p.q.Apart) > 0 || e.Excludes(1))
}

// By hand: logs of ratios -0.1, 0, 0.4 have mean 0.1 and standard deviation
// sqrt(0.07) = 0.26458. With n pairs 95 % and 8 of 10 want (t(0.975) + t(0.8))
// 0.26458/sqrt(n) <= 0.1: at n = 57 it is (2.00324 + 0.84828) * 0.035044 =
// 0.09993, at n = 56 (2.00404 + 0.84839) * 0.035356 = 0.10085.
func TestNeededByHand(t *testing.T) {
	num := exps([]float64{-0.1, 0, 0.4})
	e := PairedRatio(num, []float64{1, 1, 1}, 0.95)
	if n := e.Needed(Question{Confidence: 0.95, Of: NeedSeeds}); n != (Need{57, NeedAbout, NeedSeeds}) {
		t.Errorf("%+v", n)
	}
}

func TestNeeded(t *testing.T) {
	q := Question{Confidence: 0.95, Of: NeedTrials}
	interval := func(low, est, high, confidence float64, n int, method string) Estimate {
		return Estimate{Estimate: est, Low: low, High: high, Confidence: confidence, N: n, Method: method}
	}
	for _, tt := range []struct {
		name string
		e    Estimate
		q    Question
		want string
	}{
		{"one trial", interval(2, 2, 2, 0, 1, MethodExtremes), q, "it takes at least 5 trials a cell"},
		{"one trial of a half", interval(2, 2, 2, 0, 1, MethodBootstrapT), q, "it takes at least 7 trials a cell"},
		{"one seed", interval(2, 2, 2, 0, 1, MethodExtremes), Question{Confidence: 0.95, Of: NeedSeeds, Least: 2}, "it takes at least 2 seeds"},
		{"two equal seeds", interval(2, 2, 2, 0, 2, MethodPaired), Question{Confidence: 0.95, Of: NeedSeeds, Least: 2}, "it takes at least 3 seeds"},
		{"two alike", interval(1.99, 2, 2.01, 0.25, 2, MethodExtremes), q, "about 5 trials a cell would decide"},
		{"nothing", interval(0.9, 1, 1.1, 0.95, 9, MethodPercentile), q, "no number of trials like these would decide"},
		{"hardly anything", interval(0.9, 1.00001, 1.1, 0.95, 9, MethodPercentile), q, "it takes more than 1000 trials a cell"},
		{"at the margin", interval(0.9, 1.05, 1.1, 0.9, 9, MethodWelch), Question{Confidence: 0.9, Of: NeedBlocks, Apart: []float64{1 / 1.05, 1.05}}, "no number of blocks like these would decide"},
		{"no ratio", interval(math.NaN(), math.NaN(), math.NaN(), 0, 0, ""), q, "no number of trials like these would decide"},
		{"a ratio of 0", interval(0, 0, 1, 0.95, 9, MethodPercentile), q, "no number of trials like these would decide"},
	} {
		if got := tt.e.Needed(tt.q).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// A larger effect, or a smaller spread, never needs more values; and a plan is
// always for more values than were measured.
func TestNeededFollowsEffectAndSpread(t *testing.T) {
	for _, method := range []string{MethodExtremes, MethodPercentile, MethodBootstrapT, MethodPaired, MethodWelch} {
		last := MaxNeed
		for i := 1; i <= 40; i++ {
			d := 0.005 * float64(i)
			e := Estimate{Estimate: math.Exp(d), Low: math.Exp(d - 0.2), High: math.Exp(d + 0.2), Confidence: 0.95, N: 4, Method: method}
			n := e.Needed(Question{Confidence: 0.95, Of: NeedTrials})
			if n.N > last || n.N <= e.N {
				t.Errorf("%s, effect %.3f: %+v after %d", method, d, n, last)
			}
			last = n.N
		}
	}
}
