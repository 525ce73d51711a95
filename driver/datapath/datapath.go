// Package datapath renders every fabric and filter into bundle steps: pure
// functions from a cell to the very rules, maps and links that a node gets.
package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// ErrNotSupported is wrapped by Check when the machine's kernel or tools
// cannot carry a datapath; the cell becomes an unsupported row, not an error.
var ErrNotSupported = errors.New("not supported")

// Container networks a setup wants from an engine.
const (
	NetworkBridge = "bridge" // Docker's bridge network, Docker makes the links
	NetworkNone   = "none"   // the bundle makes the links
	// NetworkOverlay is the overlay network of the engines' Swarm; they make the links.
	NetworkOverlay = "overlay"
)

// Setup is a rendered datapath: what the node gets, how its enforcement is
// proven, and where its packets are counted.
type Setup struct {
	Topology Topology
	Network  string // container network, where endpoints are containers
	Files    map[string]bundle.File
	Apply    []bundle.Step
	Prove    []bundle.Step
	// Update adds one policy more, about a source that none names (Updated), and
	// Revert takes it out again; both while packets flow. None without policies.
	Update, Revert []bundle.Step
	// Hook is where the filter counts packets; nil if nothing filters.
	Hook *Hook
	// Tunnel is where the overlay between nodes counts packets that come to the
	// server's node; nil if there is none. Its values are those of a link.
	Tunnel *Hook
	// Proxy is the handle of the program that requests go through, "" for none.
	Proxy string
	// guards say what would spoil a trial without its counters showing it.
	guards []bundle.Step
	// KnownInstructions is what the filter is known to cost more than itself
	// without its load, in x86-64 instructions for each packet that the hook
	// counts; nil where that is not known.
	KnownInstructions *float64
	// Unsupported is why the filter cannot hold this cell's policies; "" if it can.
	Unsupported string
}

// Marks says whether the setup leaves its mark on an endpoint's namespace: a
// netfilter table, once loaded, stays registered after its rules are gone, and what
// the user's scripts do is not known.
func (s Setup) Marks(role string) bool {
	for _, st := range s.Apply {
		_, rules := st.Do.(bundle.Rules)
		tool, ran := st.Do.(bundle.Tool)
		if st.In == role && (rules || ran && tool.Do.Script != "") {
			return true
		}
	}
	return false
}

// Hook names the counter of a filter on the node it runs on.
type Hook struct {
	Node string
	In   string
	From bundle.Counter
}

// Read renders a snapshot of the hook's counters.
func (h Hook) Read(phase bundle.Phase, name string) bundle.Step {
	return bundle.Step{Node: h.Node, Phase: phase, In: h.In, Do: bundle.Read{Name: name, From: h.From}}
}

// Guards render what is looked at before and after the workload; a guard that
// fails voids the trial.
func (s Setup) Guards(phase bundle.Phase) []bundle.Step {
	out := slices.Clone(s.guards)
	for i := range out {
		out[i].Phase = phase
	}
	return out
}

// filter is one way to enforce policies, on whatever fabric can carry it.
type filter struct {
	name, doc  string
	noPolicies bool
	nature
	options []plan.Option
	keys    []plan.FreeKey
	// only is the fabric that it is a part of; "" goes with any.
	only string
	// inside: it needs nothing of a node, only the endpoints' namespaces.
	inside bool
	// maxClients is how many clients it can tell apart, 0 for any number.
	maxClients int
	whyClients string
	// mostRules is how many entries it holds, 0 for as many as there can be.
	mostRules int
	// application is the protocol whose requests its policies name, "" for none, and denied
	// what becomes of a request that they do not admit (bundle.RequestTry).
	application, denied string
	// inspect looks at the files that an arm names; nil: nothing.
	inspect func(plan.Spec, plan.Arm) []plan.Finding
	refuse  refusal // nil: nothing
	render  func(*renderer) error
}

// nature is what a filter is, as catalog.Filter has it.
type nature struct {
	mechanism, structure string
	// hook and since are those of plan.DatapathEntry.
	hook, since string
	// regime is the one that it always has; "" if an option says.
	regime   string
	control  bool
	external string
	model    *catalog.Pair
	// protocols its policies can name; nil is TCP.
	protocols []string
}

