package plan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hookbed/analysis/catalog"
)

// Words are what the plan's arms, options and workloads are: those that it
// carries, or of schema 1 those that were known then.
func (p *Plan) Words() catalog.Catalog {
	if p.Catalog == nil {
		return catalog.Schema1()
	}
	return *p.Catalog
}

// checkCatalog holds the catalog of plan.json against its cells.
func (p *Plan) checkCatalog() error {
	if p.Schema == 1 {
		if p.Catalog != nil {
			return errors.New("schema 1 has no catalog")
		}
		return nil
	}
	if p.Catalog == nil {
		return fmt.Errorf("schema %d has a catalog, and here is none", p.Schema)
	}
	for _, c := range p.Cells {
		_, filter := p.Catalog.Filter(c.Get(FactorFilter))
		_, fabric := p.Catalog.Fabric(c.Get(FactorFabric))
		_, workload := p.Catalog.Workload(c.Get(FactorWorkload))
		if !filter || !fabric || !workload {
			return fmt.Errorf("cell %s (%s) is of a filter, fabric or workload that the catalog does not say", c.ID, c.Title())
		}
	}
	return nil
}

// chosen is the part of the catalog that a plan uses.
func (c Catalog) chosen(p *Plan) catalog.Catalog {
	var out catalog.Catalog
	used := map[string]bool{}
	for _, cell := range p.Cells {
		for _, factor := range []string{FactorDatapath, FactorFilter, FactorFabric} {
			used[factor+"="+cell.Get(factor)] = true
		}
	}
	for _, d := range c.inOrder() {
		if used[FactorFabric+"="+d.Fabric] {
			out = catalog.Join(out, catalog.Catalog{Fabrics: []catalog.Fabric{d.fabric()}})
		}
		if !used[FactorFilter+"="+d.Filter] {
			continue
		}
		out = catalog.Join(out, catalog.Catalog{Filters: []catalog.Filter{d.filter()}})
	}
	for _, d := range c.Datapaths {
		if !used[FactorDatapath+"="+d.Name] {
			continue
		}
		out = catalog.Join(out, catalog.Catalog{Options: d.options()})
	}
	for _, w := range c.Workloads {
		if slices.Contains(p.Spec.Workloads, w.Name) {
			out.Workloads = append(out.Workloads, w.words())
		}
	}
	return out
}

// inOrder lists the datapaths so that filters come in the driver's order: the
// cross first, which is made of it.
func (c Catalog) inOrder() []DatapathEntry {
	crossed := func(d DatapathEntry) bool { return d.Crossed }
	return slices.Concat(slices.DeleteFunc(slices.Clone(c.Datapaths), func(d DatapathEntry) bool { return !crossed(d) }),
		slices.DeleteFunc(slices.Clone(c.Datapaths), crossed))
}

func (d DatapathEntry) fabric() catalog.Fabric {
	return catalog.Fabric{Name: d.Fabric, Base: d.Base, Mechanism: d.FabricMechanism}
}

func (d DatapathEntry) filter() catalog.Filter {
	f := catalog.Filter{Name: d.Filter, Mechanism: d.Mechanism, Structure: d.Structure, Policies: !d.NoPolicies, Regime: d.Regime,
		Control: d.Control, External: d.External, Model: d.Model}
	for _, o := range d.Options {
		if f.Defaults == nil {
			f.Defaults = map[string]string{}
		}
		f.Defaults[o.Key] = o.Allowed[0]
	}
	return f
}

// options are those of a datapath, and its free keys, which are about how it enforces. An image is no
// option: it has no default, and what an arm is does not depend on how its image is named.
func (d DatapathEntry) options() []catalog.Option {
	var out []catalog.Option
	for _, o := range d.Options {
		out = append(out, catalog.Option{Key: o.Key, Role: cmp.Or(o.Role, catalog.RoleEnforcement), Regimes: maps.Clone(o.Regimes), Means: maps.Clone(o.Means)})
	}
	for _, k := range d.Keys {
		if k.Image {
			continue
		}
		out = append(out, catalog.Option{Key: k.Key, Role: catalog.RoleEnforcement})
	}
	return out
}

// RegimeOf is for which packets policies of an arm with these options are looked up, "" if it
// has none or that is not known.
func (d DatapathEntry) RegimeOf(options map[string]string) string {
	words := catalog.Catalog{Filters: []catalog.Filter{d.filter()}, Options: d.options()}
	factors := maps.Clone(options)
	if factors == nil {
		factors = map[string]string{}
	}
	factors[FactorFabric], factors[FactorFilter] = d.Fabric, d.Filter
	return words.Regime(factors)
}

func (w WorkloadEntry) words() catalog.Workload {
	return catalog.Workload{Name: w.Name, Protocol: w.Protocol, Tool: w.Tool, Headline: w.Headline, Metrics: w.Metrics, Work: w.Work, Figure: w.Figure, Study: w.Study}
}

// attach gives every cell what is not a factor of it: the files of its arm, and the
// protocol of its workload.
func (p *Plan) attach() {
	files := map[string]map[string]File{}
	for _, a := range p.Spec.Arms {
		files[a.Name] = a.Files
	}
	words := p.Words()
	for i, c := range p.Cells {
		w, _ := words.Workload(c.Get(FactorWorkload))
		p.Cells[i].Files, p.Cells[i].Protocol, p.Cells[i].Own = files[c.Get(FactorArm)], w.Protocol, p.Spec.Own
	}
}
