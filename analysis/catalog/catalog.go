// Package catalog describes the arms, options and workloads of a plan: mechanism,
// structure, defaults, protocol, metrics and units. The driver's entries of
// filters, fabrics, options and workloads are its only source; plan.json carries
// the part that the plan uses, and an analysis reads nothing else. It is pure: it
// reads no file and does not judge results.
package catalog

import (
	"slices"
)

// Mechanisms of the kernel by which a filter, or a fabric's own program, sees packets.
const (
	Netfilter = "netfilter"
	TC        = "tc"
	XDP       = "xdp"
	// Proxy is a program that reads requests and sends them on.
	Proxy = "proxy"
	// Socket is a program that sees what a socket receives.
	Socket = "socket"
)

// Structures in which a filter keeps policies. A filter may name another.
const (
	Nothing     = "none"   // it has no policies
	List        = "linear" // searched in order
	Hash        = "hash"
	Prefixes    = "prefixes"
	HashAndList = "hash and list"
)

// Regimes: which packets are checked against the policies.
const (
	AsStudy          = "as-study"          // every packet, of which the first of a connection matches
	EstablishedFirst = "established-first" // the first packet of a connection
	PolicyFirst      = "policy-first"      // every packet; connections are searched only if no policy admits it
	Stateless        = "stateless"         // every packet; there are no connections
)

// Roles of options: what a difference in one means when arms are compared.
const (
	RolePolicies    = "policies"    // the content of the policies; arms without policies match every level
	RoleRegime      = "regime"      // which packets are checked against them
	RoleEnforcement = "enforcement" // how and where they are enforced
	RolePath        = "path"        // how the fabric moves packets
	RoleOverlay     = "overlay"     // what carries packets between nodes
	RoleRig         = "rig"         // of the endpoints: equal in all arms that are compared
)

// Roles lists all roles.
func Roles() []string {
	return []string{RolePolicies, RoleRegime, RoleEnforcement, RolePath, RoleOverlay, RoleRig}
}

// Protocols of workloads and of policies.
const (
	TCP = "tcp"
	UDP = "udp"
)

// HTTP is the application protocol of workloads that make requests, and of policies that
// name them.
const HTTP = "http"

// Catalog describes a plan's fabrics, filters, options and workloads, in the
// driver's order.
type Catalog struct {
	Fabrics   []Fabric   `json:"fabrics"`
	Filters   []Filter   `json:"filters"`
	Options   []Option   `json:"options"` // that any arm of the plan has
	Workloads []Workload `json:"workloads"`
	// Presets are named datapaths of rows that have no columns for fabric and filter,
	// as the first rows had none.
	Presets []Preset `json:"presets,omitempty"`
}

// Fabric is a way in which endpoints are joined.
type Fabric struct {
	Name string `json:"name"`
	// Base marks the fabric that other fabrics are compared with.
	Base bool `json:"base,omitempty"`
	// Mechanism of the programs that the fabric has even without a filter, "" for none.
	Mechanism string `json:"mechanism,omitempty"`
}

// Filter is a way to enforce policies.
type Filter struct {
	Name      string `json:"name"`
	Mechanism string `json:"mechanism"` // "" if none, or if an option chooses it
	Structure string `json:"structure"` // "" if unknown
	Policies  bool   `json:"policies"`  // whether it enforces policies
	// Regime is the filter's only regime; "" if an option chooses it.
	Regime string `json:"regime,omitempty"`
	// Control marks a filter that measures the rig and enforces nothing.
	Control bool `json:"control,omitempty"`
	// External is the project that wrote the filter; "" for a filter of hookbed.
	External string `json:"peer,omitempty"`
	// Model is the arm of hookbed that was made like this filter of another project; nil if there
	// is none.
	Model *Pair `json:"model,omitempty"`
	// Defaults are the default levels of the options that the filter has.
	Defaults map[string]string `json:"defaults,omitempty"`
}

// Pair is a fabric with a filter.
type Pair struct {
	Fabric string `json:"fabric"`
	Filter string `json:"filter"`
}

