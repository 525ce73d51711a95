package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

// OverlayCost is what an overlay adds to a packet or byte, or to each policy: an
// arm with it less the same arm without.
type OverlayCost struct {
	Scenario string    `json:"scenario"`
	Workload string    `json:"workload"`
	Where    string    `json:"where,omitempty"` // what tells it from the others of the workload
	Of       string    `json:"of"`              // "time per packet"
	Unit     string    `json:"unit"`
	Arm      string    `json:"arm"`
	What     string    `json:"what"`
	Without  string    `json:"without"`  // the arm without
	Policies int       `json:"policies"` // of both; of Each, the most
	Base     float64   `json:"base"`     // what the arm without costs, endpoints and all
	Adds     Interval  `json:"adds"`
	Ratio    *Interval `json:"ratio"` // cost with over cost without
	// Of the most policies only: what each policy costs without and with, and the
	// difference.
	EachWithout *Interval `json:"each_without,omitempty"`
	EachWith    *Interval `json:"each_with,omitempty"`
	EachAdds    *Interval `json:"each_adds,omitempty"`
}

// overlayMeasure is a cost of one unit that crosses the overlay: a packet, of work
// that is a known number of them, or a byte.
type overlayMeasure struct {
	costMeasure
	of      string
	perUnit float64 // units in one of the cost measure's
}

func (d *dataset) overlayMeasures() []overlayMeasure {
	var out []overlayMeasure
	for _, m := range d.costMeasures() {
		what, _, _ := strings.Cut(m.of, " per ")
		w, _ := d.Words.Workload(m.workload)
		switch {
		case w.Work.Packets > 0:
			out = append(out, overlayMeasure{m, what + " per packet", w.Work.Packets})
		case w.Work.Bytes > 0:
			out = append(out, overlayMeasure{m, what + " per byte", w.Work.Bytes})
		}
	}
	return out
}

// unit is the measure as one of a unit that crosses.
func (m overlayMeasure) each() costMeasure {
	out := m.costMeasure
	out.cost = func(v float64) float64 { return m.costMeasure.cost(v) / m.perUnit }
	return out
}

// noOverlay stands where packets go from node to node as they are.
const noOverlay = "no overlay"

// of is the options of an arm in a role, as people read them.
func (d *dataset) of(own map[string]string, role string) string {
	var parts []string
	for _, key := range d.Words.Keys(role) {
		switch {
		case own[key] == "":
		case len(parts) == 0:
			parts = append(parts, own[key])
		default:
			parts = append(parts, key+" "+own[key])
		}
	}
	return strings.Join(parts, ", ")
}

// overlayCosts are those of every arm with an overlay whose like without is in
// the run, at each N of both.
func (e estimator) overlayCosts() []OverlayCost {
	var out []OverlayCost
	for _, s := range e.strata {
		for _, m := range e.overlayMeasures() {
			all := e.contexts(s, m.workload)
			where := labels(all)
			for i, c := range all {
				for _, x := range c.subjects {
					base := c.find(x.fabric, x.filter, x.regime, without(x.own, e.Words.Keys(catalog.RoleOverlay)...))
					if e.of(x.own, catalog.RoleOverlay) == "" || base == nil {
						continue
					}
					for _, o := range e.overlayOf(base, x, m) {
						o.Scenario, o.Where = s.String(), where[i]
						out = append(out, o)
					}
				}
			}
		}
	}
	return out
}

// overlayOf compares two arms that differ in the overlay.
func (e estimator) overlayOf(base, with *subject, m overlayMeasure) []OverlayCost {
	var out []OverlayCost
	for n, a := range base.cells {
		b := with.cells[n]
		if b == nil {
			continue
		}
		adds, ok := e.slope(a, b, m.each(), 1)
		if !ok {
			continue
		}
		o := OverlayCost{Workload: m.workload, Of: m.of, Unit: m.unit, Arm: with.arm, What: with.title(), Without: base.arm, Policies: n,
			Base: stat.Median(costsOf(e.sample(m.metric, a).values[0], m.each())), Adds: adds}
		if r := e.sample(m.metric, a, b).gain(0, 1); r != nil && r.Low > 0 {
			o.Ratio = inverse(r)
		}
		if top := most(base, with); n == top && base.cells[0] != nil && with.cells[0] != nil {
			o.EachWithout, o.EachWith = e.each(base, n, m), e.each(with, n, m)
			o.EachAdds = e.eachAdds(base, with, n, m)
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b OverlayCost) int { return cmp.Compare(a.Policies, b.Policies) })
	return out
}

// costsOf are values of a metric as costs.
func costsOf(values []float64, m costMeasure) []float64 {
	var out []float64
	for _, v := range values {
		out = append(out, m.cost(v))
	}
	return out
}

// inverse is the ratio the other way round.
func inverse(r *Interval) *Interval {
	out := *r
	out.Estimate, out.Low, out.High = 1/r.Estimate, 1/r.High, 1/r.Low
	return &out
}

