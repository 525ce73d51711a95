package explain

import (
	"maps"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
)

// Contrast is two arms that differ in one thing.
type Contrast struct {
	Kind     string         `json:"kind"`
	Arm      string         `json:"arm"`
	What     string         `json:"what"`
	Over     string         `json:"over"` // the arm it is compared with
	OverWhat string         `json:"over_what"`
	Policies int            `json:"policies"`
	Gain     *stat.Estimate `json:"gain"` // how many times as fast Arm is
	Word     string         `json:"word"`
	Note     string         `json:"note,omitempty"` // what else they differ in
	// Decides is how many trials, blocks or seeds would decide the gain.
	Decides *stat.Need `json:"decides,omitempty"`
	// Traced is the contrast by function, where both arms have a trace.
	Traced *TracedChange `json:"traced,omitempty"`
}

// contrasts are all pairs of a context's arms that differ in one thing.
func (e *Explainer) contrasts(c *context, metric string) []Contrast {
	var out []Contrast
	add := func(kind string, a, b *subject, n int, note string) {
		if a == nil || b == nil || n < 0 || a.cells[n] == nil || b.cells[n] == nil {
			return
		}
		gain := e.sample(metric, b.cells[n], a.cells[n]).gain(0, 1)
		out = append(out, Contrast{kind, a.arm, a.title(), b.arm, b.title(), n, gain, summary.Word(gain, true, e.Confidence), note, e.Need(gain), e.traced(b.cells[n], a.cells[n])})
	}
	for _, a := range c.subjects {
		for _, p := range e.paths(c, a) {
			add(Path, a, p.other, 0, p.note)
		}
	}
	for _, kind := range []string{Structure, Mechanism} {
		for _, over := range e.Words.Filters {
			for _, a := range c.subjects {
				if e.differ(a.is, over) == kind {
					b, note := e.like(c, a, over)
					add(kind, a, b, most(a, b), note)
				}
			}
		}
	}
	for _, a := range c.subjects {
		if a.regime != "" && a.regime != catalog.AsStudy {
			b := c.find(a.fabric, a.filter, catalog.AsStudy, a.own)
			add(State, a, b, most(a, b), "")
		}
	}
	return out
}

// differ is the kind of contrast of filter a with filter over, if they differ in one
// thing; "" if they differ in none or several, or if over is contrasted with a. Structures
// are compared with the list of their mechanism, mechanisms with those before them in
// the driver's order. Other projects' filters are left out: more than one thing differs.
func (e *Explainer) differ(a, over catalog.Filter) string {
	for _, f := range []catalog.Filter{a, over} {
		if !f.Policies || f.External != "" || f.Mechanism == "" || f.Structure == "" {
			return ""
		}
	}
	switch {
	case a.Mechanism == over.Mechanism && a.Structure != catalog.List && over.Structure == catalog.List:
		return Structure
	case a.Structure == over.Structure && e.Words.Rank(a.Name) > e.Words.Rank(over.Name):
		return Mechanism
	}
	return ""
}

// like is the arm that equals a but for the filter. Where a keeps no connections and
// the other filter always does, it is the study's arm, with a note that says so.
func (e *Explainer) like(c *context, a *subject, filter catalog.Filter) (*subject, string) {
	if b := c.find(a.fabric, filter.Name, a.regime, a.own); b != nil {
		return b, ""
	}
	if a.is.Regime == catalog.Stateless && !e.Words.CanBe(filter.Name, catalog.Stateless) {
		return c.find(a.fabric, filter.Name, catalog.AsStudy, a.own), "unlike: " + a.filter + " keeps no connections"
	}
	return nil, ""
}

// counterpart is an arm on the base fabric with which one on another is compared.
type counterpart struct {
	other *subject
	note  string
}

// paths are the arms on the base fabric that show what a's fabric gives without any
// filter: arms without a filter where the run has them, else arms with one at N = 0.
func (e *Explainer) paths(c *context, a *subject) []counterpart {
	i := slices.IndexFunc(e.Words.Fabrics, func(f catalog.Fabric) bool { return f.Base })
	on, _ := e.Words.Fabric(a.fabric)
	if i < 0 || on.Base || a.cells[0] == nil {
		return nil
	}
	base, path := e.Words.Fabrics[i].Name, e.Words.Keys(catalog.RolePath)
	bareToo := func(x *subject) bool { return x.fabric == a.fabric && bare(x) && sameOf(path, x.own, a.own) }
	like := c.find(base, a.filter, a.regime, without(a.own, path...))
	if !bare(a) {
		if slices.ContainsFunc(c.subjects, bareToo) || like == nil {
			return nil
		}
		return []counterpart{{like, ""}}
	}
	var out []counterpart
	if like != nil {
		out = append(out, counterpart{like, ""})
	}
	if a.is.Mechanism == "" || a.is.Mechanism != on.Mechanism || len(without(a.own, path...)) > 0 {
		return out
	}
	for _, x := range c.subjects { // the program is the fabric's own
		if x.fabric == base && bare(x) && x.is.Mechanism == "" && len(x.own) == 0 {
			return append(out, counterpart{x, "against no program at all"})
		}
	}
	return out
}

// bare reports whether an arm is its fabric, with at most a program that does nothing.
func bare(x *subject) bool { return x.is.Name != "" && !x.is.Policies && !x.is.Control }

// sameOf reports whether two arms have the same levels of some options.
func sameOf(keys []string, a, b map[string]string) bool {
	only := func(own map[string]string) map[string]string {
		return without(own, slices.DeleteFunc(slices.Collect(maps.Keys(own)), func(k string) bool { return slices.Contains(keys, k) })...)
	}
	return maps.Equal(only(a), only(b))
}

// kinds lists the kinds of contrast in the order of a reader's questions.
func kinds() []string { return []string{Path, Structure, Mechanism, State} }