// Option is a factor that arms choose.
type Option struct {
	Key  string `json:"key"`
	Role string `json:"role"`
	// Regimes are the regimes by level, of an option with RoleRegime.
	Regimes map[string]string `json:"regimes,omitempty"`
	// Means is the level that the default is equal to, by scenario.
	Means map[string]string `json:"means,omitempty"`
}

// Workload is a measured program.
type Workload struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Tool     string `json:"tool"`
	// Headline are the metrics that represent the workload, the best first: the
	// first one that was measured is used.
	Headline []Metric `json:"headline"`
	// Metrics are the others that it reports.
	Metrics []Metric `json:"metrics,omitempty"`
	Work    Work     `json:"work"`
	// Stop is the metric of the stopping rule; "" is the first headline metric.
	Stop string `json:"stop,omitempty"`
	// Figure is the workload's part of the file names of its figures.
	Figure string `json:"figure"`
	// Study are the numbers of the study's own figures of it, by scenario. Workloads
	// with such a number come first.
	Study map[string]string `json:"study,omitempty"`
}

// Metric is one quantity that a workload reports.
type Metric struct {
	Name   string `json:"name"`
	Title  string `json:"title,omitempty"`  // for readers: "median latency"
	Unit   string `json:"unit"`             // bit/s, 1/s, s, 1
	Higher bool   `json:"higher,omitempty"` // whether a higher value is better
}

// Work is the unit of work in which a workload's cost is given.
type Work struct {
	Name string `json:"name"` // "transaction", "MiB"
	// Instructions is the metric that counts them per unit, in virtual time.
	Instructions string `json:"instructions,omitempty"`
	// Bytes of payload in a unit, and packets in both directions if their number is
	// certain; else 0.
	Bytes   float64 `json:"bytes,omitempty"`
	Packets float64 `json:"packets,omitempty"`
}

// Preset is a named datapath with its fabric and filter.
type Preset struct {
	Name   string `json:"name"`
	Fabric string `json:"fabric"`
	Filter string `json:"filter"`
}

// find is the first entry that matches, the zero value if there is none.
func find[T any](all []T, is func(T) bool) (T, bool) {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	var none T
	return none, false
}

// Filter is the filter of a name; ok is false if there is none.
func (c Catalog) Filter(name string) (f Filter, ok bool) {
	return find(c.Filters, func(f Filter) bool { return f.Name == name })
}

// Rank is the index of a filter in the driver's order, which is by mechanism, and
// within a mechanism by structure; -1 if the filter is unknown.
func (c Catalog) Rank(filter string) int {
	return slices.IndexFunc(c.Filters, func(f Filter) bool { return f.Name == filter })
}

// Fabric is the fabric of a name; ok is false if there is none.
func (c Catalog) Fabric(name string) (f Fabric, ok bool) {
	return find(c.Fabrics, func(f Fabric) bool { return f.Name == name })
}

// Option is the option of a key; ok is false if no arm has it.
func (c Catalog) Option(key string) (o Option, ok bool) {
	return find(c.Options, func(o Option) bool { return o.Key == key })
}

// Keys lists the options in a role.
func (c Catalog) Keys(role string) (out []string) {
	for _, o := range c.Options {
		if o.Role == role {
			out = append(out, o.Key)
		}
	}
	return out
}

// Workload is the workload of a name; ok is false if there is none.
func (c Catalog) Workload(name string) (w Workload, ok bool) {
	return find(c.Workloads, func(w Workload) bool { return w.Name == name })
}

// Names of the factors that identify an arm's datapath in rows.
const (
	FactorFabric   = "fabric"
	FactorFilter   = "filter"
	FactorDatapath = "datapath"
	FactorScenario = "scenario"
)

// Datapath is the fabric and the filter of an arm with these factors: those of the
// rows, or else those of the preset that the rows name.
func (c Catalog) Datapath(factors map[string]string) (fabric, filter string) {
	fabric, filter = factors[FactorFabric], factors[FactorFilter]
	if p, ok := find(c.Presets, func(p Preset) bool { return p.Name == factors[FactorDatapath] }); ok && fabric == "" && filter == "" {
		return p.Fabric, p.Filter
	}
	return fabric, filter
}

