package summary

import (
	"fmt"
	"math"
	"strings"
	"unicode"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// Summary is one metric of one point: a row of a result table.
type Summary struct {
	Scenario string         `json:"scenario"` // name of the stratum
	Workload string         `json:"workload"`
	Metric   string         `json:"metric"`
	Unit     string         `json:"unit"` // base unit of Median
	Arm      string         `json:"arm"`  // name of the line
	Policies int            `json:"policies"`
	Clients  int            `json:"clients,omitempty"` // where they are more than 1
	N        int            `json:"n"`                 // usable trials
	Median   *stat.Estimate `json:"median"`
	CoV      *float64       `json:"cov"` // of the trials; a fraction of 1, as all CoVs here
	// Between and Within split the CoV into what boots differ by and what
	// trials of one boot differ by.
	Between *float64 `json:"cov_between_blocks"`
	// SeedCoV is the CoV of the seeds' numbers, in virtual time.
	SeedCoV *float64 `json:"cov_between_seeds,omitempty"`
	Blocks  int      `json:"blocks"`
	Within  *float64 `json:"cov_within_blocks"`
	// VsZero is the ratio to N = 0 of the same arm, VsReference that to the
	// reference arm at N = 0.
	VsZero      *stat.Estimate `json:"vs_zero"`
	VsReference *stat.Estimate `json:"vs_reference"`
	Note        string         `json:"note,omitempty"` // what went wrong, in words

	Point Point `json:"-"` // that it is of
}

// Estimator estimates numbers from the trials of Data.
type Estimator struct {
	*Data
	Confidence float64 // of every interval, between 0 and 1
	Bootstrap  stat.Bootstrap
	Reference  string // arm that others are compared with, "" if there is none

	made map[summaryKey]Summary
}

// Options says how numbers are estimated. The zero value is usable.
type Options struct {
	Confidence float64 // of every interval; 0 = 0.95
	Seed       uint64  // of the bootstrap
	Resamples  int     // of the bootstrap; 0 = 2000
	Reference  string  // arm to compare with; "" = the base fabric alone, or the first without policies
}

// New arranges runs, at least one, for tables and figures. It refuses a metric in two
// units, and a number of policies or clients that is none.
func New(all []runs.Run, opt Options) (*Estimator, error) {
	d, err := arrange(all)
	if err != nil {
		return nil, err
	}
	e := &Estimator{Data: d, Confidence: opt.Confidence, Bootstrap: stat.Bootstrap{Seed: opt.Seed, Resamples: opt.Resamples}, Reference: d.reference(opt.Reference), made: map[summaryKey]Summary{}}
	if e.Confidence <= 0 || e.Confidence >= 1 {
		e.Confidence = 0.95
	}
	return e, nil
}

type summaryKey struct {
	Point
	metric string
}

// Summary estimates one metric of one point. It is kept, because several tables and
// figures show it.
func (e *Estimator) Summary(g *Group, metric string) Summary {
	key := summaryKey{g.Point, metric}
	s, ok := e.made[key]
	if !ok {
		s = e.estimate(g, metric)
		e.made[key] = s
	}
	return s
}

func (e *Estimator) estimate(g *Group, metric string) Summary {
	x := g.Samples(metric)
	clients := 0
	if g.Clients > 1 {
		clients = g.Clients
	}
	s := Summary{Point: g.Point, Scenario: g.Stratum.String(), Workload: g.Workload, Metric: metric, Unit: e.Units[metric],
		Arm: g.Line.String(), Policies: g.N, Clients: clients, N: len(x), Note: note(g)}
	if len(x) == 0 {
		return s
	}
	perBlock := e.perBlock(g, metric)
	s.Median, s.Blocks = FiniteEstimate(e.center(perBlock, x, metric)), len(perBlock)
	if e.Clock() == runs.ClockVirtual {
		s.SeedCoV = finite(stat.CoV(perBlock))
	}
	s.CoV = finite(stat.CoV(x))
	between, within := stat.Components(g.byBlock(metric))
	s.Between, s.Within = finite(between/math.Abs(stat.Mean(x))), finite(within/math.Abs(stat.Mean(x)))
	if !e.IsResult(metric) || metric == "retransmits" {
		return s // ratios of CPU time, or of counts near 0, answer no question
	}
	if g.N != 0 {
		s.VsZero = e.ratioTo(g, Point{g.Stratum, g.Workload, g.Line, 0}, metric)
	}
	if ref, ok := e.against(g, e.Reference); ok && (g.Line != ref || g.N != 0) {
		s.VsReference = e.ratioTo(g, Point{g.Stratum, g.Workload, ref, 0}, metric)
	}
	return s
}

func (e *Estimator) ratioTo(g *Group, base Point, metric string) *stat.Estimate {
	if e.groups[base] == nil {
		return nil
	}
	return e.Ratio(g, e.groups[base], metric)
}

// Ratio of two groups, a over b: by block where they share enough blocks, else of all
// their trials. nil where it is not a number.
func (e *Estimator) Ratio(a, b *Group, metric string) *stat.Estimate {
	p := runs.Pair(a.Cell, b.Cell, metric, e.Reduce(metric))
	switch {
	case p.Paired:
		return FiniteEstimate(stat.PairedRatio(p.A, p.B, e.Confidence))
	case e.EstimatorName() == runs.EstimatorFasterHalf:
		return FiniteEstimate(e.halvesRatio(p.A, p.B, metric))
	}
	return FiniteEstimate(e.Bootstrap.Ratio(p.A, p.B, e.Confidence))
}

// halvesRatio is the ratio of two faster halves, without an interval where there
// are too few trials for one.
func (e *Estimator) halvesRatio(a, b []float64, metric string) stat.Estimate {
	up := e.Words.HigherIsBetter(metric)
	if r, ok := e.Bootstrap.FasterHalfRatio(a, b, up, e.Confidence); ok {
		return r
	}
	r := stat.FasterHalf(a, up) / stat.FasterHalf(b, up)
	return stat.Estimate{Estimate: r, Low: r, High: r, N: min(len(a), len(b)), Method: stat.MethodBootstrapT}
}

// EstimatorName is runs.EstimatorMedian or runs.EstimatorFasterHalf, as the plan fixed
// it beforehand.
func (e *Estimator) EstimatorName() string { return e.Runs[0].Estimator() }

// EstimatorTitle names for people the number that is made of the trials of a cell.
func (e *Estimator) EstimatorTitle() string {
	if e.EstimatorName() == runs.EstimatorFasterHalf {
		return "faster half"
	}
	return "median"
}

// Reduce is the function that makes one number of the trials of a block.
func (e *Estimator) Reduce(metric string) func([]float64) float64 {
	if e.EstimatorName() == runs.EstimatorFasterHalf {
		return func(x []float64) float64 { return stat.FasterHalf(x, e.Words.HigherIsBetter(metric)) }
	}
	return stat.Median
}

func (e *Estimator) perBlock(g *Group, metric string) []float64 {
	var out []float64
	for _, values := range g.byBlock(metric) {
		out = append(out, e.Reduce(metric)(values))
	}
	return out
}

// center estimates a cell. In virtual time each seed counts once, because only
// seeds vary.
func (e *Estimator) center(perBlock, x []float64, metric string) stat.Estimate {
	if e.Clock() == runs.ClockVirtual {
		return stat.MedianInterval(perBlock, e.Confidence)
	}
	if e.EstimatorName() != runs.EstimatorFasterHalf {
		return stat.MedianInterval(x, e.Confidence)
	}
	if out, ok := e.Bootstrap.FasterHalfInterval(x, e.Words.HigherIsBetter(metric), e.Confidence); ok {
		return out
	}
	v := e.Reduce(metric)(x)
	return stat.Estimate{Estimate: v, Low: v, High: v, N: len(x), Method: stat.MethodBootstrapT}
}

// Summaries are those of every point of a stratum and workload.
func (e *Estimator) Summaries(s Stratum, workload, metric string) []Summary {
	var out []Summary
	for _, g := range e.Ordered(s, workload) {
		out = append(out, e.Summary(g, metric))
	}
	return out
}

// FiniteEstimate is an estimate, nil if it is NaN or infinite: JSON has neither.
func FiniteEstimate(e stat.Estimate) *stat.Estimate {
	if math.IsNaN(e.Estimate) || math.IsInf(e.Estimate, 0) {
		return nil
	}
	return &e
}

func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// note says what kept trials of a group from being numbers.
func note(g *Group) string {
	var parts []string
	for _, status := range record.Statuses()[1:] {
		if n := g.Count(status); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", n, status, strings.Join(g.reasons(status), "; ")))
		}
	}
	if n := g.Missing(); n > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d planned not run", n, g.Planned))
	}
	return strings.Join(parts, "; ")
}

