// Package catalog says what the arms, options and workloads of a plan are. The
// driver's entries of filters, fabrics, options and workloads are the one source;
// plan.json carries what the plan uses of it, and an analysis reads nothing else.
// It is pure.
package catalog

import (
	"slices"
)

// Mechanisms of the kernel by which a filter, or a fabric's own program, sees packets.
const (
	Netfilter = "netfilter"
	TC        = "tc"
	XDP       = "xdp"
)

// Structures in which a filter keeps policies. A filter may name another.
const (
	Nothing     = "none"   // it has no policies
	List        = "linear" // asked in order
	Hash        = "hash"
	Prefixes    = "prefixes"
	HashAndList = "hash and list"
)

// Regimes: which packets ask the policies.
const (
	AsStudy          = "as-study"          // every packet, of which the first of a connection matches
	EstablishedFirst = "established-first" // the first packet of a connection
	PolicyFirst      = "policy-first"      // every packet, and connections only what policies do not admit
	Stateless        = "stateless"         // every packet; there are no connections
)

// Roles of options: what a difference in one means where arms are compared.
const (
	RolePolicies    = "policies"    // what the policies say; arms without any fit all of them
	RoleRegime      = "regime"      // which packets ask them
	RoleEnforcement = "enforcement" // how and where they are enforced
	RolePath        = "path"        // how the fabric moves packets
	RoleOverlay     = "overlay"     // what carries packets between nodes
	RoleRig         = "rig"         // of the endpoints: equal in all that is compared
)

// Roles lists them.
func Roles() []string {
	return []string{RolePolicies, RoleRegime, RoleEnforcement, RolePath, RoleOverlay, RoleRig}
}

// Protocols of workloads and of what policies name.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Catalog is what a plan's arms, options and workloads are, in the driver's order.
type Catalog struct {
	Fabrics   []Fabric   `json:"fabrics"`
	Filters   []Filter   `json:"filters"`
	Options   []Option   `json:"options"` // that any arm of the plan has
	Workloads []Workload `json:"workloads"`
	// Presets are datapaths with a name of their own whose rows do not say fabric
	// and filter, as the first rows did not.
	Presets []Preset `json:"presets,omitempty"`
}

// Fabric is a way in which endpoints are joined.
type Fabric struct {
	Name string `json:"name"`
	// Base: what other fabrics are compared with.
	Base bool `json:"base,omitempty"`
	// Mechanism of the programs that the fabric has even where no filter is, "" for none.
	Mechanism string `json:"mechanism,omitempty"`
}

// Filter is a way to enforce policies.
type Filter struct {
	Name      string `json:"name"`
	Mechanism string `json:"mechanism"` // "" if none, or several by an option
	Structure string `json:"structure"` // "" if unknown
	Policies  bool   `json:"policies"`  // it takes some
	// Regime is the one that the filter has whatever its options; "" if an option says.
	Regime string `json:"regime,omitempty"`
	// Control: it is there to learn about the rig, not to enforce anything.
	Control bool `json:"control,omitempty"`
	// External names the project that wrote it; "" is hookbed.
	External string `json:"peer,omitempty"`
	// Defaults are the levels of the options that it has without asking.
	Defaults map[string]string `json:"defaults,omitempty"`
}

// Option is a factor that arms choose.
type Option struct {
	Key  string `json:"key"`
	Role string `json:"role"`
	// Regimes are those of the levels, of an option in that role.
	Regimes map[string]string `json:"regimes,omitempty"`
	// Means is the level that the default comes to in a scenario.
	Means map[string]string `json:"means,omitempty"`
}

// Workload is a measured program.
type Workload struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Tool     string `json:"tool"`
	// Headline are the metrics that stand for it, the best first: the first that
	// was measured counts.
	Headline []Metric `json:"headline"`
	// Metrics are the others that it reports.
	Metrics []Metric `json:"metrics,omitempty"`
	Work    Work     `json:"work"`
	// Stop is the metric that a stopping rule looks at; "" is the first headline.
	Stop string `json:"stop,omitempty"`
	// Figure names the files of its figures.
	Figure string `json:"figure"`
	// Study are the numbers of the study's own figures of it, by scenario; these come first.
	Study map[string]string `json:"study,omitempty"`
}

