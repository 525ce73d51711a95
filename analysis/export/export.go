// Package export writes the rows of runs, the verdicts of claims and comparisons of runs
// for other programs: tidy CSV, JSON, Go benchmark format and JUnit XML. It makes no
// estimates: package report does that. Equal input gives equal output.
package export

import (
	"bufio"
	"bytes"
	"cmp"
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

// schema is the version of the JSON document.
const schema = 1

// measurement is one metric of one trial; a trial without metrics has Metric "". In a document
// the factors of the cell follow.
type measurement struct {
	Run    string   `json:"run"`
	Cell   string   `json:"cell"`
	Block  int      `json:"block"`
	Trial  int      `json:"trial"`
	Seed   string   `json:"seed,omitempty"`
	Status string   `json:"status"`
	Reason string   `json:"reason,omitempty"`
	Metric string   `json:"metric,omitempty"`
	Unit   string   `json:"unit,omitempty"`
	Value  *float64 `json:"value"` // null without a metric
}

// eachOf calls a function for all measurements of a cell, by trial and metric, until it
// returns an error.
func eachOf(set *runs.Set, c *runs.Cell, do func(measurement) error) error {
	for _, t := range c.Trials {
		m := measurement{Run: t.Run, Cell: c.ID, Block: t.Block, Trial: t.Trial, Seed: t.Seed, Status: t.Status, Reason: t.Reason}
		for _, name := range t.Metrics() {
			v, _ := t.Value(name)
			m.Metric, m.Unit, m.Value = name, set.Units[name], &v
			if err := do(m); err != nil {
				return err
			}
		}
		if len(t.Metrics()) == 0 {
			if err := do(m); err != nil {
				return err
			}
		}
	}
	return nil
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
	out, factors := csv.NewWriter(w), factorsOf(set)
	err := out.Write(append([]string{"run", "cell", "block", "trial", "seed", "status", "reason", "metric", "unit", "value"}, factors...))
	line := []string{}
	for _, c := range set.Cells {
		if err != nil {
			break
		}
		err = eachOf(set, c, func(m measurement) error {
			value := ""
			if m.Value != nil {
				value = strconv.FormatFloat(*m.Value, 'g', -1, 64)
			}
			line = append(line[:0], m.Run, m.Cell, strconv.Itoa(m.Block), strconv.Itoa(m.Trial), m.Seed, m.Status, m.Reason, m.Metric, m.Unit, value)
			for _, f := range factors {
				line = append(line, c.Factors[f])
			}
			return out.Write(line)
		})
	}
	out.Flush()
	if err := cmp.Or(err, out.Error()); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

// writeJSON writes all measurements as one document, a measurement at a time.
func writeJSON(w io.Writer, set *runs.Set) error {
	doc := struct {
		Schema       int      `json:"schema"`
		Runs         []string `json:"runs"`
		Clock        string   `json:"clock"`
		Measurements []string `json:"measurements"`
	}{Schema: schema, Runs: []string{}, Measurements: []string{}}
	for _, r := range set.Runs {
		doc.Runs, doc.Clock = append(doc.Runs, r.Name), r.Clock()
	}
	head, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	out := bufio.NewWriter(w) // its first error stays
	_, _ = out.Write(bytes.TrimSuffix(head, []byte("]\n}")))
	n := 0
	for _, c := range set.Cells {
		factors, err := json.MarshalIndent(c.Factors, "   ", " ")
		if err == nil {
			err = eachOf(set, c, func(m measurement) error {
				if n++; n > 1 {
					_, _ = out.WriteString(",")
				}
				return writeMeasurement(out, m, factors)
			})
		}
		if err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
	}
	if n > 0 {
		_, _ = out.WriteString("\n ")
	}
	_, _ = out.WriteString("]\n}\n")
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// writeMeasurement writes a measurement with its factors, which are JSON already.
func writeMeasurement(out *bufio.Writer, m measurement, factors []byte) error {
	data, err := json.MarshalIndent(m, "  ", " ")
	if err != nil {
		return err
	}
	_, _ = out.WriteString("\n  ")
	_, _ = out.Write(bytes.TrimSuffix(data, []byte("\n  }")))
	_, _ = out.WriteString(",\n   \"factors\": ")
	_, _ = out.Write(factors)
	_, err = out.WriteString("\n  }")
	return err
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
