package explain

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/claims"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// Decomposition is the study's contrast as steps, each of which changes one
// thing.
type Decomposition struct {
	Order string         `json:"order"` // "mechanism first"
	Arms  []string       `json:"arms"`  // what they are, the missing ones too
	Names []string       `json:"names"` // what they are called, "" if missing
	Total *stat.Estimate `json:"total"` // how many times as fast the last is as the first
	Word  string         `json:"word"`
	// Decides is how many trials, blocks or seeds would decide the whole.
	Decides *stat.Need `json:"decides,omitempty"`
	Steps   []Step     `json:"steps"`
}

// Step is one step of a decomposition.
type Step struct {
	Kind  string         `json:"kind"`
	Gain  *stat.Estimate `json:"gain"`
	Share *stat.Estimate `json:"share"` // of the total, on a logarithmic scale
	Word  string         `json:"word"`
	// Decides is how many trials, blocks or seeds would decide the gain.
	Decides *stat.Need `json:"decides,omitempty"`
	Missing []string   `json:"missing,omitempty"` // arms without which it cannot be said, with why
	// Traced is the step by function, where both arms have a trace.
	Traced *TracedChange `json:"traced,omitempty"`

	lacks []lack // that Missing has in words
}

// at is an arm of the study's contrast, nil if the run does not have it.
func (c *context) at(p claims.Arm) *subject {
	return c.find(p.Fabric, p.Filter, catalog.AsStudy, nil)
}

// decompose takes the contrast apart in every order that the run has arms for;
// where it has them for none, the first of each name say what is missing. A run
// without the two ends says nothing of it.
func (e *Explainer) decompose(c *context, x *Explanation) {
	x.Orders = []Decomposition{}
	from, to := c.at(e.contrast.From), c.at(e.contrast.To)
	if from == nil || to == nil {
		return
	}
	x.Policies = max(0, most(from, to))
	has := func(o claims.Order) bool { return c.at(o.Steps[0].To) != nil }
	for i, o := range e.contrast.Orders {
		same := func(other claims.Order) bool { return other.Name == o.Name }
		first := slices.IndexFunc(e.contrast.Orders, same) == i
		taken := slices.ContainsFunc(e.contrast.Orders, func(other claims.Order) bool { return same(other) && has(other) })
		if has(o) || first && !taken {
			x.Orders = append(x.Orders, e.follow(c, o, x.Metric, x.Policies))
		}
	}
	x.Sentence = e.sentence(*x)
}

// lack is an arm that has no number, and why.
type lack struct{ arm, why string }

// String is a clause: "bridge+tc-hash is not in this run".
func (l lack) String() string { return l.arm + " " + l.why }

// notHere is why an arm that the plan does not have has no number.
const notHere = "is not in this run"

// clauses are lacks in words.
func clauses(all []lack) []string {
	var out []string
	for _, l := range all {
		out = append(out, l.String())
	}
	return out
}

// follow takes the contrast apart in one order at n policies.
func (e *Explainer) follow(c *context, o claims.Order, metric string, n int) Decomposition {
	d := Decomposition{Order: o.Title()}
	arms := e.contrast.Arms(o)
	var cells []*runs.Cell
	lacks := make([]lack, len(arms)) // zero for an arm with a number
	at := make([]int, len(arms))     // its index among those with a number
	for i, a := range arms {
		x, title, name := c.at(a), a.Title(), ""
		switch {
		case x == nil:
			lacks[i] = lack{title, notHere}
		case x.cells[n] == nil:
			name, lacks[i] = x.arm, lack{title, fmt.Sprintf("was not run at N = %d", n)}
		case len(x.cells[n].Samples(metric)) == 0:
			name, lacks[i] = x.arm, lack{title, "has no valid number"}
		default:
			name, at[i] = x.arm, len(cells)
			cells = append(cells, x.cells[n])
		}
		d.Arms, d.Names = append(d.Arms, title), append(d.Names, name)
	}
	s, whole := e.sample(metric, cells...), lacks[0] == lack{} && lacks[len(lacks)-1] == lack{}
	if whole {
		d.Total = s.gain(0, len(cells)-1)
	}
	d.Word, d.Decides = summary.Word(d.Total, true, e.Confidence), e.Need(d.Total)
	for i := range o.Steps {
		step := Step{Kind: o.Steps[i].Kind}
		for _, l := range lacks[i : i+2] {
			if l != (lack{}) {
				step.lacks, step.Missing = append(step.lacks, l), append(step.Missing, l.String())
			}
		}
		if len(step.Missing) == 0 {
			step.Gain, step.Traced = s.gain(at[i], at[i+1]), e.traced(cells[at[i]], cells[at[i+1]])
			if whole && d.Total != nil && d.Total.Excludes(1) {
				step.Share = s.share(at[i], at[i+1])
			}
		}
		step.Word, step.Decides = summary.Word(step.Gain, true, e.Confidence), e.Need(step.Gain)
		d.Steps = append(d.Steps, step)
	}
	return d
}

