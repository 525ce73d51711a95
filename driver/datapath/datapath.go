package datapath

import (
	"errors"
	"fmt"

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
)

// Setup is a rendered datapath: what the node gets, how its enforcement is
// proven, and where its packets are counted.
type Setup struct {
	Topology Topology
	Network  string // container network, where endpoints are containers
	Files    map[string]bundle.File
	Apply    []bundle.Step
	Prove    []bundle.Step
	// Hook is where the filter counts packets; nil if nothing filters.
	Hook *Hook
	// JIT: the filter is eBPF, so a trial without the JIT is void.
	JIT bool
	// KnownInstructions is what the filter is known to cost more than itself
	// without its load, in x86-64 instructions for each packet that the hook
	// counts; nil where that is not known.
	KnownInstructions *float64
}

// Marks says whether the setup leaves its mark on an endpoint's namespace: a
// netfilter table, once loaded, stays registered after its rules are gone.
func (s Setup) Marks(role string) bool {
	for _, st := range s.Apply {
		if _, rules := st.Do.(bundle.Rules); rules && st.In == role {
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

// datapath is one entry of the registry.
type datapath struct {
	plan.DatapathEntry
	fabric func(*renderer)
	filter func(*renderer) error
}

// Option keys.
const (
	optState     = "state"
	optPlacement = "placement"
	optEnforce   = "enforce"
	optDelivery  = "delivery"
	optAttach    = "attach"
	optSpin      = "spin"

	stateAsStudy     = "as-study"
	stateEstablished = "established-first"
	placementInput   = "input"
	placementForward = "forward"
	enforceAll       = "all"
	enforceNew       = "new"
	deliverRedirect  = "redirect"
	deliverPeer      = "peer"
	attachNative     = "native"
	attachGeneric    = "generic"
)

func registry() []datapath {
	attach := plan.Option{Key: optAttach, Allowed: []string{attachNative, attachGeneric}, Doc: "XDP mode: in the driver, or generic on the sk_buff"}
	return []datapath{
		{plan.DatapathEntry{
			Name: "docker", Fabric: "bridge", Filter: "none", NoPolicies: true,
			Doc: "Docker's bridge (or a plain one for namespaces), no policy",
		}, bridgeFabric, noFilter},
		{plan.DatapathEntry{
			Name: "iptables", Fabric: "bridge", Filter: "iptables-legacy",
			Doc: "bridge and a linear list of iptables-legacy rules",
			Options: []plan.Option{
				{Key: optState, Allowed: []string{stateAsStudy, stateEstablished}, Doc: "every rule asks for NEW, or established connections are accepted first"},
				{Key: optPlacement, Allowed: []string{placementInput, placementForward}, Doc: "INPUT of the server's namespace, or DOCKER-USER on its node"},
			},
		}, bridgeFabric, netfilterFilter},
		{plan.DatapathEntry{
			Name: "cilium-like", Fabric: "bpf", Filter: "tc-hash",
			Doc: "tc programs at the veths: conntrack, identity hash policy, redirect; no bridge, no netfilter",
			Options: []plan.Option{
				{Key: optEnforce, Allowed: []string{enforceAll, enforceNew}, Doc: "look the policy up for every forward packet, or for new connections only"},
				{Key: optDelivery, Allowed: []string{deliverRedirect, deliverPeer}, Doc: "bpf_redirect to the veth, or bpf_redirect_peer into the endpoint"},
			},
		}, bpfFabric, tcFilter},
		{plan.DatapathEntry{
			Name: "xdp", Fabric: "bridge", Filter: "xdp-hash", Options: []plan.Option{attach}, Refuse: refuseXDP,
			Doc: "bridge and a stateless XDP hash policy: on the server's veth (localhost) or its node's NIC (multi-host)",
		}, bridgeFabric, xdpFilter},
		{plan.DatapathEntry{
			Name: "xdp-pass", Fabric: "bridge", Filter: "xdp-pass", Options: []plan.Option{attach}, Refuse: refuseXDP, NoPolicies: true,
			Doc: "control for xdp: a program at the same place that passes every packet",
		}, bridgeFabric, xdpFilter},
		{plan.DatapathEntry{
			Name: "control", Fabric: "bridge", Filter: "tc-control", NoPolicies: true,
			Doc:     "positive control: bridge and a tc program at the server's eth0 whose cost in instructions is known",
			Options: []plan.Option{{Key: optSpin, Allowed: []string{"0", "100", "1000", "10000"}, Doc: "iterations of the program's loop for each packet"}},
		}, bridgeFabric, controlFilter},
	}
}

// refuseXDP refuses native XDP on a virtio NIC that has no queues to spare: the
// driver wants a transmit queue for each CPU beside the stack's own, and
// without them falls back to a locked queue, which is another datapath than
// the one asked for (virtnet_xdp_set in drivers/net/virtio_net.c).
func refuseXDP(lab plan.Lab, scenario string, options map[string]string) string {
	// Nodes in virtual time are namespaces, and their NIC is a veth.
	if lab.Provider != plan.ProviderLibvirt || lab.Clock == plan.ClockVirtual || scenario != plan.MultiHost || options[optAttach] != attachNative || lab.Queues >= 2*lab.VCPUs {
		return ""
	}
	return fmt.Sprintf("native XDP on the node's NIC wants lab.queues >= 2 x lab.vcpus = %d, got %d; raise queues, or write attach = %q", 2*lab.VCPUs, lab.Queues, attachGeneric)
}

// Catalog describes every datapath to the plan's loader.
func Catalog() []plan.DatapathEntry {
	var out []plan.DatapathEntry
	for _, d := range registry() {
		out = append(out, d.DatapathEntry)
	}
	return out
}

// Render renders the setup of a cell. It is pure and touches nothing.
func Render(cell plan.Cell) (Setup, error) {
	name := cell.Get(plan.FactorDatapath)
	for _, d := range registry() {
		if d.Name != name {
			continue
		}
		r := newRenderer(cell)
		r.common()
		d.fabric(r)
		if err := d.filter(r); err != nil {
			return Setup{}, fmt.Errorf("render datapath %q: %w", name, err)
		}
		r.prove()
		return r.Setup, nil
	}
	return Setup{}, fmt.Errorf("render cell %s: unknown datapath %q", cell.ID, name)
}

// Check says whether a node with these facts (bundle session facts) can carry
// the setup; an error wraps ErrNotSupported.
func Check(s Setup, facts map[string]string) error {
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
	policies []policy
	// realised is what the kernel must hold once the policies are applied.
	realised []bundle.Expect
}

func newRenderer(cell plan.Cell) *renderer {
	t := Layout(cell)
	return &renderer{
		Setup:    Setup{Topology: t, Network: NetworkBridge, Files: map[string]bundle.File{}},
		cell:     cell,
		policies: policies(cell, t.Client.Addr),
	}
}

func (r *renderer) apply(node Node, in string, do bundle.Action) {
	r.Apply = append(r.Apply, bundle.Step{Node: node.Name, Phase: bundle.Apply, In: in, Do: do})
}

func (r *renderer) file(name string, data []byte) string {
	r.Files[name] = bundle.NewFile(data)
	return name
}

func (r *renderer) endpoints() []Endpoint { return []Endpoint{r.Topology.Client, r.Topology.Server} }

// common renders what every fabric needs of a node: forwarding on, and reverse
// path filtering off, because the proof sends from sources that the node would
// otherwise drop before any policy sees them.
func (r *renderer) common() {
	for _, n := range r.Topology.Nodes {
		r.apply(n, "", bundle.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"})
		for _, conf := range []string{"all", "default", DataLink} {
			r.apply(n, "", bundle.Sysctl{Key: "net/ipv4/conf/" + conf + "/rp_filter", Value: "0", Optional: conf == DataLink})
		}
	}
}

// endpointSysctls fixes what must not differ between endpoints.
func (r *renderer) endpointSysctls(e Endpoint) {
	r.apply(e.Node, e.Role, bundle.Sysctl{Key: "net.ipv4.tcp_congestion_control", Value: r.cell.Get(plan.FactorCongestion)})
	// What one connection learned must not help or hurt the next.
	r.apply(e.Node, e.Role, bundle.Sysctl{Key: "net.ipv4.tcp_no_metrics_save", Value: "1"})
	// TCP_CRR closes from the client; without reuse its ports run out.
	r.apply(e.Node, e.Role, bundle.Sysctl{Key: "net.ipv4.tcp_tw_reuse", Value: "1"})
}
