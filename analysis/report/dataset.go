package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"hookbed/analysis/record"
)

// Factors by which tables are grouped, and others that a report reads.
const (
	factorScenario = "scenario"
	factorWorkload = "workload"
	factorArm      = "arm"
	factorPolicies = "policies"
	factorDatapath = "datapath"
	factorClock    = "clock"
)

// point is what a row of a table stands for.
type point struct {
	scenario, workload, arm string
	policies                int
}

// attempt is one try at one trial.
type attempt struct {
	run          string
	cell         string
	block, trial int
	status       string
	reason       string
	values       map[string]float64 // by metric
	superseded   bool               // a later attempt at the same trial was ok
}

// group is everything known of one point.
type group struct {
	point
	planned  int // trials in the plan; 0 if there is no plan
	attempts []*attempt
	levels   map[string]map[string]bool // levels seen, by factor
}

// dataset is the rows of all runs, arranged.
type dataset struct {
	runs      []run
	groups    map[point]*group
	scenarios []string // in the order of the study, then of the plan
	workloads []string
	arms      []string // in the order of the plan
	units     map[string]string
	repeated  int // measurements that were there twice
}

type trialKey struct {
	run, cell    string
	block, trial int
}

type attemptKey struct {
	trialKey
	status, reason string
}

func arrange(runs []run) (*dataset, error) {
	d := &dataset{runs: runs, groups: map[point]*group{}, units: map[string]string{}}
	for i := range runs {
		if err := d.addPlan(runs[i]); err != nil {
			return nil, err
		}
		if err := d.addRows(runs[i]); err != nil {
			return nil, err
		}
	}
	for _, g := range d.groups {
		supersede(g)
	}
	d.order()
	return d, nil
}

func pointOf(factors map[string]string) (point, error) {
	p := point{scenario: factors[factorScenario], workload: factors[factorWorkload], arm: factors[factorArm]}
	if text := factors[factorPolicies]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return p, fmt.Errorf("factor policies is %q, want a count", text)
		}
		p.policies = n
	}
	return p, nil
}

func (d *dataset) group(factors map[string]string) (*group, error) {
	p, err := pointOf(factors)
	if err != nil {
		return nil, err
	}
	g := d.groups[p]
	if g == nil {
		g = &group{point: p, levels: map[string]map[string]bool{}}
		d.groups[p] = g
	}
	return g, nil
}

func (d *dataset) addPlan(r run) error {
	if r.plan == nil {
		return nil
	}
	byID := map[string]*group{}
	for _, c := range r.plan.Cells {
		g, err := d.group(c.Factors)
		if err != nil {
			return fmt.Errorf("read plan of %s: cell %s: %w", r.name, c.ID, err)
		}
		byID[c.ID] = g
	}
	for _, t := range r.plan.Trials {
		if g := byID[t.Cell]; g != nil {
			g.planned++
		}
	}
	return nil
}

func (d *dataset) addRows(r run) error {
	seen := map[attemptKey]*attempt{}
	for _, row := range r.rows {
		g, err := d.group(row.Factors)
		if err != nil {
			return fmt.Errorf("read rows of %s: cell %s: %w", r.name, row.Cell, err)
		}
		key := attemptKey{trialKey{r.name, row.Cell, row.Block, row.Trial}, row.Status, row.Reason}
		a := seen[key]
		if a == nil {
			a = &attempt{run: r.name, cell: row.Cell, block: row.Block, trial: row.Trial,
				status: row.Status, reason: row.Reason, values: map[string]float64{}}
			seen[key] = a
			g.attempts = append(g.attempts, a)
		}
		if err := d.addRow(g, a, row); err != nil {
			return err
		}
	}
	return nil
}

func (d *dataset) addRow(g *group, a *attempt, row record.Row) error {
	if row.Status == record.StatusOK {
		for f, level := range row.Factors {
			if g.levels[f] == nil {
				g.levels[f] = map[string]bool{}
			}
			g.levels[f][level] = true
		}
	}
	if row.Metric == "" {
		return nil
	}
	if unit, ok := d.units[row.Metric]; ok && unit != row.Unit {
		return fmt.Errorf("metric %s is in %q and in %q", row.Metric, unit, row.Unit)
	}
	d.units[row.Metric] = row.Unit
	if _, ok := a.values[row.Metric]; ok {
		d.repeated++
		return nil
	}
	a.values[row.Metric] = row.Value
	return nil
}

