package runs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"hookbed/analysis/record"
)

// ContradictionError says that a row is not one of the run that plan.json plans.
type ContradictionError struct {
	Line int // of rows.csv, 1-based; the header is line 1
	What string
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

// CheckRows refuses rows, in the order of their file, that contradict the plan:
// a cell or a trial that it does not have, a level that is not the cell's, a
// seed that is not the block's. The error is a *ContradictionError. A plan
// without cells contradicts nothing.
func (p *Plan) CheckRows(rows []record.Row) error {
	if p == nil || len(p.Cells) == 0 {
		return nil
	}
	planned := p.index()
	for i, row := range rows {
		if what := planned.contradiction(row); what != "" {
			return &ContradictionError{Line: i + 2, What: what}
		}
	}
	return nil
}

// planned is what rows are held against.
type planned struct {
	cells  map[string]map[string]string // factors
	trials map[trialKey]bool
	seeds  map[int]string // of blocks; "" where one has none
	clock  string
}

func (p *Plan) index() planned {
	out := planned{cells: map[string]map[string]string{}, trials: map[trialKey]bool{}, seeds: map[int]string{}, clock: p.Spec.Lab.Clock}
	for _, c := range p.Cells {
		out.cells[c.ID] = c.Factors
	}
	for _, t := range p.Trials {
		out.trials[trialKey{cell: t.Cell, block: t.Block, trial: t.Trial}] = true
	}
	for _, b := range p.Blocks {
		out.seeds[b.Number] = ""
		if b.Seed != 0 {
			out.seeds[b.Number] = strconv.Itoa(b.Seed)
		}
	}
	return out
}

// contradiction is what is wrong with a row, "" if nothing is.
func (p planned) contradiction(row record.Row) string {
	factors, known := p.cells[row.Cell]
	if !known {
		return fmt.Sprintf("cell %s is not in %s", row.Cell, PlanFile)
	}
	if !p.trials[trialKey{cell: row.Cell, block: row.Block, trial: row.Trial}] {
		return fmt.Sprintf("cell %s, block %d, trial %d is not in %s", row.Cell, row.Block, row.Trial, PlanFile)
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(factors)), maps.Keys(row.Factors))
	slices.Sort(names)
	for _, f := range slices.Compact(names) {
		if f != FactorSeed && row.Factors[f] != factors[f] {
			return fmt.Sprintf("factor %s is %s, and in %s cell %s has %s", f, level(row.Factors[f]), PlanFile, row.Cell, level(factors[f]))
		}
	}
	seed, told := p.seeds[row.Block]
	if !told && p.clock != ClockWall {
		return "" // a plan that says nothing of seeds
	}
	if is := row.Factors[FactorSeed]; is != seed {
		return fmt.Sprintf("seed is %s, and in %s block %d has %s", level(is), PlanFile, row.Block, level(seed))
	}
	return ""
}

func level(text string) string {
	if text == "" {
		return "no level"
	}
	return strconv.Quote(text)
}
