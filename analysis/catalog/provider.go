package catalog

import "slices"

// Names of providers, as experiments, rows and env.json have them.
const (
	ProviderLibvirt = "libvirt"
	ProviderLocal   = "local"
	ProviderSSH     = "ssh"
)

// Provider is a way to have nodes.
type Provider struct {
	Name string
	Doc  string // one line
	Capabilities
}

// Capabilities are what the nodes of a provider are and have, as far as a plan, a run
// or an analysis depends on it. The zero value assumes nothing. A provider's name is
// compared nowhere: what differs between providers is one of these.
type Capabilities struct {
	// VMs: the nodes are QEMU machines that the lab makes. The experiment chooses their
	// kernel, CPUs, memory and network cards, and the hypervisors that run them; their
	// clock can count instructions. The lab boots them again where one is faulty.
	VMs bool
	// Engines: the nodes run Docker Engines, which the lab may join in a Swarm.
	Engines bool
	// Existing: the nodes are existing machines, which the experiment lists.
	Existing bool
	// LoadsHere: the nodes run on this computer, unless the experiment names
	// hypervisors. Its load and its CPUs are theirs.
	LoadsHere bool
	// Outlives: the nodes can be left running when the driver ends.
	Outlives bool
}

// Here says whether the nodes share the kernel of this computer.
func (c Capabilities) Here() bool { return c.LoadsHere && !c.VMs }

// Providers lists the providers. An experiment that names none has the first.
func Providers() []Provider {
	return []Provider{
		{ProviderLibvirt, "virtual machines of libvirt", Capabilities{VMs: true, Engines: true, LoadsHere: true, Outlives: true}},
		{ProviderLocal, "network namespaces of this computer", Capabilities{LoadsHere: true}},
		{ProviderSSH, "existing machines, reached by SSH", Capabilities{Existing: true}},
	}
}

// ProviderNamed finds one of Providers by its name. ok is false if there is none; it is
// then one without any capability.
func ProviderNamed(name string) (p Provider, ok bool) {
	all := Providers()
	i := slices.IndexFunc(all, func(p Provider) bool { return p.Name == name })
	if i < 0 {
		return Provider{Name: name}, false
	}
	return all[i], true
}
