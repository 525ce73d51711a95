package datapath

import (
	"encoding/hex"
	"fmt"
	"strings"

	"hookbed/bpf"
	"hookbed/driver/bundle"
)

// Handles of loaded objects: one helper may hold several nodes, and a node two
// objects.
func tcHandle(n Node) string  { return "tc@" + n.Name }
func xdpHandle(n Node) string { return "xdp@" + n.Name }

// tcFilter enforces by the tc object: within the programs that join endpoints
// on fabric bpf, elsewhere by one at the node's end of the server's link, and one
// next to it that remembers what the server sends.
func (r *renderer) tcFilter(s bpf.Structure) error {
	fill := func(n Node) error { return r.fillPolicies(n, tcHandle(n), s, tcTables()) }
	var err error
	if r.identities, err = bpf.Identities(s, r.installed()); err != nil {
		return err
	}
	r.guardConntrack(s)
	if r.fabric.redirects {
		return r.joinByTC(s, fill)
	}
	n, link := r.Topology.Server.Node, r.Topology.Server.PeerLink()
	vars, err := r.tcVars(s)
	if err != nil {
		return err
	}
	vars[bpf.VarEnforce] = onOff(r.policies.size() > 0)
	r.endpointVars(vars)
	programs := []string{bpf.ProgToEndpoint}
	if s != bpf.StructurePass {
		programs = append(programs, bpf.ProgTrack)
	}
	object := r.file("datapath.bpf.o", bpf.DatapathObject())
	tables := bpf.TCTables(s, r.Topology.IPv6)
	r.apply(n, "", bundle.LoadBPF{Handle: tcHandle(n), Object: object, Programs: programs, Vars: vars, MaxEntries: r.tcSizes(tables), Tables: tables, Prealloc: r.cell.Get(optPrealloc) == preallocOn})
	if err := fill(n); err != nil {
		return err
	}
	egress, ingress := r.tcHooks()
	if s != bpf.StructurePass {
		r.apply(n, r.farEnds(), bundle.AttachBPF{Handle: tcHandle(n), Program: bpf.ProgTrack, Link: link, Hook: ingress})
	}
	r.apply(n, r.farEnds(), bundle.AttachBPF{Handle: tcHandle(n), Program: bpf.ProgToEndpoint, Link: link, Hook: egress})
	return nil
}

// guardConntrack looks at the programs' own table of connections.
func (r *renderer) guardConntrack(s bpf.Structure) {
	if s == bpf.StructurePass && !r.fabric.redirects {
		return // keeps none
	}
	n := r.Topology.Server.Node
	used, _ := r.conntrackMaps()
	r.guard(n, "", bundle.Guard{Handle: tcHandle(n), Maps: map[string]float64{used: tableShare}})
}

// joinByTC loads the tc object on every node, fills endpoints, and attaches it
// to the endpoints' links and the NIC. fill adds the policies on the server's
// node; nil if something else enforces them, or nothing.
func (r *renderer) joinByTC(s bpf.Structure, fill func(Node) error) error {
	r.joined = true
	t := r.Topology
	vars, err := r.tcVars(s)
	if err != nil {
		return err
	}
	j := r.joining(vars)
	for _, n := range t.Nodes {
		programs := []string{j.fromEndpoint}
		if t.MultiHost() {
			programs = append(programs, j.fromOutside)
		}
		tables := bpf.TCTables(s, t.IPv6)
		r.apply(n, "", bundle.LoadBPF{Handle: tcHandle(n), Object: j.object, Programs: programs, Vars: vars, LinkVars: j.links, MaxEntries: r.tcSizes(tables), Tables: tables, Prealloc: r.cell.Get(optPrealloc) == preallocOn})
		r.fillEndpoints(n, fill != nil && r.policies.size() > 0)
		if r.overlay() {
			r.apply(n, "", bundle.FillMap{Handle: tcHandle(n), Map: bpf.MapTunnels, File: r.file(n.Name+".tunnels", []byte(r.tunnelLines(n)))})
		}
	}
	if fill != nil {
		if err := fill(t.Server.Node); err != nil {
			return err
		}
	}
	_, ingress := r.tcHooks()
	fromEndpoint := ingress
	if r.cell.Get(optDelivery) == deliverNetkit {
		fromEndpoint = bundle.HookNetkitPeer // what the endpoint sends
	}
	for _, e := range r.endpoints() {
		r.apply(e.Node, "", bundle.AttachBPF{Handle: tcHandle(e.Node), Program: j.fromEndpoint, Link: e.hostLink(), Hook: fromEndpoint})
	}
	if t.MultiHost() {
		for _, n := range t.Nodes {
			r.apply(n, "", bundle.AttachBPF{Handle: tcHandle(n), Program: j.fromOutside, Link: j.outside, Hook: ingress})
		}
	}
	return nil
}