// sentence says in words what the decompositions say in numbers.
func (e *Explainer) sentence(x Explanation) string {
	first := x.Orders[0]
	head := fmt.Sprintf("From %s to %s at N = %d", first.Arms[0], first.Arms[len(first.Arms)-1], x.Policies)
	switch t := first.Total; {
	case t == nil:
		return "The study's contrast cannot be said: " + table.List(clauses(first.lacking())) + "."
	case t.Confidence == 0:
		if arms := absent(lackingEverywhere(x.Orders)); len(arms) > 0 {
			return fmt.Sprintf("%s the gain is ×%s, of one trial. %s", head, table.Ratio(t.Estimate), takes(arms))
		}
		return fmt.Sprintf("%s the gain is ×%s, of one trial, which is too few to say what explains it (%s).", head, table.Ratio(t.Estimate), first.Decides)
	case t.Confidence < e.Confidence:
		return fmt.Sprintf("%s the gain is undecided, %s: what explains it cannot be said yet (%s).", head, table.RatioWithInterval(t, e.Confidence), first.Decides)
	case !t.Excludes(1):
		return fmt.Sprintf("%s the gain is not distinguishable from none: %s. There is nothing to explain.", head, table.RatioWithInterval(t, e.Confidence))
	}
	out := []string{fmt.Sprintf("%s the gain is %s.", head, table.RatioWithInterval(first.Total, e.Confidence))}
	verdict, said := orderMatters(x.Orders), x.Orders
	if why := lackingEverywhere(x.Orders); len(why) > 0 {
		if arms := absent(why); len(arms) > 0 {
			return out[0] + " " + takes(arms)
		}
		return out[0] + " What explains it cannot be said: " + table.List(clauses(why)) + "."
	}
	if verdict == orderIndifferent {
		said = said[:1] // the table has the others
	}
	for _, d := range said {
		if d.Empty() {
			continue
		}
		out = append(out, table.SentenceCase(d.Order)+": "+e.explains(d)+".")
	}
	if verdict != "" {
		out = append(out, verdict)
	}
	return strings.Join(out, " ")
}

// takes says which arms would take the whole apart.
func takes(arms []string) string {
	return "What explains it takes arms that are not in this run: " + table.List(arms) + "."
}

// absent are the arms that are lacking, if the run has none of them.
func absent(all []lack) (arms []string) {
	for _, l := range all {
		if l.why != notHere {
			return nil
		}
		arms = append(arms, l.arm)
	}
	return arms
}

// Empty reports whether an order has nothing to show, because its arms were not run.
func (d Decomposition) Empty() bool {
	return len(absent(d.lacking())) > 0 && !slices.ContainsFunc(d.Steps, func(s Step) bool { return len(s.Missing) == 0 })
}

// lackingEverywhere is what all orders lack, if none has a single step.
func lackingEverywhere(orders []Decomposition) []lack {
	var out []lack
	for _, d := range orders {
		for _, s := range d.Steps {
			if len(s.Missing) == 0 {
				return nil
			}
		}
		out = append(out, d.lacking()...)
	}
	slices.SortFunc(out, func(a, b lack) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// lacking lists every arm without which something cannot be said, with why.
func (d Decomposition) lacking() []lack {
	var out []lack
	for _, s := range d.Steps {
		for _, l := range s.lacks {
			if !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	return out
}

// explains says what each step of a decomposition makes, the most first.
func (e *Explainer) explains(d Decomposition) string {
	steps := slices.Clone(d.Steps)
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(shareOr(b, math.Inf(-1)), shareOr(a, math.Inf(-1))) })
	var parts, missing []string
	for _, s := range steps {
		if len(s.Missing) > 0 {
			missing = append(missing, s.Kind)
			continue
		}
		parts = append(parts, e.makes(s))
	}
	if arms := absent(d.lacking()); len(arms) > 0 {
		return strings.Join(append(parts, fmt.Sprintf("to tell %s apart takes what is not in this run: %s", table.List(missing), table.List(arms))), "; ")
	}
	if len(missing) > 0 {
		parts = append(parts, fmt.Sprintf("%s cannot be said: %s", table.List(missing), table.List(clauses(d.lacking()))))
	}
	return strings.Join(parts, "; ")
}

func shareOr(s Step, otherwise float64) float64 {
	if s.Share == nil {
		return otherwise
	}
	return s.Share.Estimate
}

// makes says what one step makes of the whole.
func (e *Explainer) makes(s Step) string {
	share := table.ShareWithInterval(s.Share, e.Confidence)
	switch {
	case s.Gain == nil || s.Share == nil:
		return s.Kind + " cannot be said"
	case s.Gain.Confidence == 0:
		return fmt.Sprintf("%s makes %s, of one trial (%s)", s.Kind, share, s.Decides)
	case s.Gain.Confidence < e.Confidence:
		return fmt.Sprintf("%s is undecided, %s (%s)", s.Kind, share, s.Decides)
	case !s.Gain.Excludes(1):
		return fmt.Sprintf("%s is not distinguishable from none, %s", s.Kind, share)
	}
	verb := map[bool]string{true: "explains", false: "works against it,"}[s.Share.Estimate > 0]
	return fmt.Sprintf("%s %s %s", s.Kind, verb, share)
}

const orderIndifferent = "Taken in another order, no share differs beyond the intervals."

// orderMatters is a sentence on whether two orders give a kind of step shares whose
// intervals do not meet; "" if no two can be compared.
func orderMatters(orders []Decomposition) string {
	compared, all := false, true
	var apart []string
	for i, a := range orders {
		for _, b := range orders[i+1:] {
			for _, s := range a.Steps {
				o := b.Steps[slices.IndexFunc(b.Steps, func(o Step) bool { return o.Kind == s.Kind })]
				if s.Share == nil || o.Share == nil || s.Share.Confidence == 0 || o.Share.Confidence == 0 {
					all = false
					continue
				}
				compared = true
				if (s.Share.Low > o.Share.High || o.Share.Low > s.Share.High) && !slices.Contains(apart, s.Kind) {
					apart = append(apart, s.Kind)
				}
			}
		}
	}
	switch {
	case len(apart) > 0:
		return "The order matters: the shares of " + table.List(apart) + " differ between orders beyond their intervals."
	case !compared || !all:
		return ""
	}
	return orderIndifferent
}
