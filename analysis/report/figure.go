package report

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"

	"gonum.org/v1/plot/vg"

	"hookbed/analysis/table"
)

// figure is one picture: a measure of a scenario against the number of
// policies, as data. svg.go draws it, arms.go the arms on it.
type figure struct {
	Name     string // file name without extension, "throughput-localhost"
	Title    string
	Subtitle string // what was run, and which way is better
	Basis    string // what the points rest on
	Caption  string
	measure  measure
	scale    table.Scale
	series   []series
	lines    int     // arms that are not references
	refs     int     // arms that are
	highest  float64 // value, with its interval
	levels   []int   // on the axis
	clients  bool    // the axis is the number of clients, else that of policies
	// nameWidth is the room for names, of every panel alike so that their axes meet.
	nameWidth vg.Length
}

// x is where a point is on the axis.
func (f figure) x(p Summary) int {
	if f.clients {
		return max(1, p.Clients)
	}
	return p.Policies
}

// at says where on the axis a point is.
func (f figure) at(p Summary) string {
	if f.clients {
		return fmt.Sprintf("%d clients", f.x(p))
	}
	return fmt.Sprintf("N = %d", p.Policies)
}

// series is one arm.
type series struct {
	arm       string
	index     int  // of the arm among those drawn as lines, or as references: picks colour and marker
	reference bool // has no policies: a horizontal line
	points    []Summary
}

// Figure is a picture that is ready to be written.
type Figure struct {
	Name        string // of its files, without extension: "throughput-localhost"
	Caption     string
	Description string // the picture in words
	SVG         []byte // a document of its own, every text in it escaped
	CSV         []byte // the data, in base units
}

func (f figure) rendered() Figure { return Figure{f.Name, f.Caption, f.describe(), f.svg(), f.csv()} }

// measureFigures are those of the study, in its order, then one for every other
// measure.
func (e *estimator) measureFigures() []Figure {
	var out []Figure
	for _, f := range e.figures() {
		out = append(out, f.rendered())
	}
	return out
}

func (e *estimator) figures() []figure {
	var out []figure
	ms := e.measures()
	add := func(s Stratum, m measure) {
		if f, ok := e.figure(s, m); ok {
			out = append(out, f)
		}
	}
	for _, study := range []bool{true, false} {
		for _, s := range e.strata {
			for _, m := range ms {
				if w, _ := e.Words.Workload(m.workload); (len(w.Study) > 0) == study {
					add(s, m)
				}
			}
		}
	}
	if len(e.clients()) < 2 {
		return out
	}
	for _, s := range e.strata {
		for _, m := range ms {
			if f, ok := e.clientsFigure(s, m); ok {
				out = append(out, f)
			}
		}
	}
	return out
}

func (e *estimator) figure(in Stratum, m measure) (figure, bool) {
	all := e.ofClients(e.summaries(in, m.workload, m.metric))
	if len(all) == 0 {
		return figure{}, false
	}
	w, _ := e.Words.Workload(m.workload)
	name := cmp.Or(w.Figure, table.Slug(m.workload))
	f := figure{Name: name + "-" + table.Slug(in.String()), measure: m, scale: e.scale(e.Units[m.metric], mediansOf(all))}
	f.Title = fmt.Sprintf("%s, %s", table.SentenceCase(m.name), in)
	f.Subtitle, f.Basis = subtitle(m), e.basis(all)
	f.Caption = caption(m, in, w.Study[in.String()])
	lines, refs := 0, 0
	for _, line := range e.lines {
		s := series{arm: line.String(), reference: e.noPolicies(line)}
		count := &lines
		if s.reference {
			count = &refs
		}
		s.index = *count
		*count++
		for _, p := range all {
			if p.point.line == line {
				s.points = append(s.points, p)
			}
		}
		if len(s.points) > 0 {
			f.series = append(f.series, s)
		}
	}
	f.lines, f.refs, f.levels = lines, refs, levelsOf(all)
	for _, p := range all {
		if p.Median != nil {
			f.highest = max(f.highest, p.Median.High, p.Median.Estimate)
		}
	}
	return f, true
}

// ofClients are the points of the fewest clients that there are.
func (e *estimator) ofClients(all []Summary) (out []Summary) {
	fewest := e.clients()[0]
	for _, s := range all {
		if max(1, s.Clients) == fewest {
			out = append(out, s)
		}
	}
	return out
}

// clientsFigure draws a measure against the number of clients: each arm at its
// largest number of policies.
func (e *estimator) clientsFigure(in Stratum, m measure) (figure, bool) {
	f, ok := e.figure(in, m)
	if !ok {
		return f, false
	}
	f.Name, f.clients, f.series, f.lines, f.refs, f.highest = f.Name+"-clients", true, nil, 0, 0, 0
	f.Title = fmt.Sprintf("%s by number of clients, %s", table.SentenceCase(m.name), in)
	f.Caption = fmt.Sprintf("%s of all clients together against their number, %s, each arm with the most policies it was run with.", table.SentenceCase(m.name), in)
	var shown []Summary
	for _, line := range e.lines {
		first := e.largest(in, m.workload, line)
		if first == nil || first.Clients != e.clients()[0] {
			continue // an arm again, with more clients
		}
		s := series{arm: line.Arm, index: f.lines}
		for _, clients := range e.clients() {
			if g := e.largest(in, m.workload, Line{line.Arm, clients}); g != nil {
				s.points = append(s.points, e.summary(g, m.metric))
			}
		}
		f.series, f.lines, shown = append(f.series, s), f.lines+1, append(shown, s.points...)
	}
	for _, p := range shown {
		if p.Median != nil {
			f.highest = max(f.highest, p.Median.High, p.Median.Estimate)
		}
	}
	f.scale, f.levels, f.Basis = e.scale(e.Units[m.metric], mediansOf(shown)), e.clients(), e.basis(shown)
	return f, len(shown) > 0
}

func levelsOf(all []Summary) []int {
	var out []int
	for _, s := range all {
		if !slices.Contains(out, s.Policies) {
			out = append(out, s.Policies)
		}
	}
	slices.Sort(out)
	return out
}

func subtitle(m measure) string {
	if m.higherIsBetter {
		return m.workload + ", higher is better"
	}
	return m.workload + ", lower is better"
}

func (e *estimator) basis(all []Summary) string {
	s := e.estimatorTitle() + " of " + trialsText(all)
	if e.clock() == "virtual" {
		s += " over seeds · virtual clock"
	}
	if e.emulated() {
		s += " · TCG: shapes, not speeds"
	}
	return s
}

// trialsText is "10 trials, 97.9 % interval", from what the points really have.
func trialsText(all []Summary) string {
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
func caption(m measure, in Stratum, number string) string {
	s := table.SentenceCase(m.name) + " against the number of policies, " + in.String() + "."
	if number != "" {
		s += " The study's figure " + number + ", measured anew."
	}
	return s
}

// csv is the figure's data, in base units; a point without a number has n = 0
// and empty fields.
func (f figure) csv() []byte {
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
