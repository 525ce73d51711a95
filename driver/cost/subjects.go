// Package cost measures what a packet costs: each tc and XDP program by
// BPF_PROG_TEST_RUN next to those of other projects, and the packet rate of every
// arm of an experiment by a generator. What the numbers mean is in
// docs/cost.md.
package cost

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	words "hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// Hooks at which a subject's program belongs.
const (
	HookTC  = "tc"
	HookXDP = "xdp"
)

// Return codes by which programs of a hook let a packet pass and drop it
// (include/uapi/linux/pkt_cls.h, bpf.h).
const (
	tcOK    = 0
	tcShot  = 2
	xdpDrop = 1
	xdpPass = 2
)

// Subject is one program with one way to keep policies.
type Subject struct {
	Name string
	Hook string
	Doc  string
	// External names the project whose program it is; "" is hookbed.
	External string
	// NoPolicies: the program has none and is measured once, as N = 0.
	NoPolicies bool
	// Accept is the return code of a packet that passes; a drop is the hook's.
	Accept uint32
	ttl    uint8
	render func(s Subject, n int, env Environment) (instance, error)
}

// drop is the return code of a packet that is dropped.
func (s Subject) drop() uint32 {
	if s.Hook == HookXDP {
		return xdpDrop
	}
	return tcShot
}

// instance is a subject with N policies, rendered: how to load it, and which sources
// its policies name.
type instance struct {
	bundle  *bundle.Bundle
	ends    []bundle.Step // end whatever loaded the program, which stays held
	handle  string
	program string
	named   []netip.Addr // the policies' sources in their order
	unnamed netip.Addr
	to      netip.Addr
}

// allSubjects lists every program that can be measured.
func allSubjects() []Subject { return SubjectsOf(datapath.Catalog()) }

// SubjectsOf are the programs of a catalog's filters, as they are where fabrics
// have none of their own, then other programs that arms load, then those of other projects.
func SubjectsOf(catalog []plan.DatapathEntry) []Subject {
	policyFirst := Subject{Name: "tc-hash-policy-first", Hook: HookTC, Doc: "identity and hash, then conntrack only if no policy admits", Accept: tcOK,
		render: ownProgramOf("tc-hash", fabricBase, bpf.ProgToEndpoint, option{"enforce", "policy-first"})}
	// With a TTL of 1 the verdict is reached but nothing rewritten or redirected,
	// so that every run sees the same frame.
	joining := Subject{Name: "cilium-like", Hook: HookTC, Doc: "tc-hash within the program that joins endpoints", Accept: tcOK, ttl: 1,
		render: ownProgramOf("tc-hash", datapath.FabricBPF, bpf.ProgFromEndpoint)}
	return slices.Concat(programs(catalog, words.TC, policyFirst), []Subject{joining}, programs(catalog, words.XDP), externalSubjects())
}

// programs are those of the filters of one mechanism, each followed by the variants
// whose names begin with its. Filters whose policies are of requests are left out: no frame
// that is measured here holds one.
func programs(catalog []plan.DatapathEntry, mechanism string, variants ...Subject) (out []Subject) {
	for _, e := range catalog {
		if !e.Crossed || !e.Base || e.Mechanism != mechanism || e.Control || e.External != "" || e.Application != "" || len(e.Keys) > 0 {
			continue
		}
		s := Subject{Name: e.Filter, Hook: HookTC, Doc: e.Doc, NoPolicies: e.NoPolicies, Accept: tcOK, render: ownProgram(e.Fabric, bpf.ProgToEndpoint)}
		if mechanism == words.XDP {
			s.Hook, s.Accept, s.render = HookXDP, xdpPass, ownProgram(e.Fabric, bpf.ProgXDP)
			if e.NoPolicies {
				s.render = ownProgram(e.Fabric, bpf.ProgXDPPass)
			}
		}
		out = append(out, s)
		for _, v := range variants {
			if strings.HasPrefix(v.Name, e.Filter+"-") {
				out = append(out, v)
			}
		}
	}
	return out
}

// fabricBase is where filters are measured: it has no programs of its own.
const fabricBase = datapath.FabricBridge

// ownProgram renders a subject that is named like the filter of an arm.
func ownProgram(fabric, program string) func(Subject, int, Environment) (instance, error) {
	return func(s Subject, n int, env Environment) (instance, error) {
		return ownProgramOf(s.Name, fabric, program)(s, n, env)
	}
}

// ownProgramOf renders the very object, variables and map entries of an arm's filter;
// what of it makes links is left out.
func ownProgramOf(filter, fabric, program string, options ...option) func(Subject, int, Environment) (instance, error) {
	return func(s Subject, n int, _ Environment) (instance, error) {
		cell, err := cellOf(fabric, filter, n, options...)
		if err != nil {
			return instance{}, err
		}
		setup, err := datapath.Render(cell)
		if err != nil {
			return instance{}, err
		}
		i := newInstance(s, n, cell)
		i.program = program
		for _, st := range setup.Apply {
			if st.Do = relabel(st.Do, i.handle); st.Do != nil {
				i.bundle.Steps = append(i.bundle.Steps, st)
			}
		}
		i.bundle.Files = setup.Files
		if s.Hook == HookXDP {
			i.attachNative(s, n)
		}
		return i, nil
	}
}