// each is what each of n policies costs an arm, nil if that cannot be said.
func (e estimator) each(x *subject, n int, m overlayMeasure) *Interval {
	if v, ok := e.slope(x.cells[0], x.cells[n], m.each(), float64(n)); ok {
		return &v
	}
	return nil
}

// eachAdds is what the overlay adds to what each policy costs: the difference of
// differences within blocks, nil where too few are shared.
func (e estimator) eachAdds(base, with *subject, n int, m overlayMeasure) *Interval {
	s := e.sample(m.metric, base.cells[0], with.cells[0], base.cells[n], with.cells[n])
	if !s.paired {
		return nil
	}
	cost := m.each().cost
	var p stat.Points
	for i := range s.values[0] {
		for k, at := range []float64{0, float64(n)} {
			p.N, p.Block = append(p.N, at), append(p.Block, i)
			p.Y = append(p.Y, cost(s.values[2*k+1][i])-cost(s.values[2*k][i]))
		}
	}
	o := e.costOptions()
	o.Relative = false // a difference may be of either sign
	fit, err := stat.FitCost(p, o)
	if err != nil || finite(fit.Slope.Low) == nil || finite(fit.Slope.High) == nil {
		return nil
	}
	return &fit.Slope
}

// overlaySection shows what overlays add, apart from the filter.
func (e estimator) overlaySection(all []OverlayCost) section {
	sec := section{ID: "overlay", Title: "What the overlay costs",
		Note: "An arm with the overlay less the same arm without: fabric, filter, options and number of policies are equal, and intervals are of differences within blocks where enough are shared. " +
			"Work that is a known number of packets is counted by the packet, one each way; bulk data by the byte of payload, because segmentation offload carries many packets as one. " +
			"What an arm costs without the overlay is all of it, endpoints and workload included. " + stat.RoughNote}
	if e.clock() == runs.ClockVirtual {
		sec.Note += " The clock is virtual: time is instructions, not caches or parallelism."
	}
	for _, group := range grouped(all) {
		sec.Tables = append(sec.Tables, e.overlayTable(group))
	}
	for _, group := range grouped(all) {
		if t := e.overlaySlopes(group); len(t.Rows) > 0 {
			sec.Tables = append(sec.Tables, t)
		}
	}
	if t := e.sameOverlay(); len(t.Rows) > 0 {
		sec.Tables = append(sec.Tables, t)
	}
	return sec
}

// grouped parts costs by scenario, workload, measure and context, in their order.
func grouped(all []OverlayCost) [][]OverlayCost {
	var out [][]OverlayCost
	for _, o := range all {
		if k := len(out) - 1; k >= 0 && out[k][0].title() == o.title() {
			out[k] = append(out[k], o)
			continue
		}
		out = append(out, []OverlayCost{o})
	}
	return out
}

func (o OverlayCost) title() string {
	out := fmt.Sprintf("%s, %s, %s", o.Of, o.Workload, o.Scenario)
	if o.Where != "" {
		out += ", " + o.Where
	}
	return out
}

func (e estimator) overlayTable(group []OverlayCost) table {
	var values, bases []float64
	for _, o := range group {
		values, bases = append(values, o.Adds.Estimate), append(bases, o.Base)
	}
	adds, base := e.scale(group[0].Unit, values), e.scale(group[0].Unit, bases)
	t := table{ID: slug("overlay-" + group[0].title()), Title: sentenceCase(group[0].title()), Note: overlaySentence(group),
		Columns: []column{text("arm"), text("what"), number("N"), number(base.titled("without")), number(adds.titled("overlay adds")), text("interval"), text("cost with over without"), text("verdict")}}
	for _, o := range group {
		t.Rows = append(t.Rows, tableRow{Cells: []string{o.Arm, o.What, strconv.Itoa(o.Policies), base.format(o.Base), signed(adds, o.Adds.Estimate), e.interval(o.Adds, adds),
			ratioWithInterval(o.Ratio, e.confidence), o.word()}})
	}
	return t
}

// word says whether the overlay costs anything that can be told from nothing.
func (o OverlayCost) word() string {
	switch {
	case o.Adds.Confidence == 0:
		return "no interval"
	case !o.Adds.Excludes(0):
		return "not distinguishable from 0"
	case o.Adds.Estimate < 0:
		return "cheaper with it"
	}
	return "costs"
}

// overlaySentence says whether the filter changes what the overlay costs.
func overlaySentence(group []OverlayCost) string {
	var grows, same, unsaid []string
	for _, o := range group {
		switch {
		case o.EachWith == nil:
		case o.EachAdds == nil || o.EachAdds.Confidence == 0:
			unsaid = append(unsaid, o.Arm)
		case o.EachAdds.Excludes(0):
			grows = append(grows, o.Arm)
		default:
			same = append(same, o.Arm)
		}
	}
	var parts []string
	if len(same) > 0 {
		parts = append(parts, "A policy costs the same with and without the overlay, as far as intervals tell: "+list(same)+".")
	}
	if len(grows) > 0 {
		parts = append(parts, "A policy costs something else with the overlay: "+list(grows)+".")
	}
	if len(unsaid) > 0 {
		parts = append(parts, "Whether a policy costs the same cannot be said: "+list(unsaid)+".")
	}
	return strings.Join(parts, " ")
}

