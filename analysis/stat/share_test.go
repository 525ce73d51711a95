package stat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// chain are four arms whose steps have the shares 0, 0.9 and 0.1.
func chain() []float64 { return []float64{5, 5, math.Pow(5, 0.1), 1} }

func wantShares() []float64 { return []float64{0, 0.9, 0.1} }

func chainOf(s shape, r *rand.Rand, n int) [][]float64 {
	var out [][]float64
	for _, f := range chain() {
		out = append(out, scale(s.sample(r, n), f))
	}
	return out
}

// shareClaims are of intervals of shares, and of the ratio of faster halves. With
// few values a bootstrap holds the truth too often rather than too seldom.
func shareClaims() []claim {
	var out []claim
	shareLines := func(name string, low float64) []accepted {
		return []accepted{{name + ", none", low, 1, 0.75}, {name + ", most", low, 1, 0.75}, {name + ", little", low, 1, 0.75}}
	}
	steps := func(of func(from, to int) Estimate) []outcome {
		var out []outcome
		for i, want := range wantShares() {
			out = append(out, within(of(i, i+1), want))
		}
		return out
	}
	for _, n := range []int{8, 12} {
		out = append(out, claim{n, append(shareLines("share, faster half", 0.93), accepted{"ratio of faster halves", 0.93, 1, 0.8}), func(s shape, r *rand.Rand) []outcome {
			arms, b := chainOf(s, r, n), quick(r)
			ratio, _ := b.FasterHalfRatio(arms[0], arms[3], false, 0.95)
			return append(steps(func(from, to int) Estimate {
				e, _ := b.FasterHalfShare(arms, from, to, false, 0.95)
				return e
			}), within(ratio, 5))
		}})
	}
	for _, n := range []int{5} {
		out = append(out, claim{n, shareLines("share, medians", 0.93), func(s shape, r *rand.Rand) []outcome {
			arms, b := chainOf(s, r, n), quick(r)
			return steps(func(from, to int) Estimate { return b.Share(arms, from, to, 0.95) })
		}})
	}
	for _, n := range []int{4, 20} {
		out = append(out, claim{n, shareLines("share, paired", 0.93), func(s shape, r *rand.Rand) []outcome {
			arms := chainOf(s, r, n)
			for i := range n { // what a block changes
				boot := math.Exp(r.NormFloat64())
				for k := range arms {
					arms[k][i] *= boot
				}
			}
			return steps(func(from, to int) Estimate { return PairedShare(arms, from, to, 0.95) })
		}})
	}
	return out
}

// TestShareCoverage is TestCoverage for shares.
func TestShareCoverage(t *testing.T) {
	t.Parallel()
	all, claims := shapes(), shareClaims()
	rows := make([][]string, len(claims))
	t.Run("claims", func(t *testing.T) {
		for i, c := range claims {
			t.Run(fmt.Sprintf("%s n=%d", c.lines[0].name, c.n), func(t *testing.T) {
				t.Parallel()
				rows[i] = c.check(t, all, uint64(100+i))
			})
		}
	})
	t.Logf("per cent held\n| interval | n | normal | skewed | bimodal |\n|---|---|---|---|---|\n%s", strings.Join(slices.Concat(rows...), "\n"))
}

// Shares are exact where no arm has any spread, add up to 1, and have no
// confidence where the arms do not differ.
func TestShareOfConstants(t *testing.T) {
	var arms, same [][]float64
	for _, f := range chain() {
		arms, same = append(arms, []float64{f, f, f}), append(same, []float64{1, 1.1, 0.9})
	}
	sum := 0.0
	for i, want := range wantShares() {
		p, b := PairedShare(arms, i, i+1, 0.95), Bootstrap{}.Share(arms, i, i+1, 0.95)
		sum += p.Estimate
		for _, e := range []Estimate{p, b} {
			if math.Abs(e.Estimate-want) > 1e-12 || math.Abs(e.Low-e.High) > 1e-9 || e.Confidence == 0 {
				t.Errorf("step %d: %+v, want %g", i, e, want)
			}
		}
		if e := (Bootstrap{}).Share(same, i, i+1, 0.95); e.Confidence != 0 {
			t.Errorf("nothing is shared: %+v", e)
		}
	}
	if math.Abs(sum-1) > 1e-12 {
		t.Errorf("shares add up to %g", sum)
	}
	eight := make([][]float64, len(arms))
	for k := range arms {
		eight[k] = slices.Repeat([]float64{chain()[k]}, 8)
	}
	e, ok := Bootstrap{}.FasterHalfShare(eight, 1, 2, false, 0.95)
	if !ok || math.Abs(e.Estimate-0.9) > 1e-12 || e.Confidence != 0.95 {
		t.Errorf("faster halves: %+v, %v", e, ok)
	}
	if _, ok := (Bootstrap{}).FasterHalfShare(arms, 1, 2, false, 0.95); ok {
		t.Error("three samples are enough for a faster half")
	}
	if e := PairedShare([][]float64{{1}, {2}, {3}}, 0, 1, 0.95); e.Confidence != 0 {
		t.Errorf("one block: %+v", e)
	}
	if e := (Bootstrap{}).Share([][]float64{{1, 2}, {}, {3}}, 0, 1, 0.95); !math.IsNaN(e.Estimate) {
		t.Errorf("an empty arm: %+v", e)
	}
}
