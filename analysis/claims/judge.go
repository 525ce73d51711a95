package claims

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// Values of Verdict.Verdict and Comparison.Word.
const (
	Reproduced   = "reproduced"
	Contradicted = "contradicted"
	Undecided    = "undecided"
)

// Alpha is the size of each one-sided test; intervals have 1 - 2 Alpha.
const Alpha = 0.05

// Comparison is one ratio that a verdict is based on: the metric of Arm at
// Policies over that of Against at AgainstPolicies.
type Comparison struct {
	Metric          string        `json:"metric"`
	Arm             string        `json:"arm"`
	Policies        int           `json:"policies"`
	Against         string        `json:"against"`
	AgainstPolicies int           `json:"against_policies"`
	Ratio           stat.Estimate `json:"ratio"`
	Paired          bool          `json:"paired"` // by block
	Blocks          int           `json:"blocks"` // of the cell with fewer
	Trials          int           `json:"trials"` // of Arm
	AgainstTrials   int           `json:"against_trials"`
	Word            string        `json:"word"` // the verdict of this comparison alone
	// Decides is the number of trials, blocks or seeds that would decide the
	// comparison; nil if it is decided.
	Decides *stat.Need `json:"decides,omitempty"`
}

// Verdict is the verdict of the rows on a claim.
type Verdict struct {
	Claim
	Verdict string `json:"verdict"` // Reproduced, Contradicted or Undecided
	Reason  string `json:"why"`     // for readers
	// Missing marks a claim that is undecided because the plan of the run does not
	// have its arms.
	Missing     bool         `json:"missing"`
	Comparisons []Comparison `json:"comparisons"`
}

// Judge judges each claim by the cells of runs. A claim is reproduced if every
// comparison in it is, contradicted if one is, else undecided. Directions are
// judged by one-sided tests at Alpha, sameness by two of them (TOST): cells are
// paired by block where they share runs.Enough blocks, each block reduced to one
// number by the estimator of the plan; else their trials count as independent.
func Judge(set *runs.Set, list []Claim) []Verdict {
	out := make([]Verdict, 0, len(list))
	for _, c := range list {
		out = append(out, judge(set, c))
	}
	return out
}

// family is the cells of one arm on one rig, by number of policies.
type family struct {
	arm, rig string
	cells    map[int]*runs.Cell
}

// rig is the levels of the factors that must be equal on both sides of a comparison.
func rig(c *runs.Cell) string {
	var out []string
	for _, f := range []string{"provider", "endpoint", "kernel", "nic", "duration", "warmup", "congestion", "client_cpu", "server_cpu", runs.FactorClients, runs.FactorStreams, runs.FactorClock} {
		out = append(out, c.Get(f))
	}
	return strings.Join(out, "|")
}

// families are the arms that a selector selects, in the order of the plan.
func families(set *runs.Set, c Claim, selector map[string]string) []family {
	var out []family
	for _, cell := range set.Cells {
		if cell.Get(runs.FactorScenario) != c.Scenario || cell.Get(runs.FactorWorkload) != c.Workload || !matches(set.Words, cell, selector) {
			continue
		}
		arm, where := cell.Get(runs.FactorArm), rig(cell)
		i := slices.IndexFunc(out, func(f family) bool { return f.arm == arm && f.rig == where })
		if i < 0 {
			i = len(out)
			out = append(out, family{arm, where, map[int]*runs.Cell{}})
		}
		out[i].cells[cell.Policies] = cell
	}
	return out
}

// matches reports whether a cell belongs to an arm that a selector selects. Every
// option that the selector does not name must be at its default, so that an arm
// added to an experiment does not change what a claim is about.
func matches(words catalog.Catalog, cell *runs.Cell, selector map[string]string) bool {
	for f, level := range selector {
		if levelOf(words, cell, f) != level {
			return false
		}
	}
	for _, o := range words.Options {
		if _, named := selector[o.Key]; !named && !words.AtDefault(cell.Factors, o.Key) {
			return false
		}
	}
	return true
}

// levelOf is a factor's level. If the rows do not have it, fabric and filter are
// those of the arm's preset, and an option has the filter's default.
func levelOf(words catalog.Catalog, cell *runs.Cell, factor string) string {
	fabric, filter := words.Datapath(cell.Factors)
	switch factor {
	case catalog.FactorFabric:
		return fabric
	case catalog.FactorFilter:
		return filter
	}
	return words.Level(cell.Factors, factor)
}

// levels are the family's numbers of policies in ascending order.
func (f family) levels() []int { return slices.Sorted(maps.Keys(f.cells)) }

// at is the cell at n, or nil. An arm that exists only without policies is the
// same at every n.
func (f family) at(n int) *runs.Cell {
	if c := f.cells[n]; c != nil {
		return c
	}
	if levels := f.levels(); len(levels) == 1 && levels[0] == 0 {
		return f.cells[0]
	}
	return nil
}

