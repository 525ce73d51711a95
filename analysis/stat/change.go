package stat

import (
	"math"
	"math/rand/v2"
	"slices"
)

// ChangeOptions say how the changes of a series are found. The zero value is a level of 0.05 with
// 9999 permutations.
type ChangeOptions struct {
	Level        float64 // largest p-value of a change; 0 = 0.05
	Permutations int     // 0 = 9999, so that no p-value is below 0.0001
	Seed         uint64  // of the permutations
}

func (o ChangeOptions) withDefaults() ChangeOptions {
	if o.Level == 0 {
		o.Level = 0.05
	}
	if o.Permutations == 0 {
		o.Permutations = 9999
	}
	return o
}

// MinSeries is the smallest number of values that can show a change at the level 0.05: of eight
// values, 70 orders part them into the smaller and the larger four.
const MinSeries = 8

// Change is a point from which on the values of a series are at another level.
type Change struct {
	At     int     // index of the first value at the new level
	P      float64 // permutation p-value within the part of the series that it divides; 0 = exact
	Before float64 // median of the values from the change before it
	After  float64 // median of the values up to the next change
}

// Ratio is the new level over the old one.
func (c Change) Ratio() float64 { return c.After / c.Before }

// ChangePoint is the most likely change of a series and its p-value: the test of Pettitt (1979, "A
// non-parametric approach to the change-point problem", Applied Statistics 28, 126-135), with the
// p-value of a permutation test instead of his approximation, which needs long series without
// ties. Ranks are used, so one outlier, however large, is one rank and no change. The p-value is 1
// for fewer than MinSeries values.
func ChangePoint(x []float64, opt ChangeOptions) (at int, p float64) {
	if len(x) < MinSeries {
		return 0, 1
	}
	opt = opt.withDefaults()
	r := ranks(x)
	at, k := pettitt(r)
	if k == 0 {
		return 0, 1
	}
	random := rand.New(rand.NewPCG(opt.Seed, uint64(len(x))))
	reached := 1
	for range opt.Permutations {
		random.Shuffle(len(r), func(i, j int) { r[i], r[j] = r[j], r[i] })
		if _, other := pettitt(r); other >= k {
			reached++
		}
	}
	return at, float64(reached) / float64(opt.Permutations+1)
}

// pettitt is max |U| over the points that divide a series, and the first such point. r are twice the
// ranks, so that those of ties are whole.
func pettitt(r []float64) (at int, k float64) {
	mean, sum := float64(len(r)+1), 0.0
	for i, v := range r[:len(r)-1] {
		sum += v - mean
		if math.Abs(sum) > k {
			at, k = i+1, math.Abs(sum)
		}
	}
	return at, k
}

// ranks are twice the ranks of values from 1 on; equal values share the mean of their ranks.
func ranks(x []float64) []float64 {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case x[a] < x[b]:
			return -1
		case x[a] > x[b]:
			return 1
		}
		return 0
	})
	out := make([]float64, len(x))
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && x[order[j]] == x[order[i]] {
			j++
		}
		for _, at := range order[i:j] {
			out[at] = float64(i + j + 1)
		}
		i = j
	}
	return out
}

// Changes are the changes of a series, in order, by binary segmentation (Scott and Knott 1974): a
// part whose ChangePoint has a p-value of at most the level is divided there, and both parts are
// looked at again.
func Changes(x []float64, opt ChangeOptions) []Change {
	opt = opt.withDefaults()
	var found []Change
	var divide func(from, to int)
	divide = func(from, to int) {
		at, p := ChangePoint(x[from:to], opt)
		if p > opt.Level {
			return
		}
		divide(from, from+at)
		found = append(found, Change{At: from + at, P: p})
		divide(from+at, to)
	}
	divide(0, len(x))
	return levels(x, found)
}

// Steps are the changes of a series without noise: every value that is not the one before it.
func Steps(x []float64) []Change {
	var found []Change
	for i := 1; i < len(x); i++ {
		if x[i] != x[i-1] {
			found = append(found, Change{At: i})
		}
	}
	return levels(x, found)
}

// levels fills in the medians on both sides of each change.
func levels(x []float64, found []Change) []Change {
	for i := range found {
		from, to := 0, len(x)
		if i > 0 {
			from = found[i-1].At
		}
		if i+1 < len(found) {
			to = found[i+1].At
		}
		found[i].Before, found[i].After = Median(x[from:found[i].At]), Median(x[found[i].At:to])
	}
	return found
}

// FalseDiscovery is the largest of some p-values at which the hypotheses of those that are no larger
// may be rejected, so that the expected share of wrong ones among them is at most q (Benjamini and
// Hochberg 1995, "Controlling the false discovery rate", Journal of the Royal Statistical Society B
// 57, 289-300). 0 if none may.
func FalseDiscovery(p []float64, q float64) float64 {
	sorted := slices.Clone(p)
	slices.Sort(sorted)
	for i, v := range slices.Backward(sorted) {
		if v <= q*float64(i+1)/float64(len(p)) {
			return v
		}
	}
	return 0
}
