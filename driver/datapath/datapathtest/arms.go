package datapathtest

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// Arm is a datapath with its options, in one scenario, put to the test.
type Arm struct {
	Datapath string // name in the catalog, "bridge+nft-set"
	Fabric   string
	Filter   string
	Scenario string
	Options  map[string]string // every option, defaults filled in
	// NoPolicies: enforces nothing.
	NoPolicies bool
	defaults   map[string]string
	entry      plan.DatapathEntry // of the catalog, which says what the filter is
}

// Name is different for each arm: the datapath, the scenario if it is not the first, and
// the options that are not at their default.
func (a Arm) Name() string {
	parts := []string{a.Datapath}
	if a.Scenario != plan.Localhost {
		parts = append(parts, a.Scenario)
	}
	for _, k := range slices.Sorted(maps.Keys(a.Options)) {
		if a.Options[k] != a.defaults[k] {
			parts = append(parts, k+"="+a.Options[k])
		}
	}
	return strings.Join(parts, " ")
}

// Is says whether an option has a level.
func (a Arm) Is(key, level string) bool { return a.Options[key] == level }

// Cell is the arm's cell with n policies. Endpoints are bare namespaces.
func (a Arm) Cell(n int) plan.Cell {
	f := map[string]string{
		plan.FactorArm: a.Name(), plan.FactorDatapath: a.Datapath, plan.FactorFabric: a.Fabric, plan.FactorFilter: a.Filter,
		plan.FactorScenario: a.Scenario, plan.FactorPolicies: strconv.Itoa(n), plan.FactorProvider: plan.ProviderLocal,
		plan.FactorEndpoint: plan.EndpointNetns, plan.FactorCongestion: "reno", plan.FactorClock: plan.ClockWall,
	}
	maps.Copy(f, a.Options)
	return plan.Cell{ID: "conformance", Factors: f}
}

// factor is one axis of the arms of a filter: fabric, scenario or an option.
type factor struct {
	key    string
	levels []string
}

// Arms lists the arms of every filter of a catalog: each fabric with the
// defaults in both scenarios, and then as many more as it takes to have every
// pair of levels of any two options, fabric and scenario together in some arm,
// as far as the catalog lets them be together. What a filter does wrong it
// mostly does wrong for one level or for two that meet; the whole cross is
// thousands of arms.
func Arms(catalog []plan.DatapathEntry) []Arm {
	byFilter := map[string][]plan.DatapathEntry{}
	var order []string
	for _, d := range catalog {
		if !d.Crossed || d.Impossible != "" || !runnable(d) {
			continue
		}
		if byFilter[d.Filter] == nil {
			order = append(order, d.Filter)
		}
		byFilter[d.Filter] = append(byFilter[d.Filter], d)
	}
	var out []Arm
	for _, f := range order {
		out = append(out, cover(byFilter[f])...)
	}
	return out
}

// Defaults are the arms of Arms in which every option is at its default.
func Defaults(arms []Arm) (out []Arm) {
	for _, a := range arms {
		if a.plain() {
			out = append(out, a)
		}
	}
	return out
}

// Some are the arms with all options at their defaults, and all of fabric
// bridge: what there is time for at every change.
func Some(arms []Arm) (out []Arm) {
	for _, a := range arms {
		if a.plain() || a.Fabric == datapath.FabricBridge {
			out = append(out, a)
		}
	}
	return out
}

// OfCilium are the arms of Cilium's agent, which Arms leaves out: they need the user's image.
func OfCilium(catalog []plan.DatapathEntry) []Arm {
	var with []plan.DatapathEntry
	for _, d := range catalog {
		if d.Filter == cilium {
			d.Keys = nil // the image is the rig's
			with = append(with, d)
		}
	}
	return Arms(with)
}

// runnable: what the user brings, by keys that name files, has no meaning of its own
// to be held to.
func runnable(d plan.DatapathEntry) bool { return len(d.Keys) == 0 }

// build makes an arm of levels of factors; ok is false if the catalog refuses
// it. An option that the fabric does not have, and only such a one, is "".
func build(ds []plan.DatapathEntry, levels map[string]string) (a Arm, ok bool) {
	d, ok := allowed(ds, levels)
	if !ok {
		return a, false
	}
	a = Arm{Datapath: d.Name, Fabric: d.Fabric, Filter: d.Filter, Scenario: levels[plan.FactorScenario], NoPolicies: d.NoPolicies, Options: map[string]string{}, defaults: map[string]string{}, entry: *d}
	for _, o := range d.Options {
		a.defaults[o.Key], a.Options[o.Key] = o.Allowed[0], levels[o.Key]
	}
	return a, true
}

// allowed finds the datapath of levels of factors, where the catalog does not refuse them. It makes
// nothing: it is asked a hundred thousand times, and in emulated machines too.
func allowed(ds []plan.DatapathEntry, levels map[string]string) (*plan.DatapathEntry, bool) {
	var d *plan.DatapathEntry
	for i := range ds { // entries are large
		if ds[i].Fabric == levels[plan.FactorFabric] {
			d = &ds[i]
		}
	}
	if d == nil {
		return nil, false
	}
	for i := range d.Options {
		// What means nothing has no levels to choose from.
		o := &d.Options[i]
		if l := levels[o.Key]; l == "" || l != o.Allowed[0] && !o.Applies(levels) {
			return nil, false
		}
	}
	for key, level := range levels {
		if level == "" || key == plan.FactorFabric || key == plan.FactorScenario {
			continue
		}
		if !has(d.Options, key) {
			return nil, false
		}
	}
	return d, d.Refuse == nil || d.Refuse(plan.Lab{Provider: plan.ProviderLocal}, levels[plan.FactorScenario], levels) == ""
}

