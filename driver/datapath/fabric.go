package datapath

import (
	"hookbed/analysis/catalog"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Names of the fabrics.
const (
	FabricBridge = "bridge"
	FabricRouted = "routed"
	FabricBPF    = "bpf"
	FabricVeth   = "veth"
)

// fabric is one way in which endpoints of a node are joined.
type fabric struct {
	name, doc string
	// base: the others are compared with it, and an arm that names none has it.
	base bool
	// mechanism of the programs that it has even where there is no filter.
	mechanism string
	// bare: one link between two endpoints is all, and no packet meets a node.
	bare bool
	// bridged: the endpoints of a node are ports of a bridge.
	bridged bool
	// pastNetfilter: packets between endpoints do not meet the node's netfilter.
	pastNetfilter bool
	// redirects: programs of the tc object join the endpoints, whatever the filter is
	// (joinByTC), and deliver by bpf_redirect.
	redirects bool
	// only is the filter that it is a part of; "" goes with any.
	only string
	// outside: what is no endpoint's address is sent from a namespace outside of the cluster.
	outside bool
	options []plan.Option
	build   func(*renderer)
}

// fabrics lists every fabric; the first is the base.
func fabrics() []fabric {
	delivery := plan.Option{Key: optDelivery, Role: catalog.RolePath, Allowed: []string{deliverRedirect, deliverPeer, deliverNetkit}, Since: map[string]string{deliverNetkit: "6.7"},
		Doc: "bpf_redirect to the veth, bpf_redirect_peer into the endpoint (Linux 5.10), or netkit pairs instead of veths (6.7)"}
	return []fabric{
		{
			name: FabricBridge, doc: "Docker's bridge, or a plain one for namespaces", base: true, bridged: true,
			options: overlayOptions(), build: bridgeFabric,
		},
		{name: FabricRouted, doc: "a route for each endpoint's veth, no bridge", options: overlayOptions(), build: routedFabric},
		{
			name: FabricBPF, doc: "tc programs that redirect between the endpoints' links; no bridge, no netfilter on the node",
			mechanism: catalog.TC, pastNetfilter: true, redirects: true,
			options: append([]plan.Option{delivery}, overlayOptions()...), build: bpfFabric,
		},
		{name: FabricVeth, doc: "reference: one veth pair between the endpoints, no node", bare: true, pastNetfilter: true, build: vethFabric},
		ciliumFabric(),
	}
}

// vethFabric is the shortest path there is: the two endpoints are the ends of
// one link.
func vethFabric(r *renderer) {
	t := r.Topology
	r.Network = NetworkNone
	for _, e := range r.endpoints() {
		if !t.Docker {
			r.apply(e.Node, "", bundle.Netns{Name: e.Role})
		}
	}
	r.apply(t.Client.Node, t.Client.Role, bundle.Veth{Link: endpointLink, MAC: t.Client.MAC, Peer: endpointLink, PeerIn: t.Server.Role, PeerMAC: t.Server.MAC})
	for _, e := range r.endpoints() {
		r.apply(e.Node, e.Role, bundle.Addr{Link: endpointLink, CIDR: cidr(e.Addr, e.Node.Subnet.Bits())})
		r.endpointSysctls(e)
	}
	r.apply(t.Server.Node, t.Server.Role, bundle.Route{Dst: r.otherSources(), Via: t.Client.Addr.String(), Link: endpointLink})
}

// bridgeFabric joins the endpoints of a node by a Linux bridge. With Docker
// endpoints the engine has made bridge and links already.
func bridgeFabric(r *renderer) {
	if r.swarm() {
		swarmFabric(r)
		return
	}
	t := r.Topology
	for _, n := range t.Nodes {
		if !t.Docker {
			r.apply(n, "", bundle.Bridge{Link: BridgeLink})
		}
		if !t.Docker || t.IPv6 {
			r.apply(n, "", bundle.Addr{Link: BridgeLink, CIDR: cidr(n.Gateway, n.Subnet.Bits())})
		}
	}
	for _, e := range r.endpoints() {
		if !t.Docker {
			r.apply(e.Node, "", bundle.Netns{Name: e.Role})
			r.apply(e.Node, "", bundle.Veth{Link: e.hostLink(), MAC: e.HostMAC, Peer: endpointLink, PeerIn: e.Role, PeerMAC: e.MAC, MTU: r.mtu()})
			r.apply(e.Node, "", bundle.SetLink{Link: e.hostLink(), Master: BridgeLink, Up: true})
		}
		if !t.Docker || t.IPv6 {
			r.apply(e.Node, e.Role, bundle.Addr{Link: endpointLink, CIDR: cidr(e.Addr, e.Node.Subnet.Bits())})
			r.apply(e.Node, e.Role, bundle.Route{Dst: r.anywhere(), Via: e.Node.Gateway.String(), Link: endpointLink})
		}
	}
	for _, n := range t.Nodes {
		// Docker loads br_netfilter only sometimes; whether bridged packets
		// meet iptables must not depend on it.
		r.apply(n, "", bundle.Sysctl{Key: "net.bridge.bridge-nf-call-ip" + r.six("", "6") + "tables", Value: "1"})
	}
	for _, e := range r.endpoints() {
		r.endpointSysctls(e)
	}
	r.shrinkLinks()
	r.routesBetweenNodes()
	r.apply(t.Client.Node, "", bundle.Route{Dst: r.otherSources(), Via: t.Client.Addr.String(), Link: BridgeLink})
}

// routedFabric gives each endpoint a link of its own and the node a route to
// it, as Calico does. The gateway is an address of the node itself.
func routedFabric(r *renderer) {
	t := r.Topology
	for _, n := range t.Nodes {
		r.apply(n, "", bundle.Addr{Link: "lo", CIDR: hostCIDR(n.Gateway)})
	}
	r.pointToPoint(func(e Endpoint) bundle.Action {
		return bundle.Veth{Link: e.hostLink(), MAC: e.HostMAC, Peer: endpointLink, PeerIn: e.Role, PeerMAC: e.MAC, MTU: r.mtu()}
	})
	for _, e := range r.endpoints() {
		if !t.IPv6 {
			r.apply(e.Node, "", bundle.Sysctl{Key: "net/ipv4/conf/" + e.hostLink() + "/proxy_arp", Value: "1"})
		}
	}
}

// bpfFabric joins endpoints by tc programs at the node's end of their links:
// no bridge, no netfilter.
func bpfFabric(r *renderer) {
	r.pointToPoint(func(e Endpoint) bundle.Action {
		if r.cell.Get(optDelivery) == deliverNetkit {
			return bundle.Netkit{Link: e.hostLink(), MAC: e.HostMAC, Peer: endpointLink, PeerIn: e.Role, PeerMAC: e.MAC, MTU: r.mtu()}
		}
		return bundle.Veth{Link: e.hostLink(), MAC: e.HostMAC, Peer: endpointLink, PeerIn: e.Role, PeerMAC: e.MAC, MTU: r.mtu()}
	})
}

// pointToPoint joins each endpoint to its node by a link of its own: an address
// without a subnet, and permanent neighbour entries.
func (r *renderer) pointToPoint(join func(Endpoint) bundle.Action) {
	t := r.Topology
	r.Network = NetworkNone
	for _, e := range r.endpoints() {
		if !t.Docker {
			r.apply(e.Node, "", bundle.Netns{Name: e.Role})
		}
		gw := e.Node.Gateway
		r.apply(e.Node, "", join(e))
		r.apply(e.Node, e.Role, bundle.Addr{Link: endpointLink, CIDR: hostCIDR(e.Addr)})
		r.apply(e.Node, e.Role, bundle.Route{Dst: hostCIDR(gw), Link: endpointLink})
		r.apply(e.Node, e.Role, bundle.Neigh{Link: endpointLink, IP: gw.String(), MAC: e.HostMAC})
		r.apply(e.Node, e.Role, bundle.Route{Dst: r.anywhere(), Via: gw.String(), Link: endpointLink})
		r.apply(e.Node, "", bundle.Route{Dst: hostCIDR(e.Addr), Link: e.hostLink()})
		r.apply(e.Node, "", bundle.Neigh{Link: e.hostLink(), IP: e.Addr.String(), MAC: e.MAC})
		r.endpointSysctls(e)
	}
	r.routesBetweenNodes()
	r.apply(t.Client.Node, "", bundle.Route{Dst: r.otherSources(), Via: t.Client.Addr.String(), Link: t.Client.hostLink(), OnLink: true})
}

// routesBetweenNodes routes each node's endpoints through the other, and the
// sources that policies name back to the client's node: were there no way
// back, a forged connection would fail without any policy, and prove nothing.
func (r *renderer) routesBetweenNodes() {
	t := r.Topology
	if !t.MultiHost() {
		return
	}
	switch {
	case r.overlay() && r.fabric.redirects:
		r.keysBetweenNodes()
		return
	case r.overlay():
		r.tunnelBetweenNodes()
		return
	}
	a, b := t.Client.Node, t.Server.Node
	if t.IPv6 {
		// Nodes have an IPv4 address already.
		r.apply(a, "", bundle.Addr{Link: DataLink, CIDR: a.DataCIDR()})
		r.apply(b, "", bundle.Addr{Link: DataLink, CIDR: b.DataCIDR()})
	}
	r.apply(a, "", bundle.Route{Dst: b.Subnet.String(), Via: b.Data.String(), Link: DataLink})
	r.apply(b, "", bundle.Route{Dst: a.Subnet.String(), Via: a.Data.String(), Link: DataLink})
	r.apply(b, "", bundle.Route{Dst: r.otherSources(), Via: a.Data.String(), Link: DataLink})
}

// six is one of two words by the family of the cell.
func (r *renderer) six(v4, v6 string) string {
	if r.Topology.IPv6 {
		return v6
	}
	return v4
}

// anywhere is the destination of a default route.
func (r *renderer) anywhere() string { return r.six("default", "::/0") }

func (r *renderer) otherSources() string { return otherSources(r.Topology.IPv6).String() }
