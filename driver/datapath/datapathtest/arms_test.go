package datapathtest

import (
	"slices"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// TestArmsCoverTheCatalog: every datapath that can be has its arms, every level
// of every option is in some arm of its filter, and no two arms are the same.
func TestArmsCoverTheCatalog(t *testing.T) {
	arms := Arms()
	seen := map[string]bool{}
	for _, a := range arms {
		if seen[a.Name()] {
			t.Errorf("arm %s is there twice", a.Name())
		}
		seen[a.Name()] = true
	}
	for _, d := range datapath.Catalog() {
		if !d.Crossed || d.Impossible != "" || !runnable(d) {
			continue
		}
		if !slices.ContainsFunc(arms, func(a Arm) bool { return a.Datapath == d.Name }) {
			t.Errorf("%s has no arm", d.Name)
		}
		for _, o := range d.Options {
			for _, level := range o.Allowed {
				if !slices.ContainsFunc(arms, func(a Arm) bool { return a.Filter == d.Filter && a.Is(o.Key, level) }) {
					t.Errorf("no arm of filter %s has %s = %q", d.Filter, o.Key, level)
				}
			}
		}
	}
}

// TestArmsCoverPairs counts, for one filter, the pairs of levels that the
// catalog lets be together and no arm has.
func TestArmsCoverPairs(t *testing.T) {
	var ds []plan.DatapathEntry
	for _, d := range datapath.Catalog() {
		if d.Crossed && d.Impossible == "" && d.Filter == "nft-linear" {
			ds = append(ds, d)
		}
	}
	arms := cover(ds)
	has := func(a Arm, key, level string) bool {
		switch key {
		case factorFabric:
			return a.Fabric == level
		case factorScenario:
			return a.Scenario == level
		}
		return a.Options[key] == level || level == "" && a.Options[key] == a.defaults[key]
	}
	fs := factorsOf(ds)
	for i, f := range fs {
		for _, g := range fs[i+1:] {
			for _, x := range f.levels {
				for _, y := range g.levels {
					if !slices.ContainsFunc(arms, func(a Arm) bool { return has(a, f.key, x) && has(a, g.key, y) }) && possible(ds, fs, f.key, x, g.key, y) {
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
			_, ok := build(ds, levels)
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
