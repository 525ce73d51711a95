// Package compare decides whether one run reproduces another: per cell by the
// ratio of the headline metric with its interval and a test of equivalence, and in
// virtual time first by whether the rows are the same, byte for byte. It is pure,
// and does not compare arms within a run: package report does.
package compare

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// Values of Cell.Verdict.
const (
	Same      = "same"      // the interval lies within the margin
	Different = "different" // it lies outside
	Undecided = "undecided" // neither
	Missing   = "missing"   // one of the runs does not have the cell
)

// DefaultMargin is the largest relative difference of results that are the same:
// 2 %.
const DefaultMargin = 0.02

// alpha is the size of each of the two one-sided tests.
const alpha = 0.05

// maxRows is the largest number of differing rows that are listed.
const maxRows = 10

// Options say how to compare. The zero value is a margin of DefaultMargin and
// no comparison across environments.
type Options struct {
	Margin float64 // relative; 0 = DefaultMargin
	// Across also compares runs from unlike environments, and matches cells
	// although kernel, provider and endpoint differ.
	Across bool
}

// Cell is the verdict on one cell. Ratio is that of the new run over the old.
type Cell struct {
	ID        string         `json:"cell"` // of the new run, if it has the cell
	Title     string         `json:"title"`
	Metric    string         `json:"metric"`
	Ratio     *stat.Estimate `json:"ratio"` // null without one
	Paired    bool           `json:"paired"`
	Blocks    int            `json:"blocks"` // of the run with fewer
	OldTrials int            `json:"old_trials"`
	NewTrials int            `json:"new_trials"`
	Verdict   string         `json:"verdict"`
	Reason    string         `json:"why,omitempty"`
	// Decides is the number of trials, blocks or seeds that would decide the cell;
	// nil if it is decided.
	Decides *stat.Need `json:"decides,omitempty"`
}

// Row is a measurement that differs between two runs in virtual time.
type Row struct {
	Cell   string `json:"cell"`
	Title  string `json:"title"`
	Block  int    `json:"block"`
	Trial  int    `json:"trial"`
	Metric string `json:"metric"`
	Old    string `json:"old"`
	New    string `json:"new"`
}

// Result is a comparison of two runs.
type Result struct {
	Old         string            `json:"old"`
	New         string            `json:"new"`
	Clock       string            `json:"clock"`
	Margin      float64           `json:"margin"`
	Environment []runs.Difference `json:"environment"` // what differs, with Across
	// Identical: their rows are the same byte for byte except for the name of the run. On the
	// wall clock that is a run and itself, or a copy of it.
	Identical     bool   `json:"identical"`
	RowsDiffering int    `json:"rows_differing"` // virtual time: number of rows that differ
	Rows          []Row  `json:"rows"`           // virtual time: the first rows that differ
	Cells         []Cell `json:"cells"`
	Note          string `json:"note,omitempty"` // stat.RoughNote, if a ratio is rough
}

// Reproduced reports whether every cell is the same.
func (r Result) Reproduced() bool {
	return r.Identical || len(r.Cells) > 0 && !slices.ContainsFunc(r.Cells, func(c Cell) bool { return c.Verdict != Same })
}

// Runs compares two runs. It refuses unlike environments with *runs.UnlikeError
// unless opt.Across is set, and always refuses two clocks.
func Runs(before, after runs.Run, opt Options) (Result, error) {
	if opt.Margin == 0 {
		opt.Margin = DefaultMargin
	}
	res := Result{Old: before.Name, New: after.Name, Clock: before.Clock(), Margin: opt.Margin, Environment: []runs.Difference{}, Rows: []Row{}, Cells: []Cell{}}
	if a, b := before.Clock(), after.Clock(); a != b {
		return res, fmt.Errorf("compare %s with %s: %w", before.Name, after.Name, &runs.UnlikeError{Differences: []runs.Difference{{What: "clock", Old: orNone(a), New: orNone(b)}}})
	}
	if differ := runs.Unlike(before, after); len(differ) > 0 {
		if !opt.Across {
			return res, fmt.Errorf("compare %s with %s: %w", before.Name, after.Name, &runs.UnlikeError{Differences: differ})
		}
		res.Environment = differ
	}
	if same := before.Rows > 0 && before.Measured == after.Measured && before.Torn == nil && after.Torn == nil; same {
		res.Identical = true
	} else if res.Clock == runs.ClockVirtual {
		res.rows(before, after)
	}
	err := res.cells(before, after, opt)
	if slices.ContainsFunc(res.Cells, func(c Cell) bool { return c.Ratio != nil && c.Ratio.Rough && c.Ratio.Confidence > 0 }) {
		res.Note = stat.RoughNote
	}
	return res, err
}

func orNone(s string) string {
	if s == "" {
		return "not recorded"
	}
	return s
}

