package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
)

// point identifies a row of a table.
type point struct {
	stratum  Stratum
	workload string
	line     Line
	policies int
}

// Line is an arm with a number of clients. Where an experiment has several
// numbers of clients, each arm has a line for each of them in tables and figures.
type Line struct {
	Arm     string
	Clients int // at least 1
}

// String names the line for people: "docker, 4 clients"; of one client, "docker".
func (l Line) String() string {
	if l.Clients <= 1 {
		return l.Arm
	}
	return fmt.Sprintf("%s, %d clients", l.Arm, l.Clients)
}

// lineOf is the line that a cell belongs to.
func lineOf(c *runs.Cell) Line { return Line{c.Get(runs.FactorArm), c.Clients} }

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
	strata    []Stratum // in the order of the study, then of the plan
	workloads []string
	lines     []Line // in the order of the plan
	ofClock   string
	compared  map[string][]string // levels of the factors of a stratum that are compared
}

func arrange(all []runs.Run) (*dataset, error) {
	set, err := runs.Arrange(all)
	if err != nil {
		return nil, err
	}
	d := &dataset{Set: set, groups: map[point]*group{}, ofClock: clockOf(all), compared: compared(all)}
	of := map[point][]*runs.Cell{}
	for _, c := range set.Cells {
		p := point{d.stratumOf(c), c.Get(runs.FactorWorkload), lineOf(c), c.Policies}
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
	d.strata = levels(d, d.strataOf(slices.Concat([]string{"localhost", "multi-host"}, scenarios)), func(p point) Stratum { return p.stratum })
	var known []string
	for _, w := range d.Words.Workloads {
		known = append(known, w.Name)
	}
	d.workloads = levels(d, slices.Concat(known, workloads), func(p point) string { return p.workload })
	d.lines = levels(d, d.linesOf(arms), func(p point) Line { return p.line })
}

// strataOf are the strata of scenarios, in the order of the plan.
func (d *dataset) strataOf(scenarios []string) []Stratum {
	var out []Stratum
	for _, name := range scenarios {
		for _, c := range d.Cells {
			if s := d.stratumOf(c); s.Scenario == name && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// linesOf are arms with every number of clients that cells have.
func (d *dataset) linesOf(arms []string) []Line {
	var out []Line
	for _, arm := range arms {
		for _, clients := range d.clients() {
			out = append(out, Line{arm, clients})
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

// levels lists the levels that occur: preferred ones first, others sorted by
// their names.
func levels[K comparable](d *dataset, preferred []K, of func(point) K) []K {
	seen := map[K]bool{}
	for p := range d.groups {
		seen[of(p)] = true
	}
	byName := func(a, b K) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	var out []K
	for _, level := range append(preferred, slices.SortedFunc(maps.Keys(seen), byName)...) {
		if seen[level] {
			out = append(out, level)
			delete(seen, level)
		}
	}
	return out
}

// sorted lists the groups of a stratum and workload, by line then policies.
func (d *dataset) sorted(s Stratum, workload string) []*group {
	var out []*group
	for _, line := range d.lines {
		var of []*group
		for p, g := range d.groups {
			if p.stratum == s && p.workload == workload && p.line == line {
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
	for _, s := range d.strata {
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

// noPolicies reports whether a line exists only with N = 0 although the data has
// other N: it enforces nothing and serves as a reference.
func (d *dataset) noPolicies(line Line) bool {
	others := false
	for p := range d.groups {
		if p.policies > 0 {
			if p.line == line {
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
	if slices.ContainsFunc(d.lines, func(l Line) bool { return l.Arm == named }) {
		return named
	}
	for _, line := range d.lines {
		if slices.ContainsFunc(d.Cells, func(c *runs.Cell) bool { return c.Get(runs.FactorArm) == line.Arm && d.plain(c) }) {
			return line.Arm
		}
	}
	for _, line := range d.lines {
		if d.noPolicies(line) {
			return line.Arm
		}
	}
	return ""
}

// plain says whether a cell's arm is the base fabric without any filter, all its
// options at their defaults.
func (d *dataset) plain(c *runs.Cell) bool {
	fabric, filter := d.Words.Place(c.Factors)
	on, _ := d.Words.Fabric(fabric)
	is, known := d.Words.Filter(filter)
	asked := func(o catalog.Option) bool { return !d.Words.AtDefault(c.Factors, o.Key) }
	return on.Base && known && !is.Policies && is.Mechanism == "" && !is.Control && !slices.ContainsFunc(d.Words.Options, asked)
}

// against is the line that a group is compared with: the reference arm with as
// many clients. ok is false where there is no reference.
func (d *dataset) against(g *group, reference string) (line Line, ok bool) {
	return Line{reference, g.line.Clients}, reference != ""
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

// accelerators are the accelerators of all runs, by env.json or else by plan.
func (d *dataset) accelerators() []string {
	seen := map[string]bool{}
	for _, r := range d.Runs {
		seen[r.Environment.Accelerator] = true
		if r.Environment.Accelerator == "" && r.Plan != nil && r.Plan.Spec.Lab.Provider == "libvirt" {
			seen[r.Plan.Spec.Lab.Accel] = true
		}
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen))
}

// emulated says whether any machine ran under TCG.
func (d *dataset) emulated() bool {
	return slices.Contains(d.accelerators(), runs.AcceleratorTCG)
}