// supersede marks attempts at trials that were ok in the end.
func supersede(g *group) {
	ok := map[trialKey]bool{}
	for _, a := range g.attempts {
		if a.status == record.StatusOK {
			ok[a.key()] = true
		}
	}
	for _, a := range g.attempts {
		a.superseded = a.status != record.StatusOK && ok[a.key()]
	}
}

func (a *attempt) key() trialKey { return trialKey{a.run, a.cell, a.block, a.trial} }

// order fixes the order of everything, so that equal input gives equal output.
func (d *dataset) order() {
	var scenarios, workloads, arms []string
	for _, r := range d.runs {
		if r.plan == nil {
			continue
		}
		scenarios, workloads = append(scenarios, r.plan.Spec.Scenarios...), append(workloads, r.plan.Spec.Workloads...)
		for _, a := range r.plan.Spec.Arms {
			arms = append(arms, a.Name)
		}
	}
	d.scenarios = d.levels(slices.Concat([]string{"localhost", "multi-host"}, scenarios), func(p point) string { return p.scenario })
	d.workloads = d.levels(slices.Concat([]string{"TCP_STREAM", "TCP_RR", "TCP_CRR"}, workloads), func(p point) string { return p.workload })
	d.arms = d.levels(arms, func(p point) string { return p.arm })
	for _, g := range d.groups {
		slices.SortStableFunc(g.attempts, func(a, b *attempt) int {
			return cmp.Or(cmp.Compare(a.run, b.run), cmp.Compare(a.block, b.block), cmp.Compare(a.trial, b.trial), cmp.Compare(a.cell, b.cell))
		})
	}
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

// samples are the usable values of a metric.
func (g *group) samples(metric string) []float64 {
	var out []float64
	for _, a := range g.attempts {
		if v, ok := a.values[metric]; ok && a.status == record.StatusOK {
			out = append(out, v)
		}
	}
	return out
}

// byBlock are the usable values of a metric, a slice a block, in order.
func (g *group) byBlock(metric string) [][]float64 {
	type key struct {
		run   string
		block int
	}
	index := map[key]int{}
	var out [][]float64
	for _, a := range g.attempts {
		v, ok := a.values[metric]
		if !ok || a.status != record.StatusOK {
			continue
		}
		k := key{a.run, a.block}
		if _, ok := index[k]; !ok {
			index[k] = len(out)
			out = append(out, nil)
		}
		out[index[k]] = append(out[index[k]], v)
	}
	return out
}

// count is the number of attempts with a status that nothing made good.
func (g *group) count(status string) int {
	n := 0
	for _, a := range g.attempts {
		if a.status == status && !a.superseded {
			n++
		}
	}
	return n
}

// missing is the number of planned trials without any row.
func (g *group) missing() int {
	tried := map[trialKey]bool{}
	for _, a := range g.attempts {
		tried[a.key()] = true
	}
	return max(0, g.planned-len(tried))
}

// metrics lists the metrics that usable attempts of these groups have, sorted.
func metrics(groups []*group) []string {
	seen := map[string]bool{}
	for _, g := range groups {
		for _, a := range g.attempts {
			if a.status != record.StatusOK {
				continue
			}
			for m := range a.values {
				seen[m] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
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

// reference is the arm that others are compared with: the named one, else
// "docker", else the first of datapath docker, else the first without
// policies, else "".
func (d *dataset) reference(named string) string {
	for _, want := range []string{named, "docker"} {
		if want != "" && slices.Contains(d.arms, want) {
			return want
		}
	}
	docker := map[string]bool{}
	for p, g := range d.groups {
		docker[p.arm] = docker[p.arm] || g.levels[factorDatapath]["docker"]
	}
	for _, arm := range d.arms {
		if docker[arm] {
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

// clock is "wall" or "virtual"; "" if the rows do not say.
func (d *dataset) clock() string {
	for _, g := range d.all() {
		for _, level := range slices.Sorted(maps.Keys(g.levels[factorClock])) {
			return level
		}
	}
	return ""
}
