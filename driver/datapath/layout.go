package datapath

import (
	"fmt"
	"net/netip"
	"slices"

	"hookbed/driver/plan"
)

// Addresses all lie in the blocks that are reserved for benchmarks: 198.18.0.0/15
// (RFC 2544) and 2001:2::/48 (RFC 5180).
const (
	DataLink      = "data0" // the node's NIC towards other nodes
	BridgeLink    = "hb0"   // the bridge of fabric "bridge", Docker's or hookbed's
	endpointLink  = "eth0"  // the endpoint's only link
	otherSources4 = "198.19.0.0/16"
	otherSources6 = "2001:2:0:1319::/112"
	ServicePort   = 5001 // the measured workload's port, the one policies name
	morePorts     = 5010 // of further clients: plus the client's number, from 2
	ControlPort   = 12865
	ForbiddenPort = 5002
)

// Endpoint roles.
const (
	Client = "client"
	Server = "server"
)

// Node is a container host in a topology.
type Node struct {
	Name string // "node1"
	// Data is the node's address on the data network, of the cell's family.
	Data netip.Addr
	// Subnet holds the node's endpoints; Gateway is its first address.
	Subnet  netip.Prefix
	Gateway netip.Addr
}

// Endpoint is a client or server in a topology.
type Endpoint struct {
	Role    string
	Node    Node
	Addr    netip.Addr
	MAC     string // of eth0, where hookbed makes the link
	HostMAC string // of the node's end of it
	// Port is where the server serves this client, and what its policy names; 0 of
	// the server.
	Port int
}

// hostLink is the node's end of the endpoint's link where hookbed makes it.
func (e Endpoint) hostLink() string { return "hb-" + e.Role }

// PeerLink names the node's end of eth0, made by hookbed or an engine.
func (e Endpoint) PeerLink() string { return "peer:" + e.Role + "/" + endpointLink }

// Topology says which endpoint is on which node, with which addresses.
type Topology struct {
	Nodes          []Node
	Client, Server Endpoint
	More           []Endpoint // further clients, on Client's node
	Docker         bool       // endpoints are Docker containers
	IPv6           bool       // the addresses are IPv6
}

// Clients are all clients, the first of them Client.
func (t Topology) Clients() []Endpoint {
	return append([]Endpoint{t.Client}, t.More...)
}

// Endpoints are all endpoints.
func (t Topology) Endpoints() []Endpoint {
	return slices.Concat([]Endpoint{t.Client, t.Server}, t.More)
}

// MultiHost says whether client and server are on different nodes.
func (t Topology) MultiHost() bool { return t.Client.Node.Name != t.Server.Node.Name }

// NodeAt describes node i, counting from 1, with its IPv4 addresses, which every
// node has.
func NodeAt(i int) Node {
	sub := netip.MustParsePrefix(fmt.Sprintf("198.18.%d.0/24", 10+i))
	return Node{
		Name:    fmt.Sprintf("node%d", i),
		Data:    netip.MustParseAddr(fmt.Sprintf("198.18.1.%d", 10+i)),
		Subnet:  sub,
		Gateway: sub.Addr().Next(),
	}
}

// node6At is node i with the IPv6 addresses that a bundle gives it.
func node6At(i int) Node {
	sub := netip.MustParsePrefix(fmt.Sprintf("2001:2:0:%d::/64", 10+i))
	return Node{
		Name:    fmt.Sprintf("node%d", i),
		Data:    netip.MustParseAddr(fmt.Sprintf("2001:2:0:1::%d", 10+i)),
		Subnet:  sub,
		Gateway: sub.Addr().Next(),
	}
}

// DataCIDR is the node's address on the data network in CIDR form.
func (n Node) DataCIDR() string { return cidr(n.Data, n.Subnet.Bits()) }

// Layout says where the endpoints of a cell are: the clients always on node1, the
// server there too (localhost) or on node2 (multi-host).
func Layout(cell plan.Cell) Topology {
	at := NodeAt
	v6 := cell.Get(optFamily) == familyIPv6
	if v6 {
		at = node6At
	}
	first, last := at(1), at(1)
	nodes := []Node{first}
	if cell.Get(plan.FactorScenario) == plan.MultiHost {
		last = at(2)
		nodes = append(nodes, last)
	}
	if NeedsSwarm(cell) {
		first, last = first.inSwarm(), last.inSwarm()
	}
	t := Topology{
		Nodes:  nodes,
		Client: endpointAt(Client, first, 10),
		Server: endpointAt(Server, last, 20),
		Docker: cell.Get(plan.FactorEndpoint) == plan.EndpointDocker,
		IPv6:   v6,
	}
	t.Client.Port = ServicePort
	if cell.Own != nil {
		t.Client.Port = cell.Own.Port
	}
	for k := 2; k <= cell.Int(plan.FactorClients); k++ {
		t.More = append(t.More, clientAt(k, first))
	}
	return t
}

// clientAt is client number k, from 2. Its address is four above the one
// before, so that prefixes of four addresses around clients hold one each.
func clientAt(k int, n Node) Endpoint {
	e := endpointAt(fmt.Sprintf("%s%d", Client, k), n, byte(26+4*k))
	e.Port = morePorts + k
	return e
}

func endpointAt(role string, n Node, host byte) Endpoint {
	b := n.Subnet.Addr().AsSlice()
	b[len(b)-1] = host
	addr, _ := netip.AddrFromSlice(b)
	third := n.Gateway.As16()[14] // what differs between nodes in an IPv4 address
	if addr.Is6() {
		third = n.Data.As16()[15]
	}
	return Endpoint{
		Role: role, Node: n, Addr: addr,
		MAC:     fmt.Sprintf("02:12:%02x:%02x:00:01", third, host),
		HostMAC: fmt.Sprintf("02:12:%02x:%02x:00:02", third, host),
	}
}

func cidr(a netip.Addr, bits int) string { return netip.PrefixFrom(a, bits).String() }

// hostCIDR is the prefix of one address.
func hostCIDR(a netip.Addr) string { return cidr(a, a.BitLen()) }
