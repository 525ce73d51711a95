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

// CheckRows refuses rows, in the order of their file, that contradict the plan:
// a cell or a trial that it does not have, a level that differs from the cell's, a
// seed that differs from the block's. The error is a *ContradictionError. A plan
// without cells contradicts no row.
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

// planned is the part of a plan that rows are compared with.
type planned struct {
	cells  map[string]map[string]string // factors by cell
	trials map[trialKey]bool
	seeds  map[int]string // by block; "" if the block has none
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

// contradiction says what contradicts the plan in a row, "" if nothing does.
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
	seed, planned := p.seeds[row.Block]
	if !planned && p.clock != ClockWall {
		return "" // the plan has no seeds
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