// rows lists how the rows of two runs in virtual time differ.
func (r *Result) rows(before, after runs.Run) {
	was, is := indexOf(before), indexOf(after)
	for _, t := range after.Trials {
		for _, metric := range recorded(t) {
			if old, now := describe(was.with(t, metric), metric), describe(t, metric); old != now {
				r.differ(t, metric, old, now)
			}
		}
	}
	for _, t := range before.Trials {
		for _, metric := range recorded(t) {
			if is.with(t, metric) == nil {
				r.differ(t, metric, describe(t, metric), describe(nil, metric))
			}
		}
	}
}

// recorded are the metrics of a trial's rows; one row without a metric if it has none.
func recorded(t *runs.Trial) []string {
	if all := t.Recorded(); len(all) > 0 {
		return all
	}
	return []string{""}
}

// index are the trials of a run by what names them. Several are attempts at one.
type index map[Row][]*runs.Trial

func indexOf(r runs.Run) index {
	out := index{}
	for _, t := range r.Trials {
		out[keyOf(t)] = append(out[keyOf(t)], t)
	}
	return out
}

func keyOf(t *runs.Trial) Row { return Row{Cell: t.Cell, Block: t.Block, Trial: t.Trial} }

// with is the last attempt at a trial that has a row of a metric, nil if none has.
func (x index) with(t *runs.Trial, metric string) *runs.Trial {
	for _, other := range slices.Backward(x[keyOf(t)]) {
		if slices.Contains(recorded(other), metric) {
			return other
		}
	}
	return nil
}

// describe is a row's content for readers; of no trial, that there is none.
func describe(t *runs.Trial, metric string) string {
	switch {
	case t == nil:
		return "no such row"
	case !t.OK():
		return t.Status + ": " + t.Reason
	}
	v, _ := t.Value(metric)
	return fmt.Sprintf("%v %s", v, t.Unit(metric))
}

// differ counts a row that differs, and lists the first maxRows of them.
func (r *Result) differ(t *runs.Trial, metric, old, now string) {
	if r.RowsDiffering++; len(r.Rows) < maxRows {
		key, f := keyOf(t), t.Factors
		key.Title = fmt.Sprintf("%s %s %s N=%s", f[runs.FactorScenario], f[runs.FactorWorkload], f[runs.FactorArm], f[runs.FactorPolicies])
		if n := f[runs.FactorClients]; n != "" {
			key.Title += " clients=" + n
		}
		if n := f[runs.FactorStreams]; n != "" {
			key.Title += " streams=" + n
		}
		key.Metric, key.Old, key.New = metric, old, now
		r.Rows = append(r.Rows, key)
	}
}

// matcher is a key of cells across runs: the ID if all runs have it, else the
// factors without options at their default, because a run from before an option
// existed does not have it. Across environments the factors of the rig are left
// out, unless a run compares rigs itself: then each matches its like.
func matcher(across bool, sets ...*runs.Set) func(*runs.Cell) string {
	var words catalog.Catalog
	for _, s := range sets {
		words = catalog.Join(words, s.Words)
	}
	atDefault := func(c *runs.Cell, f, level string) bool {
		_, option := words.Option(f)
		return option && level == words.Default(c.Factors, f)
	}
	var rig []string
	for _, f := range []string{"kernel", "nic", "provider", "endpoint"} {
		if across && !slices.ContainsFunc(sets, func(s *runs.Set) bool { return varies(s, f) }) {
			rig = append(rig, f)
		}
	}
	shared := func(id string) bool {
		return !slices.ContainsFunc(sets, func(s *runs.Set) bool {
			return !slices.ContainsFunc(s.Cells, func(c *runs.Cell) bool { return c.ID == id })
		})
	}
	return func(c *runs.Cell) string {
		if !across && shared(c.ID) {
			return c.ID
		}
		f := maps.Clone(c.Factors)
		maps.DeleteFunc(f, func(name, level string) bool {
			return slices.Contains(rig, name) || level == "" || atDefault(c, name, level)
		})
		return fmt.Sprint(f) // maps print sorted
	}
}

// varies reports whether a factor has several levels in one run.
func varies(s *runs.Set, factor string) bool {
	return slices.ContainsFunc(s.Cells, func(c *runs.Cell) bool { return c.Get(factor) != s.Cells[0].Get(factor) })
}

func (r *Result) cells(before, after runs.Run, opt Options) error {
	old, err := runs.Arrange([]runs.Run{before})
	if err != nil {
		return err
	}
	now, err := runs.Arrange([]runs.Run{after})
	if err != nil {
		return err
	}
	match := matcher(opt.Across, old, now)
	was := map[string]*runs.Cell{}
	for _, c := range old.Cells {
		was[match(c)] = c
	}
	for _, c := range now.Cells {
		key := match(c)
		r.Cells = append(r.Cells, r.cell(now.Words, was[key], c, estimatorOf(after)))
		delete(was, key)
	}
	for _, c := range old.Cells {
		if was[match(c)] == c {
			r.Cells = append(r.Cells, r.cell(now.Words, c, nil, estimatorOf(after)))
		}
	}
	return nil
}