// preset is a combination with a name of its own.
type preset struct{ name, fabric, filter, doc string }

func presets() []preset {
	return []preset{
		{"docker", FabricBridge, "none", "Docker's bridge (or a plain one for namespaces), no policy"},
		{"iptables", FabricBridge, "iptables-legacy", "the study's: bridge and a linear list of iptables-legacy rules"},
		{"cilium-like", FabricBPF, "tc-hash", "tc programs at the veths: conntrack, identity hash policy, redirect; no bridge, no netfilter"},
		{"cilium", FabricCilium, filterCilium, "Cilium itself: its agent and its programs, from an image that the user names"},
		{"xdp", FabricBridge, "xdp-hash", "bridge and a stateless XDP hash policy: on the server's veth (localhost) or its node's NIC (multi-host)"},
		{"xdp-pass", FabricBridge, "xdp-pass", "control for xdp: a program at the same hook that passes every packet"},
		{"control", FabricBridge, "tc-control", "positive control: bridge and a tc program at the server's eth0 whose cost in instructions is known"},
	}
}

// crossName is the name of a filter on a fabric.
func crossName(fabric, filter string) string { return fabric + "+" + filter }

// Catalog describes every datapath to the plan's loader: the presets, then the
// whole cross, impossible combinations with their reason.
func Catalog() []plan.DatapathEntry {
	var named, crossed []plan.DatapathEntry
	for _, fa := range fabrics() {
		for _, fi := range filters() {
			e := combined(fa, fi)
			crossed = append(crossed, e)
			for _, p := range presets() {
				if p.fabric != fa.name || p.filter != fi.name {
					continue
				}
				e.Name, e.Doc, e.Crossed = p.name, p.doc, false
				named = append(named, e)
			}
		}
	}
	slices.SortStableFunc(named, func(a, b plan.DatapathEntry) int { return presetRank(a.Name) - presetRank(b.Name) })
	return append(named, crossed...)
}

func presetRank(name string) int {
	return slices.IndexFunc(presets(), func(p preset) bool { return p.name == name })
}

func combined(fa fabric, fi filter) plan.DatapathEntry {
	e := plan.DatapathEntry{
		Name: crossName(fa.name, fi.name), Doc: fa.doc + "; " + fi.doc, Fabric: fa.name, Filter: fi.name,
		Crossed: true, NoPolicies: fi.noPolicies, Keys: fi.keys,
		Options: slices.Concat([]plan.Option{familyOption()}, fa.options, fi.options),
	}
	e.MaxClients, e.WhyClients = fi.maxClients, fi.whyClients
	e.Mechanism, e.Structure, e.Regime, e.Control, e.External, e.Model = fi.mechanism, fi.structure, fi.regime, fi.control, fi.external, fi.model
	e.Base, e.FabricMechanism = fa.base, fa.mechanism
	e.Hook, e.Since, e.FabricDoc, e.FilterDoc = fi.hook, fi.since, fa.doc, fi.doc
	if e.Protocols = fi.protocols; e.Protocols == nil {
		e.Protocols = []string{catalog.TCP}
	}
	e.Inspect, e.Application = fi.inspect, fi.application
	if !fi.noPolicies {
		e.MostPolicies = func(options map[string]string, clients int) (int, string) {
			return mostPolicies(options, clients, fi.mostRules)
		}
		if e.OwnRefuses = ownRefuses(fi, e); !holdingOf(fi.name, "").none || fi.application != "" {
			e.OwnLevels = map[string]string{optPolicy: PolicyOwn, optAction: actionAllow, optMatch: matchLast}
		}
	}
	if fa.bare {
		e.MaxClients, e.WhyClients = 1, fmt.Sprintf("fabric %q is one link between two endpoints", fa.name)
	}
	if fa.bare && !fi.inside {
		e.Impossible = "it belongs at the node's end of an endpoint's link, and here both ends are endpoints"
	}
	switch {
	case fa.only != "" && fa.only != fi.name:
		e.Impossible = fmt.Sprintf("its programs are one with filter %q; write datapath = %q", fa.only, fa.only)
	case fi.only != "" && fi.only != fa.name:
		e.Impossible = fmt.Sprintf("it is one with fabric %q; write datapath = %q", fi.only, fi.only)
	}
	if fa.only+fi.only != "" && e.Impossible != "" {
		e.Options, e.Keys = nil, nil // so that the catalogs of other filters do not have them
	}
	refuse := refuseFirst(refuseBare, refuseOverlay)
	if fi.refuse != nil {
		refuse = refuseFirst(refuseBare, refuseOverlay, fi.refuse)
	}
	e.Refuse = func(lab plan.Lab, scenario string, options map[string]string) string {
		return refuse(lab, fa, scenario, options)
	}
	return e
}

