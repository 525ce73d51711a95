// Package bpf holds the eBPF programs of the tc and XDP datapaths, and of the
// positive control, as compiled objects, and writes the entries of their maps. It
// neither loads nor attaches programs: driver/guest does.
package bpf

import "bytes"

//go:generate go run ./compile datapath xdp control overlay

// Programs of DatapathObject.
const (
	// ProgFromEndpoint is for tc ingress of the node's end of each endpoint's veth.
	ProgFromEndpoint = "tc_from_endpoint"
	// ProgFromNetdev is for tc ingress of the node's NIC.
	ProgFromNetdev = "tc_from_netdev"
	// ProgToEndpoint is for tc egress of the node's end of an endpoint's link that
	// another fabric joins: it guards VarEndpointIP, and redirects no packet.
	ProgToEndpoint = "tc_to_endpoint"
	// ProgTrack is for tc ingress of the same link: it records the connections that the
	// endpoint starts, so that answers pass ProgToEndpoint.
	ProgTrack = "tc_track"
)

// Programs that OverlayObject has in addition to those of DatapathObject.
const (
	// ProgFromEndpointTunnel replaces ProgFromEndpoint: it sends packets for other nodes
	// through the tunnel.
	ProgFromEndpointTunnel = "tc_from_endpoint_tunnel"
	// ProgFromTunnel is for tc ingress of the VXLAN device.
	ProgFromTunnel = "tc_from_tunnel"
)

// Programs of XDPObject.
const (
	ProgXDP     = "xdp_policy" // enforces policy
	ProgXDPPass = "xdp_pass"   // the control: only counts
)

// ProgControl is the program of ControlObject. It is for tc ingress.
const ProgControl = "tc_control"

// Maps. MapStats is in every object; the tables of policies and their counters are
// in DatapathObject and XDPObject; the rest, and MapAllowed, are in DatapathObject.
// If the key has an address, the policies of IPv6 are in separate tables.
const (
	MapStats       = "stats"
	MapEndpoints   = "endpoints"
	MapEndpoints6  = "endpoints6"
	MapIdentities  = "identities"
	MapIdentities6 = "identities6"
	MapConntrack   = "conntrack"
	MapConntrack6  = "conntrack6"
	// MapPolicy is the table of StructureHash: in DatapathObject by identity, for
	// both families; in XDPObject by address, and MapPolicy6 that of IPv6.
	MapPolicy  = "policy"
	MapPolicy6 = "policy6"
	// MapList holds the rules of StructureLinear, one per element; MapListMatch
	// holds what they match, ListBlock rules per element.
	MapList       = "list"
	MapList6      = "list6"
	MapListMatch  = "list_match"
	MapListMatch6 = "list_match6"
	// MapTrie is the table of StructureLPM, MapAllowed that of StructureCilium09.
	MapTrie    = "trie"
	MapTrie6   = "trie6"
	MapAllowed = "allowed"
	// MapHits counts the packets that matched each policy per CPU, MapHitsShared those
	// of all CPUs: {packets, bytes uint64} by the index of the policy, from 0. They have
	// room for one policy unless the loader sets more.
	MapHits       = "hits"
	MapHitsShared = "hits_shared"
	// MapTunnels, of OverlayObject, has the node of each prefix, by TunnelLine.
	MapTunnels = "tunnels"
)

// Structure is the data structure in which policies are kept and searched.
type Structure uint8

const (
	StructurePass     Structure = iota // no policies
	StructureLinear                    // a list, the first entry that matches decides
	StructureHash                      // a hash of addresses (XDP) or identities (tc)
	StructureLPM                       // a trie of source prefixes, the longest decides
	StructureCilium09                  // identities in a hash, ports in an array; tc only
)