// Metric is one figure that a workload reports.
type Metric struct {
	Name   string `json:"name"`
	Title  string `json:"title,omitempty"` // for people: "median latency"
	Unit   string `json:"unit"`            // bit/s, 1/s, s, 1
	Higher bool   `json:"higher,omitempty"`
}

// Work is the unit in which a workload's cost is told.
type Work struct {
	Name string `json:"name"` // "transaction", "MiB"
	// Instructions is the metric that counts them per unit, in virtual time.
	Instructions string `json:"instructions,omitempty"`
	// Bytes of payload in a unit, and packets that one is for certain, both ways
	// together; 0 if that is not so.
	Bytes   float64 `json:"bytes,omitempty"`
	Packets float64 `json:"packets,omitempty"`
}

// Preset is a datapath's name, and what it stands for.
type Preset struct {
	Name   string `json:"name"`
	Fabric string `json:"fabric"`
	Filter string `json:"filter"`
}

// find is the entry of a name, the zero value if there is none.
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

// Rank is the place of a filter in the driver's order, which is by mechanism,
// and within one by structure.
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

// Names of the factors by which rows say what an arm is.
const (
	FactorFabric   = "fabric"
	FactorFilter   = "filter"
	FactorDatapath = "datapath"
	FactorScenario = "scenario"
)

// Place is the fabric and the filter of an arm with these factors: those that
// the rows say, or what its datapath stands for.
func (c Catalog) Place(factors map[string]string) (fabric, filter string) {
	fabric, filter = factors[FactorFabric], factors[FactorFilter]
	if p, ok := find(c.Presets, func(p Preset) bool { return p.Name == factors[FactorDatapath] }); ok && fabric == "" && filter == "" {
		return p.Fabric, p.Filter
	}
	return fabric, filter
}

// Level is the level of an option that an arm with these factors has: the
// filter's default where the rows say none. "" if the filter has no such option.
func (c Catalog) Level(factors map[string]string, key string) string {
	if level := factors[key]; level != "" {
		return level
	}
	return c.Default(factors, key)
}

// Default is the level that an option of an arm with these factors has without
// asking, "" if its filter has no such option.
func (c Catalog) Default(factors map[string]string, key string) string {
	_, filter := c.Place(factors)
	f, _ := c.Filter(filter)
	return f.Defaults[key]
}

// AtDefault says whether an option of an arm is as if it had not been asked for:
// at the filter's default, or at what that comes to in the scenario.
func (c Catalog) AtDefault(factors map[string]string, key string) bool {
	level := factors[key]
	if level == "" {
		return true
	}
	o, _ := c.Option(key)
	return level == c.Default(factors, key) || level == o.Means[factors[FactorScenario]]
}

// Regime is which packets ask the policies of an arm, "" if it has none or that
// is not known.
func (c Catalog) Regime(factors map[string]string) string {
	_, filter := c.Place(factors)
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

// CanBe says whether a filter can be made to have a regime.
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

// All are a workload's metrics, the headline ones first.
func (w Workload) All() []Metric { return slices.Concat(w.Headline, w.Metrics) }

// Metric is a workload's metric of a name.
func (w Workload) Metric(name string) (m Metric, ok bool) {
	return find(w.All(), func(m Metric) bool { return m.Name == name })
}

// Stopping is the metric that a stopping rule looks at; its zero value if the
// workload has none.
func (w Workload) Stopping() Metric {
	if m, ok := w.Metric(w.Stop); ok {
		return m
	}
	if len(w.Headline) > 0 {
		return w.Headline[0]
	}
	return Metric{}
}

// Rate is the metric that counts a workload's work per second; its zero value if
// none does.
func (w Workload) Rate() Metric {
	m, _ := find(w.All(), func(m Metric) bool { return m.Unit == "1/s" || m.Unit == "bit/s" })
	return m
}

// HigherIsBetter says which way a metric points. What no workload lists is time,
// instructions, loss or a count: less of it is better.
func (c Catalog) HigherIsBetter(metric string) bool {
	for _, w := range c.Workloads {
		if m, ok := w.Metric(metric); ok {
			return m.Higher
		}
	}
	return false
}

// Join puts catalogs of several plans together. Of what two of them have the first
// counts; levels that only the second has are added.
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
