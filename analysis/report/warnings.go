package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/table"
)

// noisy is the CoV above which a cell is called noisy; in virtual time, where only
// seeds vary, unevenSeeds.
const (
	noisy       = 0.10
	unevenSeeds = 0.02
)

// warnings are what a reader must know before believing a number.
func (e *estimator) warnings(all []Summary) []string {
	var out []string
	out = append(out, e.acceleratorWarning()...)
	if e.clock() == runs.ClockVirtual {
		out = append(out, "Virtual clock: guest time advances with executed instructions. The numbers count instructions, not caches or parallelism; intervals describe variation over seeds. Never compare them with wall-clock numbers.")
	}
	out = append(out, e.fewTrials(all)...)
	out = append(out, e.statusWarnings()...)
	out = append(out, e.maxWarning()...)
	out = append(out, e.integrity()...)
	out = append(out, e.oneBlock()...)
	out = append(out, e.noise(all)...)
	out = append(out, e.residues()...)
	out = append(out, e.realisedWarnings()...)
	out = append(out, e.environmentDiffers()...)
	for _, r := range e.Runs {
		if w := r.ChangedWarning(); w != "" {
			out = append(out, w)
		}
	}
	return out
}

func (d *dataset) acceleratorWarning() []string {
	if !d.emulated() {
		return nil
	}
	return []string{"Shapes, not speeds: the machines ran under QEMU's TCG, which translates instructions. Compare arms and slopes within this report; absolute numbers say nothing of real hardware."}
}

// fewTrials states the confidence that small samples really have.
func (e *estimator) fewTrials(all []Summary) []string {
	least, few, total := 0, 0, 0
	confidence := 1.0
	for _, s := range all {
		if s.Median == nil {
			continue
		}
		total++
		if s.Median.Confidence >= e.confidence {
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
	if e.clock() == runs.ClockVirtual {
		return []string{fmt.Sprintf("Few seeds: with %s the interval of a number by itself, smallest to largest, encloses the median over all seeds with %s confidence in %d of %d headline cells. Ratios within a seed vary far less, and have the confidence that stands with them.",
			table.Plural(least, "seed"), table.Percent(confidence), few, total)}
	}
	text := fmt.Sprintf("Few trials: %d of %d headline medians do not reach %s confidence. The smallest sample is %s", few, total, table.Percent(e.confidence), table.Plural(least, "trial"))
	if confidence == 0 {
		return []string{text + ", which gives no interval at all."}
	}
	return []string{text + fmt.Sprintf(": its interval, smallest to largest, encloses the true median with %s confidence.", table.Percent(confidence))}
}

// statusWarnings counts the trials that are not numbers.
func (d *dataset) statusWarnings() []string {
	var parts []string
	superseded, missing := 0, 0
	for _, status := range record.Statuses()[1:] {
		n := 0
		for _, g := range d.all() {
			n += g.Count(status)
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	for _, g := range d.all() {
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

func (d *dataset) integrity() []string {
	var out []string
	for _, r := range d.Runs {
		if r.Torn {
			out = append(out, fmt.Sprintf("%s of %s ends in a line cut short; that trial is left out.", runs.RowsFile, r.Name))
		}
		if r.Env == nil {
			out = append(out, fmt.Sprintf("%s has no %s: nothing is known of its environment.", r.Name, runs.EnvFile))
		}
	}
	if d.Repeated > 0 {
		out = append(out, fmt.Sprintf("%s in the rows more than once; the first was used.", table.Plural(d.Repeated, "measurement")))
	}
	return out
}

// oneBlock warns when variation between boots cannot be seen.
func (d *dataset) oneBlock() []string {
	blocks := map[string]bool{}
	for _, g := range d.all() {
		for _, a := range g.Trials {
			blocks[fmt.Sprint(a.Run, a.Block)] = true
		}
	}
	if len(blocks) != 1 {
		return nil
	}
	return []string{"One block: every trial comes from a single boot, so the intervals do not include what boots differ by."}
}

func (e *estimator) noise(all []Summary) []string {
	name, limit, of := "Noisy", noisy, func(s Summary) *float64 { return s.CoV }
	if e.clock() == runs.ClockVirtual {
		name, limit, of = "Uneven seeds", unevenSeeds, func(s Summary) *float64 { return s.SeedCoV }
	}
	var cells []string
	for _, s := range all {
		if v := of(s); v != nil && *v > limit {
			cells = append(cells, fmt.Sprintf("%s %s %s N=%d (%s)", s.Scenario, s.Workload, s.Arm, s.Policies, table.Percent(*v)))
		}
	}
	if len(cells) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: the CoV of %s is above %s: %s.", name, table.Plural(len(cells), "headline cell"), table.Percent(limit), table.Some(cells))}
}

// residues names factors that vary inside one line of a table.
func (d *dataset) residues() []string {
	// The seed is the block's: a line mixes seeds on purpose.
	grouped := []string{runs.FactorScenario, runs.FactorWorkload, runs.FactorArm, runs.FactorPolicies, runs.FactorClients, runs.FactorSeed}
	where := map[string][]string{}
	levels := map[string]map[string]bool{}
	for _, g := range d.all() {
		for f, seen := range g.Levels {
			if len(seen) < 2 || slices.Contains(grouped, f) {
				continue
			}
			where[f] = append(where[f], fmt.Sprintf("%s %s %s N=%d", g.stratum, g.workload, g.line, g.policies))
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

// realisedWarnings catches a datapath that held fewer policies than N.
func (d *dataset) realisedWarnings() []string {
	var cells []string
	for _, g := range d.all() {
		x := g.Samples("policies_realised")
		if len(x) > 0 && slices.Min(x) < float64(g.policies) {
			cells = append(cells, fmt.Sprintf("%s %s %s N=%d (%g)", g.stratum, g.workload, g.line, g.policies, slices.Min(x)))
		}
	}
	if len(cells) == 0 {
		return nil
	}
	return []string{"Fewer policies realised in the kernel than N says: " + table.Some(cells) + "."}
}

// environmentDiffers names what differs between merged runs.
func (d *dataset) environmentDiffers() []string {
	differ := map[string]bool{}
	for _, r := range d.Runs[1:] {
		for key, v := range r.Env {
			if old, ok := d.Runs[0].Env[key]; !ok || old != v {
				differ[key] = true
			}
		}
		for key := range d.Runs[0].Env {
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

// maxWarning names the cells that the rule did not end.
func (d *dataset) maxWarning() []string {
	var cells []string
	for _, g := range d.all() {
		if g.ranIntoMax {
			cells = append(cells, fmt.Sprintf("%s %s %s N=%d", g.stratum, g.workload, g.line, g.policies))
		}
	}
	if len(cells) == 0 {
		return nil
	}
	stop := d.Runs[0].Plan.Spec.Measure.Stop
	return []string{fmt.Sprintf("Ran into the most trials: %s had %d trials and still an interval wider than ±%s: %s.", table.Plural(len(cells), "cell"), stop.Max, table.Percent(stop.CI), table.Some(cells))}
}