// joining is which programs join the endpoints of a node with other nodes.
type joining struct {
	object                    string            // file
	fromEndpoint, fromOutside string            // programs
	outside                   string            // link by which other nodes come
	links                     map[string]string // variables that are links
}

// joining chooses by the overlay, and adds to vars what it needs.
func (r *renderer) joining(vars map[string]string) joining {
	if !r.overlay() {
		return joining{object: r.file("datapath.bpf.o", bpf.DatapathObject()), fromEndpoint: bpf.ProgFromEndpoint, fromOutside: bpf.ProgFromNetdev, outside: DataLink}
	}
	vars[bpf.VarTunnelChecksum] = onOff(r.cell.Get(optUDPcsum) == udpcsumOn)
	return joining{
		object: r.file("overlay.bpf.o", bpf.OverlayObject()), fromEndpoint: bpf.ProgFromEndpointTunnel, fromOutside: bpf.ProgFromTunnel,
		outside: overlayLink, links: map[string]string{bpf.VarTunnelLink: overlayLink},
	}
}

func (r *renderer) tcHooks() (egress, ingress string) {
	if r.cell.Get(optAttach) == attachTCX {
		return bundle.HookTCXEgress, bundle.HookTCXIngress
	}
	return bundle.HookTCEgress, bundle.HookTCIngress
}

func (r *renderer) tcVars(s bpf.Structure) (map[string]string, error) {
	vars := r.policyVars(s)
	vars[bpf.VarEnforceNewOnly] = onOff(r.cell.Get(optEnforce) == enforceNew)
	vars[bpf.VarPolicyFirst] = onOff(r.cell.Get(optEnforce) == enforceFirst)
	vars[bpf.VarUsePeer] = onOff(r.cell.Get(optDelivery) == deliverPeer)
	if s == bpf.StructureCilium09 {
		ports, err := bpf.L4Ports(r.installed())
		if err != nil {
			return nil, err
		}
		vars[bpf.VarL4Ports] = hex.EncodeToString(ports)
	}
	return vars, nil
}

// policyVars are the variables that tc and XDP share.
func (r *renderer) policyVars(s bpf.Structure) map[string]string {
	accounting := map[string]byte{accountingPerCPU: 1, accountingAtomic: 2}[r.cell.Get(optAccounting)]
	vars := map[string]string{
		bpf.VarStructure:    hex.EncodeToString([]byte{byte(s)}),
		bpf.VarDefaultAdmit: onOff(r.policies.deny),
		bpf.VarAccounting:   hex.EncodeToString([]byte{accounting}),
	}
	if s != bpf.StructurePass && r.policies.size() > 0 {
		all := append(r.installed(), r.policies.extra(r.Topology.IPv6))
		vars[bpf.VarWildcards] = hex.EncodeToString([]byte{bpf.Wildcards(all...)})
	}
	return vars
}

// listCapacity has room for the policies, the control connections' and an
// update's, and ends on a power of two, so that few programs differ.
func (r *renderer) listCapacity() uint32 {
	size := uint32(16)
	for uint32(r.policies.size()+len(r.Topology.Clients()))+1 > size {
		size *= 2
	}
	return size
}

// endpointVars sets which endpoint a program guards.
func (r *renderer) endpointVars(vars map[string]string) {
	name := bpf.VarEndpointIP
	if r.Topology.IPv6 {
		name = bpf.VarEndpointIP6
	}
	vars[name] = hex.EncodeToString(bpf.IPKey(r.Topology.Server.Addr))
}

// fillEndpoints fills the map from which a node's programs know its endpoints.
func (r *renderer) fillEndpoints(n Node, enforce bool) {
	name := bpf.MapEndpoints
	if r.Topology.IPv6 {
		name = bpf.MapEndpoints6
	}
	var lines strings.Builder
	for i, e := range r.endpoints() {
		if e.Node.Name != n.Name {
			continue
		}
		lines.WriteString(bpf.EndpointLine(e.Addr, e.hostLink(), uint32(i+1), e.MAC, e.HostMAC, enforce && e.Role == Server) + "\n")
	}
	r.apply(n, "", bundle.FillMap{Handle: tcHandle(n), Map: name, File: r.file(n.Name+".endpoints", []byte(lines.String()))})
}

// tables writes policies as entries of maps: those of tc, or those of XDP.
type tables struct {
	fills  func(bpf.Structure, []bpf.Policy) ([]bpf.Fill, error)
	update func(bpf.Structure, []bpf.Policy, bpf.Policy) (add, remove []bpf.Fill, err error)
}

