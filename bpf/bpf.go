// Package bpf holds the eBPF programs of the tc and XDP datapaths as compiled
// objects, and writes the entries of their maps. It loads nothing itself.
package bpf

import "bytes"

// The flags are fixed, and bpf2go keeps the checkout's path out of the debug
// information, so that the same compiler and headers give the same bytes.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types datapath datapath.bpf.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types xdp xdp.bpf.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// Programs of DatapathObject.
const (
	// ProgFromEndpoint belongs on tc ingress of the node's end of each
	// endpoint's veth.
	ProgFromEndpoint = "tc_from_endpoint"
	// ProgFromNetdev belongs on tc ingress of the node's NIC.
	ProgFromNetdev = "tc_from_netdev"
)

// Programs of XDPObject.
const (
	ProgXDPHash = "xdp_hash" // enforces policy
	ProgXDPPass = "xdp_pass" // the control: only counts
)

// Maps. Stats and policy are in both objects, the rest in DatapathObject.
const (
	MapStats      = "stats"
	MapPolicy     = "policy"
	MapEndpoints  = "endpoints"
	MapIdentities = "identities"
	MapConntrack  = "conntrack"
)

// Variables that may be set before an object is loaded.
const (
	// VarEnforceNewOnly (1 byte, tc): 1 asks the policy when a connection is
	// opened, 0 for every packet that is not a reply.
	VarEnforceNewOnly = "enforce_new_only"
	// VarUsePeer (1 byte, tc): 1 delivers by bpf_redirect_peer, 0 by bpf_redirect.
	VarUsePeer = "use_peer"
	// VarEndpointIP (4 bytes, XDP) is the endpoint's address, as IPKey writes it.
	VarEndpointIP = "endpoint_ip"
	// VarEnforce (1 byte, XDP): 0 means that there is no policy.
	VarEnforce = "enforce"
)

// Indices of MapStats. Its values are {packets, bytes uint64} for each CPU;
// bytes are of whole frames.
const (
	StatAccepted uint32 = iota // subject to policy, admitted
	StatDropped                // subject to policy or unreadable, dropped
	StatPassed                 // not subject to policy
	Stats                      // number of indices
)

// Identities with a meaning of their own in policies.
const (
	IdentityAny   uint32 = 0 // matches every source
	IdentityWorld uint32 = 2 // of a source that MapIdentities lacks
)

// DatapathObject returns the ELF object of the tc programs.
func DatapathObject() []byte { return bytes.Clone(_DatapathBytes) }

// XDPObject returns the ELF object of the XDP programs.
func XDPObject() []byte { return bytes.Clone(_XdpBytes) }