// reasons lists the different reasons of attempts with a status. Those that differ
// in numbers only are one.
func (g *Group) reasons(status string) []string {
	seen := map[string]bool{}
	var out []string
	for _, a := range g.Trials {
		if a.Status == status && !a.Superseded && !seen[ReasonShape(a.Reason)] {
			seen[ReasonShape(a.Reason)] = true
			out = append(out, ReasonText(a.Reason))
		}
	}
	return out
}

// ReasonText is the reason of a trial, in words also where it has none.
func ReasonText(reason string) string {
	if reason == "" {
		return "no reason recorded"
	}
	return reason
}

// ReasonShape is a reason with each of its numbers blanked: reasons of one shape are
// listed once.
func ReasonShape(reason string) string {
	var b strings.Builder
	last := rune(0)
	for _, r := range reason {
		if unicode.IsDigit(r) {
			r = '#'
		}
		if r != '#' || last != '#' {
			b.WriteRune(r)
		}
		last = r
	}
	return b.String()
}

// MissingNote is the summary's note; never "" where it has no number.
func MissingNote(s Summary) string {
	if s.Median == nil && s.Note == "" {
		return "not measured"
	}
	return s.Note
}

// Medians are those of the summaries that have one, in base units.
func Medians(all []Summary) []float64 {
	var out []float64
	for _, s := range all {
		if s.Median != nil {
			out = append(out, s.Median.Estimate)
		}
	}
	return out
}
