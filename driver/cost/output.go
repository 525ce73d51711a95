package cost

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"hookbed/analysis/figure"
	"hookbed/analysis/record"
	"hookbed/analysis/stat"
)

// MaxPolicies is the largest N: the block of other sources has no more.
const MaxPolicies = 65_000

// Output is the directory of a run: env.json, samples as they come, and at the
// end the table, the figure and the CSV.
type Output struct {
	dir     string
	samples *os.File // nil in a run that only counts
	csv     *csv.Writer
}

// NewOutput makes the directory, which must be new or empty.
func NewOutput(dir string) (*Output, error) {
	if err := makeDirectory(dir); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "samples.csv"))
	if err != nil {
		return nil, fmt.Errorf("make output: %w", err)
	}
	return &Output{dir: dir, samples: f, csv: csv.NewWriter(f)}, nil
}

func makeDirectory(dir string) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty; give another directory with --out", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	return nil
}

// Dir is the directory.
func (o *Output) Dir() string { return o.dir }

// Close closes the samples.
func (o *Output) Close() error {
	if o.samples == nil {
		return nil
	}
	o.csv.Flush()
	return errors.Join(o.csv.Error(), o.samples.Close())
}

// Environment writes env.json.
func (o *Output) Environment(env map[string]any) error {
	data, err := json.MarshalIndent(env, "", "  ")
	if err != nil {
		return fmt.Errorf("encode environment: %w", err)
	}
	return o.write("env.json", append(data, '\n'))
}

func (o *Output) write(name string, data []byte) error {
	if err := os.WriteFile(filepath.Join(o.dir, name), data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// row appends a line to samples.csv, after a header before the first.
func (o *Output) row(header []string, fields ...any) error {
	if st, err := o.samples.Stat(); err == nil && st.Size() == 0 {
		_ = o.csv.Write(header)
	}
	var row []string
	for _, f := range fields {
		if v, ok := f.(float64); ok {
			row = append(row, strconv.FormatFloat(v, 'g', -1, 64))
			continue
		}
		row = append(row, fmt.Sprint(f))
	}
	_ = o.csv.Write(row)
	o.csv.Flush()
	if err := o.csv.Error(); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	return nil
}

// Sample appends one measurement.
func (o *Output) Sample(s Sample) error {
	return o.row([]string{"round", "order", "program", "policies", "match", "repeat", "ns"},
		s.Round, s.Order, s.Cell.Program, s.Cell.Policies, s.Cell.Match, s.Repeat, s.NS)
}

// Cells writes cost.csv, cost.md and cost.svg.
func (o *Output) Cells(cells []*Cell, rounds int, m Machine) error {
	return o.results("cost", func(w io.Writer) error { return writeCSV(w, cells) }, Tables(cells, rounds, m), drawCells(cells))
}

func (o *Output) results(name string, writeCSV func(io.Writer) error, tables []Table, svg []byte) error {
	var b, md bytes.Buffer
	if err := writeCSV(&b); err != nil {
		return err
	}
	for _, t := range tables {
		t.Markdown(&md)
	}
	err := errors.Join(o.write(name+".csv", b.Bytes()), o.write(name+".md", md.Bytes()))
	if svg != nil {
		err = errors.Join(err, o.write(name+".svg", svg))
	}
	return err
}

// CellSummary is a cell with its estimate.
type CellSummary struct {
	Cell
	Estimate *stat.Estimate `json:"estimate,omitempty"` // nanoseconds
}

// Summary is the cell for JSON.
func (c *Cell) Summary() CellSummary {
	s := CellSummary{Cell: *c}
	if len(c.NS) > 0 {
		e := estimate(c.NS, false)
		s.Estimate = &e
	}
	return s
}

// RateSample appends one measurement of a rate.
func (o *Output) RateSample(s RateSample) error {
	return o.row([]string{"round", "arm", "scenario", "policies", "sent", "frames", "counted", "seconds", "thread_seconds", "softirqd_seconds"},
		s.Round, s.Rate.Arm, s.Rate.Scenario, s.Rate.Policies, s.Rate.Sent, s.Frames, s.Counted, s.Seconds, s.Thread, s.Softirq)
}

// Rates writes rates.csv, rates.md and rates.svg.
func (o *Output) Rates(rates []*Rate, rounds int, m Machine) error {
	return o.results("rates", func(w io.Writer) error { return writeRatesCSV(w, rates) }, []Table{RateTable(rates, rounds, m)}, drawRates(rates))
}

// RateSummary is a rate with its estimates.
type RateSummary struct {
	*Rate
	Samples   int            `json:"samples"`
	PerSecond *stat.Estimate `json:"per_second,omitempty"` // packets
	PerCore   *stat.Estimate `json:"per_core,omitempty"`   // packets in a second of CPU time
	Loss      float64        `json:"loss"`
}

// Summary is the rate for JSON.
func (r *Rate) Summary() RateSummary {
	s := RateSummary{Rate: r, Samples: len(r.Samples)}
	if len(r.Samples) > 0 {
		perSecond, perCore := estimate(r.values(RateSample.PerSecond), true), estimate(r.values(RateSample.PerCore), true)
		s.PerSecond, s.PerCore, s.Loss = &perSecond, &perCore, r.loss()
	}
	return s
}

// drawCells draws nanoseconds per packet over the number of policies, of packets
// that match the last one; nil if there is nothing to draw.
func drawCells(cells []*Cell) []byte {
	f := figure.Curves{Title: "Cost of a packet by BPF_PROG_TEST_RUN", Value: "nanoseconds per packet"}
	for _, c := range cells {
		if c.Status != record.StatusOK || !c.measured() {
			continue
		}
		f.Add(c.Program, c.Project != "hookbed", float64(c.Policies), estimate(c.NS, false).Estimate)
	}
	return f.SVG()
}
