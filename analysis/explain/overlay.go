package explain

import (
	"cmp"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
)

// OverlayCost is what an overlay adds to a packet or byte, or to each policy: an
// arm with it less the same arm without.
type OverlayCost struct {
	Scenario string         `json:"scenario"` // name of the stratum
	Workload string         `json:"workload"`
	Where    string         `json:"where,omitempty"` // what distinguishes it from the others of the workload
	Of       string         `json:"of"`              // "time per packet"
	Unit     string         `json:"unit"`            // of Base and Adds: "s" or "1"
	Arm      string         `json:"arm"`
	What     string         `json:"what"`     // fabric, filter and options: "bridge+tc-hash (vxlan)"
	Without  string         `json:"without"`  // the arm without
	Policies int            `json:"policies"` // of both; of Each, the most
	Base     float64        `json:"base"`     // what the arm without costs, endpoints and all
	Adds     stat.Estimate  `json:"adds"`     // to Base, per unit of Of
	Ratio    *stat.Estimate `json:"ratio"`    // cost with over cost without
	// Of the most policies only: what each policy costs without and with, and the
	// difference.
	EachWithout *stat.Estimate `json:"each_without,omitempty"`
	EachWith    *stat.Estimate `json:"each_with,omitempty"`
	EachAdds    *stat.Estimate `json:"each_adds,omitempty"`
}

// overlayMeasure is a cost of one unit that crosses the overlay: a packet, of work
// that is a known number of them, or a byte.
type overlayMeasure struct {
	summary.CostMeasure
	of      string
	perUnit float64 // units in one of the cost measure's
}

// overlayMeasures are those of workloads whose work is a known number of packets, or
// bytes.
func (e *Explainer) overlayMeasures() []overlayMeasure {
	var out []overlayMeasure
	for _, m := range e.CostMeasures() {
		w, _ := e.Words.Workload(m.Workload)
		switch {
		case w.Work.Packets > 0:
			out = append(out, overlayMeasure{m, m.Quantity + " per packet", w.Work.Packets})
		case w.Work.Bytes > 0:
			out = append(out, overlayMeasure{m, m.Quantity + " per byte", w.Work.Bytes})
		}
	}
	return out
}

// each is the measure as a cost of one unit that crosses.
func (m overlayMeasure) each() summary.CostMeasure {
	out := m.CostMeasure
	out.Cost = func(v float64) float64 { return m.CostMeasure.Cost(v) / m.perUnit }
	return out
}

// noOverlay is written where packets go from node to node as they are.
const noOverlay = "no overlay"

// of is the options of an arm in a role, as people read them.
func (e *Explainer) of(own map[string]string, role string) string {
	var parts []string
	for _, key := range e.Words.Keys(role) {
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

// Overlays are the costs of every arm with an overlay for which the run has the same
// arm without, at each N of both.
func (e *Explainer) Overlays() []OverlayCost {
	var out []OverlayCost
	for _, s := range e.Strata {
		for _, m := range e.overlayMeasures() {
			all := e.contexts(s, m.Workload)
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
func (e *Explainer) overlayOf(base, with *subject, m overlayMeasure) []OverlayCost {
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
		o := OverlayCost{Workload: m.Workload, Of: m.of, Unit: m.Unit, Arm: with.arm, What: with.title(), Without: base.arm, Policies: n,
			Base: stat.Median(costsOf(e.sample(m.Metric, a).values[0], m.each())), Adds: adds}
		if r := e.sample(m.Metric, a, b).gain(0, 1); r != nil && r.Low > 0 {
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
func costsOf(values []float64, m summary.CostMeasure) []float64 {
	var out []float64
	for _, v := range values {
		out = append(out, m.Cost(v))
	}
	return out
}

// inverse is the ratio the other way round.
func inverse(r *stat.Estimate) *stat.Estimate {
	out := *r
	out.Estimate, out.Low, out.High = 1/r.Estimate, 1/r.High, 1/r.Low
	return &out
}

// each is what each of n policies costs an arm, nil if that cannot be said.
func (e *Explainer) each(x *subject, n int, m overlayMeasure) *stat.Estimate {
	if v, ok := e.slope(x.cells[0], x.cells[n], m.each(), float64(n)); ok {
		return &v
	}
	return nil
}

// eachAdds is what the overlay adds to what each policy costs: the difference of
// differences within blocks, nil where too few are shared.
func (e *Explainer) eachAdds(base, with *subject, n int, m overlayMeasure) *stat.Estimate {
	s := e.sample(m.Metric, base.cells[0], with.cells[0], base.cells[n], with.cells[n])
	if !s.paired {
		return nil
	}
	cost := m.each().Cost
	var p stat.Points
	for i := range s.values[0] {
		for k, at := range []float64{0, float64(n)} {
			p.N, p.Block = append(p.N, at), append(p.Block, i)
			p.Y = append(p.Y, cost(s.values[2*k+1][i])-cost(s.values[2*k][i]))
		}
	}
	o := e.CostOptions()
	o.Relative = false // a difference may be of either sign
	fit, err := stat.FitCost(p, o)
	if err != nil || !isFinite(fit.Slope.Low) || !isFinite(fit.Slope.High) {
		return nil
	}
	return &fit.Slope
}