// want is a comparison to make, with what the claim expects of it.
type want struct {
	a, b   *runs.Cell
	expect expectation
}

type expectation int

const (
	better   expectation = iota // a is better than b by more than the margin
	same                        // within the margin
	notWorse                    // a is not worse than b by more than the margin
	worse                       // a is worse than b by more than the margin
)

func judge(set *runs.Set, c Claim) Verdict {
	v := Verdict{Claim: c, Verdict: Undecided, Comparisons: []Comparison{}}
	wants, missing := v.wants(set)
	if missing != "" {
		v.Missing, v.Reason = true, missing
		return v
	}
	metric := measured(wants, c.Metrics)
	words := map[string]int{}
	for _, w := range wants {
		made := v.compare(set, w, metric)
		words[made.Word]++
		v.Comparisons = append(v.Comparisons, made)
	}
	switch {
	case words[Contradicted] > 0:
		v.Verdict = Contradicted
	case words[Undecided] == 0:
		v.Verdict = Reproduced
	}
	v.Reason = fmt.Sprintf("%d of %d comparisons %s", words[v.Verdict], len(wants), v.Verdict)
	if v.Verdict == Undecided && metric == "" {
		v.Reason = "no usable number of " + strings.Join(c.Metrics, " or ")
	}
	return v
}

// measured is the first of the metrics that both cells of any comparison have.
func measured(wants []want, metrics []string) string {
	for _, m := range metrics {
		for _, w := range wants {
			if len(w.a.Samples(m)) > 0 && len(w.b.Samples(m)) > 0 {
				return m
			}
		}
	}
	return ""
}

// wants lists the comparisons of a claim. missing says what the run lacks for
// them, if it lacks something.
func (v Verdict) wants(set *runs.Set) (out []want, missing string) {
	as := families(set, v.Claim, v.A)
	if len(as) == 0 {
		return nil, v.noArm(v.A)
	}
	if v.Hypothesis == Better || v.Hypothesis == Same {
		bs := families(set, v.Claim, v.B)
		if len(bs) == 0 {
			return nil, v.noArm(v.B)
		}
		if out = v.between(as, bs); len(out) == 0 {
			return nil, fmt.Sprintf("no number of policies from %d on that both arms have in this run", v.AtLeast)
		}
		return out, ""
	}
	for _, f := range as {
		out = append(out, v.within(f)...)
	}
	if len(out) == 0 {
		return nil, v.noPolicies()
	}
	return out, ""
}

func (v Verdict) noArm(selector map[string]string) string {
	return fmt.Sprintf("no such arm in this run: %s, %s %s", describe(selector), v.Scenario, v.Workload)
}

func (v Verdict) noPolicies() string {
	switch v.Hypothesis {
	case Hurts:
		return fmt.Sprintf("no arm with 0 and with %d or more policies in this run", max(v.AtLeast, 1))
	case NoPenaltyUntil:
		return fmt.Sprintf("no arm with 0, with fewer than %d and with %d policies in this run", v.Until, v.Until)
	}
	return "no arm with 0 and with more policies in this run"
}

// between pairs every arm of one selector with every arm of the other.
func (v Verdict) between(as, bs []family) (out []want) {
	expect := map[string]expectation{Better: better, Same: same}[v.Hypothesis]
	for _, a := range as {
		for _, b := range bs {
			if a.rig != b.rig {
				continue
			}
			for _, n := range a.levels() {
				if other := b.at(n); other != nil && n >= v.AtLeast {
					out = append(out, want{a.cells[n], other, expect})
				}
			}
		}
	}
	return out
}

// within compares an arm's cells with its own cell at N = 0.
func (v Verdict) within(f family) (out []want) {
	zero, levels := f.cells[0], f.levels()
	if zero == nil || len(levels) < 2 {
		return nil
	}
	switch most := levels[len(levels)-1]; v.Hypothesis {
	case Flat:
		for _, n := range levels[1:] {
			out = append(out, want{f.cells[n], zero, same})
		}
	case Hurts:
		if most >= v.AtLeast {
			out = append(out, want{f.cells[most], zero, worse})
		}
	case NoPenaltyUntil:
		if f.cells[v.Until] == nil || levels[1] >= v.Until {
			return nil
		}
		for _, n := range levels[1:] {
			if n < v.Until {
				out = append(out, want{f.cells[n], zero, notWorse})
			}
		}
		out = append(out, want{f.cells[v.Until], zero, worse})
	}
	return out
}