// Render renders the setup of a cell. It is pure and touches nothing.
func Render(cell plan.Cell) (Setup, error) {
	fa, fi, err := combination(cell)
	if err != nil {
		return Setup{}, fmt.Errorf("render cell %s: %w", cell.ID, err)
	}
	if _, err := protocolOf(cell); err != nil {
		return Setup{}, fmt.Errorf("render cell %s: %w", cell.ID, err)
	}
	if most, why := mostPolicies(cell.Factors, len(Layout(cell).Clients()), fi.mostRules); !fi.noPolicies && cell.Own == nil && cell.Int(plan.FactorPolicies) > most {
		return Setup{}, fmt.Errorf("render filter %q: it cannot be given %s policies, only %d: %s", fi.name, cell.Get(plan.FactorPolicies), most, why)
	}
	r := newRenderer(cell, fa)
	if err := r.policies.err; err != nil && !fi.noPolicies {
		return Setup{}, fmt.Errorf("render filter %q: %w", fi.name, err)
	}
	r.common()
	fa.build(r)
	if err := fi.render(r); err != nil {
		return Setup{}, fmt.Errorf("render filter %q on fabric %q: %w", fi.name, fa.name, err)
	}
	if fa.redirects && !r.joined {
		if err := r.joinByTC(bpf.StructurePass, nil); err != nil {
			return Setup{}, fmt.Errorf("render fabric %q: %w", fa.name, err)
		}
	}
	r.watchOverlay()
	r.Apply = append(r.Apply, r.updateOnce()...)
	if fi.application != "" {
		r.proveRequests(fi.denied)
	} else {
		r.prove()
	}
	return r.Setup, nil
}

func combination(cell plan.Cell) (fa fabric, fi filter, err error) {
	i := slices.IndexFunc(fabrics(), func(f fabric) bool { return f.name == cell.Get(plan.FactorFabric) })
	k := slices.IndexFunc(filters(), func(f filter) bool { return f.name == cell.Get(plan.FactorFilter) })
	if i < 0 || k < 0 {
		return fa, fi, fmt.Errorf("unknown fabric %q or filter %q", cell.Get(plan.FactorFabric), cell.Get(plan.FactorFilter))
	}
	return fabrics()[i], filters()[k], nil
}

// Check says whether a node with these facts (bundle session facts) can carry
// the setup; an error wraps ErrNotSupported.
func Check(s Setup, facts map[string]string) error {
	if s.Unsupported != "" {
		return fmt.Errorf("%w: %s", ErrNotSupported, s.Unsupported)
	}
	for _, st := range s.Apply {
		if r, ok := st.Do.(bundle.Rules); ok && facts["tool."+r.Tool] == "" {
			return fmt.Errorf("%w: the node has no %s", ErrNotSupported, r.Tool)
		}
	}
	return nil
}

// renderer collects the steps of one setup.
type renderer struct {
	Setup
	cell     plan.Cell
	fabric   fabric
	policies policies
	requests []RequestPolicy // of a filter of requests, which has no other policies
	// realised is what the kernel must hold once the policies are applied.
	realised []bundle.Expect
	joined   bool // the programs of fabric bpf are there
	// identities are those that the policies' sources have, where the filter looks up
	// identities.
	identities map[netip.Addr]uint32
	// admits is the value of the filter's counters that grows with what it admits.
	admits string
}

