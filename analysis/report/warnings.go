package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// noisy is the CoV above which a cell is called noisy; in virtual time, where only
// seeds vary, unevenSeeds.
const (
	noisy       = 0.10
	unevenSeeds = 0.02
)

// warningsOf are what a reader must know before believing a number; all are the
// summaries of the measures.
func warningsOf(e *summary.Estimator, all []summary.Summary) []string {
	var out []string
	out = append(out, acceleratorWarning(e)...)
	if e.Clock() == runs.ClockVirtual {
		out = append(out, "Virtual clock: guest time advances with executed instructions. The numbers count instructions, not caches or parallelism; intervals describe variation over seeds. Never compare them with wall-clock numbers.")
	}
	out = append(out, fewTrialsWarning(e, all)...)
	out = append(out, statusWarnings(e)...)
	out = append(out, maxWarning(e)...)
	out = append(out, integrityWarnings(e)...)
	out = append(out, oneBlockWarning(e)...)
	out = append(out, noiseWarnings(e, all)...)
	out = append(out, residueWarnings(e)...)
	out = append(out, realizedWarnings(e)...)
	out = append(out, untestedWarnings(e)...)
	out = append(out, environmentWarning(e)...)
	for _, r := range e.Runs {
		if w := r.ChangedWarning(); w != "" {
			out = append(out, w)
		}
	}
	return out
}

func acceleratorWarning(e *summary.Estimator) []string {
	if !e.Emulated() {
		return nil
	}
	return []string{"Shapes, not speeds: the machines ran under QEMU's TCG, which translates instructions. Compare arms and slopes within this report; absolute numbers say nothing of real hardware."}
}

// fewTrialsWarning states the confidence that small samples really have.
func fewTrialsWarning(e *summary.Estimator, all []summary.Summary) []string {
	least, few, total := 0, 0, 0
	confidence := 1.0
	for _, s := range all {
		if s.Median == nil {
			continue
		}
		total++
		if s.Median.Confidence >= e.Confidence {
			continue
		}
		few++
		if least == 0 || s.N < least {
			least, confidence = s.N, s.Median.Confidence
		}
	}
	if few == 0 {
		return nil
	}
	if e.Clock() == runs.ClockVirtual {
		return []string{fmt.Sprintf("Few seeds: with %s the interval of a number by itself, smallest to largest, encloses the median over all seeds with %s confidence in %d of %d headline cells. Ratios within a seed vary far less, and have the confidence that stands with them.",
			table.Plural(least, "seed"), table.Percent(confidence), few, total)}
	}
	text := fmt.Sprintf("Few trials: %d of %d headline medians do not reach %s confidence. The smallest sample is %s", few, total, table.Percent(e.Confidence), table.Plural(least, "trial"))
	if confidence == 0 {
		return []string{text + ", which gives no interval at all."}
	}
	return []string{text + fmt.Sprintf(": its interval, smallest to largest, encloses the true median with %s confidence.", table.Percent(confidence))}
}

