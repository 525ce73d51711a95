package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"hookbed/analysis/claims"
	"hookbed/analysis/explain"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// Answer is what the runs on one clock say of the study's questions in one
// stratum: what each approach gives, what policies do to it, from how many on one
// costs more than another, and what explains the difference.
type Answer struct {
	Clock string `json:"clock"`
	// Stratum names where the numbers are from: "localhost, kernel 6.12".
	Stratum string `json:"place"`
	// Demonstration: it shows that the rig works, and decides nothing.
	Demonstration bool       `json:"demonstration,omitempty"`
	Note          string     `json:"note,omitempty"` // what the numbers are worth, if that needs to be said
	Sentences     []Sentence `json:"sentences"`
}

// Sentence is one point of an answer.
type Sentence struct {
	Topic string `json:"topic"` // "Turn point"
	Text  string `json:"text"`
}

// Heading is "localhost, virtual clock".
func (a Answer) Heading() string {
	if a.Clock == "" {
		return a.Stratum
	}
	out := a.Stratum + ", " + a.Clock + " clock"
	if a.Demonstration {
		out += demonstration
	}
	return out
}

// rough reports whether any of its intervals is marked so.
func (a Answer) rough() bool {
	return slices.ContainsFunc(a.Sentences, func(s Sentence) bool { return strings.Contains(s.Text, stat.RoughMark) })
}

// Lines are the answer as plain text, the heading first.
func (a Answer) Lines() []string {
	out := []string{a.Heading()}
	if a.Note != "" {
		out = append(out, "  "+a.Note)
	}
	for _, s := range a.Sentences {
		out = append(out, "  "+s.Topic+": "+s.Text)
	}
	return out
}

const (
	// little is the effect up to which a sentence says so in place of its number, as a
	// fraction of 1.
	little = 0.02
	// named is how many arms a sentence names before it counts the rest.
	named = 8
)

// answerer makes sentences of numbers.
type answerer struct {
	*summary.Estimator
	explainer *explain.Explainer
}

// answers are those of every stratum that has any sentence, and of the claims.
func (e answerer) answers(c content) []Answer {
	out := []Answer{}
	shows := c.part.demonstration
	for _, in := range e.Strata {
		said := []Sentence{e.inShort(in), e.withoutPolicies(in), e.withPolicies(in), e.turnSentence(in)}
		if !shows {
			said = append(said, explained(in, c.Explanations)...)
		}
		said = slices.DeleteFunc(said, func(s Sentence) bool { return s.Text == "" })
		if len(said) > 0 {
			out = append(out, Answer{Clock: e.Clock(), Stratum: in.String(), Demonstration: shows, Sentences: said})
		}
	}
	switch {
	case len(out) == 0:
		return out
	case shows:
		out[0].Note = c.part.Note
		return out // which judges nothing
	case slices.ContainsFunc(out, Answer.rough):
		out[0].Note = stat.RoughNote
	}
	if text := claimed(c.Claims); text != "" {
		last := &out[len(out)-1]
		last.Sentences = append(last.Sentences, Sentence{"Claims", text})
	}
	return out
}

// measured is one measure of all lines of a stratum at a number of policies.
type measured struct {
	summary.Measure
	scale  table.Scale
	groups []*summary.Group // of lines that have a number
}

