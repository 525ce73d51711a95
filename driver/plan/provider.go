package plan

import (
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/catalog"
)

// Names of providers. What they can do is in their entries: see Lab.Capabilities.
const (
	ProviderLibvirt = catalog.ProviderLibvirt
	ProviderLocal   = catalog.ProviderLocal
	ProviderSSH     = catalog.ProviderSSH
)

// Capabilities are what the nodes of the lab's provider are and have. A provider that
// is in no catalog has none.
func (l Lab) Capabilities() catalog.Capabilities {
	if l.provider != nil {
		return l.provider.Capabilities
	}
	p, _ := catalog.ProviderNamed(l.Provider)
	return p.Capabilities
}

// providers lists the providers that an experiment may choose from.
func (c Catalog) providers() []catalog.Provider {
	if c.Providers != nil {
		return c.Providers
	}
	return catalog.Providers()
}

func (c Catalog) providerNames() []string {
	var out []string
	for _, p := range c.providers() {
		out = append(out, p.Name)
	}
	return out
}

// entryOf is the provider's entry where the catalog has providers of its own, else nil:
// Lab.Capabilities then finds it by its name.
func (c Catalog) entryOf(name string) *catalog.Provider {
	i := slices.IndexFunc(c.Providers, func(p catalog.Provider) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Providers[i]
}

// with names the providers that have a capability, for a message: "libvirt", quoted,
// or several joined by "or".
func (c Catalog) with(has func(catalog.Capabilities) bool) string {
	var out []string
	for _, p := range c.providers() {
		if has(p.Capabilities) {
			out = append(out, strconv.Quote(p.Name))
		}
	}
	return strings.Join(out, " or ")
}

// withVMs names the providers whose nodes are virtual machines.
func (c Catalog) withVMs() string {
	return c.with(func(p catalog.Capabilities) bool { return p.VMs })
}

// withEngines names the providers whose nodes have Docker Engines.
func (c Catalog) withEngines() string {
	return c.with(func(p catalog.Capabilities) bool { return p.Engines })
}

// withExisting names the providers whose nodes are existing machines.
func (c Catalog) withExisting() string {
	return c.with(func(p catalog.Capabilities) bool { return p.Existing })
}
