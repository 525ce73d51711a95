package report

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
)

// figure is one picture: a measure of a scenario against the number of
// policies, as data. svg.go draws it, arms.go the arms on it.
type figure struct {
	Name     string // file name without extension, "throughput-localhost"
	Title    string
	Subtitle string // what was run, and which way is better
	Basis    string // what the points rest on
	Caption  string
	Scenario string
	measure  measure
	scale    scale
	series   []series
	lines    int     // arms that are not references
	highest  float64 // value, with its interval
	levels   []int   // numbers of policies on the axis
}

// series is one arm.
type series struct {
	arm       string
	index     int  // of the arm among those drawn as lines, or as references: picks colour and marker
	reference bool // has no policies: a horizontal line
	points    []Summary
}

// figures are those of the study, in its order, then one for every other
// headline measure.
func (e estimator) figures() []figure {
	var out []figure
	ms := e.measures()
	add := func(s string, m measure) {
		if f, ok := e.figure(s, m); ok {
			out = append(out, f)
		}
	}
	for _, s := range e.scenarios {
		for _, m := range ms {
			if m.workload != "TCP_CRR" {
				add(s, m)
			}
		}
	}
	for _, s := range e.scenarios {
		for _, m := range ms {
			if m.workload == "TCP_CRR" {
				add(s, m)
			}
		}
	}
	return out
}

func (e estimator) figure(scenario string, m measure) (figure, bool) {
	all := e.summaries(scenario, m.workload, m.metric)
	if len(all) == 0 {
		return figure{}, false
	}
	name := map[string]string{"TCP_STREAM": "throughput", "TCP_RR": "latency", "TCP_CRR": "crr-rate"}[m.workload]
	f := figure{Name: name + "-" + slug(scenario), Scenario: scenario, measure: m, scale: e.scale(e.Units[m.metric], mediansOf(all))}
	f.Title = fmt.Sprintf("%s, %s", sentenceCase(m.name), scenario)
	f.Subtitle, f.Basis = subtitle(m), e.basis(all)
	f.Caption = caption(m, scenario)
	lines, refs := 0, 0
	for _, arm := range e.arms {
		s := series{arm: arm, reference: e.noPolicies(arm)}
		count := &lines
		if s.reference {
			count = &refs
		}
		s.index = *count
		*count++
		for _, p := range all {
			if p.Arm == arm {
				s.points = append(s.points, p)
			}
		}
		if len(s.points) > 0 {
			f.series = append(f.series, s)
		}
	}
	f.lines, f.levels = lines, levelsOf(all)
	for _, p := range all {
		if p.Median != nil {
			f.highest = max(f.highest, p.Median.High, p.Median.Estimate)
		}
	}
	return f, true
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

func (e estimator) basis(all []Summary) string {
	s := e.center() + " of " + trialsText(all)
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
	trials := plural(n[0], "trial")
	if low, high := slices.Min(n), slices.Max(n); low != high {
		trials = fmt.Sprintf("%d to %d trials", low, high)
	}
	low, high := slices.Min(c), slices.Max(c)
	switch {
	case high == 0:
		return trials + ", no interval"
	case low == 0:
		return trials + ", intervals of at most " + percent(high)
	case low == high:
		return trials + ", " + percent(low) + " interval"
	}
	return trials + ", " + percent(low) + " to " + percent(high) + " intervals"
}

// caption says which figure of the 2017 study this one re-draws.
func caption(m measure, scenario string) string {
	number := map[string]string{
		"TCP_STREAM localhost": "5", "TCP_RR localhost": "6", "TCP_STREAM multi-host": "7", "TCP_RR multi-host": "8",
	}[m.workload+" "+scenario]
	s := sentenceCase(m.name) + " against the number of policies, " + scenario + "."
	if number != "" {
		s += " The study's figure " + number + ", measured anew."
	}
	return s
}

func sentenceCase(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
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