// measuredIn are the measures of a stratum; at the most policies, or at none.
func (e answerer) measuredIn(in summary.Stratum, most bool) []measured {
	var out []measured
	for _, m := range e.Measures() {
		r := measured{Measure: m}
		var values []float64
		for _, line := range e.Lines {
			g := e.At(in, m.Workload, line, 0)
			if most {
				if g = e.Largest(in, m.Workload, line); g != nil && g.N == 0 {
					g = nil
				}
			}
			if g == nil || len(g.Samples(m.Metric)) == 0 {
				continue
			}
			r.groups, values = append(r.groups, g), append(values, e.Summary(g, m.Metric).Median.Estimate)
		}
		if r.scale = e.Scale(e.Units[m.Metric], values); len(values) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// of is the group of a line, nil if it has no number.
func (r measured) of(line summary.Line) *summary.Group {
	if i := slices.IndexFunc(r.groups, func(g *summary.Group) bool { return g.Line == line }); i >= 0 {
		return r.groups[i]
	}
	return nil
}

// units say what the numbers of a sentence are: "throughput in Gbit/s, latency in µs".
func units(rs []measured) string {
	var parts []string
	for _, r := range rs {
		part := r.Name
		if r.scale.Unit != "" {
			part += " in " + r.scale.Unit
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// decided reports whether a ratio has the confidence wanted and excludes 1.
func (e answerer) decided(r *stat.Estimate) bool {
	return r != nil && r.Confidence >= e.Confidence && r.Excludes(1)
}

// held reports whether a ratio has the confidence wanted.
func (e answerer) held(r *stat.Estimate) bool { return r != nil && r.Confidence >= e.Confidence }

// item is what a sentence says of a line: its numbers, each with its ratio.
func (e answerer) item(line summary.Line, rs []measured, ratioOf func(summary.Summary) *stat.Estimate) string {
	var parts []string
	for _, r := range rs {
		g := r.of(line)
		if g == nil {
			parts = append(parts, table.None)
			continue
		}
		s := e.Summary(g, r.Metric)
		part := r.scale.Format(s.Median.Estimate)
		if x := ratioOf(s); e.decided(x) {
			part += " (×" + table.Ratio(x.Estimate) + ")"
		}
		parts = append(parts, part)
	}
	return line.String() + " " + strings.Join(parts, " and ")
}

// effect is what all ratios of a line say together.
type effect int

const (
	plain      effect = iota // there is nothing to compare with
	clear                    // some ratio is decided, and more than little
	slight                   // all that is decided is little
	indistinct               // nothing is distinguishable from no difference
	undecided                // some ratio has less than the confidence wanted
)

// effectOf is the effect on a line, and the largest of its ratios as an absolute
// logarithm.
func (e answerer) effectOf(line summary.Line, rs []measured, ratioOf func(summary.Summary) *stat.Estimate) (kind effect, size float64) {
	kind = plain
	for _, r := range rs {
		g := r.of(line)
		if g == nil {
			continue
		}
		x := ratioOf(e.Summary(g, r.Metric))
		if x == nil {
			continue
		}
		far := math.Abs(math.Log(x.Estimate))
		size = max(size, far)
		switch {
		case e.decided(x) && far > math.Log1p(little):
			kind = clear
		case kind == clear:
		case !e.held(x):
			kind = undecided
		case kind == undecided:
		case e.decided(x):
			kind = slight
		case kind == plain:
			kind = indistinct
		}
	}
	return kind, size
}

// effects are a sentence on lines by what their ratios say; alike and nothing are the
// words before lines whose effect is slight or indistinct.
func (e answerer) effects(rs []measured, lines []summary.Line, ratioOf func(summary.Summary) *stat.Estimate, alike, nothing string) string {
	of := map[effect][]summary.Line{}
	size := map[summary.Line]float64{}
	for _, line := range lines {
		kind, far := e.effectOf(line, rs, ratioOf)
		of[kind], size[line] = append(of[kind], line), far
	}
	slices.SortStableFunc(of[clear], func(a, b summary.Line) int { return cmp.Compare(size[b], size[a]) })
	items := e.items(slices.Concat(of[plain], of[clear]), rs, ratioOf)
	if len(of[slight]) > 0 {
		items = append(items, alike+" "+table.List(upTo(namesOf(of[slight]))))
	}
	if len(of[indistinct]) > 0 {
		items = append(items, nothing+" "+table.List(upTo(namesOf(of[indistinct]))))
	}
	open := e.items(of[undecided], rs, ratioOf)
	if len(open) > 0 {
		items = append(items, "undecided: "+strings.Join(open, ", ")+e.deciding(rs, of[undecided], ratioOf))
	}
	return strings.Join(items, "; ")
}

// items are what a sentence says of the first few lines, and how many more there are.
func (e answerer) items(lines []summary.Line, rs []measured, ratioOf func(summary.Summary) *stat.Estimate) []string {
	out, shown := upTo(namesOf(lines)), len(lines)
	if shown > named {
		shown = named - 1 // the last of out counts the others
	}
	for i, line := range lines[:shown] {
		out[i] = e.item(line, rs, ratioOf)
	}
	return out
}

// namesOf are the names of lines.
func namesOf(lines []summary.Line) (out []string) {
	for _, l := range lines {
		out = append(out, l.String())
	}
	return out
}

// deciding says how many trials, blocks or seeds would decide all that is
// open, in brackets; "" if nothing can be said.
func (e answerer) deciding(rs []measured, lines []summary.Line, ratioOf func(summary.Summary) *stat.Estimate) string {
	var most *stat.Need
	for _, r := range rs {
		for _, line := range lines {
			g := r.of(line)
			if g == nil {
				continue
			}
			if n := e.Need(ratioOf(e.Summary(g, r.Metric))); n != nil && (most == nil || n.Above(*most)) {
				most = n
			}
		}
	}
	if most == nil {
		return ""
	}
	return " (" + most.String() + ")"
}

// upTo is the first few names and, in place of the others, how many they are.
func upTo(names []string) []string {
	if len(names) <= named {
		return names
	}
	return append(slices.Clone(names[:named-1]), fmt.Sprintf("%d more", len(names)-named+1))
}

// linesWith are the lines that any of the measures has, in report order.
func (e answerer) linesWith(rs []measured) []summary.Line {
	return slices.DeleteFunc(slices.Clone(e.Lines), func(line summary.Line) bool {
		return !slices.ContainsFunc(rs, func(r measured) bool { return r.of(line) != nil })
	})
}

// withoutPolicies says what each approach gives before any policy.
func (e answerer) withoutPolicies(in summary.Stratum) Sentence {
	rs := e.measuredIn(in, false)
	if len(rs) == 0 {
		return Sentence{}
	}
	lines := e.linesWith(rs)
	against := func(s summary.Summary) *stat.Estimate { return s.VsReference }
	text := e.effects(rs, lines, against, "within 2 % of "+e.Reference+":", "not distinguishable from "+e.Reference+":")
	return Sentence{"Without policies, " + units(rs), text + "."}
}

// withPolicies says what the most policies do to each approach.
func (e answerer) withPolicies(in summary.Stratum) Sentence {
	rs := e.measuredIn(in, true)
	if len(rs) == 0 {
		return Sentence{}
	}
	lines := e.linesWith(rs)
	text := e.effects(rs, lines, func(s summary.Summary) *stat.Estimate { return s.VsZero }, "changed by less than 2 %:", "no change can be told:")
	label := fmt.Sprintf("With %d policies, ", e.mostPolicies(rs))
	if strings.Contains(text, "×") { // a single trial has no ratio to be read
		label += "and how many times as much as with none, "
	}
	return Sentence{label + units(rs), text + "."}
}

// mostPolicies is the largest N of any group.
func (e answerer) mostPolicies(rs []measured) int {
	most := 0
	for _, r := range rs {
		for _, g := range r.groups {
			most = max(most, g.N)
		}
	}
	return most
}

// inShort names the best and the worst approach with the most policies, where the two
// are distinguishable.
func (e answerer) inShort(in summary.Stratum) Sentence {
	var parts []string
	rs := e.measuredIn(in, true)
	for _, r := range rs {
		if len(r.groups) < 2 {
			continue
		}
		ordered := slices.Clone(r.groups)
		slices.SortStableFunc(ordered, func(a, b *summary.Group) int {
			x, y := e.Summary(a, r.Metric).Median.Estimate, e.Summary(b, r.Metric).Median.Estimate
			if r.HigherIsBetter {
				x, y = y, x
			}
			return cmp.Compare(x, y)
		})
		best, worst := ordered[0], ordered[len(ordered)-1]
		if x := e.Ratio(worst, best, r.Metric); best.N == worst.N && e.decided(x) {
			parts = append(parts, fmt.Sprintf("%s is best with %s (%s) and worst with %s (%s, ×%s)", r.Name, best.Line, e.amount(r, best), worst.Line, e.amount(r, worst), table.Ratio(x.Estimate)))
		}
	}
	if len(parts) == 0 {
		return Sentence{}
	}
	return Sentence{"In short", fmt.Sprintf("with %d policies %s.", e.mostPolicies(rs), strings.Join(parts, "; "))}
}

// amount is a group's number with its unit.
func (e answerer) amount(r measured, g *summary.Group) string {
	return strings.TrimSpace(r.scale.Format(e.Summary(g, r.Metric).Median.Estimate) + " " + r.scale.Unit)
}

// turnSentence says from how many policies on a list costs more than a hash.
func (e answerer) turnSentence(in summary.Stratum) Sentence {
	var parts []string
	for _, m := range e.Measures() {
		if cost, ok := e.costOf(m); ok {
			if of := e.turns(in, cost); len(of) > 0 {
				parts = append(parts, m.Workload+": "+strings.Join(upTo(of), "; "))
			}
		}
	}
	if len(parts) == 0 {
		return Sentence{}
	}
	return Sentence{"Turn point", strings.Join(parts, ". ") + "."}
}

// turns are the turn points of a workload in words. Lists that cost more than a hash
// at every N share a clause, and so do those that never do.
func (e answerer) turns(in summary.Stratum, m summary.CostMeasure) []string {
	var out []string
	var hashes []summary.Line
	always, never := map[summary.Line][]string{}, map[summary.Line][]string{}
	for _, pair := range e.explainer.TurnPairs(in, m.Workload) {
		list, hash := pair[0], pair[1]
		turn, most, ok := e.turnOf(in, m, list, hash)
		if !ok {
			continue
		}
		if !slices.Contains(hashes, hash) {
			hashes = append(hashes, hash)
		}
		switch {
		case turn.None && turn.N.Low >= most:
			never[hash] = append(never[hash], list.String())
		case turn.N.High <= 0:
			always[hash] = append(always[hash], list.String())
		case turn.N.High < most:
			out = append(out, fmt.Sprintf("%s costs more than %s from N = %.0f on (%.0f to %.0f)", list, hash, math.Ceil(turn.N.Estimate), math.Floor(turn.N.Low), math.Ceil(turn.N.High)))
		}
	}
	for _, hash := range hashes {
		if lists := always[hash]; len(lists) > 0 {
			out = append(out, fmt.Sprintf("%s costs less than %s whatever N is", hash, table.List(lists)))
		}
		if lists := never[hash]; len(lists) > 0 {
			out = append(out, fmt.Sprintf("%s costs no less than %s up to the most policies", hash, table.List(lists)))
		}
	}
	return out
}

// costOf is a measure as a cost; ok is false where its unit gives none.
func (e answerer) costOf(m summary.Measure) (cost summary.CostMeasure, ok bool) {
	all := e.CostMeasures()
	i := slices.IndexFunc(all, func(c summary.CostMeasure) bool { return c.Workload == m.Workload && c.Metric == m.Metric })
	if i < 0 {
		return summary.CostMeasure{}, false
	}
	return all[i], true
}

// turnOf is where a list begins to cost more than a hash, and the most policies
// that it was measured with; ok is false where that is not known well enough.
func (e answerer) turnOf(in summary.Stratum, m summary.CostMeasure, list, hash summary.Line) (turn stat.TurnPoint, most float64, ok bool) {
	a, b := pointsOf(e.Estimator, in, list, m), pointsOf(e.Estimator, in, hash, m)
	if len(levelsIn(a)) < 2 || len(b.N) == 0 {
		return turn, 0, false
	}
	most = slices.Max(a.N)
	turn, err := stat.Crossover(a, b, most, e.CostOptions())
	return turn, most, err == nil && turn.N.Confidence >= e.Confidence
}

// explained repeats what the explanations of a stratum found.
func explained(in summary.Stratum, all []explain.Explanation) (out []Sentence) {
	for _, x := range all {
		if x.Stratum != in || len(x.Orders) == 0 || x.Orders[0].Total == nil {
			continue
		}
		of := x.Workload
		if x.Where != "" {
			of += ", " + x.Where
		}
		out = append(out, Sentence{"What explains it, " + of, x.Sentence})
	}
	return out
}

// claimed counts the verdicts on the claims that the runs have arms for.
func claimed(all []claims.Verdict) string {
	of := map[string]int{}
	total := 0
	for _, v := range all {
		if !v.Missing {
			of[v.Verdict]++
			total++
		}
	}
	if total == 0 {
		return ""
	}
	var parts []string
	for _, word := range []string{claims.Reproduced, claims.Contradicted, claims.Undecided} {
		if n := of[word]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, word))
		}
	}
	return fmt.Sprintf("of %s that these arms can be held against: %s.", table.Plural(total, "claim"), table.List(parts))
}