// overlaySlopes shows each policy's cost with and without the overlay.
func (e estimator) overlaySlopes(group []OverlayCost) table {
	t := table{ID: slug("overlay-slopes-" + group[0].title()), Title: "Each policy, with and without the overlay: " + group[0].title(), Folded: true,
		Note: "The cost at the most policies less that at N = 0, over N; the last column is the difference of the two before it, within blocks."}
	var values []float64
	for _, o := range group {
		if o.EachWith != nil && o.EachWithout != nil {
			values = append(values, o.EachWith.Estimate, o.EachWithout.Estimate)
		}
	}
	sc := e.scale(group[0].Unit, values)
	t.Columns = []column{text("arm"), text("what"), number("N"), text(sc.titled("each policy without")), text(sc.titled("each policy with")), text(sc.titled("overlay adds to each"))}
	for _, o := range group {
		if o.EachWith == nil || o.EachWithout == nil {
			continue
		}
		t.Rows = append(t.Rows, tableRow{Cells: []string{o.Arm, o.What, strconv.Itoa(o.Policies), e.valueWithInterval(o.EachWithout, sc), e.valueWithInterval(o.EachWith, sc), e.valueWithInterval(o.EachAdds, sc)}})
	}
	return t
}

// sameOverlay compares the study's two sides, redirects and a hash with a bridge
// and a list, where both are over the same overlay or none.
func (e estimator) sameOverlay() table {
	t := table{ID: "overlay-both-sides", Title: "The study's two sides over the same overlay",
		Note:    fmt.Sprintf("How many times as fast %s is as %s, with the same overlay, or none, on both sides.", e.contrast.To.Name(), e.contrast.From.Name()),
		Columns: []column{text("scenario"), text("workload"), text("overlay of both"), text("state"), number("N"), text("gain"), text("verdict")}}
	for _, s := range e.strata {
		for _, m := range e.measures() {
			for _, c := range e.contexts(s, m.workload) {
				for _, a := range c.subjects {
					b := c.find(e.contrast.To.Fabric, e.contrast.To.Filter, catalog.AsStudy, a.own)
					if a.fabric != e.contrast.From.Fabric || a.filter != e.contrast.From.Filter || b == nil {
						continue
					}
					for _, n := range slices.Sorted(maps.Keys(a.cells)) {
						if b.cells[n] == nil {
							continue
						}
						gain := e.sample(m.metric, a.cells[n], b.cells[n]).gain(0, 1)
						t.Rows = append(t.Rows, tableRow{Cells: []string{s.String(), m.workload, cmp.Or(e.of(a.own, catalog.RoleOverlay), noOverlay), a.regime, strconv.Itoa(n), ratioWithInterval(gain, e.confidence), e.verdict(gain, true)}})
					}
				}
			}
		}
	}
	if !slices.ContainsFunc(t.Rows, func(r tableRow) bool { return r.Cells[2] != noOverlay }) {
		t.Rows = nil
	}
	return t
}

// valueWithInterval is "1.2 (1.1 to 1.3)".
func (e estimator) valueWithInterval(v *Interval, sc scale) string {
	if v == nil {
		return none
	}
	return signed(sc, v.Estimate) + " (" + e.interval(*v, sc) + ")"
}

// overlayFigures are what overlays add, a picture a measure in the clock's own
// time: the arms in the order of the plan, their levels of N side by side.
func (e estimator) overlayFigures(all []OverlayCost) []bars {
	var out []bars
	for _, group := range grouped(all) {
		if group[0].Unit != "s" {
			continue
		}
		var values []float64
		for _, o := range group {
			values = append(values, o.Adds.Estimate)
		}
		b := bars{Name: "overlay-" + slug(group[0].title()), Title: "What the overlay costs: " + group[0].title(), scale: e.scale("s", values),
			Subtitle: "the arm with the overlay less the same arm without, lower is better", Caption: "What the overlay adds, " + group[0].title() + "."}
		for i, o := range group {
			row := bar{label: "N = " + strconv.Itoa(o.Policies), color: colorOf(group, o), value: &o.Adds}
			if i == 0 || group[i-1].Arm != o.Arm {
				row.head = o.What
			}
			b.rows = append(b.rows, row)
		}
		out = append(out, b)
	}
	return out
}

// colorOf gives arms that differ in the overlay's own options one colour.
func colorOf(group []OverlayCost, o OverlayCost) int {
	var seen []string
	for _, g := range group {
		if !slices.Contains(seen, g.Without) {
			seen = append(seen, g.Without)
		}
	}
	return slices.Index(seen, o.Without)
}
