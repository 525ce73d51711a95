package plan

import (
	"cmp"
	"slices"

	"hookbed/analysis/catalog"
)

// Offer is everything that an experiment can choose from, described for readers. It has
// nothing but what the catalog says.
type Offer struct {
	Presets   []OfferedPreset   `json:"presets"`
	Fabrics   []OfferedFabric   `json:"fabrics"`
	Filters   []OfferedFilter   `json:"filters"`
	Options   []OfferedOption   `json:"options"`
	Workloads []OfferedWorkload `json:"workloads"`
	Kernels   []string          `json:"kernels"`
}

// OfferedPreset is a filter on a fabric under a name of its own: `datapath` in an arm.
type OfferedPreset struct {
	Name   string `json:"name"`
	Doc    string `json:"doc"`
	Fabric string `json:"fabric"`
	Filter string `json:"filter"`
}

// OfferedFabric is a way in which endpoints are joined: `fabric` in an arm.
type OfferedFabric struct {
	Name      string   `json:"name"`
	Doc       string   `json:"doc"`
	Base      bool     `json:"base"`                // an arm that names none has it
	Mechanism string   `json:"mechanism,omitempty"` // of programs that it has without a filter
	Options   []string `json:"options"`             // keys
}

// OfferedFilter is a way to enforce policies: `filter` in an arm.
type OfferedFilter struct {
	Name      string   `json:"name"`
	Doc       string   `json:"doc"`
	Mechanism string   `json:"mechanism,omitempty"`
	Structure string   `json:"structure,omitempty"`
	Regime    string   `json:"regime,omitempty"` // the only one that it has
	Hook      string   `json:"hook,omitempty"`
	Since     string   `json:"since"` // first release of Linux, of those that are tested
	Policies  bool     `json:"policies"`
	Control   bool     `json:"control"`
	External  string   `json:"external,omitempty"` // the project that wrote it
	Options   []string `json:"options"`            // keys
	Places    []Place  `json:"places"`
}

// Place is a fabric, a scenario, a clock and a kind of endpoints, and why a filter with its
// default options cannot be measured there, "" if it can. The rest of the lab is as in a file
// that says nothing of it, with memory for everything. A filter that the user writes is looked at as if its scripts were there.
type Place struct {
	Fabric   string `json:"fabric"`
	Scenario string `json:"scenario"`
	Clock    string `json:"clock"`
	Endpoint string `json:"endpoint"`
	Why      string `json:"why,omitempty"`
}

// OfferedOption is a key of an arm with its levels. Filters that differ in the levels of a
// key have an entry each.
type OfferedOption struct {
	Key    string         `json:"key"`
	Doc    string         `json:"doc"`
	Role   string         `json:"role"`
	Levels []OfferedLevel `json:"levels"` // the first is the default; none: any word or path
	// Needs is the level of another option without which this one means nothing.
	Needs string `json:"needs,omitempty"`
	// Fabrics and Filters are those of the arms that have the option.
	Fabrics []string `json:"fabrics"`
	Filters []string `json:"filters"`
	// OfFabric says that every arm on these fabrics has it, OfFilter that every arm with these
	// filters has it.
	OfFabric bool `json:"of_fabric"`
	OfFilter bool `json:"of_filter"`
	arms     int
}

// OfferedLevel is one level of an option.
type OfferedLevel struct {
	Level string `json:"level"`
	Since string `json:"since"` // first release of Linux, of those that are tested
}

// OfferedWorkload is a measured program: a level of `workloads` in the matrix.
type OfferedWorkload struct {
	Name     string           `json:"name"`
	Doc      string           `json:"doc"`
	Tool     string           `json:"tool"`
	Protocol string           `json:"protocol"`
	Headline []catalog.Metric `json:"headline"`
	Work     string           `json:"work"`    // unit of work of its cost
	Counts   bool             `json:"counts"`  // may be measured by a number of transactions
	Streams  bool             `json:"streams"` // may have several connections of each client
}

