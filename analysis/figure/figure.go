// Package figure draws the pictures of a report as SVG, each with its data as CSV and in
// words, and the curves of a cost report. It alone draws; the other packages see only the
// finished SVG.
package figure

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"

	"gonum.org/v1/plot/vg"

	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// chart is one picture as data: a measure of a stratum against the number of policies
// or of clients. svg.go draws it, lines.go the lines on it.
type chart struct {
	Name       string // file name without extension, "throughput-localhost"
	Title      string
	Subtitle   string // what was run, and which way is better
	Basis      string // what the points rest on
	Caption    string
	measure    summary.Measure
	scale      table.Scale
	series     []series
	shown      int     // series that are not references
	references int     // series that are
	highest    float64 // value, with its interval, in base units
	levels     []int   // on the axis
	clients    bool    // the axis is the number of clients, else that of policies
	// nameWidth is the room for names. It is equal in all panels, so that their axes
	// line up.
	nameWidth vg.Length
}

// x is where a point is on the axis.
func (f chart) x(p summary.Summary) int {
	if f.clients {
		return max(1, p.Clients)
	}
	return p.Policies
}

// at says where on the axis a point is.
func (f chart) at(p summary.Summary) string {
	if f.clients {
		return fmt.Sprintf("%d clients", f.x(p))
	}
	return fmt.Sprintf("N = %d", p.Policies)
}

// series is what is drawn of one line of the report.
type series struct {
	name      string
	index     int  // among those drawn as lines, or as references: selects color and marker
	reference bool // has no policies: a horizontal line
	points    []summary.Summary
}

// Figure is a picture that is ready to be written.
type Figure struct {
	Name        string // of its files, without extension: "throughput-localhost"
	Caption     string
	Description string // the picture in words
	SVG         []byte // a document of its own, every text in it escaped
	CSV         []byte // the data, in base units
}

func (f chart) rendered() Figure { return Figure{f.Name, f.Caption, f.describe(), f.svg(), f.csv()} }

// Measures are the figures of the study, in its order, then one for every other
// measure, then those over the number of clients where there are several.
func Measures(e *summary.Estimator) []Figure {
	var out []Figure
	for _, f := range charts(e) {
		out = append(out, f.rendered())
	}
	return out
}

// charts are the figures of Measures, as data.
func charts(e *summary.Estimator) []chart {
	var out []chart
	ms := e.Measures()
	add := func(s summary.Stratum, m summary.Measure) {
		if f, ok := newChart(e, s, m); ok {
			out = append(out, f)
		}
	}
	for _, study := range []bool{true, false} {
		for _, s := range e.Strata {
			for _, m := range ms {
				if w, _ := e.Words.Workload(m.Workload); (len(w.Study) > 0) == study {
					add(s, m)
				}
			}
		}
	}
	if len(e.Clients()) < 2 {
		return out
	}
	for _, s := range e.Strata {
		for _, m := range ms {
			if f, ok := newClientsChart(e, s, m); ok {
				out = append(out, f)
			}
		}
	}
	return out
}

// newChart shows a measure against the number of policies; ok is false where no cell
// has it.
func newChart(e *summary.Estimator, in summary.Stratum, m summary.Measure) (f chart, ok bool) {
	all := ofClients(e, e.Summaries(in, m.Workload, m.Metric))
	if len(all) == 0 {
		return chart{}, false
	}
	w, _ := e.Words.Workload(m.Workload)
	name := cmp.Or(w.Figure, table.Slug(m.Workload))
	f = chart{Name: name + "-" + table.Slug(in.String()), measure: m, scale: e.Scale(e.Units[m.Metric], summary.Medians(all))}
	f.Title = fmt.Sprintf("%s, %s", table.SentenceCase(m.Name), in)
	f.Subtitle, f.Basis = subtitle(m), basis(e, all)
	f.Caption = caption(m, in, w.Study[in.String()])
	lines, refs := 0, 0
	for _, line := range e.Lines {
		s := series{name: line.String(), reference: e.NoPolicies(line)}
		count := &lines
		if s.reference {
			count = &refs
		}
		s.index = *count
		*count++
		for _, p := range all {
			if p.Point.Line == line {
				s.points = append(s.points, p)
			}
		}
		if len(s.points) > 0 {
			f.series = append(f.series, s)
		}
	}
	f.shown, f.references, f.levels = lines, refs, levelsOf(all)
	for _, p := range all {
		if p.Median != nil {
			f.highest = max(f.highest, p.Median.High, p.Median.Estimate)
		}
	}
	return f, true
}

// ofClients are the points of the fewest clients that there are.
func ofClients(e *summary.Estimator, all []summary.Summary) (out []summary.Summary) {
	fewest := e.Clients()[0]
	for _, s := range all {
		if max(1, s.Clients) == fewest {
			out = append(out, s)
		}
	}
	return out
}

