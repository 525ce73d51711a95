// Package summary holds the data of a report: the cells of all runs arranged by
// stratum, workload, line and number of policies, and the estimates made of them -
// medians, intervals, ratios, verdicts. Values are in base units (s, bit/s, 1/s, By, 1).
package summary

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
)

// Point identifies a row of a table: it is the key of everything in this package.
type Point struct {
	Stratum  Stratum
	Workload string
	Line     Line
	N        int // number of policies
}

// String names the point for people: "localhost TCP_RR docker N=0".
func (p Point) String() string {
	return fmt.Sprintf("%s %s %s N=%d", p.Stratum, p.Workload, p.Line, p.N)
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

// Group is everything known of one point: its cells, merged. Several cells have one
// point where runs are merged, or where they differ in a factor that is no part of it.
type Group struct {
	Point
	*runs.Cell
	RanIntoMax bool // the stopping rule ended it at its most trials, not at a narrow interval
}

// Data is the cells of all runs, arranged for tables.
type Data struct {
	*runs.Set
	Strata    []Stratum // in the order of the study, then of the plan
	Workloads []string  // in the order of the catalog, then of the plan
	Lines     []Line    // in the order of the plan

	groups   map[Point]*Group
	ofClock  string
	compared map[string][]string // levels by name of the factor
}

// arrange sorts the cells of runs into groups, and fixes the order of tables.
func arrange(all []runs.Run) (*Data, error) {
	set, err := runs.Arrange(all)
	if err != nil {
		return nil, err
	}
	d := &Data{Set: set, groups: map[Point]*Group{}, ofClock: clockOf(all), compared: compared(all)}
	of := map[Point][]*runs.Cell{}
	for _, c := range set.Cells {
		p := Point{d.StratumOf(c), c.Get(runs.FactorWorkload), lineOf(c), c.Policies}
		of[p] = append(of[p], c)
	}
	for p, cells := range of {
		d.groups[p] = &Group{Point: p, Cell: runs.Merge(cells...)}
		d.applyStop(d.groups[p])
	}
	d.order()
	return d, nil
}

// order fixes the order of everything, so that equal input gives equal output.
func (d *Data) order() {
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
	d.Strata = levels(d, d.strataOf(slices.Concat([]string{"localhost", "multi-host"}, scenarios)), func(p Point) Stratum { return p.Stratum })
	var known []string
	for _, w := range d.Words.Workloads {
		known = append(known, w.Name)
	}
	d.Workloads = levels(d, slices.Concat(known, workloads), func(p Point) string { return p.Workload })
	d.Lines = levels(d, d.linesOf(arms), func(p Point) Line { return p.Line })
}

// strataOf are the strata of scenarios, in the order of the plan.
func (d *Data) strataOf(scenarios []string) []Stratum {
	var out []Stratum
	for _, name := range scenarios {
		for _, c := range d.Cells {
			if s := d.StratumOf(c); s.Scenario == name && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// linesOf are arms with every number of clients that cells have.
func (d *Data) linesOf(arms []string) []Line {
	var out []Line
	for _, arm := range arms {
		for _, clients := range d.Clients() {
			out = append(out, Line{arm, clients})
		}
	}
	return out
}

// Clients lists the numbers of clients, ascending.
func (d *Data) Clients() []int {
	seen := map[int]bool{}
	for _, c := range d.Cells {
		seen[c.Clients] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// levels lists the levels that occur: preferred ones first, others sorted by
// their names.
func levels[K comparable](d *Data, preferred []K, of func(Point) K) []K {
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

// At is the group of a point with n policies, nil if the runs have no such cell.
func (d *Data) At(in Stratum, workload string, line Line, n int) *Group {
	return d.groups[Point{in, workload, line, n}]
}

// Ordered lists the groups of a stratum and workload, by line then policies.
func (d *Data) Ordered(s Stratum, workload string) []*Group {
	of := map[Line][]*Group{}
	for p, g := range d.groups {
		if p.Stratum == s && p.Workload == workload {
			of[p.Line] = append(of[p.Line], g)
		}
	}
	var out []*Group
	for _, line := range d.Lines {
		slices.SortFunc(of[line], func(a, b *Group) int { return cmp.Compare(a.N, b.N) })
		out = append(out, of[line]...)
	}
	return out
}

// All lists every group in report order.
func (d *Data) All() []*Group {
	var out []*Group
	for _, s := range d.Strata {
		for _, w := range d.Workloads {
			out = append(out, d.Ordered(s, w)...)
		}
	}
	return out
}

// byBlock are the usable values of a metric, a slice a block, in order.
func (g *Group) byBlock(metric string) [][]float64 {
	var out [][]float64
	for _, b := range g.Blocks(metric) {
		out = append(out, b.Values)
	}
	return out
}

// Metrics lists the metrics that usable trials of these groups have, sorted.
func Metrics(groups []*Group) []string {
	var cells []*runs.Cell
	for _, g := range groups {
		cells = append(cells, g.Cell)
	}
	return runs.Metrics(cells...)
}

// NoPolicies reports whether a line exists only with N = 0 although the data has
// other N: it enforces nothing and serves as a reference.
func (d *Data) NoPolicies(line Line) bool {
	others := false
	for p := range d.groups {
		if p.N > 0 {
			if p.Line == line {
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
func (d *Data) reference(named string) string {
	if slices.ContainsFunc(d.Lines, func(l Line) bool { return l.Arm == named }) {
		return named
	}
	for _, line := range d.Lines {
		if slices.ContainsFunc(d.Cells, func(c *runs.Cell) bool { return c.Get(runs.FactorArm) == line.Arm && d.plain(c) }) {
			return line.Arm
		}
	}
	for _, line := range d.Lines {
		if d.NoPolicies(line) {
			return line.Arm
		}
	}
	return ""
}

// plain reports whether a cell's arm is the base fabric without any filter, all its
// options at their defaults.
func (d *Data) plain(c *runs.Cell) bool {
	fabric, filter := d.Words.Datapath(c.Factors)
	on, _ := d.Words.Fabric(fabric)
	is, known := d.Words.Filter(filter)
	changed := func(o catalog.Option) bool { return !d.Words.AtDefault(c.Factors, o.Key) }
	return on.Base && known && !is.Policies && is.Mechanism == "" && !is.Control && !slices.ContainsFunc(d.Words.Options, changed)
}

// against is the line that a group is compared with: the reference arm with as
// many clients. ok is false where there is no reference.
func (d *Data) against(g *Group, reference string) (line Line, ok bool) {
	return Line{reference, g.Line.Clients}, reference != ""
}

// Clock is runs.ClockWall or runs.ClockVirtual; "" if the runs do not say.
func (d *Data) Clock() string { return d.ofClock }

func clockOf(all []runs.Run) string {
	for _, r := range all {
		if clock := r.Clock(); clock != "" {
			return clock
		}
	}
	return ""
}

// Accelerators lists the accelerators of all runs, sorted: by env.json, else by plan.
func (d *Data) Accelerators() []string {
	seen := map[string]bool{}
	for _, r := range d.Runs {
		seen[r.Environment.Accelerator] = true
		if r.Environment.Accelerator == "" && r.Plan != nil && hasVMs(r.Plan.Spec.Lab.Provider) {
			seen[r.Plan.Spec.Lab.Accel] = true
		}
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen))
}

// hasVMs reports whether a provider of that name boots virtual machines.
func hasVMs(provider string) bool {
	p, _ := catalog.ProviderNamed(provider)
	return p.VMs
}

// Emulated reports whether any machine ran under TCG.
func (d *Data) Emulated() bool {
	return slices.Contains(d.Accelerators(), runs.AcceleratorTCG)
}
