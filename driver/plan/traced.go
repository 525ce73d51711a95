package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Choice is the part of an experiment that is traced. The zero value is all of it.
type Choice struct {
	Arms    []string // by name, in addition to the one to compare with; nil: all
	Only    string   // an expression, as Filter has it; "": every cell
	Against string   // arm to compare with, by name; "": the one that enforces nothing
	Window  int      // units of work that count of each trial, its last; 0: all
	// Refusals is how many refused attempts follow each workload. If it is not 0, only cells are chosen
	// that refuse something, and of each setup one: what is refused does not depend on the workload.
	// Unless Only names a number of policies, it is 100, where cells have it.
	Refusals int
}

// usualPolicies is the number of policies at which refusals are traced.
const usualPolicies = 100

// Trace derives from an experiment in virtual time the plan of its traces: one trial of each chosen
// cell, under the first seed, each in a boot of its own, whose guest publishes the symbols of its
// kernel. Cells keep their IDs; their numbers are not those of the experiment's own run, in which
// other cells run before them in the same boot. The result is the plan of a run like any other.
func Trace(p *Plan, c Choice) (*Plan, error) {
	if p.Spec.Lab.Clock != ClockVirtual {
		return nil, errors.New("a trace is exact in virtual time only, where the clock counts instructions")
	}
	cells, arms, err := p.chosenCells(c)
	if err != nil {
		return nil, err
	}
	out := *p
	out.Schema, out.Spec.Arms, out.Cells = PlanSchema, arms, cells
	out.Spec.Traced = &Traced{Against: cmp.Or(c.Against, out.reference()), Window: c.Window, Refusals: c.Refusals}
	out.Spec.Measure.Seeds, out.Spec.Measure.Trials, out.Spec.Measure.Blocks, out.Spec.Measure.Parts = 1, 1, len(cells), 0
	out.Blocks = out.blocks()
	out.Trials = order(&out)
	return &out, nil
}

// chosenCells are the chosen cells, and the arms that they are of.
func (p *Plan) chosenCells(c Choice) (cells []Cell, arms []Arm, err error) {
	match, err := p.Filter(c.Only)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Concat(c.Arms, []string{cmp.Or(c.Against, p.Spec.Arms[0].Name)}) {
		if err := p.hasArm(name); err != nil {
			return nil, nil, err
		}
	}
	against := cmp.Or(c.Against, p.reference())
	chosen := func(name string) bool {
		return len(c.Arms) == 0 || name == against || slices.Contains(c.Arms, name)
	}
	for _, cell := range p.Cells {
		if chosen(cell.Get(FactorArm)) && match(cell) {
			cells = append(cells, cell)
		}
	}
	if len(cells) == 0 {
		return nil, nil, fmt.Errorf("%q selects no cell of %s", c.Only, strings.Join(c.Arms, " and "))
	}
	if c.Refusals > 0 {
		if cells = p.refusing(cells, strings.Contains(c.Only, FactorPolicies)); len(cells) == 0 {
			return nil, nil, errors.New("no chosen cell refuses anything: refusals need an arm with a filter, and policies")
		}
	}
	if c.Against != "" && !slices.ContainsFunc(cells, func(cell Cell) bool { return cell.Get(FactorArm) == c.Against }) {
		return nil, nil, fmt.Errorf("no cell of %s is chosen, with which others would be compared", c.Against)
	}
	for _, a := range p.Spec.Arms {
		if slices.ContainsFunc(cells, func(cell Cell) bool { return cell.Get(FactorArm) == a.Name }) {
			arms = append(arms, a)
		}
	}
	return cells, arms, nil
}

// Unrefusing are the chosen cells that are left out because their policies refuse nothing: of arms
// without a filter, and without policies. nil if c wants no refusals.
func (p *Plan) Unrefusing(c Choice) ([]Cell, error) {
	if c.Refusals == 0 {
		return nil, nil
	}
	c.Refusals = 0
	cells, _, err := p.chosenCells(c)
	return slices.DeleteFunc(cells, p.Refuses), err
}

// refusing are those of the cells that refuse something, of each setup the first; under the usual
// number of policies where some have it, unless it is chosen already.
func (p *Plan) refusing(cells []Cell, chosen bool) []Cell {
	usual := func(c Cell) bool { return c.Int(FactorPolicies) == usualPolicies }
	var out []Cell
	for _, c := range cells {
		same := func(o Cell) bool {
			return o.Setup == c.Setup && o.Get(FactorKernel) == c.Get(FactorKernel) && o.Get(FactorNIC) == c.Get(FactorNIC)
		}
		if p.Refuses(c) && !slices.ContainsFunc(out, same) {
			out = append(out, c)
		}
	}
	if !chosen && slices.ContainsFunc(out, usual) {
		out = slices.DeleteFunc(out, func(c Cell) bool { return !usual(c) })
	}
	return out
}

// Refuses says whether a cell has policies that refuse something.
func (p *Plan) Refuses(c Cell) bool {
	filter, ok := p.Words().Filter(c.Get(FactorFilter))
	return ok && filter.Policies && c.Int(FactorPolicies) > 0
}

// hasArm refuses the name of an arm that the experiment does not have.
func (p *Plan) hasArm(name string) error {
	var names []string
	for _, a := range p.Spec.Arms {
		names = append(names, a.Name)
	}
	if slices.Contains(names, name) {
		return nil
	}
	return fmt.Errorf("no arm %q, want one of %s%s", name, strings.Join(names, ", "), didYouMean(name, names))
}

// tracedBlocks are the boots of a plan of traces: one for each cell.
func (p *Plan) tracedBlocks() []Block {
	var out []Block
	for _, c := range p.Cells {
		b := Block{Number: len(out) + 1, Seed: 1, Scenario: c.Get(FactorScenario), Cell: c.ID}
		if len(p.Spec.Kernels) > 0 {
			b.Kernel = c.Get(FactorKernel)
		}
		out = append(out, b)
	}
	return out
}

// reference is the arm that traces of others are compared with unless one is named: the first that
// enforces nothing, of those on the base fabric if there are any, else the first.
func (p *Plan) reference() string {
	words, first, base := p.Words(), "", ""
	for _, c := range p.Cells {
		filter, _ := words.Filter(c.Get(FactorFilter))
		fabric, _ := words.Fabric(c.Get(FactorFabric))
		if filter.Policies || filter.Control {
			continue
		}
		if first == "" {
			first = c.Get(FactorArm)
		}
		if base == "" && fabric.Base {
			base = c.Get(FactorArm)
		}
	}
	switch {
	case base != "":
		return base
	case first != "":
		return first
	}
	return p.Cells[0].Get(FactorArm)
}

// Counterpart is the cell of another arm that differs from a cell in nothing that both arms can have
// alike: all that is not the arm's own, and the number of policies, which of an arm that enforces
// nothing is always 0. ok is false if the plan does not have it.
func (p *Plan) Counterpart(c Cell, arm string) (other Cell, ok bool) {
	same := []string{FactorScenario, FactorWorkload, FactorClients, FactorStreams, FactorKernel, FactorNIC}
	alike := func(o Cell) bool {
		return o.Get(FactorArm) == arm && !slices.ContainsFunc(same, func(f string) bool { return o.Get(f) != c.Get(f) })
	}
	for _, o := range p.Cells {
		filter, _ := p.Words().Filter(o.Get(FactorFilter))
		if alike(o) && (o.Get(FactorPolicies) == c.Get(FactorPolicies) || !filter.Policies) {
			return o, true
		}
	}
	return Cell{}, false
}
