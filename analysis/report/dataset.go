package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/claims"
	"hookbed/analysis/runs"
)

// point is what a row of a table stands for. Where experiments have several
// numbers of clients, an arm with each of them is a line of its own: arm is its
// label then.
type point struct {
	scenario, workload, arm string
	policies                int
}

// labelOf is how an arm is called with a number of clients.
func labelOf(arm string, clients int) string {
	if clients <= 1 {
		return arm
	}
	return fmt.Sprintf("%s, %d clients", arm, clients)
}

// group is everything known of one point: its cells, merged.
type group struct {
	point
	*runs.Cell
	ranIntoMax bool // of the stopping rule
}

// dataset is the cells of all runs, arranged for tables.
type dataset struct {
	*runs.Set
	groups    map[point]*group
	scenarios []string // in the order of the study, then of the plan
	workloads []string
	arms      []string // in the order of the plan
	ofClock   string
	compared  map[string][]string // levels of the factors of a place that are compared
	contrast  claims.Contrast     // the study's
}

func arrange(all []runs.Run) (*dataset, error) {
	set, err := runs.Arrange(all)
	if err != nil {
		return nil, err
	}
	contrast, err := claims.StudyContrast()
	if err != nil {
		return nil, err
	}
	d := &dataset{Set: set, contrast: contrast, groups: map[point]*group{}, ofClock: clockOf(all), compared: compared(all)}
	of := map[point][]*runs.Cell{}
	for _, c := range set.Cells {
		p := point{d.scenarioOf(c), c.Get(runs.FactorWorkload), labelOf(c.Get(runs.FactorArm), c.Clients), c.Policies}
		of[p] = append(of[p], c)
	}
	for p, cells := range of {
		d.groups[p] = &group{point: p, Cell: runs.Merge(cells...)}
		d.applyStop(d.groups[p])
	}
	d.order()
	return d, nil
}

// order fixes the order of everything, so that equal input gives equal output.
func (d *dataset) order() {
	var scenarios, workloads, arms []string
	for _, r := range d.Runs {
		if r.Plan == nil {
			continue
		}
		scenarios, workloads = append(scenarios, r.Plan.Spec.Scenarios...), append(workloads, r.Plan.Spec.Workloads...)
		for _, a := range r.Plan.Spec.Arms {
			arms = append(arms, a.Name)
		}
	}
	d.scenarios = d.levels(d.places(slices.Concat([]string{"localhost", "multi-host"}, scenarios)), func(p point) string { return p.scenario })
	var known []string
	for _, w := range d.Words.Workloads {
		known = append(known, w.Name)
	}
	d.workloads = d.levels(slices.Concat(known, workloads), func(p point) string { return p.workload })
	d.arms = d.levels(d.labels(arms), func(p point) string { return p.arm })
}

// places are scenarios with what else numbers are kept apart by, in the order of the plan.
func (d *dataset) places(scenarios []string) []string {
	var out []string
	for _, s := range scenarios {
		for _, c := range d.Cells {
			if p := d.scenarioOf(c); c.Get(runs.FactorScenario) == s && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// labels are arms with every number of clients that cells have.
func (d *dataset) labels(arms []string) []string {
	var out []string
	for _, arm := range arms {
		for _, clients := range d.clients() {
			out = append(out, labelOf(arm, clients))
		}
	}
	return out
}

// clients lists the numbers of clients, ascending.
func (d *dataset) clients() []int {
	seen := map[int]bool{}
	for _, c := range d.Cells {
		seen[c.Clients] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// levels lists the levels that occur: preferred ones first, others sorted.
func (d *dataset) levels(preferred []string, of func(point) string) []string {
	seen := map[string]bool{}
	for p := range d.groups {
		seen[of(p)] = true
	}
	var out []string
	for _, name := range append(preferred, slices.Sorted(maps.Keys(seen))...) {
		if seen[name] {
			out = append(out, name)
			delete(seen, name)
		}
	}
	return out
}

// sorted lists the groups of a scenario and workload, by arm then policies.
func (d *dataset) sorted(scenario, workload string) []*group {
	var out []*group
	for _, arm := range d.arms {
		var of []*group
		for p, g := range d.groups {
			if p.scenario == scenario && p.workload == workload && p.arm == arm {
				of = append(of, g)
			}
		}
		slices.SortFunc(of, func(a, b *group) int { return cmp.Compare(a.policies, b.policies) })
		out = append(out, of...)
	}
	return out
}

// all lists every group in report order.
func (d *dataset) all() []*group {
	var out []*group
	for _, s := range d.scenarios {
		for _, w := range d.workloads {
			out = append(out, d.sorted(s, w)...)
		}
	}
	return out
}

// byBlock are the usable values of a metric, a slice a block, in order.
func (g *group) byBlock(metric string) [][]float64 {
	var out [][]float64
	for _, b := range g.Blocks(metric) {
		out = append(out, b.Values)
	}
	return out
}

// metrics lists the metrics that usable trials of these groups have, sorted.
func metrics(groups []*group) []string {
	var cells []*runs.Cell
	for _, g := range groups {
		cells = append(cells, g.Cell)
	}
	return runs.Metrics(cells...)
}

// noPolicies says whether an arm exists only with N = 0 although the data has
// other N: it enforces nothing and serves as a reference.
func (d *dataset) noPolicies(arm string) bool {
	others := false
	for p := range d.groups {
		if p.policies > 0 {
			if p.arm == arm {
				return false
			}
			others = true
		}
	}
	return others
}

// reference is the arm that others are compared with: the named one, else the
// first that is the base fabric and nothing more, else the first without policies,
// else "".
func (d *dataset) reference(named string) string {
	if slices.Contains(d.arms, named) {
		return named
	}
	for _, arm := range d.arms {
		if slices.ContainsFunc(d.Cells, func(c *runs.Cell) bool { return c.Get(runs.FactorArm) == arm && d.plain(c) }) {
			return arm
		}
	}
	for _, arm := range d.arms {
		if d.noPolicies(arm) {
			return arm
		}
	}
	return ""
}

// plain says whether a cell's arm is the base fabric without any filter, all its
// options at their defaults.
func (d *dataset) plain(c *runs.Cell) bool {
	fabric, filter := d.Words.Datapath(c.Factors)
	on, _ := d.Words.Fabric(fabric)
	is, known := d.Words.Filter(filter)
	asked := func(o catalog.Option) bool { return !d.Words.AtDefault(c.Factors, o.Key) }
	return on.Base && known && !is.Policies && is.Mechanism == "" && !is.Control && !slices.ContainsFunc(d.Words.Options, asked)
}

// against is the reference for a group: the arm called so, with as many clients.
func (d *dataset) against(g *group, reference string) string {
	if reference == "" {
		return ""
	}
	return labelOf(reference, g.Clients)
}

// clock is "wall" or "virtual"; "" if the runs do not say.
func (d *dataset) clock() string { return d.ofClock }

func clockOf(all []runs.Run) string {
	for _, r := range all {
		if clock := r.Clock(); clock != "" {
			return clock
		}
	}
	return ""
}