// Variables that may be set before an object is loaded.
const (
	// VarEnforceNewOnly (1 byte, tc): 1 checks the policy when a connection is opened,
	// 0 for every packet that is not a reply.
	VarEnforceNewOnly = "enforce_new_only"
	// VarPolicyFirst (1 byte, tc): 1 checks the policy before connections, which are
	// searched only if no policy admits the packet. StructureCilium09 ignores it.
	VarPolicyFirst = "policy_first"
	// VarUsePeer (1 byte, tc): 1 delivers by bpf_redirect_peer, 0 by bpf_redirect.
	VarUsePeer = "use_peer"
	// VarEndpointIP (4 bytes; XDP, ProgToEndpoint) is the endpoint's address, as
	// IPKey writes it.
	VarEndpointIP = "endpoint_ip"
	// VarEndpointIP6 (16 bytes) is the endpoint's address of IPv6.
	VarEndpointIP6 = "endpoint_ip6"
	// VarEnforce (1 byte; XDP, ProgToEndpoint): 0 means that there is no policy.
	VarEnforce = "enforce"
	// VarStructure (1 byte) is a Structure.
	VarStructure = "structure"
	// VarDefaultAdmit (1 byte): 1 admits packets that no policy matches, for deny lists.
	VarDefaultAdmit = "default_admit"
	// VarAccounting (1 byte) counts the packets that match each policy: 0 does not
	// count, 1 counts in MapHits, 2 by atomic additions in MapHitsShared.
	VarAccounting = "accounting"
	// VarWildcards (1 byte), by Wildcards, is the kinds of policies that may exist.
	// Other kinds are not searched. The default is all kinds.
	VarWildcards = "wildcards"
	// VarL4Ports (64 bytes, tc) are the ports of StructureCilium09, by L4Ports.
	VarL4Ports = "l4_ports"
	// VarSpin (4 bytes, little endian, control) is the number of iterations of the
	// program's loop per packet, at most 10 000. With 0 there is no loop.
	VarSpin = "spin"
	// VarTunnelLink (4 bytes, little endian, OverlayObject) is the index of the
	// VXLAN device.
	VarTunnelLink = "tunnel_ifindex"
	// VarTunnelChecksum (1 byte, OverlayObject): 1 computes the UDP checksum of
	// outer packets, 0 leaves it zero.
	VarTunnelChecksum = "tunnel_checksum"
)

// Indices of MapStats. Its values are {packets, bytes uint64} for each CPU;
// bytes are of whole frames.
const (
	StatAccepted uint32 = iota // subject to policy, admitted
	StatDropped                // subject to policy or unreadable, dropped
	StatPassed                 // not subject to policy
	Stats                      // number of indices
)

// Identities with a special meaning in policies.
const (
	IdentityAny   uint32 = 0 // matches every source
	IdentityWorld uint32 = 2 // of a source that is not in MapIdentities or MapIdentities6
)

// Machine instructions of the kernel's JIT compiler on x86-64 (do_jit in
// arch/x86/net/bpf_jit_comp.c). A test counts them.
const (
	controlIteration = 3 // add, test, jne: one iteration of the loop
	controlEntry     = 2 // test, je: the branch around the loop, absent with spin = 0
)

// ControlInstructions is the number of x86-64 machine instructions per packet that
// ProgControl executes in addition to those with a spin of 0. With 0 the verifier
// finds that the loop is dead, and removes it with the branch around it. The verifier
// of Linux 7.3, unlike that of 6.18, always removes the branch: two instructions
// fewer.
func ControlInstructions(spin int) float64 {
	if spin == 0 {
		return 0
	}
	return controlEntry + controlIteration*float64(spin)
}

// DatapathObject returns the ELF object of the tc programs.
func DatapathObject() []byte { return bytes.Clone(_DatapathBytes) }

// OverlayObject returns the ELF object of the tc programs with a tunnel between
// nodes: maps, variables and programs of DatapathObject, and more.
func OverlayObject() []byte { return bytes.Clone(_OverlayBytes) }

// XDPObject returns the ELF object of the XDP programs.
func XDPObject() []byte { return bytes.Clone(_XdpBytes) }

// ControlObject returns the ELF object of the positive control.
func ControlObject() []byte { return bytes.Clone(_ControlBytes) }
