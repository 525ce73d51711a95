package stat

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// nile is the annual flow of the Nile at Aswan in 10^8 m^3, 1871 to 1970 (Cobb 1978, Biometrika 65,
// 243-251, table 1). Its level changed after 1898, with the year 1899 the first lower one.
func nile() []float64 {
	return []float64{
		1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180, 799, 958, 1140,
		1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833, 701, 916, 692, 1020, 1050, 969,
		831, 726, 456, 824, 702, 1120, 1100, 832, 764, 821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759,
		781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890,
		744, 749, 838, 1050, 918, 986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740,
	}
}

func TestTheNileChangedAfter1898(t *testing.T) {
	got := Changes(nile(), ChangeOptions{})
	if len(got) != 1 || 1871+got[0].At != 1899 || got[0].P > 0.001 {
		t.Fatalf("got %+v, want one change in 1899", got)
	}
	// The means of both parts, as published with the data (Zeileis et al. 2003, "Testing and dating of
	// structural changes in practice").
	if before, after := Mean(nile()[:28]), Mean(nile()[28:]); math.Abs(before-1097.75) > 0.01 || math.Abs(after-849.97) > 0.01 {
		t.Errorf("levels %v and %v", before, after)
	}
	if got[0].Before != Median(nile()[:28]) || got[0].After != Median(nile()[28:]) {
		t.Errorf("levels %v and %v", got[0].Before, got[0].After)
	}
}

// normal are n values around a level.
func normal(random *rand.Rand, n int, level, sd float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = level + sd*random.NormFloat64()
	}
	return out
}

func TestAStepIsFoundAndAnOutlierIsNot(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	step := slices.Concat(normal(random, 12, 100, 1), normal(random, 12, 104, 1))
	if got := Changes(step, ChangeOptions{}); len(got) != 1 || got[0].At != 12 || math.Abs(got[0].Ratio()-1.04) > 0.01 {
		t.Errorf("a step of 4 %%: %+v", got)
	}
	two := slices.Concat(normal(random, 12, 100, 1), normal(random, 12, 110, 1), normal(random, 12, 100, 1))
	if got := Changes(two, ChangeOptions{}); len(got) != 2 || got[0].At != 12 || got[1].At != 24 {
		t.Errorf("two steps: %+v", got)
	}
	quiet := normal(random, 24, 100, 1)
	if got := Changes(quiet, ChangeOptions{Level: 0.001}); len(got) > 0 {
		t.Fatalf("noise: %+v", got)
	}
	_, plain := ChangePoint(quiet, ChangeOptions{})
	for _, i := range []int{0, 12, 23} {
		x := slices.Clone(quiet)
		x[i] = 1e6
		_, p := ChangePoint(x, ChangeOptions{})
		if got := Changes(x, ChangeOptions{Level: 0.01}); len(got) > 0 {
			t.Errorf("an outlier at %d: %+v (p %v, without it %v)", i, got, p, plain)
		}
	}
}

// Of series without a change, at most the level's share shows one.
func TestTheLevelOfChangePointHolds(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	const series, level = 400, 0.05
	for _, n := range []int{8, 20} {
		wrong := 0
		for range series {
			if _, p := ChangePoint(normal(random, n, 0, 1), ChangeOptions{Permutations: 199}); p <= level {
				wrong++
			}
		}
		if e := FalsePositives(wrong, series, 0.99); e.Low > level {
			t.Errorf("%d values: %d of %d series changed", n, wrong, series)
		}
	}
}

func TestShortAndConstantSeriesDoNotChange(t *testing.T) {
	for _, x := range [][]float64{nil, {1}, {1, 1, 1, 2, 2, 2, 2}, {3, 3, 3, 3, 3, 3, 3, 3, 3}} {
		if at, p := ChangePoint(x, ChangeOptions{}); at != 0 || p != 1 {
			t.Errorf("%v: at %d, p %v", x, at, p)
		}
	}
	if at, p := ChangePoint([]float64{1, 2, 3, 4, 15, 16, 17, 18}, ChangeOptions{}); at != 4 || p > 0.05 {
		t.Errorf("eight values: at %d, p %v", at, p)
	}
}

func TestStepsAreExact(t *testing.T) {
	got := Steps([]float64{5, 5, 6, 6, 5})
	want := []Change{{At: 2, Before: 5, After: 6}, {At: 4, Before: 6, After: 5}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}

// The example of Benjamini and Hochberg (1995), section 3.2: of 15 p-values four are rejected.
func TestFalseDiscoveryOfThePaper(t *testing.T) {
	p := []float64{0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1}
	if got := FalseDiscovery(p, 0.05); got != 0.0095 {
		t.Errorf("the largest is %v", got)
	}
	if got := FalseDiscovery([]float64{0.5, 0.9}, 0.05); got != 0 {
		t.Errorf("the largest is %v", got)
	}
}
