// Package export writes the rows of runs, the verdicts of claims and comparisons of runs
// for other programs: tidy CSV, JSON, Go benchmark format and JUnit XML. It makes no
// estimates: package report does that. Equal input gives equal output.
package export

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
)

// Formats of Write.
const (
	FormatCSV   = "csv"
	FormatJSON  = "json"
	FormatBench = "benchfmt"
	FormatJUnit = "junit"
)

// Write writes the trials of a set in a format. It refuses an unknown format.
func Write(w io.Writer, format string, set *runs.Set) error {
	switch format {
	case FormatCSV:
		return writeCSV(w, set)
	case FormatJSON:
		return writeJSON(w, set)
	case FormatBench:
		return writeBench(w, set)
	case FormatJUnit:
		return JUnit(w, "hookbed", cases(set))
	}
	return fmt.Errorf("unknown format %q, want csv, json, benchfmt or junit", format)
}

// measurement is one metric of one trial; a trial without metrics has Metric "".
type measurement struct {
	Run     string            `json:"run"`
	Cell    string            `json:"cell"`
	Block   int               `json:"block"`
	Trial   int               `json:"trial"`
	Seed    string            `json:"seed,omitempty"`
	Status  string            `json:"status"`
	Reason  string            `json:"reason,omitempty"`
	Metric  string            `json:"metric,omitempty"`
	Unit    string            `json:"unit,omitempty"`
	Value   *float64          `json:"value"` // null without a metric
	Factors map[string]string `json:"factors"`
}

// measurements are all measurements of a set, by cell, trial and metric.
func measurements(set *runs.Set) []measurement {
	out := []measurement{}
	for _, c := range set.Cells {
		for _, t := range c.Trials {
			m := measurement{Run: t.Run, Cell: c.ID, Block: t.Block, Trial: t.Trial, Seed: t.Seed, Status: t.Status, Reason: t.Reason, Factors: c.Factors}
			for _, name := range slices.Sorted(maps.Keys(t.Values)) {
				v := t.Values[name]
				m.Metric, m.Unit, m.Value = name, set.Units[name], &v
				out = append(out, m)
			}
			if len(t.Values) == 0 {
				out = append(out, m)
			}
		}
	}
	return out
}

// factorsOf are the factors that any cell has, sorted.
func factorsOf(set *runs.Set) []string {
	seen := map[string]bool{}
	for _, c := range set.Cells {
		for f := range c.Factors {
			seen[f] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// writeCSV writes one line per trial and metric, with one column per factor.
func writeCSV(w io.Writer, set *runs.Set) error {
	factors := factorsOf(set)
	lines := [][]string{append([]string{"run", "cell", "block", "trial", "seed", "status", "reason", "metric", "unit", "value"}, factors...)}
	for _, m := range measurements(set) {
		value := ""
		if m.Value != nil {
			value = strconv.FormatFloat(*m.Value, 'g', -1, 64)
		}
		line := []string{m.Run, m.Cell, strconv.Itoa(m.Block), strconv.Itoa(m.Trial), m.Seed, m.Status, m.Reason, m.Metric, m.Unit, value}
		for _, f := range factors {
			line = append(line, m.Factors[f])
		}
		lines = append(lines, line)
	}
	if err := csv.NewWriter(w).WriteAll(lines); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

// writeJSON writes all measurements as one document.
func writeJSON(w io.Writer, set *runs.Set) error {
	doc := struct {
		Schema       int           `json:"schema"`
		Runs         []string      `json:"runs"`
		Clock        string        `json:"clock"`
		Measurements []measurement `json:"measurements"`
	}{Schema: record.Schema, Runs: []string{}, Measurements: measurements(set)}
	for _, r := range set.Runs {
		doc.Runs, doc.Clock = append(doc.Runs, r.Name), r.Clock()
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(doc); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// cases are cells as test cases.
func cases(set *runs.Set) []Case {
	var out []Case
	for _, c := range set.Cells {
		k := Case{Class: "hookbed." + c.Get(runs.FactorScenario) + "." + c.Get(runs.FactorWorkload), Name: c.Title()}
		ok := c.Count(record.StatusOK)
		k.Output = fmt.Sprintf("cell %s: %d of %d trials ok", c.ID, ok, max(c.Planned, c.Tried()))
		for _, t := range c.Trials {
			if !t.OK() && !t.Superseded && outranks(t.Status, k.Outcome) {
				k.Outcome, k.Message = outcome(t.Status), t.Status+": "+t.Reason
			}
		}
		if len(c.Trials) == 0 {
			k.Outcome, k.Message = Skipped, "not run"
		}
		out = append(out, k)
	}
	return out
}

// outcome is the outcome of a cell by the status of one of its trials.
func outcome(status string) string {
	switch status {
	case record.StatusFailed:
		return Failure
	case record.StatusUnsupported:
		return Skipped
	}
	return Error
}

// outranks reports whether a status makes an outcome worse.
func outranks(status, than string) bool {
	order := []string{Passed, Skipped, Error, Failure}
	return slices.Index(order, outcome(status)) > slices.Index(order, than)
}