// relabel gives an action that loads or fills another handle; nil for others and
// for those that only time an update.
func relabel(do bundle.Action, handle string) bundle.Action {
	switch a := do.(type) {
	case bundle.LoadBPF:
		a.Handle = handle
		if slices.Contains(a.Programs, bpf.ProgToEndpoint) || slices.Contains(a.Programs, bpf.ProgFromEndpoint) {
			// Dozens are loaded at once, and one flow is all that they see.
			a.MaxEntries = maps.Clone(a.MaxEntries)
			a.MaxEntries[bpf.MapConntrack] = conntrackEntries
		}
		return a
	case bundle.FillMap:
		if a.Metric != "" {
			return nil
		}
		a.Handle = handle
		return a
	}
	return nil
}

// conntrackEntries is the room for flows in a program under test; an arm has
// more.
const conntrackEntries = 65536

func newInstance(s Subject, n int, cell plan.Cell) instance {
	handle := fmt.Sprintf("%s/%d", s.Name, n)
	named, unnamed := datapath.PolicySources(cell)
	return instance{
		bundle: &bundle.Bundle{Schema: bundle.Schema, Name: handle, Files: map[string]bundle.File{}},
		handle: handle, named: named, unnamed: unnamed, to: datapath.Layout(cell).Server.Addr,
	}
}

// option is an arm's option that is not at its default.
type option struct{ key, level string }

// cellOf is the cell of an arm on this computer with every other option at its
// default.
func cellOf(fabric, filter string, n int, options ...option) (plan.Cell, error) {
	catalog := datapath.Catalog()
	i := slices.IndexFunc(catalog, func(e plan.DatapathEntry) bool { return e.Fabric == fabric && e.Filter == filter })
	if i < 0 {
		return plan.Cell{}, fmt.Errorf("no filter %q on fabric %q", filter, fabric)
	}
	f := map[string]string{
		plan.FactorDatapath: catalog[i].Name, plan.FactorFabric: fabric, plan.FactorFilter: filter, plan.FactorPolicies: strconv.Itoa(n),
		plan.FactorScenario: plan.Localhost, plan.FactorEndpoint: plan.EndpointNetns, plan.FactorProvider: plan.ProviderLocal,
		plan.FactorClock: plan.ClockWall, plan.FactorCongestion: "reno",
	}
	for _, o := range catalog[i].Options {
		f[o.Key] = o.Allowed[0]
	}
	for _, o := range options {
		known := slices.ContainsFunc(catalog[i].Options, func(k plan.Option) bool { return k.Key == o.key && slices.Contains(k.Allowed, o.level) })
		if !known {
			return plan.Cell{}, fmt.Errorf("filter %q has no %s = %q", filter, o.key, o.level)
		}
		f[o.key] = o.level
	}
	return plan.Cell{ID: fmt.Sprintf("%s-%d", filter, n), Factors: f}, nil
}

// Positions of the policy that a frame meets, and of a frame that meets none.
const (
	matchFirst  = "first"
	matchMiddle = "middle"
	matchLast   = "last"
	matchNone   = "none"
)

// matches lists the positions in the order of tables.
func matches() []string { return []string{matchFirst, matchMiddle, matchLast, matchNone} }

// sender is the source whose policy is at a position.
func (i instance) sender(match string) netip.Addr {
	switch n := len(i.named); {
	case match == matchNone || n == 0:
		return i.unnamed
	case match == matchFirst:
		return i.named[0]
	case match == matchMiddle:
		return i.named[(n-1)/2]
	default:
		return i.named[n-1]
	}
}

// attachNative attaches an XDP program to a link of its own, where nothing comes
// by. The kernel calls the programs that are attached to drivers by a dispatcher
// that it rewrites when one is added (kernel/bpf/dispatcher.c, 48 at once); a test
// run of another adds it for the time of the system call, which takes milliseconds.
func (i *instance) attachNative(s Subject, n int) {
	link := linkName(s, n) + "n"
	i.step(bundle.Veth{Link: link, Peer: link + "p", PeerIn: ""})
	i.step(bundle.AttachBPF{Handle: i.handle, Program: i.program, Link: link, Hook: bundle.HookXDPNative})
}

func (i *instance) step(do bundle.Action) {
	i.bundle.Steps = append(i.bundle.Steps, bundle.Step{Node: datapath.NodeAt(1).Name, Phase: bundle.Apply, Do: do})
}

// linkName is short enough for an interface and unique among instances.
func linkName(s Subject, n int) string {
	index := slices.IndexFunc(allSubjects(), func(o Subject) bool { return o.Name == s.Name })
	return fmt.Sprintf("s%d-%d", index, n)
}

// frame is the segment that meets the policy at a position.
func (i instance) frame(match string, ttl uint8) bundle.Frame {
	return bundle.Frame{From: i.sender(match), To: i.to, FromPort: 40000, ToPort: datapath.ServicePort, TTL: ttl}
}

// Select picks subjects by name; "" or "all" is all of them.
func Select(names []string) ([]Subject, error) {
	all := allSubjects()
	if len(names) == 0 || len(names) == 1 && names[0] == "all" {
		return all, nil
	}
	var known []string
	for _, s := range all {
		known = append(known, s.Name)
	}
	var out []Subject
	for _, name := range names {
		i := slices.Index(known, name)
		if i < 0 {
			return nil, fmt.Errorf("no program %q, want some of %s", name, strings.Join(known, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}