// newClientsChart shows a measure against the number of clients: each arm at its
// largest number of policies.
func newClientsChart(e *summary.Estimator, in summary.Stratum, m summary.Measure) (chart, bool) {
	f, ok := newChart(e, in, m)
	if !ok {
		return f, false
	}
	f.Name, f.clients, f.series, f.shown, f.references, f.highest = f.Name+"-clients", true, nil, 0, 0, 0
	f.Title = fmt.Sprintf("%s by number of clients, %s", table.SentenceCase(m.Name), in)
	f.Caption = fmt.Sprintf("%s of all clients together against their number, %s, each arm with the most policies it was run with.", table.SentenceCase(m.Name), in)
	var shown []summary.Summary
	for _, line := range e.Lines {
		first := e.Largest(in, m.Workload, line)
		if first == nil || first.Clients != e.Clients()[0] {
			continue // an arm again, with more clients
		}
		s := series{name: line.Arm, index: f.shown}
		for _, clients := range e.Clients() {
			if g := e.Largest(in, m.Workload, summary.Line{Arm: line.Arm, Clients: clients}); g != nil {
				s.points = append(s.points, e.Summary(g, m.Metric))
			}
		}
		f.series, f.shown, shown = append(f.series, s), f.shown+1, append(shown, s.points...)
	}
	for _, p := range shown {
		if p.Median != nil {
			f.highest = max(f.highest, p.Median.High, p.Median.Estimate)
		}
	}
	f.scale, f.levels, f.Basis = e.Scale(e.Units[m.Metric], summary.Medians(shown)), e.Clients(), basis(e, shown)
	return f, len(shown) > 0
}

func levelsOf(all []summary.Summary) []int {
	var out []int
	for _, s := range all {
		if !slices.Contains(out, s.Policies) {
			out = append(out, s.Policies)
		}
	}
	slices.Sort(out)
	return out
}

func subtitle(m summary.Measure) string {
	if m.HigherIsBetter {
		return m.Workload + ", higher is better"
	}
	return m.Workload + ", lower is better"
}

func basis(e *summary.Estimator, all []summary.Summary) string {
	s := e.EstimatorTitle() + " of " + trialsText(all)
	if e.Clock() == "virtual" {
		s += " over seeds · virtual clock"
	}
	if e.Emulated() {
		s += " · TCG: shapes, not speeds"
	}
	return s
}

// trialsText is "10 trials, 97.9 % interval", from what the points really have.
func trialsText(all []summary.Summary) string {
	var n []int
	var c []float64
	for _, s := range all {
		if s.Median != nil {
			n, c = append(n, s.N), append(c, s.Median.Confidence)
		}
	}
	if len(n) == 0 {
		return "no trials"
	}
	trials := table.Plural(n[0], "trial")
	if low, high := slices.Min(n), slices.Max(n); low != high {
		trials = fmt.Sprintf("%d to %d trials", low, high)
	}
	low, high := slices.Min(c), slices.Max(c)
	switch {
	case high == 0:
		return trials + ", no interval"
	case low == 0:
		return trials + ", intervals of at most " + table.Percent(high)
	case low == high:
		return trials + ", " + table.Percent(low) + " interval"
	}
	return trials + ", " + table.Percent(low) + " to " + table.Percent(high) + " intervals"
}

// caption says which figure of the 2017 study this one re-draws, by its number.
func caption(m summary.Measure, in summary.Stratum, number string) string {
	s := table.SentenceCase(m.Name) + " against the number of policies, " + in.String() + "."
	if number != "" {
		s += " The study's figure " + number + ", measured anew."
	}
	return s
}

// csv is the figure's data, in base units; a point without a number has n = 0
// and empty fields.
func (f chart) csv() []byte {
	lines := [][]string{{"scenario", "workload", "metric", "arm", "policies", "n", "median", "low", "high", "confidence", "cov", "unit"}}
	for _, s := range f.series {
		for _, p := range s.points {
			line := []string{p.Scenario, p.Workload, p.Metric, p.Arm, strconv.Itoa(p.Policies), strconv.Itoa(p.N), "", "", "", "", "", p.Unit}
			if m := p.Median; m != nil {
				for i, v := range []float64{m.Estimate, m.Low, m.High, m.Confidence} {
					line[6+i] = strconv.FormatFloat(v, 'g', 10, 64)
				}
			}
			if p.CoV != nil {
				line[10] = strconv.FormatFloat(*p.CoV, 'g', 6, 64)
			}
			lines = append(lines, line)
		}
	}
	var b bytes.Buffer
	// A bytes.Buffer takes every write, so there is no error to see.
	_ = csv.NewWriter(&b).WriteAll(lines)
	return b.Bytes()
}