func has(options []plan.Option, key string) bool {
	for i := range options {
		if options[i].Key == key {
			return true
		}
	}
	return false
}

// factorsOf lists the axes of a filter's arms. An option that not every fabric
// has is absent elsewhere: one more level, "".
func factorsOf(ds []plan.DatapathEntry) []factor {
	fabrics := factor{key: plan.FactorFabric}
	var options []factor
	count := map[string]int{}
	for _, d := range ds {
		fabrics.levels = append(fabrics.levels, d.Fabric)
		for _, o := range d.Options {
			if count[o.Key]++; count[o.Key] == 1 {
				options = append(options, factor{o.Key, levelsHere(o)})
			}
		}
	}
	for i, o := range options {
		if count[o.key] < len(ds) {
			options[i].levels = append([]string{""}, o.levels...)
		}
	}
	return append([]factor{fabrics, {plan.FactorScenario, []string{plan.Localhost, plan.MultiHost}}}, options...)
}

// levelsHere are the levels of an option that nodes which are namespaces can have:
// Docker's overlay network is made by engines, and here are none. TestVMDockerOverlay
// of the driver has them. Policies here are generated: what filters make of those that users
// wrote is held by the tests of datapath/verdict.
func levelsHere(o plan.Option) []string {
	return slices.DeleteFunc(slices.Clone(o.Allowed), func(l string) bool {
		return o.Key == datapath.OptOverlay && l == datapath.OverlayDocker || o.Role == catalog.RolePolicies && l == datapath.PolicyOwn
	})
}

// pair is two levels of two factors.
type pair struct{ a, b, x, y string }

func pairsOf(fs []factor, levels map[string]string) iter.Seq[pair] {
	return func(yield func(pair) bool) {
		at := make([]string, len(fs))
		for i, f := range fs {
			at[i] = levels[f.key]
		}
		for i, f := range fs {
			for k := i + 1; k < len(fs); k++ {
				if !yield(pair{f.key, fs[k].key, at[i], at[k]}) {
					return
				}
			}
		}
	}
}

// cover is a greedy covering array of strength two (Cohen et al., The AETG
// System, 1997) over the arms of one filter, without chance: an arm
// is built around each pair that none has yet.
func cover(ds []plan.DatapathEntry) (out []Arm) {
	fs := factorsOf(ds)
	covered := map[pair]bool{}
	take := func(levels map[string]string) {
		if levels == nil {
			return
		}
		a, ok := build(ds, levels)
		if !ok {
			return
		}
		for p := range pairsOf(fs, levels) {
			covered[p] = true
		}
		out = append(out, a)
	}
	for _, d := range ds {
		for _, scenario := range fs[1].levels {
			take(defaultsOf(d, fs, scenario))
		}
	}
	for i, f := range fs {
		for _, g := range fs[i+1:] {
			for _, x := range f.levels {
				for _, y := range g.levels {
					if !covered[pair{f.key, g.key, x, y}] {
						take(fill(ds, fs, covered, map[string]string{f.key: x, g.key: y}))
					}
				}
			}
		}
	}
	return out
}

// defaultsOf are the levels of a datapath with all options at their defaults.
func defaultsOf(d plan.DatapathEntry, fs []factor, scenario string) map[string]string {
	levels := map[string]string{}
	for _, f := range fs {
		levels[f.key] = ""
	}
	levels[plan.FactorFabric], levels[plan.FactorScenario] = d.Fabric, scenario
	for _, o := range d.Options {
		levels[o.Key] = o.Allowed[0]
	}
	return levels
}

// fill makes the arm around two fixed levels that covers most: on each fabric
// it sets the other factors one after the other, starting from the defaults.
// What it returns need not be possible.
func fill(ds []plan.DatapathEntry, fs []factor, covered map[pair]bool, fixed map[string]string) (best map[string]string) {
	most := -1
	for _, d := range ds {
		for _, scenario := range fs[1].levels {
			levels := defaultsOf(d, fs, scenario)
			maps.Copy(levels, fixed)
			if n := improve(ds, fs, levels, covered, fixed); n > most {
				best, most = levels, n
			}
		}
	}
	return best
}

// improve changes one factor after the other to the level with which most is
// covered, and returns how much that is; -1 if there is no such arm.
func improve(ds []plan.DatapathEntry, fs []factor, levels map[string]string, covered map[pair]bool, fixed map[string]string) int {
	gain := func() int {
		if _, ok := allowed(ds, levels); !ok {
			return -1
		}
		n := 0
		for p := range pairsOf(fs, levels) {
			if !covered[p] {
				n++
			}
		}
		return n
	}
	most := gain()
	// Two rounds: what one level rules out, another may allow.
	for range 2 {
		for _, f := range fs {
			if _, set := fixed[f.key]; set {
				continue
			}
			best := levels[f.key]
			for _, l := range f.levels {
				levels[f.key] = l
				if n := gain(); n > most {
					best, most = l, n
				}
			}
			levels[f.key] = best
		}
	}
	return most
}
