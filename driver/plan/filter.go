package plan

import (
	"fmt"
	"slices"
	"strings"
)

// condition is one part of a filter: the factor's level is among the levels,
// or, negated, is not.
type condition struct {
	factor string
	not    bool
	levels []string
}

func (c condition) match(cell Cell) bool {
	level, has := cell.Factors[c.factor]
	return (has && slices.Contains(c.levels, level)) != c.not
}

// Filter compiles an expression that selects cells: conditions joined by
// commas, all of which must hold, each FACTOR=LEVEL or FACTOR!=LEVEL with
// alternative levels joined by "|", as in "arm=docker|xdp,scenario!=multi-host".
// The empty expression selects every cell. Factors and levels that the plan
// has not, and expressions that select nothing, are errors.
func (p *Plan) Filter(expr string) (func(Cell) bool, error) {
	var all []condition
	if strings.TrimSpace(expr) != "" {
		for _, part := range strings.Split(expr, ",") {
			c, err := p.condition(part)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	match := func(cell Cell) bool {
		return !slices.ContainsFunc(all, func(c condition) bool { return !c.match(cell) })
	}
	if !slices.ContainsFunc(p.Cells, match) {
		return nil, fmt.Errorf("%q selects none of the %d cells", expr, len(p.Cells))
	}
	return match, nil
}

func (p *Plan) condition(part string) (condition, error) {
	factor, levels, ok := strings.Cut(part, "=")
	if !ok {
		return condition{}, fmt.Errorf("%q is not a condition, want FACTOR=LEVEL or FACTOR!=LEVEL", strings.TrimSpace(part))
	}
	factor, not := strings.CutSuffix(strings.TrimSpace(factor), "!")
	c := condition{factor: strings.TrimSpace(factor), not: not}
	// A seed is a factor of blocks, not of cells.
	if names := slices.DeleteFunc(p.FactorNames(), func(f string) bool { return f == FactorSeed }); !slices.Contains(names, c.factor) {
		return condition{}, fmt.Errorf("unknown factor %q, want one of %s%s", c.factor, strings.Join(names, ", "), didYouMean(c.factor, names))
	}
	known := p.Levels(c.factor)
	for _, level := range strings.Split(levels, "|") {
		level = strings.TrimSpace(level)
		if !slices.Contains(known, level) {
			return condition{}, fmt.Errorf("no cell has %s %q, want one of %s%s", c.factor, level, strings.Join(known, ", "), didYouMean(level, known))
		}
		c.levels = append(c.levels, level)
	}
	return c, nil
}

// Levels lists the levels of a factor, in the order of the cells.
func (p *Plan) Levels(factor string) []string {
	seen := map[string]bool{}
	var out []string
	for _, c := range p.Cells {
		level, has := c.Factors[factor]
		if has && !seen[level] {
			seen[level] = true
			out = append(out, level)
		}
	}
	return out
}