// estimatorOf is the plan's estimator: by metric, a function that reduces a block's
// trials to one number.
func estimatorOf(r runs.Run) func(metric string) func([]float64) float64 {
	return func(metric string) func([]float64) float64 {
		if r.Estimator() == runs.EstimatorFasterHalf {
			return func(x []float64) float64 { return stat.FasterHalf(x, r.Words().HigherIsBetter(metric)) }
		}
		return stat.Median
	}
}

func (r *Result) cell(words catalog.Catalog, old, now *runs.Cell, estimate func(string) func([]float64) float64) Cell {
	if old == nil || now == nil {
		name, c := r.Old, now
		if now == nil {
			name, c = r.New, old
		}
		return Cell{ID: c.ID, Title: c.Title(), Verdict: Missing, Reason: "not in " + name}
	}
	m := runs.HeadlineOf(words, old, now)
	out := Cell{ID: now.ID, Title: now.Title(), Metric: m, OldTrials: len(old.Samples(m)), NewTrials: len(now.Samples(m)), Verdict: Undecided}
	if out.OldTrials == 0 || out.NewTrials == 0 {
		out.Reason = fmt.Sprintf("no usable number in %s", map[bool]string{true: r.Old, false: r.New}[out.OldTrials == 0])
		if onlyUnsupported(old) && onlyUnsupported(now) {
			out.Verdict, out.Reason = Same, "unsupported in both"
		}
		return out
	}
	if (r.Clock == runs.ClockVirtual || r.Identical) && slices.Equal(now.Samples(m), old.Samples(m)) {
		out.Verdict, out.Reason = Same, "equal in every trial"
		out.Ratio = &stat.Estimate{Estimate: 1, Low: 1, High: 1, Confidence: 1, N: out.NewTrials, Method: "equality"}
		return out
	}
	return r.test(out, old, now, estimate(m))
}

// test judges a cell for which both runs have numbers.
func (r *Result) test(out Cell, old, now *runs.Cell, estimate func([]float64) float64) Cell {
	p := r.samples(now.Blocks(out.Metric), old.Blocks(out.Metric), estimate)
	tost := stat.TOSTUnpaired
	if p.Paired {
		tost = stat.TOST
	}
	eq := tost(p.A, p.B, r.Margin, alpha)
	out.Paired, out.Blocks = p.Paired, p.Blocks
	switch {
	case math.IsNaN(eq.Ratio.Estimate) || math.IsInf(eq.Ratio.High, 0):
		out.Reason = "no ratio"
		return out
	case eq.Ratio.Confidence == 0:
		out.Reason = "too few trials for an interval"
	case eq.Equivalent:
		out.Verdict = Same
	case eq.Different:
		out.Verdict = Different
	}
	out.Ratio = &eq.Ratio
	if out.Verdict == Undecided {
		out.need(r.Margin, r.unit(now.Blocks(out.Metric), old.Blocks(out.Metric)))
	}
	return out
}

// need sets how many values would decide a cell.
func (c *Cell) need(margin float64, unit string) {
	n := c.Ratio.Needed(stat.Question{Confidence: 1 - 2*alpha, Of: unit, Apart: []float64{1 / (1 + margin), 1 + margin}})
	c.Decides = &n
	if c.Reason != "" {
		c.Reason += "; "
	}
	c.Reason += n.String()
}

// unit is what the values of a comparison are (see samples): seeds, blocks or
// trials.
func (r *Result) unit(now, old []runs.Block) string {
	switch {
	case r.Clock == runs.ClockVirtual:
		return stat.NeedSeeds
	case min(len(now), len(old)) >= runs.MinBlocks:
		return stat.NeedBlocks
	}
	return stat.NeedTrials
}

// samples are the values of two runs. In virtual time the same block of both has
// the same seed, so the blocks are paired. On wall clocks the boots of two runs are
// independent; if both runs have enough blocks, each boot counts as one value,
// because its trials are not independent of each other.
func (r *Result) samples(now, old []runs.Block, estimate func([]float64) float64) runs.Pairs {
	if r.Clock == runs.ClockVirtual {
		return runs.PairBlocks(anonymous(now), anonymous(old), estimate)
	}
	if min(len(now), len(old)) < runs.MinBlocks {
		return runs.PairBlocks(now, old, estimate)
	}
	p := runs.Pairs{Blocks: min(len(now), len(old))}
	for _, b := range now {
		p.A = append(p.A, estimate(b.Values))
	}
	for _, b := range old {
		p.B = append(p.B, estimate(b.Values))
	}
	return p
}

// anonymous removes the run from the IDs of blocks, so that those of two runs can
// be equal.
func anonymous(blocks []runs.Block) []runs.Block {
	out := slices.Clone(blocks)
	for i := range out {
		out[i].ID.Run = ""
	}
	return out
}

func onlyUnsupported(c *runs.Cell) bool {
	return len(c.Trials) > 0 && c.Count(record.StatusUnsupported) == c.Tried()
}