// Level is the level of an option of an arm with these factors: the filter's
// default if the rows have no level. "" if the filter has no such option.
func (c Catalog) Level(factors map[string]string, key string) string {
	if level := factors[key]; level != "" {
		return level
	}
	return c.Default(factors, key)
}

// Default is the default level of an option of an arm with these factors, "" if
// its filter has no such option.
func (c Catalog) Default(factors map[string]string, key string) string {
	_, filter := c.Datapath(factors)
	f, _ := c.Filter(filter)
	return f.Defaults[key]
}

// AtDefault reports whether an option of an arm has its default: no level, the
// filter's default, or the level that the default is equal to in the scenario.
func (c Catalog) AtDefault(factors map[string]string, key string) bool {
	level := factors[key]
	if level == "" {
		return true
	}
	o, _ := c.Option(key)
	return level == c.Default(factors, key) || level == o.Means[factors[FactorScenario]]
}

// Regime is which packets of an arm are checked against the policies, "" if it has
// no policies or the regime is not known.
func (c Catalog) Regime(factors map[string]string) string {
	_, filter := c.Datapath(factors)
	f, _ := c.Filter(filter)
	if !f.Policies || f.Regime != "" {
		return f.Regime
	}
	for _, o := range c.Options {
		if regime := o.Regimes[c.Level(factors, o.Key)]; regime != "" {
			return regime
		}
	}
	return ""
}

// CanBe reports whether a filter has a regime, or can have it by an option.
func (c Catalog) CanBe(filter, regime string) bool {
	f, _ := c.Filter(filter)
	if !f.Policies || f.Regime != "" {
		return f.Regime == regime
	}
	return slices.ContainsFunc(c.Options, func(o Option) bool {
		if _, has := f.Defaults[o.Key]; !has {
			return false
		}
		for _, r := range o.Regimes {
			if r == regime {
				return true
			}
		}
		return false
	})
}

// all are a workload's metrics, the headline ones first.
func (w Workload) all() []Metric { return slices.Concat(w.Headline, w.Metrics) }

// Metric is a workload's metric of a name.
func (w Workload) Metric(name string) (m Metric, ok bool) {
	return find(w.all(), func(m Metric) bool { return m.Name == name })
}

// Stopping is the metric of the stopping rule; the zero value if the workload has
// no metric.
func (w Workload) Stopping() Metric {
	if m, ok := w.Metric(w.Stop); ok {
		return m
	}
	if len(w.Headline) > 0 {
		return w.Headline[0]
	}
	return Metric{}
}

// Rate is the metric that counts a workload's work per second (in 1/s or bit/s);
// the zero value if there is none.
func (w Workload) Rate() Metric {
	m, _ := find(w.all(), func(m Metric) bool { return m.Unit == "1/s" || m.Unit == "bit/s" })
	return m
}

// HigherIsBetter reports whether a higher value of a metric is better. A metric
// that no workload lists is time, instructions, loss or a count: lower is better.
func (c Catalog) HigherIsBetter(metric string) bool {
	for _, w := range c.Workloads {
		if m, ok := w.Metric(metric); ok {
			return m.Higher
		}
	}
	return false
}

// Join merges catalogs of several plans. Of an entry that two of them have, the
// first one is used; defaults that only a later one has are added.
func Join(all ...Catalog) Catalog {
	var out Catalog
	for _, c := range all {
		out.Fabrics = join(out.Fabrics, c.Fabrics, func(f Fabric) string { return f.Name }, nil)
		out.Filters = join(out.Filters, c.Filters, func(f Filter) string { return f.Name }, addDefaults)
		out.Options = join(out.Options, c.Options, func(o Option) string { return o.Key }, nil)
		out.Workloads = join(out.Workloads, c.Workloads, func(w Workload) string { return w.Name }, nil)
		out.Presets = join(out.Presets, c.Presets, func(p Preset) string { return p.Name }, nil)
	}
	return out
}
