package datapath

import (
	"encoding/hex"
	"fmt"
	"strings"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// handle names the loaded object of a node: one helper may hold several nodes.
func handle(n Node) string { return "filter@" + n.Name }

// Identities of the tc policy: the client's own, then one for each other
// source, as Cilium allocates them above its reserved range.
const firstIdentity = 256

const protoTCP = 6

// tcFilter loads the tc programs on every node, fills endpoints, identities
// and policies, and attaches them to the endpoints' veths and the data NIC.
func tcFilter(r *renderer) error {
	object := r.file("datapath.bpf.o", bpf.DatapathObject())
	for _, n := range r.Topology.Nodes {
		r.loadTC(n, object)
	}
	for _, e := range r.endpoints() {
		r.apply(e.Node, "", bundle.AttachBPF{Handle: handle(e.Node), Program: bpf.ProgFromEndpoint, Link: e.HostLink(), Hook: bundle.HookTCIngress})
	}
	if r.Topology.MultiHost() {
		for _, n := range r.Topology.Nodes {
			r.apply(n, "", bundle.AttachBPF{Handle: handle(n), Program: bpf.ProgFromNetdev, Link: DataLink, Hook: bundle.HookTCIngress})
		}
	}
	r.JIT = true
	r.Hook = &Hook{Node: r.Topology.Server.Node.Name, From: bundle.Counter{BPF: &bundle.BPFCounter{
		Handle: handle(r.Topology.Server.Node), Stats: bpf.MapStats, Maps: []string{bpf.MapPolicy, bpf.MapIdentities},
	}}}
	r.expectEntries(bpf.MapPolicy, r.policyEntries())
	r.expectEntries(bpf.MapIdentities, len(r.policies))
	return nil
}

func (r *renderer) loadTC(n Node, object string) {
	programs := []string{bpf.ProgFromEndpoint}
	if r.Topology.MultiHost() {
		programs = append(programs, bpf.ProgFromNetdev)
	}
	r.apply(n, "", bundle.LoadBPF{Handle: handle(n), Object: object, Programs: programs, Vars: map[string]string{
		bpf.VarEnforceNewOnly: onOff(r.cell.Get(optEnforce) == enforceNew),
		bpf.VarUsePeer:        onOff(r.cell.Get(optDelivery) == deliverPeer),
	}, MaxEntries: r.mapSizes(bpf.MapPolicy, bpf.MapIdentities)})
	var endpoints strings.Builder
	for i, e := range r.endpoints() {
		if e.Node.Name != n.Name {
			continue
		}
		enforce := e.Role == Server && len(r.policies) > 0
		endpoints.WriteString(bpf.EndpointLine(e.Addr, e.HostLink(), uint32(i+1), e.MAC, e.HostMAC, enforce) + "\n")
	}
	r.fill(n, bpf.MapEndpoints, n.Name+".endpoints", endpoints.String())
	if n.Name == r.Topology.Server.Node.Name && len(r.policies) > 0 {
		r.fillTCPolicies(n)
	}
}

func (r *renderer) fillTCPolicies(n Node) {
	var identities, entries strings.Builder
	for i, p := range r.policies {
		id := uint32(firstIdentity + i)
		line(&identities, bpf.IPKey(p.source), bpf.IdentityValue(id))
		line(&entries, bpf.PolicyKey(id, ServicePort, protoTCP), bpf.PolicyValue(false))
	}
	client := uint32(firstIdentity + len(r.policies) - 1)
	line(&entries, bpf.PolicyKey(client, ControlPort, protoTCP), bpf.PolicyValue(false))
	r.fill(n, bpf.MapIdentities, "identities", identities.String())
	r.fill(n, bpf.MapPolicy, "policy", entries.String())
}

// xdpFilter loads the XDP program at the server: on eth0 inside its namespace,
// or on the data NIC of its node when the client is on another.
func xdpFilter(r *renderer) error {
	t := r.Topology
	node, in, link := t.Server.Node, Server, endpointLink
	if t.MultiHost() {
		in, link = "", DataLink
	}
	program := bpf.ProgXDPHash
	if r.cell.Get(plan.FactorFilter) == "xdp-pass" {
		program = bpf.ProgXDPPass
	}
	vars := map[string]string{}
	if program == bpf.ProgXDPHash {
		vars[bpf.VarEndpointIP] = hex.EncodeToString(bpf.IPKey(t.Server.Addr))
		vars[bpf.VarEnforce] = onOff(len(r.policies) > 0)
	}
	r.apply(node, "", bundle.LoadBPF{Handle: handle(node), Object: r.file("xdp.bpf.o", bpf.XDPObject()), Programs: []string{program}, Vars: vars, MaxEntries: r.mapSizes(bpf.MapPolicy)})
	if len(r.policies) > 0 {
		r.fillXDPPolicies(node)
	}
	hook := bundle.HookXDPNative
	if r.cell.Get(optAttach) == attachGeneric {
		hook = bundle.HookXDPGeneric
	}
	r.apply(node, in, bundle.AttachBPF{Handle: handle(node), Program: program, Link: link, Hook: hook})
	r.JIT = true
	r.Hook = &Hook{Node: node.Name, From: bundle.Counter{BPF: &bundle.BPFCounter{Handle: handle(node), Stats: bpf.MapStats, Maps: []string{bpf.MapPolicy}}}}
	r.expectEntries(bpf.MapPolicy, r.policyEntries())
	return nil
}

func (r *renderer) fillXDPPolicies(n Node) {
	var entries strings.Builder
	for _, p := range r.policies {
		line(&entries, bpf.XDPPolicyKey(p.source, ServicePort, protoTCP), bpf.PolicyValue(false))
	}
	line(&entries, bpf.XDPPolicyKey(r.Topology.Client.Addr, ControlPort, protoTCP), bpf.PolicyValue(false))
	r.fill(n, bpf.MapPolicy, "policy", entries.String())
}

// policyEntries is the number of map entries N policies make: one each, and
// one for netperf's control connection.
func (r *renderer) policyEntries() int {
	if len(r.policies) == 0 {
		return 0
	}
	return len(r.policies) + 1
}

func (r *renderer) expectEntries(m string, n int) {
	r.realised = append(r.realised, bundle.Expect{
		What: fmt.Sprintf("entries of map %s for %d policies", m, len(r.policies)),
		Key:  "entries." + m, Op: bundle.Equal, Value: uint64(n),
	})
}

// mapSizes gives maps room for the policies, and the same room whatever N is
// up to 16 384, so that hash density is not what differs between cells.
func (r *renderer) mapSizes(maps ...string) map[string]uint32 {
	size := uint32(16384)
	for uint32(len(r.policies))+1 > size {
		size *= 2
	}
	out := map[string]uint32{}
	for _, m := range maps {
		out[m] = size
	}
	return out
}

func (r *renderer) fill(n Node, m, file, lines string) {
	r.apply(n, "", bundle.FillMap{Handle: handle(n), Map: m, File: r.file(file, []byte(lines))})
}

func line(b *strings.Builder, key, value []byte) {
	fmt.Fprintf(b, "%s %s\n", hex.EncodeToString(key), hex.EncodeToString(value))
}

func onOff(on bool) string {
	if on {
		return "01"
	}
	return "00"
}
