package report

import (
	"fmt"
	"math"
	"strings"
	"unicode"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// Summary is one metric of one point: a line of a result table.
type Summary struct {
	Scenario string         `json:"scenario"`
	Workload string         `json:"workload"`
	Metric   string         `json:"metric"`
	Unit     string         `json:"unit"`
	Arm      string         `json:"arm"`
	Policies int            `json:"policies"`
	Clients  int            `json:"clients,omitempty"` // where they are more than 1
	N        int            `json:"n"`                 // usable trials
	Median   *stat.Estimate `json:"median"`
	CoV      *float64       `json:"cov"`
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

	point point // of which it is
}

// estimator makes summaries of a dataset.
type estimator struct {
	*dataset
	confidence float64 // of every interval
	boot       stat.Bootstrap
	ref        string // reference arm, "" if there is none
	made       map[summaryKey]Summary
}

// estimatorOptions says how numbers are estimated. The zero value is usable.
type estimatorOptions struct {
	Confidence float64 // of every interval; 0 = 0.95
	Seed       uint64  // of the bootstrap
	Resamples  int     // of the bootstrap; 0 = 2000
	Reference  string  // arm to compare with; "" = the base fabric alone, or the first without policies
}

// newEstimator arranges runs for tables and figures. It refuses a metric in two
// units.
func newEstimator(all []runs.Run, opt estimatorOptions) (*estimator, error) {
	d, err := arrange(all)
	if err != nil {
		return nil, err
	}
	e := &estimator{dataset: d, confidence: opt.Confidence, boot: stat.Bootstrap{Seed: opt.Seed, Resamples: opt.Resamples}, ref: d.reference(opt.Reference), made: map[summaryKey]Summary{}}
	if e.confidence <= 0 || e.confidence >= 1 {
		e.confidence = 0.95
	}
	return e, nil
}

type summaryKey struct {
	point
	metric string
}

// summary estimates one metric of one point, once: several tables and figures
// show it.
func (e *estimator) summary(g *group, metric string) Summary {
	key := summaryKey{g.point, metric}
	s, ok := e.made[key]
	if !ok {
		s = e.estimate(g, metric)
		e.made[key] = s
	}
	return s
}

func (e *estimator) estimate(g *group, metric string) Summary {
	x := g.Samples(metric)
	clients := 0
	if g.Clients > 1 {
		clients = g.Clients
	}
	s := Summary{point: g.point, Scenario: g.stratum.String(), Workload: g.workload, Metric: metric, Unit: e.Units[metric],
		Arm: g.line.String(), Policies: g.policies, Clients: clients, N: len(x), Note: note(g)}
	if len(x) == 0 {
		return s
	}
	perBlock := e.perBlock(g, metric)
	s.Median, s.Blocks = known(e.center(perBlock, x, metric)), len(perBlock)
	if e.clock() == runs.ClockVirtual {
		s.SeedCoV = finite(stat.CoV(perBlock))
	}
	s.CoV = finite(stat.CoV(x))
	between, within := stat.Components(g.byBlock(metric))
	s.Between, s.Within = finite(between/math.Abs(stat.Mean(x))), finite(within/math.Abs(stat.Mean(x)))
	if !e.isResult(metric) || metric == "retransmits" {
		return s // ratios of CPU time, or of counts near 0, answer no question
	}
	if g.policies != 0 {
		s.VsZero = e.ratioTo(g, point{g.stratum, g.workload, g.line, 0}, metric)
	}
	if ref, ok := e.against(g, e.ref); ok && (g.line != ref || g.policies != 0) {
		s.VsReference = e.ratioTo(g, point{g.stratum, g.workload, ref, 0}, metric)
	}
	return s
}

func (e *estimator) ratioTo(g *group, base point, metric string) *stat.Estimate {
	if e.groups[base] == nil {
		return nil
	}
	return e.ratio(g, e.groups[base], metric)
}

// ratio of two groups: by block where they share enough blocks, else of all
// their trials.
func (e *estimator) ratio(a, b *group, metric string) *stat.Estimate {
	p := runs.Pair(a.Cell, b.Cell, metric, e.reduce(metric))
	switch {
	case p.Paired:
		return known(stat.PairedRatio(p.A, p.B, e.confidence))
	case e.estimatorName() == runs.EstimatorFasterHalf:
		return known(e.halvesRatio(p.A, p.B, metric))
	}
	return known(e.boot.Ratio(p.A, p.B, e.confidence))
}

// halvesRatio is the ratio of two faster halves, without an interval where there
// are too few trials for one.
func (e *estimator) halvesRatio(a, b []float64, metric string) stat.Estimate {
	up := e.Words.HigherIsBetter(metric)
	if r, ok := e.boot.FasterHalfRatio(a, b, up, e.confidence); ok {
		return r
	}
	r := stat.FasterHalf(a, up) / stat.FasterHalf(b, up)
	return stat.Estimate{Estimate: r, Low: r, High: r, N: min(len(a), len(b)), Method: stat.MethodBootstrapT}
}

// estimatorName is the estimator that the plan fixed.
func (e *estimator) estimatorName() string { return e.Runs[0].Estimator() }

// estimatorTitle names for people the number that is made of the trials of a cell.
func (e *estimator) estimatorTitle() string {
	if e.estimatorName() == runs.EstimatorFasterHalf {
		return "faster half"
	}
	return "median"
}

// reduce makes one number of a block's trials.
func (e *estimator) reduce(metric string) func([]float64) float64 {
	if e.estimatorName() == runs.EstimatorFasterHalf {
		return func(x []float64) float64 { return stat.FasterHalf(x, e.Words.HigherIsBetter(metric)) }
	}
	return stat.Median
}

func (e *estimator) perBlock(g *group, metric string) []float64 {
	var out []float64
	for _, values := range g.byBlock(metric) {
		out = append(out, e.reduce(metric)(values))
	}
	return out
}

// center estimates a cell. In virtual time each seed counts once, because only
// seeds vary.
func (e *estimator) center(perBlock, x []float64, metric string) stat.Estimate {
	if e.clock() == runs.ClockVirtual {
		return stat.MedianInterval(perBlock, e.confidence)
	}
	if e.estimatorName() != runs.EstimatorFasterHalf {
		return stat.MedianInterval(x, e.confidence)
	}
	if out, ok := e.boot.FasterHalfInterval(x, e.Words.HigherIsBetter(metric), e.confidence); ok {
		return out
	}
	v := e.reduce(metric)(x)
	return stat.Estimate{Estimate: v, Low: v, High: v, N: len(x), Method: stat.MethodBootstrapT}
}

// summaries are those of every point of a stratum and workload.
func (e *estimator) summaries(s Stratum, workload, metric string) []Summary {
	var out []Summary
	for _, g := range e.sorted(s, workload) {
		out = append(out, e.summary(g, metric))
	}
	return out
}

func known(e stat.Estimate) *stat.Estimate {
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
func note(g *group) string {
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

// reasons lists the different reasons of attempts with a status; reasons that
// differ in numbers only count as one.
func (g *group) reasons(status string) []string {
	seen := map[string]bool{}
	var out []string
	for _, a := range g.Trials {
		if a.Status == status && !a.Superseded && !seen[shape(a.Reason)] {
			seen[shape(a.Reason)] = true
			out = append(out, reasonOr(a.Reason))
		}
	}
	return out
}

func reasonOr(reason string) string {
	if reason == "" {
		return "no reason recorded"
	}
	return reason
}

// shape is a reason with each of its numbers blanked.
func shape(reason string) string {
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

// missingNote never leaves a line without a number unexplained.
func missingNote(s Summary) string {
	if s.Median == nil && s.Note == "" {
		return "not measured"
	}
	return s.Note
}

func mediansOf(all []Summary) []float64 {
	var out []float64
	for _, s := range all {
		if s.Median != nil {
			out = append(out, s.Median.Estimate)
		}
	}
	return out
}