// Offer describes the catalog.
func (c Catalog) Offer() Offer {
	out := Offer{Presets: []OfferedPreset{}, Fabrics: []OfferedFabric{}, Filters: []OfferedFilter{}, Kernels: slices.Clone(c.Kernels)}
	fabrics, filters := c.axes()
	out.Options = c.offeredOptions(fabrics, filters)
	for _, name := range fabrics {
		out.Fabrics = append(out.Fabrics, c.offeredFabric(name, out.Options))
	}
	for _, name := range filters {
		out.Filters = append(out.Filters, c.offeredFilter(name, out.Options))
	}
	for _, d := range c.Datapaths {
		if !d.Crossed {
			out.Presets = append(out.Presets, OfferedPreset{Name: d.Name, Doc: d.Doc, Fabric: d.Fabric, Filter: d.Filter})
		}
	}
	for _, w := range c.Workloads {
		out.Workloads = append(out.Workloads, OfferedWorkload{Name: w.Name, Doc: w.Doc, Tool: w.Tool, Protocol: cmp.Or(w.Application, w.Protocol),
			Headline: w.Headline, Work: w.Work.Name, Counts: w.Counts, Streams: w.Streams})
	}
	return out
}

// oldest is the release from which on everything without another one runs: that of the
// oldest kernel that is tested.
func (c Catalog) oldest() string {
	if len(c.Kernels) == 0 {
		return ""
	}
	return c.Kernels[0]
}

// crossed lists the filters on fabrics.
func (c Catalog) crossed(is func(DatapathEntry) bool) (out []DatapathEntry) {
	for _, d := range c.Datapaths {
		if d.Crossed && is(d) {
			out = append(out, d)
		}
	}
	return out
}

func (c Catalog) offeredFabric(name string, options []OfferedOption) OfferedFabric {
	d := c.crossed(func(d DatapathEntry) bool { return d.Fabric == name })[0]
	out := OfferedFabric{Name: name, Doc: d.FabricDoc, Base: d.Base, Mechanism: d.FabricMechanism, Options: []string{}}
	for _, o := range options {
		if slices.Contains(o.Fabrics, name) && o.OfFabric {
			out.Options = append(out.Options, o.Key)
		}
	}
	return out
}

func (c Catalog) offeredFilter(name string, options []OfferedOption) OfferedFilter {
	all := c.crossed(func(d DatapathEntry) bool { return d.Filter == name })
	d := all[0]
	out := OfferedFilter{Name: name, Doc: d.FilterDoc, Mechanism: d.Mechanism, Structure: d.Structure, Regime: d.Regime, Hook: d.Hook,
		Since: cmp.Or(d.Since, c.oldest()), Policies: !d.NoPolicies, Control: d.Control, External: d.External, Options: []string{}}
	for _, o := range options {
		if slices.Contains(o.Filters, name) && o.OfFilter {
			out.Options = append(out.Options, o.Key)
		}
	}
	for _, d := range all {
		out.Places = append(out.Places, d.places()...)
	}
	return out
}

// places are where a filter on a fabric can be measured with its default options.
func (d DatapathEntry) places() (out []Place) {
	options := map[string]string{}
	for _, o := range d.Options {
		if o.Applies(options) {
			options[o.Key] = o.Allowed[0]
		}
	}
	for _, k := range d.Keys {
		if k.Script {
			options[k.Key] = k.Key
		}
	}
	for _, p := range []Place{{Clock: ClockWall, Endpoint: EndpointDocker}, {Clock: ClockWall, Endpoint: EndpointNetns}, {Clock: ClockVirtual, Endpoint: EndpointNetns}} {
		lab := defaults().Lab
		lab.Clock, lab.Endpoint, lab.Memory = p.Clock, p.Endpoint, maxMemory
		for _, scenario := range []string{Localhost, MultiHost} {
			p.Fabric, p.Scenario, p.Why = d.Fabric, scenario, d.Impossible
			if p.Why == "" && d.Refuse != nil {
				p.Why = d.Refuse(lab, scenario, options)
			}
			out = append(out, p)
		}
	}
	return out
}