func newRenderer(cell plan.Cell, fa fabric) *renderer {
	t := Layout(cell)
	var requests []RequestPolicy
	if cell.Get(optPolicy) == policyL7 {
		requests, _ = requestsOf(cell)
	}
	ps := policiesOf(cell, t)
	if ps.requests != nil {
		requests = ps.requests
	}
	return &renderer{
		requests: requests,
		Setup:    Setup{Topology: t, Network: NetworkBridge, Files: map[string]bundle.File{}},
		cell:     cell,
		fabric:   fa,
		policies: ps,
		admits:   bundle.CountAccepted,
	}
}

func (r *renderer) apply(node Node, in string, do bundle.Action) {
	r.Apply = append(r.Apply, bundle.Step{Node: node.Name, Phase: bundle.Apply, In: in, Do: do})
}

// update and revert add steps to the two halves of updating by one policy.
func (r *renderer) update(node Node, in string, do bundle.Action) {
	r.Update = append(r.Update, bundle.Step{Node: node.Name, Phase: bundle.Apply, In: in, Do: do})
}

func (r *renderer) revert(node Node, in string, do bundle.Action) {
	r.Revert = append(r.Revert, bundle.Step{Node: node.Name, Phase: bundle.Apply, In: in, Do: do})
}

// guard looks at what a filter's counters do not show.
func (r *renderer) guard(node Node, in string, g bundle.Guard) {
	r.guards = append(r.guards, bundle.Step{Node: node.Name, In: in, Do: g})
}

// tableShare is how full a table of connections may be. Beyond it new ones are
// dropped, or old ones fall out, and that is measured instead of the filter.
const tableShare = 0.9

// updateOnce adds one policy and takes it out again, to measure how long that takes.
func (r *renderer) updateOnce() []bundle.Step { return slices.Concat(r.Update, r.Revert) }

func (r *renderer) file(name string, data []byte) string {
	r.Files[name] = bundle.NewFile(data)
	return name
}

func (r *renderer) endpoints() []Endpoint { return r.Topology.Endpoints() }

// installed is what the filter is given: the policies, and what the workload
// needs in addition.
func (r *renderer) installed() []bpf.Policy { return r.policies.installed(r.Topology) }

// common renders what every fabric needs of a node: forwarding on, and reverse
// path filtering off, because the proof sends from sources that the node would
// otherwise drop before any policy sees them.
func (r *renderer) common() {
	for _, n := range r.Topology.Nodes {
		if r.Topology.IPv6 {
			r.enableIPv6(n, "")
			r.apply(n, "", bundle.Sysctl{Key: "net.ipv6.conf.all.forwarding", Value: "1"})
			continue
		}
		r.apply(n, "", bundle.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"})
		for _, conf := range []string{"all", "default", DataLink} {
			r.apply(n, "", bundle.Sysctl{Key: "net/ipv4/conf/" + conf + "/rp_filter", Value: "0", Optional: conf == DataLink})
		}
	}
}

// enableIPv6 switches IPv6 on, which engines switch off in containers.
func (r *renderer) enableIPv6(n Node, in string) {
	for _, conf := range []string{"all", "default"} {
		r.apply(n, in, bundle.Sysctl{Key: "net.ipv6.conf." + conf + ".disable_ipv6", Value: "0"})
	}
}

// endpointSysctls fixes what must not differ between endpoints. The keys are
// those of TCP over either family.
func (r *renderer) endpointSysctls(e Endpoint) {
	r.apply(e.Node, e.Role, bundle.Sysctl{Key: "net.ipv4.tcp_congestion_control", Value: r.cell.Get(plan.FactorCongestion)})
	// What one connection learned must not help or hurt the next.
	r.apply(e.Node, e.Role, bundle.Sysctl{Key: "net.ipv4.tcp_no_metrics_save", Value: "1"})
	// TCP_CRR closes from the client; without reuse its ports run out.
	r.apply(e.Node, e.Role, bundle.Sysctl{Key: "net.ipv4.tcp_tw_reuse", Value: "1"})
}
