package runs

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
)

// Factors that analyses read by name.
const (
	FactorScenario = "scenario"
	FactorWorkload = "workload"
	FactorArm      = "arm"
	FactorPolicies = "policies"
	FactorClients  = "clients" // only if the experiment sets numbers of clients
	FactorStreams  = "streams" // only if the experiment sets numbers of connections
	FactorDatapath = "datapath"
	FactorClock    = "clock"
	// FactorSeed belongs to the block, not to the cell.
	FactorSeed = "seed"
)

// Cell is one cell with its trials in all runs that were loaded.
type Cell struct {
	ID       string
	Factors  map[string]string          // without the block's factor
	Policies int                        // level of FactorPolicies; 0 if there is none
	Clients  int                        // level of FactorClients; 1 if there is none
	Planned  int                        // trials in the plans; 0 if there is no plan
	Trials   []*Trial                   // by run, block, trial
	Levels   map[string]map[string]bool // levels of ok rows by factor, with the block's factor
}

// Get is the level of a factor, "" if the cell has none.
func (c *Cell) Get(factor string) string { return c.Factors[factor] }

// Title is the cell's name for readers.
func (c *Cell) Title() string {
	title := fmt.Sprintf("%s %s %s N=%d", c.Get(FactorScenario), c.Get(FactorWorkload), c.Get(FactorArm), c.Policies)
	if c.Clients > 1 {
		title += fmt.Sprintf(" clients=%d", c.Clients)
	}
	return strings.TrimSpace(title)
}

// Set is the cells of one or more runs.
type Set struct {
	Runs  []Run
	Cells []*Cell           // in the order of the plans, then of the rows
	Units map[string]string // by metric
	Words catalog.Catalog   // describes arms, options and workloads; if runs differ, the first one is used
}

// Arrange sorts the rows of runs into cells. It refuses a metric in two units,
// and numbers of policies and clients that are not counts.
func Arrange(all []Run) (*Set, error) {
	s := &Set{Runs: all, Units: map[string]string{}}
	byID := map[string]*Cell{}
	for _, r := range all {
		s.Words = catalog.Join(s.Words, r.Words())
		if err := s.addPlan(r, byID); err != nil {
			return nil, fmt.Errorf("read plan of %s: %w", r.Name, err)
		}
	}
	for _, r := range all {
		if err := s.addRows(r, byID); err != nil {
			return nil, fmt.Errorf("read rows of %s: %w", r.Name, err)
		}
	}
	for _, c := range s.Cells {
		c.finish()
	}
	return s, nil
}

// cell is the cell of an ID, made from the factors if it is new.
func (s *Set) cell(byID map[string]*Cell, id string, factors map[string]string) (*Cell, error) {
	if c := byID[id]; c != nil {
		return c, nil
	}
	c := &Cell{ID: id, Factors: maps.Clone(factors), Clients: 1, Levels: map[string]map[string]bool{}}
	delete(c.Factors, FactorSeed)
	if text := factors[FactorPolicies]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("cell %s: factor policies is %q, want a count", id, text)
		}
		c.Policies = n
	}
	if text := factors[FactorClients]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("cell %s: factor clients is %q, want a count from 1", id, text)
		}
		c.Clients = n
	}
	byID[id] = c
	s.Cells = append(s.Cells, c)
	return c, nil
}

func (s *Set) addPlan(r Run, byID map[string]*Cell) error {
	if r.Plan == nil {
		return nil
	}
	for _, planned := range r.Plan.Cells {
		if _, err := s.cell(byID, planned.ID, planned.Factors); err != nil {
			return err
		}
	}
	for _, t := range r.Plan.Trials {
		if c := byID[t.Cell]; c != nil {
			c.Planned++
		}
	}
	return nil
}

func (s *Set) addRows(r Run, byID map[string]*Cell) error {
	seen := map[*measures]bool{}
	noted := map[*Cell]int{} // number of the factors that were noted last
	for _, t := range r.Trials {
		c, err := s.cell(byID, t.Cell, t.Factors)
		if err != nil {
			return err
		}
		t.Run = r.Name
		c.Trials = append(c.Trials, t)
		if n, ok := noted[c]; t.OK() && (!ok || n != t.set) {
			noted[c] = t.set
			c.note(t.Factors)
		}
		if t.has != nil && !seen[t.has] {
			seen[t.has] = true
			if err := s.addUnits(t.has); err != nil {
				return err
			}
		}
	}
	return nil
}

// note adds levels of an ok trial.
func (c *Cell) note(factors map[string]string) {
	for f, level := range factors {
		if c.Levels[f] == nil {
			c.Levels[f] = map[string]bool{}
		}
		c.Levels[f][level] = true
	}
}

func (s *Set) addUnits(of *measures) error {
	for _, m := range of.all {
		if unit, ok := s.Units[m.metric]; ok && unit != m.unit {
			return fmt.Errorf("metric %s is in %q and in %q", m.metric, unit, m.unit)
		}
		s.Units[m.metric] = m.unit
	}
	return nil
}

// finish sorts the trials, so that equal input gives equal output, and marks
// attempts that a later ok attempt replaced.
func (c *Cell) finish() {
	ok := map[trialKey]bool{}
	for _, t := range c.Trials {
		if t.OK() {
			ok[t.key()] = true
		}
	}
	for _, t := range c.Trials {
		t.Superseded = !t.OK() && ok[t.key()]
	}
	slices.SortStableFunc(c.Trials, func(a, b *Trial) int {
		return cmp.Or(cmp.Compare(a.Run, b.Run), cmp.Compare(a.Block, b.Block), cmp.Compare(a.Trial, b.Trial), cmp.Compare(a.Cell, b.Cell))
	})
}

// Merge makes one cell of several. ID and factors are those of the first.
func Merge(cells ...*Cell) *Cell {
	out := &Cell{ID: cells[0].ID, Factors: cells[0].Factors, Policies: cells[0].Policies, Clients: cells[0].Clients, Levels: map[string]map[string]bool{}}
	for _, c := range cells {
		out.Planned += c.Planned
		out.Trials = append(out.Trials, c.Trials...)
		for f, levels := range c.Levels {
			if out.Levels[f] == nil {
				out.Levels[f] = map[string]bool{}
			}
			maps.Copy(out.Levels[f], levels)
		}
	}
	out.finish()
	return out
}

// Samples are the usable values of a metric.
func (c *Cell) Samples(metric string) []float64 {
	var out []float64
	for _, t := range c.Trials {
		if v, ok := t.Value(metric); ok && t.OK() {
			out = append(out, v)
		}
	}
	return out
}

// Metrics lists the metrics that usable trials of these cells have, sorted.
func Metrics(cells ...*Cell) []string {
	seen, lists := map[string]bool{}, map[*measures]bool{}
	for _, c := range cells {
		for _, t := range c.Trials {
			if !t.OK() || lists[t.has] {
				continue
			}
			lists[t.has] = true
			for _, m := range t.Metrics() {
				seen[m] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Count is the number of trials with a status, without superseded attempts.
func (c *Cell) Count(status string) int {
	n := 0
	for _, t := range c.Trials {
		if t.Status == status && !t.Superseded {
			n++
		}
	}
	return n
}

// Tried is the number of different trials that have any row.
func (c *Cell) Tried() int {
	seen := map[trialKey]bool{}
	for _, t := range c.Trials {
		seen[t.key()] = true
	}
	return len(seen)
}

// Missing is the number of planned trials without any row.
func (c *Cell) Missing() int { return max(0, c.Planned-c.Tried()) }