// offeredOptions lists every option and free key once, with the fabrics and filters that
// have it with these levels.
func (c Catalog) offeredOptions(fabrics, filters []string) (out []OfferedOption) {
	possible := c.crossed(func(d DatapathEntry) bool { return d.Impossible == "" })
	for _, d := range possible {
		for _, o := range d.Options {
			offered := OfferedOption{Key: o.Key, Doc: o.Doc, Role: cmp.Or(o.Role, catalog.RoleEnforcement), Levels: []OfferedLevel{}}
			if o.Needs != (Level{}) {
				offered.Needs = o.Needs.Key + "=" + o.Needs.Level
			}
			for _, level := range o.Allowed {
				offered.Levels = append(offered.Levels, OfferedLevel{Level: level, Since: cmp.Or(o.Since[level], c.oldest())})
			}
			out = addOption(out, offered, d)
		}
		for _, k := range d.Keys {
			out = addOption(out, OfferedOption{Key: k.Key, Doc: k.Doc, Role: catalog.RoleEnforcement, Levels: []OfferedLevel{}}, d)
		}
	}
	for i := range out { // in the driver's order
		out[i].Fabrics = inOrderOf(fabrics, out[i].Fabrics)
		out[i].Filters = inOrderOf(filters, out[i].Filters)
		onFabrics, withFilters := 0, 0
		for _, d := range possible {
			if slices.Contains(out[i].Fabrics, d.Fabric) {
				onFabrics++
			}
			if slices.Contains(out[i].Filters, d.Filter) {
				withFilters++
			}
		}
		out[i].OfFabric, out[i].OfFilter = out[i].arms == onFabrics, out[i].arms == withFilters
	}
	return out
}

// addOption adds an option of a datapath to those that others have.
func addOption(all []OfferedOption, o OfferedOption, d DatapathEntry) []OfferedOption {
	same := func(x OfferedOption) bool {
		return x.Key == o.Key && x.Doc == o.Doc && slices.Equal(x.Levels, o.Levels)
	}
	i := slices.IndexFunc(all, same)
	if i < 0 {
		i = len(all)
		all = append(all, o)
	}
	all[i].arms++
	all[i].Fabrics, all[i].Filters = append(all[i].Fabrics, d.Fabric), append(all[i].Filters, d.Filter)
	return all
}

// inOrderOf is the words of all that are among some, each once.
func inOrderOf(all, some []string) []string {
	has := map[string]bool{}
	for _, s := range some {
		has[s] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !has[s] })
}

// Names lists what can be named in the offer, each once and in its order.
func (o Offer) Names() (out []string) {
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	for _, x := range o.Filters {
		add(x.Name)
	}
	for _, x := range o.Fabrics {
		add(x.Name)
	}
	for _, x := range o.Presets {
		add(x.Name)
	}
	for _, x := range o.Options {
		add(x.Key)
	}
	for _, x := range o.Workloads {
		add(x.Name)
	}
	return out
}

// Named is the part of the offer with a name: a filter, a fabric, a preset, an option or a
// workload, or several, where several have it.
func (o Offer) Named(name string) Offer {
	keep := func(is string) bool { return is != name }
	out := Offer{
		Presets:   slices.DeleteFunc(slices.Clone(o.Presets), func(x OfferedPreset) bool { return keep(x.Name) }),
		Fabrics:   slices.DeleteFunc(slices.Clone(o.Fabrics), func(x OfferedFabric) bool { return keep(x.Name) }),
		Filters:   slices.DeleteFunc(slices.Clone(o.Filters), func(x OfferedFilter) bool { return keep(x.Name) }),
		Options:   slices.DeleteFunc(slices.Clone(o.Options), func(x OfferedOption) bool { return keep(x.Key) }),
		Workloads: slices.DeleteFunc(slices.Clone(o.Workloads), func(x OfferedWorkload) bool { return keep(x.Name) }),
		Kernels:   slices.Clone(o.Kernels),
	}
	return out
}

// FabricsOf lists the fabrics on which a filter can be measured somewhere.
func (f OfferedFilter) FabricsOf() []string {
	var out []string
	for _, p := range f.Places {
		if p.Why == "" && !slices.Contains(out, p.Fabric) {
			out = append(out, p.Fabric)
		}
	}
	return out
}

// Refusals are the reasons why a filter cannot be measured on a fabric, each with the places
// that it is about; whole says that it is one reason for all of them.
func (f OfferedFilter) Refusals(fabric string) (why map[string][]Place, whole bool) {
	why = map[string][]Place{}
	places := 0
	for _, p := range f.Places {
		if p.Fabric != fabric {
			continue
		}
		places++
		if p.Why != "" {
			why[p.Why] = append(why[p.Why], p)
		}
	}
	for _, about := range why {
		whole = whole || len(about) == places
	}
	return why, whole
}
