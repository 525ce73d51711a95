// Package explain says what makes the difference between arms: which share of the
// study's contrast each of path, structure and mechanism has, how arms compare that
// differ in one thing, what each policy costs, and what an overlay adds.
package explain

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/analysis/claims"
	"hookbed/analysis/runs"
	"hookbed/analysis/summary"
	"hookbed/analysis/trace"
)

// Kinds of contrast between the arms of the cross.
const (
	Path      = "path"      // another fabric, the same filter
	Structure = "structure" // another way to search, the same mechanism
	Mechanism = "mechanism" // the same way to search, elsewhere in the kernel
	State     = "state"     // the same list, other packets that walk it
)

// Explanation says what a stratum's workload shows of path, structure,
// mechanism and state. Ratios say how many times as fast the second arm is.
type Explanation struct {
	Scenario  string          `json:"scenario"` // name of the stratum
	Workload  string          `json:"workload"`
	Metric    string          `json:"metric"`
	Where     string          `json:"where,omitempty"` // what distinguishes it from the other explanations of the workload, "kernel=6.6"
	Policies  int             `json:"policies"`        // of the decomposed contrast
	Sentence  string          `json:"sentence"`
	Orders    []Decomposition `json:"decompositions"`
	Contrasts []Contrast      `json:"contrasts"`
	Slopes    []Slope         `json:"slopes"`

	Stratum summary.Stratum `json:"-"`
}

// subject is an arm of one context.
type subject struct {
	arm, fabric, filter string
	is                  catalog.Filter
	regime              string             // which packets are matched against the policies, "" without any
	named               string             // the regime as its title has it, "" at the default
	own                 map[string]string  // other options that are not at their default, without those of the context
	cells               map[int]*runs.Cell // by number of policies
}

// context is the arms that may be compared: they have one rig and one kind of
// policies.
type context struct {
	factors  map[string]string
	subjects []*subject
}

// Explainer explains what makes the differences between the arms of runs.
type Explainer struct {
	*summary.Estimator
	// Traces are those of cells, by ID: with them, contrasts are shared out among functions. May be nil.
	Traces map[string]*trace.Trace

	contrast claims.Contrast // the study's
}

// New adds the study's contrast to an estimator.
func New(e *summary.Estimator) (*Explainer, error) {
	contrast, err := claims.StudyContrast()
	if err != nil {
		return nil, err
	}
	return &Explainer{Estimator: e, contrast: contrast}, nil
}

// Explanations explain every workload of every stratum in which cells have a fabric
// and a filter.
func (e *Explainer) Explanations() []Explanation {
	var out []Explanation
	for _, s := range e.Strata {
		for _, m := range e.Measures() {
			out = append(out, e.explainWorkload(s, m)...)
		}
	}
	return out
}

func (e *Explainer) explainWorkload(in summary.Stratum, m summary.Measure) []Explanation {
	var out []Explanation
	var shown []*context
	for _, c := range e.contexts(in, m.Workload) {
		x := Explanation{Stratum: in, Scenario: in.String(), Workload: m.Workload, Metric: m.Metric}
		x.Contrasts, x.Slopes = append([]Contrast{}, e.contrasts(c, m.Metric)...), append([]Slope{}, e.slopes(c, m.Workload)...)
		e.decompose(c, &x)
		if len(x.Contrasts) > 0 || len(x.Orders) > 0 {
			out, shown = append(out, x), append(shown, c)
		}
	}
	for i, label := range labels(shown) {
		out[i].Where = label
	}
	return out
}

// contexts sorts the cells of a workload into arms that may be compared. Options
// are the arms'; what else rows say is the rig's, and must be equal.
func (e *Explainer) contexts(in summary.Stratum, workload string) []*context {
	var cells []*runs.Cell
	s := sorter{words: e.Words}
	for _, c := range e.Cells {
		if e.StratumOf(c) != in || c.Get(runs.FactorWorkload) != workload || c.Get(catalog.FactorFabric) == "" || c.Get(catalog.FactorFilter) == "" {
			continue
		}
		cells = append(cells, c)
		for f, level := range c.Factors {
			if _, option := e.Words.Option(f); !option && level != "" && !isArmFactor(f) && !slices.Contains(s.rig, f) {
				s.rig = append(s.rig, f)
			}
		}
	}
	slices.Sort(s.rig)
	return s.sort(cells)
}

func isArmFactor(f string) bool {
	return slices.Contains([]string{runs.FactorScenario, runs.FactorWorkload, runs.FactorArm, runs.FactorDatapath, runs.FactorPolicies, runs.FactorSeed,
		catalog.FactorFabric, catalog.FactorFilter}, f)
}

// sorter puts cells into contexts.
type sorter struct {
	words catalog.Catalog
	rig   []string // factors
}

func (s sorter) sort(cells []*runs.Cell) []*context {
	var out []*context
	find := func(want map[string]string) *context {
		for _, c := range out {
			if maps.Equal(c.factors, want) {
				return c
			}
		}
		c := &context{factors: want}
		out = append(out, c)
		return c
	}
	for _, c := range cells {
		if s.filter(c).Policies {
			s.add(find(s.contextOf(c)), c)
		}
	}
	for _, c := range cells {
		if s.filter(c).Policies {
			continue
		}
		joined := false
		for _, to := range out {
			if s.fits(c, to) {
				s.add(to, c)
				joined = true
			}
		}
		if !joined {
			s.add(find(s.contextOf(c)), c)
		}
	}
	return out
}

