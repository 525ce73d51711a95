package cost

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"hookbed/analysis/figure"
	"hookbed/analysis/record"
)

// NewCountOutput makes the directory of a run that only counts; it must be new or empty.
func NewCountOutput(dir string) (*Output, error) {
	if err := makeDirectory(dir); err != nil {
		return nil, err
	}
	return &Output{dir: dir}, nil
}

// Counts writes instructions.csv, instructions.md and instructions.svg.
func (o *Output) Counts(counts []*Count, kernel string) error {
	return o.results("instructions", func(w io.Writer) error { return writeCountsCSV(w, counts) }, CountTables(counts, kernel), drawCounts(counts))
}

// writeCountsCSV writes one line a count: run is the instructions of one run of the
// test run's loop, instructions those less the empty program's.
func writeCountsCSV(w io.Writer, counts []*Count) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"program", "hook", "project", "policies", "match", "status", "reason", "run", "instructions"})
	for _, c := range counts {
		row := []string{c.Program, c.Hook, c.Project, strconv.Itoa(c.Policies), c.Match, c.Status, c.Reason, "", ""}
		if c.Status == record.StatusOK {
			row[7], row[8] = strconv.FormatInt(c.Run, 10), strconv.FormatInt(c.Instructions, 10)
		}
		_ = out.Write(row)
	}
	out.Flush()
	return out.Error()
}

// CountTables are the counts as people read them.
func CountTables(counts []*Count, kernel string) []Table {
	return []Table{countTable(counts, kernel), growthTable(counts)}
}

func countTable(counts []*Count, kernel string) Table {
	var all []entry
	for _, c := range counts {
		all = append(all, entry{c.Program, c.Project, c.Policies, c.Match, c.Status, c.Reason, c.text()})
	}
	return matchTable("Instructions per packet (virtual time)", all,
		"Each number: instructions of one run, less those of the empty program at the same hook, which takes "+loops(counts)+" with the test run's own loop. "+columnsNote,
		fmt.Sprintf("Counted on kernel %s in sealed guests: the same on every computer. The programs control-N, whose differences are known, were counted right.", kernel))
}

// text is the cell of a table: the net instructions; for the empty program, whose are
// none, those of the loop.
func (c *Count) text() string {
	switch {
	case c.Status != record.StatusOK:
		return c.Status
	case c.empty():
		return fmt.Sprintf("0 (%d in all)", c.Run)
	}
	return strconv.FormatInt(c.Instructions, 10)
}

func (c *Count) empty() bool { return c.Program == emptyTC || c.Program == emptyXDP }

// loops says what runs of the empty programs take.
func loops(counts []*Count) string {
	var b bytes.Buffer
	for _, c := range counts {
		if !c.empty() {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d at %s", c.Run, c.Hook)
	}
	return b.String()
}

// growthTable says for each program how instructions grow with N.
func growthTable(counts []*Count) Table {
	t := Table{Title: "How instructions grow with N policies", Columns: append([]string{"program"}, matches()...)}
	for i, c := range counts {
		if c.Policies == 0 || i > 0 && counts[i-1].Program == c.Program {
			continue
		}
		row := []string{c.Program}
		for _, match := range matches() {
			row = append(row, growth(counts, c.Program, match))
		}
		t.Rows = append(t.Rows, row)
	}
	t.Notes = []string{"A number alone: the same at every N. A + B N: exactly so at every N that was counted. " +
		fmt.Sprintf("About A + B N: within %g %% of the line through the least and the greatest N. A to B: none of these.", 100*nearLine)}
	return t
}

// nearLine is how far from a line, relative to it, what is called about linear may be.
const nearLine = 0.05

// leastSlope is what is called growth in instructions a policy: entries in one bucket of a hash
// make a number go up and down by a few.
const leastSlope = 0.5

// growth is the instructions of a program as a function of N.
func growth(counts []*Count, program, match string) string {
	var at []*Count
	for _, c := range counts {
		if c.Program == program && c.Match == match && c.Status == record.StatusOK {
			at = append(at, c)
		}
	}
	if len(at) < 2 {
		return ""
	}
	first, last := at[0], at[len(at)-1]
	slope := float64(last.Instructions-first.Instructions) / float64(last.Policies-first.Policies)
	start := float64(first.Instructions) - slope*float64(first.Policies)
	least, most, off := first.Instructions, first.Instructions, 0.0
	for _, c := range at {
		least, most = min(least, c.Instructions), max(most, c.Instructions)
		line := start + slope*float64(c.Policies)
		off = max(off, math.Abs(float64(c.Instructions)-line)/line)
	}
	switch {
	case least == most:
		return strconv.FormatInt(least, 10)
	case len(at) > 2 && off < 1e-9:
		return fmt.Sprintf("%.0f + %s N", start, number(slope, 2))
	case len(at) > 2 && off < nearLine && slope >= leastSlope:
		return fmt.Sprintf("about %.0f + %s N", start, number(slope, 2))
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// drawCounts draws instructions over the number of policies, of packets that match the
// last one; nil if there is nothing to draw.
func drawCounts(counts []*Count) []byte {
	f := figure.Curves{Title: "Instructions of a packet in virtual time", Value: "instructions per packet"}
	for _, c := range counts {
		if c.Status == record.StatusOK && c.Match == matchLast {
			f.Add(c.Program, c.Project != "hookbed", float64(c.Policies), float64(c.Instructions))
		}
	}
	return f.SVG()
}

// Both writes both.csv and both.md: what was measured on the wall clock, and what
// was counted.
func (o *Output) Both(cells []*Cell, counts []*Count, m Machine) error {
	t := BothTable(cells, counts, m)
	return o.results("both", t.csv, []Table{t}, nil)
}

// csv writes the table as it is.
func (t Table) csv(w io.Writer) error {
	out := csv.NewWriter(w)
	_ = out.Write(t.Columns)
	return out.WriteAll(t.Rows)
}

// BothTable has the nanoseconds of the cells and the instructions of the same runs.
// Both are of a whole run: the test run's own loop is in either.
func BothTable(cells []*Cell, counts []*Count, m Machine) Table {
	t := Table{Title: "Nanoseconds (wall) and instructions (virtual) of a run",
		Columns: []string{"program", "policies", "match", "ns (wall)", "instructions (virtual)", "ns of 100 instructions"},
		Notes:   []string{m.note() + " The instructions are of the guests' kernel, and the test run's own loop is in both."}}
	for _, c := range cells {
		i := slices.IndexFunc(counts, func(o *Count) bool {
			return o.Program == c.Program && o.Policies == c.Policies && o.Match == c.Match && o.Status == record.StatusOK
		})
		if c.Status != record.StatusOK || len(c.NS) == 0 || i < 0 {
			continue
		}
		ns := estimate(c.NS, false).Estimate
		t.Rows = append(t.Rows, []string{c.Program, strconv.Itoa(c.Policies), c.Match,
			nanoseconds(ns), strconv.FormatInt(counts[i].Run, 10), number(100*ns/float64(counts[i].Run), 1)})
	}
	return t
}
