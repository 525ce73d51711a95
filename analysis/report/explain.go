package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hookbed/analysis/runs"
)

// Factors of the cross, and the kinds of contrast between its arms.
const (
	factorFabric = "fabric"
	factorFilter = "filter"

	kindPath      = "path"      // another fabric, the same filter
	kindStructure = "structure" // another way to search, the same mechanism
	kindMechanism = "mechanism" // the same way to search, elsewhere in the kernel
	kindState     = "state"     // the same list, other packets that walk it
)

// Explanation says what a scenario's workload shows of path, structure,
// mechanism and state. Ratios say how many times as fast the second arm is.
type Explanation struct {
	Scenario  string          `json:"scenario"`
	Workload  string          `json:"workload"`
	Metric    string          `json:"metric"`
	Where     string          `json:"where,omitempty"` // what tells it from the other explanations of the workload, "kernel=6.6"
	Policies  int             `json:"policies"`        // of the decomposed contrast
	Sentence  string          `json:"sentence"`
	Orders    []Decomposition `json:"decompositions"`
	Contrasts []Contrast      `json:"contrasts"`
	Slopes    []Slope         `json:"slopes"`
}

// subject is an arm of one context: a place in the cross.
type subject struct {
	arm, fabric, filter string
	regime              string            // which packets ask: levels of the option state, "" without policies
	own                 map[string]string // all other options that are not at their default
	cells               map[int]*runs.Cell
}

// context is the arms that are like for like but for what they are: one rig,
// one kind of policies.
type context struct {
	factors  map[string]string
	subjects []*subject
}

// defaults are the levels that an arm has without asking. Those of two
// mechanisms are alike.
func defaults(scenario string) map[string][]string {
	where := []string{"edge", "endpoint"}
	if scenario == "multi-host" {
		where[1] = "nic"
	}
	return map[string][]string{
		"policy": {"l4"}, "action": {"allow"}, "match": {"last"}, "family": {"ipv4"}, "state": {"as-study"}, "placement": {"input"},
		"enforce": {"all"}, "accounting": {"off"}, "delivery": {"redirect"}, "attach": {"clsact", "native"}, "where": where,
	}
}

// nature is the mechanism and the structure of a filter; both "" for filters
// that do not take part.
func nature(filter string) (mechanism, structure string) {
	return map[string]string{
			"iptables-legacy": "netfilter", "iptables-nft": "netfilter", "ipset": "netfilter", "nft-linear": "netfilter", "nft-set": "netfilter",
			"nft-vmap": "netfilter", "nft-interval": "netfilter", "tc-linear": "tc", "tc-hash": "tc", "tc-lpm": "tc", "tc-cilium09": "tc",
			"xdp-linear": "xdp", "xdp-hash": "xdp", "xdp-lpm": "xdp",
		}[filter], map[string]string{
			"iptables-legacy": "linear", "iptables-nft": "linear", "nft-linear": "linear", "tc-linear": "linear", "xdp-linear": "linear",
			"ipset": "hash", "nft-set": "hash", "nft-vmap": "hash", "tc-hash": "hash", "xdp-hash": "hash",
			"nft-interval": "prefixes", "tc-lpm": "prefixes", "xdp-lpm": "prefixes", "tc-cilium09": "hash and list",
		}[filter]
}

// withoutPolicies says whether a filter takes none.
func withoutPolicies(filter string) bool {
	return slices.Contains([]string{"none", "tc-pass", "xdp-pass", "offloads-off", "tc-control"}, filter)
}

// explanations explain every workload of every scenario whose arms say what
// they are.
func (e estimator) explanations() []Explanation {
	var out []Explanation
	for _, s := range e.scenarios {
		for _, m := range e.measures() {
			out = append(out, e.explainWorkload(s, m)...)
		}
	}
	return out
}

