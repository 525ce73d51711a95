package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
	"hookbed/driver/policy"
)

// PolicyOwn is the level of option "policy" where the user's own policies are enforced.
const PolicyOwn = "own"

// mostExpanded is the widest range of ports that is written port by port where a
// filter has no ranges.
const mostExpanded = 64

// holding is what a filter can hold of policies that users write.
type holding struct {
	prefixes   bool   // else whole addresses
	anySource  bool   // every source, even where there are no other prefixes
	ranges     bool   // of ports; else they are written port by port
	allOfProto bool   // every port of a protocol
	everyPort  bool   // every port of every protocol, next to others
	protocols  bool   // several protocols
	halved     bool   // no prefix of length 0, but its halves
	disjoint   bool   // no entries that overlap
	portless   string // why it holds no ports; "" if it does
	none       bool   // it is given generated policies only
}

// holdingOf is what a filter holds. The custom filter holds what its lines can say; with
// entries, what the structure of its maps can.
func holdingOf(filter, entries string) holding {
	list := holding{prefixes: true, allOfProto: true, everyPort: true, protocols: true}
	hash := holding{anySource: true, everyPort: true, protocols: true}
	trie := holding{prefixes: true, everyPort: true, protocols: true}
	switch filter {
	case filterIptablesLegacy, filterIptablesNft, filterNftLinear:
		list.ranges = true
		return list
	case filterIpset:
		return holding{prefixes: true, protocols: true, halved: true}
	case filterNftSet, filterNftVmap:
		return holding{}
	case filterNftInterval:
		return holding{prefixes: true, ranges: true, disjoint: true}
	case "tc-hash", "xdp-hash":
		return hash
	case "tc-lpm", "xdp-lpm":
		return trie
	case "tc-cilium09":
		return holding{portless: "this filter has one list of ports for all sources, the workload's control port among them"}
	case filterXDPFilter:
		return holding{portless: "this filter admits by address OR by port"}
	case filterBPFilter:
		return trie
	case filterCustom:
		return map[string]holding{entriesHash: hash, entriesTrie: trie}[entries].or(list)
	case "tc-linear", "xdp-linear":
		return list
	}
	return holding{none: true}
}

// or is the other one if this one is of no filter.
func (h holding) or(other holding) holding {
	if h == (holding{}) {
		return other
	}
	return h
}

// ErrCannotHold is wrapped by Render's error where a filter cannot hold the user's policies.
var ErrCannotHold = errors.New("cannot hold")

