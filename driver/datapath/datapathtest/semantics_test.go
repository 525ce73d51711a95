package datapathtest

import (
	"slices"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// A filter has its arms and its promises by its entry in the catalog alone.
func TestOneEntryMakesArmsWithTheirPromises(t *testing.T) {
	all := datapath.Catalog()
	for _, d := range datapath.Catalog() {
		if d.Crossed && d.Filter == "xdp-hash" {
			d.Filter, d.Name, d.Structure = "xdp-bloom", d.Fabric+"+xdp-bloom", "bloom"
			all = append(all, d)
		}
	}
	seen := 0
	for _, a := range Arms(all) {
		if a.Filter != "xdp-bloom" {
			continue
		}
		seen++
		if ok, why := a.promises(promiseKept); ok || why == "" || !a.stateless() {
			t.Errorf("%s keeps connections", a.Name())
		}
		if ok, _ := a.promises(promiseFragments); ok {
			t.Errorf("%s promises fragments, which no program of ours does", a.Name())
		}
	}
	if seen < 4 {
		t.Errorf("%d arms of the filter", seen)
	}
}

// Every entry says enough of its filter for promises to follow: a mechanism or whose
// it is, a structure or that an option says it, and what looks up the policies.
func TestTheCatalogSaysWhatFiltersAre(t *testing.T) {
	for _, d := range datapath.Catalog() {
		own := len(d.Keys) > 0 // the user's: not known
		defaults := map[string]string{}
		for _, o := range d.Options {
			defaults[o.Key] = o.Allowed[0]
			if o.Role != "" && !slices.Contains(catalog.Roles(), o.Role) {
				t.Errorf("%s: option %s is about %q, want one of %v", d.Name, o.Key, o.Role, catalog.Roles())
			}
			if (o.Role == catalog.RoleRegime) != (len(o.Regimes) == len(o.Allowed)) {
				t.Errorf("%s: option %s of role %q has %d regimes for %d levels", d.Name, o.Key, o.Role, len(o.Regimes), len(o.Allowed))
			}
		}
		regime := d.RegimeOf(defaults)
		switch {
		case own, d.Impossible != "":
		case d.NoPolicies && (regime != "" || d.Structure != catalog.Nothing):
			t.Errorf("%s has no policies, and the regime %q and the structure %q", d.Name, regime, d.Structure)
		case d.NoPolicies:
		case regime == "" || len(d.Protocols) == 0:
			t.Errorf("%s has policies, the regime %q and the protocols %v", d.Name, regime, d.Protocols)
		case d.External == "" && (d.Mechanism == "" || d.Structure == "" || d.Structure == catalog.Nothing):
			t.Errorf("%s has policies, the mechanism %q and the structure %q", d.Name, d.Mechanism, d.Structure)
		}
	}
}

// An option is about one thing, whichever filter has it.
func TestOptionsHaveOneRole(t *testing.T) {
	roles := map[string]plan.Option{}
	for _, d := range datapath.Catalog() {
		for _, o := range d.Options {
			if first, seen := roles[o.Key]; seen && first.Role != o.Role {
				t.Errorf("%s: option %s is about %q, and elsewhere about %q", d.Name, o.Key, o.Role, first.Role)
			}
			roles[o.Key] = o
		}
	}
}
