package datapath

import (
	"net/netip"

	"hookbed/driver/bundle"
)

// bridgeFabric joins the endpoints of a node by a bridge and routes between
// nodes. With Docker endpoints the engine has made bridge and links already.
func bridgeFabric(r *renderer) {
	t := r.Topology
	if !t.Docker {
		for _, n := range t.Nodes {
			r.apply(n, "", bundle.Bridge{Link: BridgeLink})
			r.apply(n, "", bundle.Addr{Link: BridgeLink, CIDR: cidr(n.Gateway, 24)})
		}
		for _, e := range r.endpoints() {
			r.apply(e.Node, "", bundle.Netns{Name: e.Role})
			r.apply(e.Node, "", bundle.Veth{Link: e.HostLink(), MAC: e.HostMAC, Peer: endpointLink, PeerIn: e.Role, PeerMAC: e.MAC})
			r.apply(e.Node, "", bundle.SetLink{Link: e.HostLink(), Master: BridgeLink, Up: true})
			r.apply(e.Node, e.Role, bundle.Addr{Link: endpointLink, CIDR: cidr(e.Addr, 24)})
			r.apply(e.Node, e.Role, bundle.Route{Dst: "default", Via: e.Node.Gateway.String(), Link: endpointLink})
		}
	}
	for _, n := range t.Nodes {
		// Docker asks for br_netfilter only sometimes; whether bridged packets
		// meet iptables must not depend on it.
		r.apply(n, "", bundle.Sysctl{Key: "net.bridge.bridge-nf-call-iptables", Value: "1"})
	}
	for _, e := range r.endpoints() {
		r.endpointSysctls(e)
	}
	r.routesBetweenNodes()
	r.apply(t.Client.Node, "", bundle.Route{Dst: otherSources, Via: t.Client.Addr.String(), Link: BridgeLink})
}

// bpfFabric joins endpoints by tc programs at the node's end of their veths:
// no bridge, no netfilter, /32 addresses and a static gateway neighbour.
func bpfFabric(r *renderer) {
	t := r.Topology
	r.Network = NetworkNone
	for _, e := range r.endpoints() {
		if !t.Docker {
			r.apply(e.Node, "", bundle.Netns{Name: e.Role})
		}
		gw := e.Node.Gateway
		r.apply(e.Node, "", bundle.Veth{Link: e.HostLink(), MAC: e.HostMAC, Peer: endpointLink, PeerIn: e.Role, PeerMAC: e.MAC})
		r.apply(e.Node, e.Role, bundle.Addr{Link: endpointLink, CIDR: cidr(e.Addr, 32)})
		r.apply(e.Node, e.Role, bundle.Route{Dst: cidr(gw, 32), Link: endpointLink})
		r.apply(e.Node, e.Role, bundle.Neigh{Link: endpointLink, IP: gw.String(), MAC: e.HostMAC})
		r.apply(e.Node, e.Role, bundle.Route{Dst: "default", Via: gw.String(), Link: endpointLink})
		r.apply(e.Node, "", bundle.Route{Dst: cidr(e.Addr, 32), Link: e.HostLink()})
		r.apply(e.Node, "", bundle.Neigh{Link: e.HostLink(), IP: e.Addr.String(), MAC: e.MAC})
		r.endpointSysctls(e)
	}
	r.routesBetweenNodes()
	r.apply(t.Client.Node, "", bundle.Route{Dst: otherSources, Via: t.Client.Addr.String(), Link: t.Client.HostLink(), OnLink: true})
}

// routesBetweenNodes routes each node's endpoints through the other, and the
// sources that policies name back to the client's node: were there no way
// back, a forged connection would fail without any policy, and prove nothing.
func (r *renderer) routesBetweenNodes() {
	t := r.Topology
	if !t.MultiHost() {
		return
	}
	a, b := t.Client.Node, t.Server.Node
	r.apply(a, "", bundle.Route{Dst: b.Subnet.String(), Via: b.Data.String(), Link: DataLink})
	r.apply(b, "", bundle.Route{Dst: a.Subnet.String(), Via: a.Data.String(), Link: DataLink})
	r.apply(b, "", bundle.Route{Dst: otherSources, Via: a.Data.String(), Link: DataLink})
}

func cidr(a netip.Addr, bits int) string { return netip.PrefixFrom(a, bits).String() }

func noFilter(*renderer) error { return nil }