func (s sorter) filter(c *runs.Cell) catalog.Filter {
	_, name := s.words.Datapath(c.Factors)
	f, _ := s.words.Filter(name)
	return f
}

// contextOf is the context of a cell: its rig, and what its policies are.
func (s sorter) contextOf(c *runs.Cell) map[string]string {
	out := map[string]string{}
	for _, f := range slices.Concat(s.words.Keys(catalog.RoleRig), s.words.Keys(catalog.RolePolicies)) {
		out[f] = s.words.Level(c.Factors, f)
	}
	for _, f := range s.rig {
		out[f] = c.Get(f)
	}
	return out
}

// fits reports whether a cell without policies belongs to a context: it fits policies
// of any kind.
func (s sorter) fits(c *runs.Cell, to *context) bool {
	want := s.contextOf(c)
	for _, f := range s.words.Keys(catalog.RolePolicies) {
		want[f] = to.factors[f]
	}
	return maps.Equal(want, to.factors)
}

func (s sorter) add(to *context, c *runs.Cell) {
	x := s.subject(c)
	for _, known := range to.subjects {
		if known.arm == x.arm && known.fabric == x.fabric && known.filter == x.filter && known.regime == x.regime && maps.Equal(known.own, x.own) {
			known.cells[c.Policies] = c
			return
		}
	}
	to.subjects = append(to.subjects, x)
}

func (s sorter) subject(c *runs.Cell) *subject {
	fabric, filter := s.words.Datapath(c.Factors)
	x := &subject{arm: c.Get(runs.FactorArm), fabric: fabric, filter: filter, is: s.filter(c), regime: s.words.Regime(c.Factors), named: s.regimeName(c),
		own: map[string]string{}, cells: map[int]*runs.Cell{c.Policies: c}}
	for _, o := range s.words.Options {
		ofContext := slices.Contains([]string{catalog.RoleRig, catalog.RolePolicies, catalog.RoleRegime}, o.Role)
		if !ofContext && !s.words.AtDefault(c.Factors, o.Key) {
			x.own[o.Key] = c.Get(o.Key)
		}
	}
	return x
}

// regimeName names the regime of an arm by the option that chose it: always, where its
// level is the regime's own name, else where it is not the default.
func (s sorter) regimeName(c *runs.Cell) string {
	for _, key := range s.words.Keys(catalog.RoleRegime) {
		o, _ := s.words.Option(key)
		level := s.words.Level(c.Factors, key)
		switch regime := o.Regimes[level]; {
		case regime == "":
		case regime == level:
			return level
		case !s.words.AtDefault(c.Factors, key):
			return key + " " + level
		}
	}
	return ""
}

// labels name what contexts differ by.
func labels(all []*context) []string {
	var out []string
	for _, c := range all {
		var parts []string
		for _, f := range slices.Sorted(maps.Keys(c.factors)) {
			if slices.ContainsFunc(all, func(o *context) bool { return o.factors[f] != c.factors[f] }) {
				parts = append(parts, f+"="+c.factors[f])
			}
		}
		out = append(out, strings.Join(parts, " "))
	}
	return out
}

// find is the first arm, in the plan's order, of a fabric, filter and regime
// whose other options are as given.
func (c *context) find(fabric, filter, regime string, own map[string]string) *subject {
	for _, x := range c.subjects {
		if x.fabric == fabric && x.filter == filter && x.regime == regime && maps.Equal(x.own, own) {
			return x
		}
	}
	return nil
}

// without is options less some.
func without(own map[string]string, keys ...string) map[string]string {
	out := maps.Clone(own)
	for _, key := range keys {
		delete(out, key)
	}
	return out
}

// title names the arm by its fabric, filter and options, not by its name in the plan.
func (x *subject) title() string {
	out := x.fabric + "+" + x.filter
	var parts []string
	if x.named != "" {
		parts = append(parts, x.named)
	}
	for _, f := range slices.Sorted(maps.Keys(x.own)) {
		parts = append(parts, f+" "+x.own[f])
	}
	if len(parts) > 0 {
		out += fmt.Sprintf(" (%s)", strings.Join(parts, ", "))
	}
	return out
}

// most is the largest N that both arms have; -1 if there is none above 0.
func most(a, b *subject) int {
	n := -1
	if a == nil || b == nil {
		return n
	}
	for k := range a.cells {
		if k > n && k > 0 && b.cells[k] != nil {
			n = k
		}
	}
	return n
}

// TurnPairs are pairs of a list and a hash whose costs may cross: on the same path by
// the same mechanism, and each list with the end of the study's contrast.
func (e *Explainer) TurnPairs(in summary.Stratum, workload string) [][2]summary.Line {
	var out [][2]summary.Line
	for _, c := range e.contexts(in, workload) {
		for _, list := range c.subjects {
			if list.is.Structure != catalog.List {
				continue
			}
			end := c.at(e.contrast.To) // of the study's contrast
			for _, hash := range c.subjects {
				near := hash.fabric == list.fabric && hash.is.Mechanism == list.is.Mechanism && hash.regime == list.regime
				if hash.is.Structure == catalog.Hash && len(hash.own) == 0 && (near || hash == end) {
					out = append(out, [2]summary.Line{{Arm: list.arm, Clients: 1}, {Arm: hash.arm, Clients: 1}})
				}
			}
		}
	}
	return out
}