func tcTables() tables  { return tables{bpf.TCFills, bpf.TCUpdate} }
func xdpTables() tables { return tables{bpf.XDPFills, bpf.XDPUpdate} }

// fillPolicies fills the maps of a node's object, says what they must then hold
// and where their packets are counted, and renders the update by one policy.
func (r *renderer) fillPolicies(n Node, handle string, s bpf.Structure, to tables) error {
	r.guard(n, "", bundle.Guard{Handle: handle, JIT: true})
	counter := &bundle.BPFCounter{Handle: handle, Stats: bpf.MapStats}
	r.Hook = &Hook{Node: n.Name, From: bundle.Counter{BPF: counter}}
	if r.policies.size() == 0 {
		return nil
	}
	all := r.installed()
	fills, err := to.fills(s, all)
	if err != nil {
		return err
	}
	for _, f := range fills {
		if r.sharedWithSender(handle, f) {
			r.apply(r.Topology.Client.Node, "", r.fillMap(tcHandle(r.Topology.Client.Node), f, "", ""))
		}
		r.apply(n, "", r.fillMap(handle, f, "", ""))
		counter.Maps = append(counter.Maps, f.Map)
		r.expectEntries(f.Map, f.Entries)
	}
	add, remove, err := to.update(s, all, r.policies.extra(r.Topology.IPv6))
	if err != nil {
		return err
	}
	for _, f := range add {
		if r.sharedWithSender(handle, f) {
			r.update(r.Topology.Client.Node, "", r.fillMap(tcHandle(r.Topology.Client.Node), f, "add.", bundle.MetricUpdate))
		}
		r.update(n, "", r.fillMap(handle, f, "add.", bundle.MetricUpdate))
	}
	for _, f := range remove {
		r.revert(n, "", r.fillMap(handle, f, "remove.", bundle.MetricUpdate))
		if r.sharedWithSender(handle, f) {
			r.revert(r.Topology.Client.Node, "", r.fillMap(tcHandle(r.Topology.Client.Node), f, "remove.", bundle.MetricUpdate))
		}
	}
	return nil
}

// sharedWithSender says whether a table is needed on the sender's node as well: that of
// identities, where the tunnel carries them.
func (r *renderer) sharedWithSender(handle string, f bpf.Fill) bool {
	return r.overlay() && r.fabric.redirects && handle == tcHandle(r.Topology.Server.Node) && f.Map == bpf.MapIdentities
}

func (r *renderer) fillMap(handle string, f bpf.Fill, prefix, metric string) bundle.FillMap {
	return bundle.FillMap{Handle: handle, Map: f.Map, File: r.file(prefix+f.Map, []byte(f.Lines)), Delete: f.Delete, Metric: metric}
}

func (r *renderer) expectEntries(m string, n int) {
	r.realised = append(r.realised, bundle.Expect{
		What: fmt.Sprintf("entries of map %s for %d policies", m, r.policies.size()),
		Key:  bundle.CountEntriesOf + m, Op: bundle.Equal, Value: uint64(n),
	})
}

// mapSizes gives tables room for the policies, and the same room whatever N is,
// so that how full hashes are is hardly what differs between cells. A list is as
// long as it must be: the proof reads all of it.
func (r *renderer) mapSizes(tables []string) map[string]uint32 {
	size := uint32(65536)
	for uint32(r.policies.size()+len(r.Topology.Clients()))+1 > size {
		size *= 2
	}
	out := map[string]uint32{}
	for _, m := range tables {
		switch m {
		case bpf.MapList, bpf.MapList6:
			out[m] = r.listCapacity()
		case bpf.MapListMatch, bpf.MapListMatch6:
			out[m] = r.listCapacity() / bpf.ListBlock
		default:
			out[m] = size
		}
	}
	switch r.cell.Get(optAccounting) {
	case accountingPerCPU:
		out[bpf.MapHits] = size
	case accountingAtomic:
		out[bpf.MapHitsShared] = size
	}
	return out
}

// idleConnections is the room for connections of the family that is not measured.
// The table has its entries from the beginning, and making a full one takes as
// long as all else of loading the object.
const idleConnections = 1024

// tcSizes are the sizes of the maps that the tc object needs otherwise than it is.
func (r *renderer) tcSizes(tables []string) map[string]uint32 {
	out := r.mapSizes(tables)
	_, idle := r.conntrackMaps()
	out[idle] = idleConnections
	return out
}

// conntrackMaps are the tables of connections of the family that is measured and
// of the other.
func (r *renderer) conntrackMaps() (used, idle string) {
	if r.Topology.IPv6 {
		return bpf.MapConntrack6, bpf.MapConntrack
	}
	return bpf.MapConntrack, bpf.MapConntrack6
}

func onOff(on bool) string {
	if on {
		return "01"
	}
	return "00"
}