// lower writes what an endpoint admits as entries that a filter can hold: the same connections,
// exactly. Its error names the policy, its file and line, and what to write instead.
func (h holding) lower(entries []policy.Entry) ([]bpf.Policy, error) {
	if h.none {
		return nil, fmt.Errorf("%w: this filter is given generated policies only; write filter = %q, or another", ErrCannotHold, filterNftLinear)
	}
	var out []bpf.Policy
	seen := map[bpf.Policy]bool{}
	for _, e := range entries {
		some, why := h.each(e)
		if why == "" {
			why = h.uniform(entries[0], e)
		}
		if why != "" {
			return nil, fmt.Errorf("%w: %s: %s: %s", ErrCannotHold, e.At, e.Policy, why)
		}
		for _, p := range some {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	if h.disjoint {
		return disjoint(out), nil
	}
	return out, nil
}

// uniform refuses entries that differ from the first where all must be alike.
func (h holding) uniform(first, e policy.Entry) string {
	switch {
	case !h.everyPort && (first.Proto == 0) != (e.Proto == 0):
		return fmt.Sprintf("its keys have a port or have none, and %s (%s) is of the other kind; write the ports, or filter = %q", first.At, first.Ports(), filterNftLinear)
	case !h.protocols && e.Proto != 0 && e.Proto != protoTCP:
		return fmt.Sprintf("it admits %s, and this filter looks up ports of one protocol, which is TCP for the workload; write filter = %q", e.Ports(), filterNftLinear)
	}
	return ""
}

// each is one entry as the filter has it, or why it cannot.
func (h holding) each(e policy.Entry) (out []bpf.Policy, why string) {
	anywhere := e.Source.Bits() == 0
	switch {
	case e.HTTP != nil:
		return nil, "it has rules of HTTP, and this filter sees addresses and ports; remove rules, or write filter = " + strconv.Quote(filterL7HAProxy)
	case e.Proto == policy.ProtoSCTP:
		return nil, "it names SCTP, whose ports no filter here reads; write TCP or UDP"
	case !h.prefixes && !e.Source.IsSingleIP() && !(h.anySource && anywhere):
		return nil, fmt.Sprintf("it admits the prefix %s, and this filter finds whole addresses; write filter = %q, or another that holds prefixes", e.Source, "tc-lpm")
	case h.portless != "" && e.Proto != 0:
		return nil, fmt.Sprintf("it admits %s, and %s; write filter = %q or %q", e.Ports(), h.portless, "tc-hash", "xdp-hash")
	}
	sources := []netip.Prefix{e.Source}
	if h.halved && anywhere {
		sources = []netip.Prefix{netip.PrefixFrom(e.Source.Addr(), 1), upperHalf(e.Source.Addr())}
	}
	ports, why := h.ports(e)
	for _, s := range sources {
		for _, p := range ports {
			p.Source = s
			out = append(out, p)
		}
	}
	return out, why
}

// upperHalf is all addresses of a family whose first bit is set.
func upperHalf(a netip.Addr) netip.Prefix {
	b := a.AsSlice()
	b[0] = 0x80
	upper, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(upper, 1)
}

func (h holding) ports(e policy.Entry) (out []bpf.Policy, why string) {
	from, to := e.From, e.To
	switch {
	case e.Proto == 0 || from == 0 && h.allOfProto:
		return []bpf.Policy{{Proto: e.Proto}}, ""
	case from == 0:
		from, to = 1, policy.LastPort
	}
	switch {
	case from == to:
		return []bpf.Policy{{Proto: e.Proto, Port: from}}, ""
	case h.ranges:
		return []bpf.Policy{{Proto: e.Proto, Port: from, LastPort: to}}, ""
	case int(to)-int(from) >= mostExpanded:
		return nil, fmt.Sprintf("it admits %s, a range of %d ports, and this filter finds single ports, at most %d of a range; write filter = %q or %q", e.Ports(), int(to)-int(from)+1, mostExpanded, filterIptablesLegacy, filterNftInterval)
	}
	for port := from; ; port++ {
		out = append(out, bpf.Policy{Proto: e.Proto, Port: port})
		if port == to {
			return out, ""
		}
	}
}

// disjoint cuts entries into ones that do not overlap: at every port where a range begins or
// ends, the prefixes that no other contains.
func disjoint(list []bpf.Policy) (out []bpf.Policy) {
	var cuts []int
	for _, p := range list {
		cuts = append(cuts, int(p.Port), int(cmp.Or(p.LastPort, p.Port))+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i := 0; i+1 < len(cuts); i++ {
		from, to := cuts[i], cuts[i+1]-1
		var at []bpf.Policy
		for _, p := range list {
			if int(p.Port) <= from && to <= int(cmp.Or(p.LastPort, p.Port)) {
				at = append(at, p)
			}
		}
		for _, p := range at {
			wider := func(o bpf.Policy) bool {
				return o.Source != p.Source && o.Source.Bits() < p.Source.Bits() && o.Source.Contains(p.Source.Addr())
			}
			if slices.ContainsFunc(at, wider) {
				continue
			}
			p.Port, p.LastPort = uint16(from), 0
			if to > from {
				p.LastPort = uint16(to)
			}
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return joined(out)
}

// joined joins ranges of one source that follow each other, which were cut for others.
func joined(list []bpf.Policy) (out []bpf.Policy) {
	last := map[netip.Prefix]int{}
	for _, p := range list {
		i, ok := last[p.Source]
		if ok && p.Port != 0 && int(cmp.Or(out[i].LastPort, out[i].Port))+1 == int(p.Port) {
			out[i].LastPort = cmp.Or(p.LastPort, p.Port)
			continue
		}
		last[p.Source] = len(out)
		out = append(out, p)
	}
	return out
}

// own is the user's policies in a cell: those of one endpoint, at the testbed's addresses.
type own struct {
	cluster *policy.Cluster
	rules   policy.Rules
	port    uint16
	inPlace bool // of the inventory's addresses
}

// ownOf places the client and the server of the user's policies at the addresses of a
// topology.
func ownOf(o *plan.Own, t Topology) (own, error) {
	c, err := o.Cluster()
	if err != nil {
		return own{}, err
	}
	if !o.InPlace() {
		if c, err = c.Moved(map[string]netip.Addr{o.Client: t.Client.Addr, o.Server: t.Server.Addr}); err != nil {
			return own{}, err
		}
	}
	server, err := c.Inventory().Pod(o.Server)
	if err != nil {
		return own{}, err
	}
	out := own{cluster: c, rules: c.Ingress(server, t.IPv6), port: uint16(o.Port), inPlace: o.InPlace()}
	switch {
	case !out.rules.Isolated:
		return out, fmt.Errorf("%w: no policy selects %s for ingress, and no filter is installed; select it, or choose another server", ErrCannotHold, o.Server)
	case len(out.rules.Entries) == 0:
		return out, fmt.Errorf("%w: the policies admit nothing at %s, and a filter of no entries is not installed; admit a flow", ErrCannotHold, o.Server)
	}
	if e, by, conflict := c.EgressConflict(server, out.rules); conflict {
		return out, fmt.Errorf("%w: %s: %s isolates the egress of a source that %s (%s) admits, and filters in front of the server see its ingress alone; admit the flow there as well, or remove the policy of egress",
			ErrCannotHold, by.At, by.Name, e.At, e.Policy)
	}
	return out, nil
}

// verdict is what the policies say of a probe of the server.
func (o own) verdict(from, to netip.Addr, port int) string {
	if o.cluster.Decide(policy.Flow{From: from, To: to, Proto: policy.ProtoTCP, Port: uint16(port)}).Allowed {
		return bundle.Allow
	}
	return bundle.Deny
}

// ownPolicies are the user's policies as a cell's filter holds them. What it cannot hold is
// in err, which Render returns.
func ownPolicies(cell plan.Cell, t Topology) policies {
	ps := policies{kind: policyL4, proto: protoTCP, port: cell.Own.Port}
	o, err := ownOf(cell.Own, t)
	if err == nil {
		ps.own = &o
		if filter := cell.Get(plan.FactorFilter); judgesRequests(filter) {
			err = ps.ownRequests(filter)
		} else {
			ps.list, err = holdingOf(filter, cell.Get(optEntries)).lower(o.rules.Entries)
		}
	}
	ps.err = err
	ported := func(p bpf.Policy) bool { return p.Proto != 0 }
	wide := func(p bpf.Policy) bool { return !p.Source.IsSingleIP() }
	switch {
	case len(ps.list) == 0:
	case !slices.ContainsFunc(ps.list, ported):
		ps.kind = policyL3
	case slices.ContainsFunc(ps.list, wide):
		ps.kind = policyCIDR
	}
	return ps
}

// covers says whether the user's policies admit a source at a port already.
func (ps policies) covers(p bpf.Policy) bool {
	if ps.own == nil {
		return false
	}
	_, ok := ps.own.rules.Admits(p.Source.Addr(), p.Proto, p.Port)
	return ok
}

// ownRefuses says why a filter cannot hold the policies that the user wrote, and where they
// leave nothing to measure or to prove.
func ownRefuses(fi filter, d plan.DatapathEntry) func(plan.Spec, plan.Arm, string) string {
	return func(s plan.Spec, a plan.Arm, scenario string) string {
		cell := plan.Cell{Factors: map[string]string{plan.FactorFabric: d.Fabric, plan.FactorFilter: d.Filter, plan.FactorScenario: scenario, plan.FactorPolicies: fmt.Sprint(s.Own.Policies), plan.FactorEndpoint: s.Lab.Endpoint}, Own: s.Own}
		for k, v := range a.Options {
			cell.Factors[k] = v
		}
		t := Layout(cell)
		ps := ownPolicies(cell, t)
		if ps.err != nil {
			return ps.err.Error()
		}
		if fi.application != "" {
			return ps.unusableRequests(cell, t)
		}
		return ps.unusable(fi, t)
	}
}

// unusable says why a cell of these policies would measure or prove nothing, "" if it would.
func (ps policies) unusable(fi filter, t Topology) string {
	o := ps.own
	if beside := len(ps.control(t)) + 1; fi.mostRules > 0 && len(ps.list)+beside > fi.mostRules {
		return fmt.Sprintf("they are %d entries, and the filter holds %d, of which the workload and the update need %d; write fewer policies, or another filter", len(ps.list), fi.mostRules, beside)
	}
	if o.verdict(t.Client.Addr, t.Server.Addr, ps.port) != bundle.Allow {
		return fmt.Sprintf("in the testbed the client has the address %s, which they do not admit at port %d; admit the client by its labels or its single address, not by a prefix, or choose another client", t.Client.Addr, ps.port)
	}
	if extra := ps.extra(t.IPv6); ps.covers(extra) {
		return fmt.Sprintf("they admit every source at port %d, as %s, which no policy should name: nothing could be proven to be denied there; choose another server or port", ps.port, extra.Source.Addr())
	}
	return ""
}

// ownTries are probes whose outcome the reference says: the client, sources that the policies
// name and can be sent from, and others.
func (r *renderer) ownTries() []bundle.Probe {
	o, t := r.policies.own, r.Topology
	server := t.Server.Addr
	var out []bundle.Probe
	try := func(what string, from netip.Addr, port int) {
		out = append(out, bundle.Probe{What: what, From: from.String(), To: server.String(), Port: port, Want: o.verdict(from, server, port)})
	}
	try("client", t.Client.Addr, r.policies.port)
	try("source no policy names", unlistedSource(t.IPv6), r.policies.port)
	try("client, other port", t.Client.Addr, ForbiddenPort)
	if e, ok := o.middle(t.IPv6); ok {
		what := fmt.Sprintf("source of %s:%d", e.At.File, e.At.Line)
		try(what, lastAddr(bpf.Policy{Source: e.Source}), r.policies.port)
		try(what+", other port", lastAddr(bpf.Policy{Source: e.Source}), ForbiddenPort)
	}
	if a, ok := o.stranger(server, r.policies.port, t); ok {
		try("pod that is not admitted", a, r.policies.port)
	}
	return out
}

// middle is the entry nearest to the middle that admits a source that can be sent from at
// the measured port.
func (o own) middle(v6 bool) (e policy.Entry, ok bool) {
	var able []policy.Entry
	for _, e := range o.rules.Entries {
		last := lastAddr(bpf.Policy{Source: e.Source})
		_, served := policy.Rules{Isolated: true, Entries: []policy.Entry{e}}.Admits(last, protoTCP, o.port)
		if served && canSend(last, v6) {
			able = append(able, e)
		}
	}
	if len(able) == 0 {
		return e, false
	}
	return able[len(able)/2], true
}

// canSend says whether the testbed routes a source's answers, and uses it for nothing else.
func canSend(a netip.Addr, v6 bool) bool {
	b := a.AsSlice()
	low := int(b[len(b)-2])<<8 | int(b[len(b)-1])
	return otherSources(v6).Contains(a) && low != 0 && low < topHosts
}

// stranger is the first pod that can be sent from and is not admitted.
func (o own) stranger(server netip.Addr, port int, t Topology) (netip.Addr, bool) {
	for _, p := range o.cluster.Inventory().Pods {
		for _, a := range p.Addresses {
			if a != t.Client.Addr && a != server && canSend(a, t.IPv6) && o.verdict(a, server, port) == bundle.Deny {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// OwnCell is a cell of a datapath that enforces policies of the user, at the defaults of its
// options: to render what it would be given.
func OwnCell(d plan.DatapathEntry, o *plan.Own, v6 bool) plan.Cell {
	factors := map[string]string{
		plan.FactorDatapath: d.Name, plan.FactorFabric: d.Fabric, plan.FactorFilter: d.Filter, plan.FactorScenario: plan.Localhost,
		plan.FactorEndpoint: plan.EndpointNetns, plan.FactorPolicies: fmt.Sprint(o.Policies), plan.FactorCongestion: "reno",
	}
	for _, option := range d.Options {
		if option.Applies(factors) {
			factors[option.Key] = option.Allowed[0]
		}
	}
	for key, level := range d.OwnLevels {
		factors[key] = level
	}
	if v6 {
		factors[optFamily] = familyIPv6
	}
	files := map[string]plan.File{}
	for _, key := range d.Keys { // of the user's own filter, whose lines are all that is of interest
		if key.Script {
			files[key.Key] = plan.File{Path: key.Key, Data: []byte("#!/bin/sh\n")}
		}
	}
	return plan.Cell{ID: "own", Factors: factors, Files: files, Own: o}
}
