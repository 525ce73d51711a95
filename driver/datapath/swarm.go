package datapath

import (
	"fmt"
	"net/netip"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// The overlay network of a Docker Swarm. Engines make it; the lab asks them to.
const (
	// SwarmPort is the UDP port of its outer packets. It is not VXLAN's own, which
	// the engine takes by default: a VXLAN device of ours that takes its keys from
	// packets could not be made beside one of the engine's on the same port.
	SwarmPort = 4788
	// SwarmVNI is its network identifier, the first that Docker gives a network.
	SwarmVNI = 4097

	// swarmSubnet is none of a node's: an engine has each address in one network.
	swarmSubnet = "198.18.64.0/24"

	sandbox     = "sandbox" // the namespace of an engine's where bridge and VXLAN device are
	sandboxLink = "vxlan0"
	sandboxWait = 60 // seconds in which engines tell each other where endpoints are
)

// SwarmSubnet is that of the overlay network, one for the endpoints of all nodes.
func SwarmSubnet() netip.Prefix { return netip.MustParsePrefix(swarmSubnet) }

// inSwarm is the node as its endpoints see it that an overlay network joins.
func (n Node) inSwarm() Node {
	n.Subnet = SwarmSubnet()
	n.Gateway = n.Subnet.Addr().Next()
	return n
}

// NeedsSwarm says whether a cell needs engines that have joined in a Swarm.
func NeedsSwarm(cell plan.Cell) bool { return cell.Get(OptOverlay) == OverlayDocker }

func (r *renderer) swarm() bool { return NeedsSwarm(r.cell) }

// refuseSwarm: where there is no Swarm, and what does not see its packets.
func refuseSwarm(lab plan.Lab, fabric string, o map[string]string) string {
	without := fmt.Sprintf("overlay = %q", overlayVXLAN)
	switch {
	case lab.Clock == plan.ClockVirtual:
		return fmt.Sprintf("Docker's overlay network needs engines, and a guest in virtual time is sealed; write clock = %q, or %s", plan.ClockWall, without)
	case lab.Provider != plan.ProviderLibvirt:
		return fmt.Sprintf("Docker's overlay network needs engines that the lab may join in a Swarm, which nodes of provider %q do not have; write provider = %q, or %s", lab.Provider, plan.ProviderLibvirt, without)
	case len(lab.Hypervisors) > 1:
		return fmt.Sprintf("engines of a Swarm speak with each other on the management network, of which each hypervisor has its own; place all nodes on one hypervisor, or write %s", without)
	case lab.Endpoint != plan.EndpointDocker:
		return fmt.Sprintf("an engine joins containers to its overlay network and nothing else; write endpoint = %q, or %s", plan.EndpointDocker, without)
	case fabric != fabricBridge:
		return fmt.Sprintf("Docker's overlay network is a bridge of the engine's; write fabric = %q, or %s", fabricBridge, without)
	case o[optPlacement] == placementForward || o[optPlacement] == placementBridge:
		return fmt.Sprintf("its packets never meet the node's FORWARD or DOCKER-USER: its bridge is in a namespace of the engine's; write placement = %q, or %s", placementInput, without)
	case o[optHook] == hookForward:
		return fmt.Sprintf("its packets never meet the node's FORWARD: its bridge is in a namespace of the engine's; write hook = %q, or %s", hookInput, without)
	case o[optIn] == inNode:
		return fmt.Sprintf("its packets never meet the node: its bridge is in a namespace of the engine's; write in = %q, or %s", inServer, without)
	}
	return ""
}

// swarmFabric has endpoints that the engines joined to an overlay network: a
// bridge and a VXLAN device on each node, in a namespace of the engine's, and one
// subnet for all. What the steps do is to find that namespace, and to lead the
// sources that policies name back to the client.
func swarmFabric(r *renderer) {
	t := r.Topology
	r.Network = NetworkOverlay
	for _, n := range t.Nodes {
		one, ways := "", map[string]string{}
		for _, e := range r.endpoints() {
			if e.Node.Name != n.Name {
				ways[e.Addr.String()] = e.Node.Data.String()
			} else if one == "" {
				one = e.Role
			}
		}
		r.apply(n, one, bundle.OverlayNetns{Name: sandbox, Link: endpointLink, Device: sandboxLink, VNI: SwarmVNI, Port: SwarmPort, Ways: ways, Timeout: sandboxWait})
		// As on the bridge without an overlay: whether bridged packets meet iptables
		// must not depend on the engine.
		r.apply(n, sandbox, bundle.Sysctl{Key: "net.bridge.bridge-nf-call-iptables", Value: "1"})
	}
	for _, e := range r.endpoints() {
		r.endpointSysctls(e)
	}
	r.apply(t.Server.Node, t.Server.Role, bundle.Route{Dst: r.otherSources(), Via: t.Client.Addr.String(), Link: endpointLink})
}

// farEnds is the namespace of a node in which the other ends of its endpoints'
// links are.
func (r *renderer) farEnds() string {
	if r.swarm() {
		return sandbox
	}
	return ""
}