// statusWarnings counts the trials that are not numbers.
func statusWarnings(e *summary.Estimator) []string {
	var parts []string
	superseded, missing := 0, 0
	for _, status := range record.Statuses()[1:] {
		n := 0
		for _, g := range e.All() {
			n += g.Count(status)
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	for _, g := range e.All() {
		missing += g.Missing()
		for _, a := range g.Trials {
			if a.Superseded {
				superseded++
			}
		}
	}
	var out []string
	if len(parts) > 0 {
		out = append(out, "Trials without a usable number: "+strings.Join(parts, ", ")+". They and their reasons are listed under \"Trials that are not numbers\".")
	}
	if missing > 0 {
		out = append(out, fmt.Sprintf("The run is not complete: %s planned but never recorded.", table.Plural(missing, "trial")))
	}
	if superseded > 0 {
		out = append(out, fmt.Sprintf("%s went wrong first and succeeded when repeated.", table.Plural(superseded, "trial")))
	}
	return out
}

func integrityWarnings(e *summary.Estimator) []string {
	var out []string
	for _, r := range e.Runs {
		if w := r.TornWarning(); w != "" {
			out = append(out, w)
		}
		if r.Env == nil {
			out = append(out, fmt.Sprintf("%s has no %s: nothing is known of its environment.", r.Name, runs.EnvFile))
		}
	}
	return out
}

// oneBlockWarning is there when variation between boots cannot be seen.
func oneBlockWarning(e *summary.Estimator) []string {
	blocks := map[string]bool{}
	for _, g := range e.All() {
		for _, a := range g.Trials {
			blocks[fmt.Sprint(a.Run, a.Block)] = true
		}
	}
	if len(blocks) != 1 {
		return nil
	}
	return []string{"One block: every trial comes from a single boot, so the intervals do not include what boots differ by."}
}

func noiseWarnings(e *summary.Estimator, all []summary.Summary) []string {
	name, limit, of := "Noisy", noisy, func(s summary.Summary) *float64 { return s.CoV }
	if e.Clock() == runs.ClockVirtual {
		name, limit, of = "Uneven seeds", unevenSeeds, func(s summary.Summary) *float64 { return s.SeedCoV }
	}
	var cells []string
	for _, s := range all {
		if v := of(s); v != nil && *v > limit {
			cells = append(cells, fmt.Sprintf("%s (%s)", s.Point, table.Percent(*v)))
		}
	}
	if len(cells) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: the CoV of %s is above %s: %s.", name, table.Plural(len(cells), "headline cell"), table.Percent(limit), table.Some(cells))}
}

// residueWarnings name factors that vary inside one row of a table.
func residueWarnings(e *summary.Estimator) []string {
	// The seed is the block's: a row mixes seeds on purpose.
	grouped := []string{runs.FactorScenario, runs.FactorWorkload, runs.FactorArm, runs.FactorPolicies, runs.FactorClients, runs.FactorSeed}
	where := map[string][]string{}
	levels := map[string]map[string]bool{}
	for _, g := range e.All() {
		for f, seen := range g.Levels {
			if len(seen) < 2 || slices.Contains(grouped, f) {
				continue
			}
			where[f] = append(where[f], g.Point.String())
			if levels[f] == nil {
				levels[f] = map[string]bool{}
			}
			maps.Copy(levels[f], seen)
		}
	}
	var out []string
	for _, f := range slices.Sorted(maps.Keys(where)) {
		out = append(out, fmt.Sprintf("Factor %q varies (%s) inside table lines that do not tell it apart, so those lines mix unlike trials: %s.",
			f, strings.Join(slices.Sorted(maps.Keys(levels[f])), ", "), table.Some(where[f])))
	}
	return out
}

// realizedWarnings name cells with a datapath that held fewer policies than N.
func realizedWarnings(e *summary.Estimator) []string {
	var cells []string
	for _, g := range e.All() {
		x := g.Samples("policies_realised")
		if len(x) > 0 && slices.Min(x) < float64(g.N) {
			cells = append(cells, fmt.Sprintf("%s (%g)", g.Point, slices.Min(x)))
		}
	}
	if len(cells) == 0 {
		return nil
	}
	return []string{"Fewer policies realised in the kernel than N says: " + table.Some(cells) + "."}
}

// environmentWarning names what differs between merged runs.
func environmentWarning(e *summary.Estimator) []string {
	differ := map[string]bool{}
	for _, r := range e.Runs[1:] {
		for key, v := range r.Env {
			if old, ok := e.Runs[0].Env[key]; !ok || old != v {
				differ[key] = true
			}
		}
		for key := range e.Runs[0].Env {
			if _, ok := r.Env[key]; !ok {
				differ[key] = true
			}
		}
	}
	if len(differ) == 0 {
		return nil
	}
	return []string{"The merged runs' environments differ in: " + table.Some(slices.Sorted(maps.Keys(differ))) + "."}
}

// maxWarning names the cells that the stopping rule did not end.
func maxWarning(e *summary.Estimator) []string {
	var cells []string
	for _, g := range e.All() {
		if g.RanIntoMax {
			cells = append(cells, g.Point.String())
		}
	}
	if len(cells) == 0 {
		return nil
	}
	stop := e.Runs[0].Plan.Spec.Measure.Stop
	return []string{fmt.Sprintf("Ran into the most trials: %s had %d trials and still an interval wider than ±%s: %s.", table.Plural(len(cells), "cell"), stop.Max, table.Percent(stop.CI), table.Some(cells))}
}
