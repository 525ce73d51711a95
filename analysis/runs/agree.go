package runs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"hookbed/analysis/record"
)

// ContradictionError reports a row that the run's plan.json does not plan.
type ContradictionError struct {
	Line int    // of rows.csv, 1-based; the header is line 1
	What string // for readers: what the row has and what the plan has
}

func (e *ContradictionError) Error() string {
	return fmt.Sprintf("line %d: %s: the rows were changed, or are not those of this plan; put back the %s that the run wrote", e.Line, e.What, RowsFile)
}

// ParsePlan reads the part of plan.json that an analysis uses.
func ParsePlan(data []byte) (*Plan, error) {
	var p *Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("parse %s: %w", PlanFile, err)
	}
	return p, nil
}

// Checker compares the rows of one file with a plan: a cell or a trial that it does not
// have, a level that differs from the cell's, a seed that differs from the block's. A plan
// without cells contradicts no row.
type Checker struct {
	planned
	none  bool
	alike map[levelsOf]string // what contradicts a cell's levels, "" if nothing does
}

type levelsOf struct {
	cell string
	set  int
}

// Checker returns a new Checker. The plan may be nil.
func (p *Plan) Checker() *Checker {
	if p == nil || len(p.Cells) == 0 {
		return &Checker{none: true}
	}
	return &Checker{planned: p.index(), alike: map[levelsOf]string{}}
}

// Trial refuses the rows of a trial that contradict the plan with a *ContradictionError.
func (c *Checker) Trial(t *record.Trial) error {
	if c.none {
		return nil
	}
	if what := c.contradiction(t); what != "" {
		return &ContradictionError{Line: t.Line, What: what}
	}
	return nil
}

// planned is the part of a plan that rows are compared with.
type planned struct {
	cells  map[string]map[string]string // factors by cell
	trials map[plannedTrial]bool
	seeds  map[int]string // by block; "" if the block has none
	clock  string
}

type plannedTrial struct {
	cell         string
	block, trial int
}

func (p *Plan) index() planned {
	out := planned{cells: map[string]map[string]string{}, trials: make(map[plannedTrial]bool, len(p.Trials)), seeds: map[int]string{}, clock: p.Spec.Lab.Clock}
	for _, c := range p.Cells {
		out.cells[c.ID] = c.Factors
	}
	for _, t := range p.Trials {
		out.trials[plannedTrial{t.Cell, t.Block, t.Trial}] = true
	}
	for _, b := range p.Blocks {
		out.seeds[b.Number] = ""
		if b.Seed != 0 {
			out.seeds[b.Number] = strconv.Itoa(b.Seed)
		}
	}
	return out
}

// contradiction says what contradicts the plan in a trial's rows, "" if nothing does.
func (c *Checker) contradiction(t *record.Trial) string {
	row := t.Rows[0]
	factors, known := c.cells[row.Cell]
	if !known {
		return fmt.Sprintf("cell %s is not in %s", row.Cell, PlanFile)
	}
	if !c.trials[plannedTrial{row.Cell, row.Block, row.Trial}] {
		return fmt.Sprintf("cell %s, block %d, trial %d is not in %s", row.Cell, row.Block, row.Trial, PlanFile)
	}
	of := levelsOf{row.Cell, t.FactorSet}
	what, seen := c.alike[of]
	if !seen {
		what = otherLevel(row, factors)
		c.alike[of] = what
	}
	if what != "" {
		return what
	}
	seed, planned := c.seeds[row.Block]
	if !planned && c.clock != ClockWall {
		return "" // the plan has no seeds
	}
	if is := row.Factors[FactorSeed]; is != seed {
		return fmt.Sprintf("seed is %s, and in %s block %d has %s", level(is), PlanFile, row.Block, level(seed))
	}
	return ""
}

// otherLevel says which level of a row, but that of the seed, is not its cell's.
func otherLevel(row record.Row, factors map[string]string) string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(factors)), maps.Keys(row.Factors))
	slices.Sort(names)
	for _, f := range slices.Compact(names) {
		if f != FactorSeed && row.Factors[f] != factors[f] {
			return fmt.Sprintf("factor %s is %s, and in %s cell %s has %s", f, level(row.Factors[f]), PlanFile, row.Cell, level(factors[f]))
		}
	}
	return ""
}

func level(text string) string {
	if text == "" {
		return "no level"
	}
	return strconv.Quote(text)
}
