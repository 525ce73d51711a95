package datapath

import (
	"fmt"
	"net/netip"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// The overlay between nodes.
const (
	// OptOverlay is the factor; the report finds it by this name.
	OptOverlay = "overlay"
	optUDPcsum = "udpcsum"

	overlayNone  = "none"
	overlayVXLAN = "vxlan"
	// OverlayDocker is Docker Swarm's own: the engines make it.
	OverlayDocker = "docker-overlay"
	udpcsumOn     = "on"
	udpcsumOff    = "off"

	overlayLink = "hb-vxlan" // the VXLAN device of a node
	vxlanPort   = 4789       // RFC 7348
	vxlanVNI    = 1          // of fabrics bridge and routed, as Flannel's
	defaultMTU  = 1500
	// overlayHeaders are the outer IPv4, UDP and VXLAN headers and the inner Ethernet
	// one, in bytes: what the endpoints' MTU is less than the NIC's.
	overlayHeaders = 20 + 8 + 8 + 14

	sniffHandle = "outer"
)

// overlayOptions are those of every fabric that has nodes.
func overlayOptions() []plan.Option {
	return []plan.Option{
		{Key: OptOverlay, Role: catalog.RoleOverlay, Allowed: []string{overlayNone, overlayVXLAN, OverlayDocker}, Silent: true,
			Doc: "between hosts: routed by the nodes, through VXLAN devices, or through the overlay network of a Docker Swarm"},
		{Key: optUDPcsum, Role: catalog.RoleOverlay, Allowed: []string{udpcsumOn, udpcsumOff}, Needs: plan.Level{Key: OptOverlay, Level: overlayVXLAN},
			Doc: "UDP checksum of outer packets: computed (the kernel's default), or zero (what Cilium sets)"},
	}
}

// refuseOverlay: what an overlay cannot be together with.
func refuseOverlay(lab plan.Lab, fa fabric, scenario string, o map[string]string) string {
	if !overlaid(o[OptOverlay]) {
		return ""
	}
	if o[OptOverlay] == OverlayDocker {
		if why := refuseSwarm(lab, fa, o); why != "" {
			return why
		}
	}
	switch {
	case scenario == plan.Localhost:
		return fmt.Sprintf("no packet between endpoints of one host meets an overlay, so this would be the arm without one under another name; write scenarios = [%q], or remove %s",
			plan.MultiHost, OptOverlay)
	case o[optFamily] == familyIPv6:
		return fmt.Sprintf("its routes, tunnel keys and MTU are those of IPv4; write family = %q", familyIPv4)
	case o[optWhere] == whereEdge || o[optWhere] == whereNIC || o[keyLink] == DataLink:
		return fmt.Sprintf("the node's NIC sees outer packets only, all from one node to the other by UDP port %d, and no policy names those; write %s", outerPort(o[OptOverlay]), insteadOfNIC(o))
	}
	return ""
}

// insteadOfNIC is where a filter meets inner packets.
func insteadOfNIC(o map[string]string) string {
	if o[keyLink] == DataLink {
		return fmt.Sprintf("another %s", keyLink)
	}
	return fmt.Sprintf("where = %q", whereEndpoint)
}

// overlaid says whether a level of the option is an overlay.
func overlaid(level string) bool { return level != "" && level != overlayNone }

// outerPort is the UDP port of an overlay's outer packets.
func outerPort(level string) int {
	if level == OverlayDocker {
		return SwarmPort
	}
	return vxlanPort
}

// overlay says whether the cell's nodes are joined by VXLAN, hookbed's or an engine's.
func (r *renderer) overlay() bool { return overlaid(r.cell.Get(OptOverlay)) }

// underlayMTU is that of the nodes' cards.
func (r *renderer) underlayMTU() int {
	if pinned := r.cell.Int(plan.FactorMTU); pinned > 0 {
		return pinned
	}
	return defaultMTU
}

// overlayMTU is what an overlay leaves of it.
func (r *renderer) overlayMTU() int { return r.underlayMTU() - overlayHeaders }

// mtu is that of the endpoints' links, which follow the cards; 0 is the kernel's
// default.
func (r *renderer) mtu() int {
	if r.overlay() {
		return r.overlayMTU()
	}
	return r.cell.Int(plan.FactorMTU)
}

// tunnelMAC is the address of a node's VXLAN device.
func (n Node) tunnelMAC() string {
	return fmt.Sprintf("02:12:%02x:00:00:03", n.Gateway.As4()[2])
}

// tunnelAddr is the address by which a node's VXLAN device is a next hop: the
// one before the gateway's, as Flannel has it.
func (n Node) tunnelAddr() netip.Addr { return n.Subnet.Addr() }

// vxlan makes the VXLAN device of a node.
func (r *renderer) vxlan(n Node, external bool) {
	v := bundle.Vxlan{
		Link: overlayLink, MAC: n.tunnelMAC(), Underlay: DataLink, Local: n.Data.String(), Port: vxlanPort,
		UDPCsum: r.cell.Get(optUDPcsum) == udpcsumOn, External: external, MTU: r.overlayMTU(),
	}
	if !external {
		v.VNI = vxlanVNI
	}
	r.apply(n, "", v)
}

// tunnelBetweenNodes routes each node's endpoints through the other's VXLAN
// device: one next hop for each node, its MAC address in the neighbour table and
// the node behind that in the device's own, all static. That is how Flannel and
// Calico use VXLAN: the device routes, no broadcast crosses it, nothing is learned.
func (r *renderer) tunnelBetweenNodes() {
	a, b := r.Topology.Client.Node, r.Topology.Server.Node
	for _, pair := range [][2]Node{{a, b}, {b, a}} {
		here, there := pair[0], pair[1]
		r.vxlan(here, false)
		r.apply(here, "", bundle.Addr{Link: overlayLink, CIDR: hostCIDR(here.tunnelAddr())})
		r.apply(here, "", bundle.FDB{Link: overlayLink, MAC: there.tunnelMAC(), Dst: there.Data.String()})
		r.apply(here, "", bundle.Neigh{Link: overlayLink, IP: there.tunnelAddr().String(), MAC: there.tunnelMAC()})
		r.throughTunnel(here, there.Subnet.String(), there)
	}
	r.throughTunnel(b, r.otherSources(), a)
}

func (r *renderer) throughTunnel(n Node, dst string, to Node) {
	r.apply(n, "", bundle.Route{Dst: dst, Via: to.tunnelAddr().String(), Link: overlayLink, OnLink: true})
}

// keysBetweenNodes makes VXLAN devices that take their tunnel keys from the
// programs of fabric bpf, which know where each prefix is (tunnelLines).
func (r *renderer) keysBetweenNodes() {
	for _, n := range r.Topology.Nodes {
		r.vxlan(n, true)
	}
}

// tunnelLines are the entries of a node's map of tunnels.
func (r *renderer) tunnelLines(n Node) string {
	a, b := r.Topology.Client.Node, r.Topology.Server.Node
	if n.Name == a.Name {
		return bpf.TunnelLine(b.Subnet, b.Data) + "\n"
	}
	return bpf.TunnelLine(a.Subnet, a.Data) + "\n" + bpf.TunnelLine(otherSources(false), a.Data) + "\n"
}

// shrinkLinks gives links that the engine made the endpoints' MTU.
func (r *renderer) shrinkLinks() {
	if r.mtu() == 0 || !r.Topology.Docker {
		return
	}
	for _, e := range r.endpoints() {
		r.apply(e.Node, e.Role, bundle.SetLink{Link: endpointLink, MTU: r.mtu()})
		r.apply(e.Node, "", bundle.SetLink{Link: e.PeerLink(), MTU: r.mtu()})
	}
}

// watchOverlay looks for what would make the overlay another than the cell's,
// and counts at the server's node what comes through.
func (r *renderer) watchOverlay() {
	if !r.overlay() {
		return
	}
	in, device := r.tunnel()
	for _, n := range r.Topology.Nodes {
		r.guard(n, "", bundle.Guard{Link: DataLink, MTU: r.underlayMTU()})
		r.guard(n, in, bundle.Guard{Link: device, MTU: r.overlayMTU()})
		for _, e := range r.endpoints() {
			if e.Node.Name == n.Name {
				r.guard(n, e.Role, bundle.Guard{Link: endpointLink, MTU: r.mtu()})
			}
		}
	}
	r.Tunnel = &Hook{Node: r.Topology.Server.Node.Name, In: in, From: bundle.Counter{Link: &bundle.LinkCounter{Link: device, Outer: in != ""}}}
}

// tunnel is a node's VXLAN device, and the namespace that it is in.
func (r *renderer) tunnel() (in, device string) {
	if r.swarm() {
		return overlayNetns, overlayNetnsLink
	}
	return "", overlayLink
}

// Names of the snapshots of what the proof saw on the underlay.
const (
	sniffBefore = "outer-before"
	// OuterSeen is the last of them.
	OuterSeen = "outer-after"
)

// sniffProof begins to look at the packets between the nodes.
func (r *renderer) sniffProof() {
	if !r.overlay() {
		return
	}
	n := r.Topology.Server.Node.Name
	r.proveStep(n, "", bundle.Sniff{Handle: sniffHandle, Link: DataLink, Port: outerPort(r.cell.Get(OptOverlay))})
	r.proveStep(n, "", bundle.Read{Name: sniffBefore, From: r.sniffed()})
}

func (r *renderer) sniffed() bundle.Counter {
	c := &bundle.SniffCounter{Handle: sniffHandle}
	for _, id := range r.sentIdentities() {
		c.VNIs = append(c.VNIs, id.vni)
	}
	return bundle.Counter{Sniff: c}
}

// expectOuter requires that what was seen on the underlay agrees with the probes: each
// came in an outer packet, each answer left in one, with a checksum or without as
// the cell says, none of them in fragments, and under the network identifier that the
// fabric gives it.
func (r *renderer) expectOuter(tries []bundle.Probe) {
	if !r.overlay() {
		return
	}
	n := r.Topology.Server.Node.Name
	var allowed uint64
	for _, p := range tries {
		if p.Want == bundle.Allow {
			allowed++
		}
	}
	r.proveStep(n, "", bundle.Read{Name: OuterSeen, From: r.sniffed()})
	expect := func(what, key, op string, v uint64) {
		r.proveStep(n, "", bundle.Expect{What: what, Read: OuterSeen, Since: sniffBefore, Key: key, Op: op, Value: v})
	}
	expect("probes come through the overlay", "in", bundle.AtLeast, uint64(len(tries)))
	expect("answers leave through the overlay", "out", bundle.AtLeast, allowed)
	if sum := r.cell.Get(optUDPcsum); !r.swarm() { // whose checksums are recorded
		expect(fmt.Sprintf("outer packets with udpcsum = %q", sum), map[string]string{udpcsumOn: "no_checksum", udpcsumOff: "checksum"}[sum], bundle.Equal, 0)
	}
	expect("outer packets are whole", "fragments", bundle.Equal, 0)
	for _, id := range r.sentIdentities() {
		expect("probes of "+id.whose+" come under its network identifier", fmt.Sprintf("vni.%d", id.vni), bundle.AtLeast, id.probes)
	}
	r.proveStep(n, "", bundle.Stop{Handle: sniffHandle})
}

// vni is the network identifier of fabrics that give every packet the same.
func (r *renderer) vni() uint32 {
	if r.swarm() {
		return SwarmVNI
	}
	return vxlanVNI
}

// sentIdentity is a network identifier, and how many probes are sent under it.
type sentIdentity struct {
	whose  string
	vni    uint32
	probes uint64
}

// sentIdentities are the network identifiers of the probes, in their order.
func (r *renderer) sentIdentities() (out []sentIdentity) {
	tries := r.tries()
	for _, c := range r.Topology.More {
		tries = append(tries, r.clientTries(c)...)
	}
	for _, p := range tries {
		id, whose := r.vni(), "all"
		if r.fabric.redirects {
			id, whose = r.identities[netip.MustParseAddr(p.From)], p.From
		}
		if r.fabric.redirects && id == 0 {
			id = bpf.IdentityWorld
		}
		known := false
		for i := range out {
			if out[i].vni == id {
				out[i].probes++
				known = true
			}
		}
		if !known {
			out = append(out, sentIdentity{whose, id, 1})
		}
	}
	return out
}
