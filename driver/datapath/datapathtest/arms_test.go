package datapathtest

import (
	"slices"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// byFilter sorts the possible datapaths of the cross by filter.
func byFilter() map[string][]plan.DatapathEntry {
	out := map[string][]plan.DatapathEntry{}
	for _, d := range datapath.Catalog() {
		if d.Crossed && d.Impossible == "" && runnable(d) {
			out[d.Filter] = append(out[d.Filter], d)
		}
	}
	return out
}

func (a Arm) level(key string) string {
	switch key {
	case plan.FactorFabric:
		return a.Fabric
	case plan.FactorScenario:
		return a.Scenario
	}
	return a.Options[key] // absent: ""
}

// TestArmsCoverTheCatalog: every datapath has its arms with all options at
// their defaults, every level of every option that the catalog allows is in
// some arm, and no two arms are the same.
func TestArmsCoverTheCatalog(t *testing.T) {
	arms := Arms(datapath.Catalog())
	seen := map[string]bool{}
	for _, a := range arms {
		if seen[a.Name()] {
			t.Errorf("arm %s is there twice", a.Name())
		}
		seen[a.Name()] = true
	}
	for filter, ds := range byFilter() {
		fs := factorsOf(ds)
		for _, d := range ds {
			if !slices.ContainsFunc(Defaults(arms), func(a Arm) bool { return a.Datapath == d.Name }) {
				t.Errorf("%s has no arm with all options at their defaults", d.Name)
			}
			for _, f := range fs {
				for _, l := range f.levels {
					if possible(ds, fs, plan.FactorFabric, d.Fabric, f.key, l) && !slices.ContainsFunc(arms, func(a Arm) bool { return a.Filter == filter && a.level(f.key) == l }) {
						t.Errorf("no arm of filter %s has %s = %q", filter, f.key, l)
					}
				}
			}
		}
	}
}

// TestArmsCoverPairs: of one filter, every pair of levels that the catalog lets
// be together is in some arm.
func TestArmsCoverPairs(t *testing.T) {
	ds := byFilter()["nft-linear"]
	arms := cover(ds)
	fs := factorsOf(ds)
	for i, f := range fs {
		for _, g := range fs[i+1:] {
			for _, x := range f.levels {
				for _, y := range g.levels {
					if !slices.ContainsFunc(arms, func(a Arm) bool { return a.level(f.key) == x && a.level(g.key) == y }) && possible(ds, fs, f.key, x, g.key, y) {
						t.Errorf("no arm has %s = %q and %s = %q", f.key, x, g.key, y)
					}
				}
			}
		}
	}
}

// possible tries all levels of all other factors.
func possible(ds []plan.DatapathEntry, fs []factor, k1, l1, k2, l2 string) bool {
	levels := map[string]string{k1: l1, k2: l2}
	var search func(i int) bool
	search = func(i int) bool {
		if i == len(fs) {
			_, ok := allowed(ds, levels)
			return ok
		}
		if fs[i].key == k1 || fs[i].key == k2 {
			return search(i + 1)
		}
		for _, l := range fs[i].levels {
			levels[fs[i].key] = l
			if search(i + 1) {
				return true
			}
		}
		delete(levels, fs[i].key)
		return false
	}
	return search(0)
}