func (e estimator) explainWorkload(scenario string, m measure) []Explanation {
	var out []Explanation
	var shown []*context
	for _, c := range e.contexts(scenario, m.workload) {
		x := Explanation{Scenario: scenario, Workload: m.workload, Metric: m.metric}
		x.Contrasts, x.Slopes = orEmpty(e.contrasts(c, m.metric)), orEmpty(e.slopes(c, m.workload))
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

// contexts sorts the cells of a workload into arms that may be compared. What
// every cell has is the rig's and must be equal; what only some have is an
// option of theirs.
func (e estimator) contexts(scenario, workload string) []*context {
	var cells []*runs.Cell
	carried := map[string]int{}
	for _, c := range e.Cells {
		if e.scenarioOf(c) != scenario || c.Get(runs.FactorWorkload) != workload || c.Get(factorFabric) == "" || c.Get(factorFilter) == "" {
			continue
		}
		cells = append(cells, c)
		for f, level := range c.Factors {
			if level != "" {
				carried[f]++
			}
		}
	}
	sorter := sorter{scenario: plainScenario(scenario), defaults: defaults(plainScenario(scenario))}
	for f, n := range carried {
		if _, option := sorter.defaults[f]; !option && n == len(cells) && !isArmFactor(f) {
			sorter.rig = append(sorter.rig, f)
		}
	}
	slices.Sort(sorter.rig)
	return sorter.sort(cells)
}

func isArmFactor(f string) bool {
	return slices.Contains([]string{runs.FactorScenario, runs.FactorWorkload, runs.FactorArm, runs.FactorDatapath, runs.FactorPolicies, runs.FactorSeed, factorFabric, factorFilter}, f)
}

// sorter puts cells into contexts.
type sorter struct {
	scenario string
	defaults map[string][]string
	rig      []string
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
		if !withoutPolicies(c.Get(factorFilter)) {
			s.add(find(s.place(c)), c)
		}
	}
	for _, c := range cells {
		if !withoutPolicies(c.Get(factorFilter)) {
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
			s.add(find(s.place(c)), c)
		}
	}
	return out
}

// policyFactors say what policies are; an arm without any fits them all.
func policyFactors() []string { return []string{"policy", "action", "match"} }

func (s sorter) place(c *runs.Cell) map[string]string {
	out := map[string]string{"family": s.level(c, "family")}
	for _, f := range policyFactors() {
		out[f] = s.level(c, f)
	}
	for _, f := range s.rig {
		out[f] = c.Get(f)
	}
	return out
}

// fits says whether a cell without policies belongs to a context.
func (s sorter) fits(c *runs.Cell, to *context) bool {
	want := s.place(c)
	for _, f := range policyFactors() {
		want[f] = to.factors[f]
	}
	return maps.Equal(want, to.factors)
}

// level is an option's level, the default where the arm has none.
func (s sorter) level(c *runs.Cell, option string) string {
	level, normal := c.Get(option), s.defaults[option]
	if level == "" || slices.Contains(normal, level) {
		return normal[0]
	}
	return level
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
	x := &subject{arm: c.Get(runs.FactorArm), fabric: c.Get(factorFabric), filter: c.Get(factorFilter), regime: s.regime(c),
		own: map[string]string{}, cells: map[int]*runs.Cell{c.Policies: c}}
	elsewhere := slices.Concat(policyFactors(), s.rig, []string{"family", "state", "enforce"})
	for f, level := range c.Factors {
		normal, option := s.defaults[f]
		if level == "" || isArmFactor(f) || slices.Contains(elsewhere, f) || option && slices.Contains(normal, level) {
			continue
		}
		x.own[f] = level
	}
	return x
}

// regime is which packets ask the policies: of tc the option enforce says so,
// and XDP keeps no connections.
func (s sorter) regime(c *runs.Cell) string {
	mechanism, _ := nature(c.Get(factorFilter))
	switch {
	case withoutPolicies(c.Get(factorFilter)):
		return ""
	case mechanism == "xdp":
		return "stateless"
	case s.level(c, "enforce") == "new":
		return "established-first"
	}
	return s.level(c, "state")
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

// without is options less one.
func without(own map[string]string, key string) map[string]string {
	out := maps.Clone(own)
	delete(out, key)
	return out
}

// title says what the arm is, not what it is called.
func (x *subject) title() string {
	out := x.fabric + "+" + x.filter
	var parts []string
	if mechanism, _ := nature(x.filter); mechanism == "netfilter" {
		parts = append(parts, x.regime)
	} else if mechanism == "tc" && x.regime != "as-study" {
		parts = append(parts, "new connections only")
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
	for k := range a.cells {
		if k > n && k > 0 && b.cells[k] != nil {
			n = k
		}
	}
	return n
}