func (v Verdict) compare(set *runs.Set, w want, metric string) Comparison {
	p := runs.Pair(w.a, w.b, metric, estimator(set, metric))
	test := stat.TOSTUnpaired
	if p.Paired {
		test = stat.TOST
	}
	eq := test(p.A, p.B, v.Margin, Alpha)
	out := Comparison{Metric: metric, Arm: w.a.Get(runs.FactorArm), Policies: w.a.Policies, Against: w.b.Get(runs.FactorArm), AgainstPolicies: w.b.Policies,
		Ratio: known(eq.Ratio), Paired: p.Paired, Blocks: p.Blocks, Trials: len(w.a.Samples(metric)), AgainstTrials: len(w.b.Samples(metric)), Word: Undecided}
	if eq.Ratio.Confidence > 0 {
		out.Word = w.expect.word(eq, set.Words.HigherIsBetter(metric))
	}
	if out.Word == Undecided && out.Ratio.Estimate > 0 {
		n := out.Ratio.Needed(stat.Question{Confidence: 1 - 2*Alpha, Of: unit(set, p.Paired), Apart: w.expect.apart(v.Margin, set.Words.HigherIsBetter(metric))})
		out.Decides = &n
	}
	return out
}

// unit is what the values of a comparison are: seeds, blocks or trials.
func unit(set *runs.Set, paired bool) string {
	switch {
	case len(set.Runs) > 0 && set.Runs[0].Clock() == runs.ClockVirtual:
		return stat.NeedSeeds
	case paired:
		return stat.NeedBlocks
	}
	return stat.NeedTrials
}

// apart are the ratios that the interval must exclude to decide an expectation.
func (x expectation) apart(margin float64, higherIsBetter bool) []float64 {
	above, below := 1+margin, 1/(1+margin)
	if !higherIsBetter {
		above, below = below, above
	}
	switch x {
	case better:
		return []float64{above}
	case same:
		return []float64{below, above}
	}
	return []float64{below}
}

// Decides is the number of trials, blocks or seeds that would decide the verdict:
// the largest number of its comparisons; nil if the verdict is decided, or no
// comparison has a number.
func (v Verdict) Decides() *stat.Need {
	var most *stat.Need
	for _, c := range v.Comparisons {
		if v.Verdict == Undecided && c.Decides != nil && (most == nil || c.Decides.Above(*most)) {
			most = c.Decides
		}
	}
	return most
}

// estimator makes one number of a block's trials, as the plan of the first run says.
func estimator(set *runs.Set, metric string) func([]float64) float64 {
	if len(set.Runs) > 0 && set.Runs[0].Estimator() == runs.EstimatorFasterHalf {
		return func(x []float64) float64 { return stat.FasterHalf(x, set.Words.HigherIsBetter(metric)) }
	}
	return stat.Median
}

// known is an estimate that JSON can hold: zero instead of NaN and infinity.
func known(e stat.Estimate) stat.Estimate {
	if math.IsNaN(e.Estimate) || math.IsInf(e.High, 0) {
		return stat.Estimate{N: e.N, Method: e.Method}
	}
	return e
}

// gain is the interval of how much better a is: above 1 is better.
func gain(r stat.Estimate, higherIsBetter bool) (low, high float64) {
	if higherIsBetter {
		return r.Low, r.High
	}
	return 1 / r.High, 1 / r.Low
}

// word judges one comparison by the interval of the gain.
func (x expectation) word(eq stat.Equivalence, higherIsBetter bool) string {
	low, high := gain(eq.Ratio, higherIsBetter)
	margin := eq.Margin
	yes, no := false, false
	switch x {
	case better:
		yes, no = low > 1+margin, high <= 1+margin
	case same:
		yes, no = eq.Equivalent, eq.Different
	case notWorse:
		yes, no = low > 1/(1+margin), high < 1/(1+margin)
	case worse:
		yes, no = high < 1/(1+margin), low >= 1/(1+margin)
	}
	switch {
	case yes:
		return Reproduced
	case no:
		return Contradicted
	}
	return Undecided
}

// Deciding is the comparison that best explains the verdict: of the comparisons
// with the same word as the verdict, the one with the largest effect; nil if none
// has a number.
func (v Verdict) Deciding() *Comparison {
	var own []*Comparison
	for i := range v.Comparisons {
		if c := &v.Comparisons[i]; c.Word == v.Verdict && c.Ratio.Estimate > 0 {
			own = append(own, c)
		}
	}
	if len(own) == 0 {
		return nil
	}
	return slices.MaxFunc(own, func(a, b *Comparison) int { return cmp.Compare(effect(a.Ratio), effect(b.Ratio)) })
}

// Rough reports whether any verdict is based on a rough interval
// (stat.RoughNote).
func Rough(verdicts []Verdict) bool {
	return slices.ContainsFunc(verdicts, func(v Verdict) bool {
		return slices.ContainsFunc(v.Comparisons, func(c Comparison) bool { return c.Ratio.Rough && c.Ratio.Confidence > 0 })
	})
}

// effect is the distance of a ratio from 1 as a factor, the same on either side.
func effect(r stat.Estimate) float64 {
	return max(r.Estimate, 1/r.Estimate)
}
