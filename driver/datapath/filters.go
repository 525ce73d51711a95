package datapath

import (
	"fmt"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// filters lists every filter, by mechanism and within it by structure.
func filters() []filter {
	none := filter{name: "none", doc: "no policy", noPolicies: true, nature: nature{structure: catalog.Nothing}, inside: true, render: func(*renderer) error { return nil }}
	return slices.Concat([]filter{none}, netfilterFilters(), tcFilters(), xdpFilters(), l7Filters(), externalFilters(), []filter{ciliumFilter()})
}

// holds is a filter that has room for so many entries.
func holds(rules int, f filter) filter {
	f.mostRules = rules
	return f
}

func netfilterFilters() []filter {
	one := func(name, structure, doc string, placements ...string) filter {
		return filter{
			name: name, doc: doc, inside: true, render: netfilterFilter, nature: nature{mechanism: catalog.Netfilter, structure: structure, hook: hookNetfilter(placements)},
			options: slices.Concat(policyOptions(), netfilterOptions(placements...)),
			refuse:  refuseFirst(refuseMatch, refusePlacement, refuseNetfilter(name)),
		}
	}
	iptables := []string{placementInput, placementForward}
	nft := []string{placementInput, placementForward, placementBridge}
	return []filter{
		one(filterIptablesLegacy, catalog.List, "a linear list of iptables-legacy rules", iptables...),
		one(filterIptablesNft, catalog.List, "a linear list of iptables rules, kept in nftables", iptables...),
		holds(ipsetMaxElem, one(filterIpset, catalog.Hash, "one iptables-legacy rule that asks an ipset", iptables...)),
		one(filterNftLinear, catalog.List, "a linear list of nftables rules", nft...),
		one(filterNftSet, catalog.Hash, "one nftables rule that asks a set", nft...),
		one(filterNftVmap, catalog.Hash, "one nftables rule that takes its verdict from a map", nft...),
		one(filterNftInterval, catalog.Prefixes, "one nftables rule that asks a set of intervals", nft...),
	}
}

// Where filters are hooked, for readers of the catalog. Options say the rest.
const (
	hookTCNode     = "tc, at the node's end of the server's link"
	hookTCEndpoint = "tc ingress of the server's eth0"
	hookXDPEdge    = "XDP of the server's eth0, or of its node's NIC"
)

func hookNetfilter(placements []string) string {
	return "netfilter " + strings.Join(placements, " or ")
}

// tcFilters are the programs of the tc object: on fabric bpf those that join the
// endpoints, elsewhere at the node's end of the server's link.
func tcFilters() []filter {
	one := func(name, doc string, s bpf.Structure, rs ...refusal) filter {
		return filter{
			name: name, doc: doc, options: slices.Concat(policyOptions(), tcOptions(), tableOptions(s)), nature: nature{mechanism: catalog.TC, structure: structureOf(s), hook: hookTCNode},
			refuse: refuseFirst(append(rs, refuseMatch, refuseNetkitAttach)...), render: func(r *renderer) error { return r.tcFilter(s) },
		}
	}
	pass := one("tc-pass", "control for tc: a program at the same hook that admits every packet", bpf.StructurePass, refuseNetkitAttach)
	pass.noPolicies, pass.options = true, tcOptions()
	cilium09 := one("tc-cilium09", "tc eBPF as Cilium 0.9 had it: a hash of source identities, and a list of ports asked for new connections", bpf.StructureCilium09,
		refuseCIDR("tc-lpm"), refuseDenyOf2017, refuseFirstOf2017)
	cilium09.maxClients = bpf.MaxL4Ports - 1 // and the control connections'
	cilium09.whyClients = fmt.Sprintf("its list has room for %d ports, and each client has one of its own", bpf.MaxL4Ports)
	return []filter{
		pass,
		holds(bpf.MaxListRules, one("tc-linear", "tc eBPF, a list of policies asked in order", bpf.StructureLinear)),
		one("tc-hash", "tc eBPF, a hash of source identity, port and protocol", bpf.StructureHash, refuseCIDR("tc-lpm")),
		one("tc-lpm", "tc eBPF, a trie of source prefixes for each port and protocol", bpf.StructureLPM),
		cilium09,
		{
			name: "tc-control", doc: "a tc program at the server's eth0 whose cost in instructions is known", noPolicies: true, render: controlFilter,
			nature:  nature{mechanism: catalog.TC, structure: catalog.Nothing, control: true, hook: hookTCEndpoint},
			options: []plan.Option{{Key: optSpin, Allowed: []string{"0", "100", "1000", "10000"}, Doc: "iterations of the program's loop for each packet"}},
		},
	}
}

// structureOf names the structure of one of our objects.
func structureOf(s bpf.Structure) string {
	return map[bpf.Structure]string{
		bpf.StructurePass: catalog.Nothing, bpf.StructureLinear: catalog.List, bpf.StructureHash: catalog.Hash,
		bpf.StructureLPM: catalog.Prefixes, bpf.StructureCilium09: catalog.HashAndList,
	}[s]
}

// tableOptions are those of the maps that a structure looks up in.
func tableOptions(s bpf.Structure) []plan.Option {
	if s == bpf.StructureHash || s == bpf.StructureCilium09 {
		return []plan.Option{preallocOption()}
	}
	return nil // a list has its entries always, and a trie never before they come
}

func refuseDenyOf2017(_ plan.Lab, _ fabric, _ string, o map[string]string) string {
	if o[optAction] == actionDeny {
		return fmt.Sprintf("Cilium's policy of 2017 could only admit; write action = %q, or filter = %q", actionAllow, "tc-hash")
	}
	return ""
}

func refuseFirstOf2017(_ plan.Lab, _ fabric, _ string, o map[string]string) string {
	if o[optEnforce] == enforceFirst {
		return fmt.Sprintf("Cilium's policy of 2017 asks ports of new connections only, so connections come first; write enforce = %q, or filter = %q", enforceAll, "tc-hash")
	}
	return ""
}

// refuseNetkitAttach: a netkit pair has hooks of its own.
func refuseNetkitAttach(_ plan.Lab, _ fabric, _ string, o map[string]string) string {
	if o[optDelivery] == deliverNetkit && o[optAttach] == attachTCX {
		return fmt.Sprintf("programs are attached to a netkit pair by its own hooks; remove attach, or write delivery = %q", deliverRedirect)
	}
	return ""
}

func xdpFilters() []filter {
	one := func(name, doc string, s bpf.Structure, rs ...refusal) filter {
		return filter{
			nature: nature{mechanism: catalog.XDP, structure: structureOf(s), regime: catalog.Stateless, hook: hookXDPEdge},
			name:   name, doc: doc, inside: true, options: slices.Concat(policyOptions(), xdpOptions(), []plan.Option{accountingOption()}, tableOptions(s)),
			refuse: refuseFirst(append(rs, refuseMatch, refuseXDP)...), render: func(r *renderer) error { return r.xdpFilter(s) },
		}
	}
	return []filter{
		{
			name: "offloads-off", doc: "control for native XDP: no program, but the offloads that it takes away switched off", noPolicies: true,
			nature:  nature{structure: catalog.Nothing, control: true},
			options: []plan.Option{whereOption()}, refuse: refuseXDP, render: offloadsOff,
		},
		{
			name: "xdp-pass", doc: "control for XDP: a program that reads nothing and passes every packet", noPolicies: true, inside: true,
			nature:  nature{mechanism: catalog.XDP, structure: catalog.Nothing, hook: hookXDPEdge},
			options: xdpOptions(), refuse: refuseXDP, render: func(r *renderer) error { return r.xdpFilter(bpf.StructurePass) },
		},
		holds(bpf.MaxListRules, one("xdp-linear", "XDP, a stateless list of policies asked in order", bpf.StructureLinear)),
		one("xdp-hash", "XDP, a stateless hash of source, port and protocol", bpf.StructureHash, refuseCIDR("xdp-lpm")),
		one("xdp-lpm", "XDP, a stateless trie of source prefixes for each port and protocol", bpf.StructureLPM),
	}
}

// attachPoint is where on a node a filter of the server's traffic is attached.
type attachPoint struct {
	node Node
	in   string // role of an endpoint, "" for the node itself
	link string
}

// edge is the attach point that the option "where" names.
func (r *renderer) edge() attachPoint {
	t := r.Topology
	where := r.cell.Get(optWhere)
	if where == whereNIC || where != whereEndpoint && t.MultiHost() {
		return attachPoint{node: t.Server.Node, link: DataLink}
	}
	return attachPoint{node: t.Server.Node, in: Server, link: endpointLink}
}

// offloadsOff takes away what native XDP takes away at the same attach point, and
// nothing else. A veth's peer may no longer pass on what is to be segmented
// (veth_xdp_set in drivers/net/veth.c clears NETIF_F_GSO_SOFTWARE); a virtio NIC
// no longer merges what it receives (virtnet_xdp_set clears the guest offloads).
func offloadsOff(r *renderer) error {
	at := r.edge()
	off := map[string]bool{"rx-gro-hw": false}
	if virtio := at.in == "" && virtioNIC(r.cell.Get(plan.FactorProvider), r.cell.Get(plan.FactorClock)); !virtio {
		off = map[string]bool{
			"tx-tcp-segmentation": false, "tx-tcp-ecn-segmentation": false, "tx-tcp-mangleid-segmentation": false, "tx-tcp6-segmentation": false,
			"tx-udp-segmentation": false, "tx-sctp-segmentation": false, "tx-gso-list": false,
		}
		sender := attachPoint{node: at.node, in: r.farEnds(), link: r.Topology.Server.PeerLink()}
		if at.in == "" {
			sender = attachPoint{node: r.Topology.Client.Node, link: DataLink}
		}
		at = sender
	}
	r.apply(at.node, at.in, bundle.Offload{Link: at.link, Features: off})
	r.guard(at.node, at.in, bundle.Guard{Link: at.link, Offloads: off})
	return nil
}
