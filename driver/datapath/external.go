package datapath

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Filters of other projects.
const (
	filterXDPFilter = "xdp-filter"
	filterBPFilter  = "bpfilter"

	optForm = "form"
	optHook = "hook"

	formSet     = "set"
	formLinear  = "linear"
	hookTC      = "tc"
	hookInput   = "input"
	hookForward = "forward"
	hookXDP     = "xdp"
)

// NeedsExternal says whether a cell's filter is of another project; the lab must then have
// its programs.
func NeedsExternal(cell plan.Cell) bool {
	return slices.ContainsFunc(externalFilters(), func(f filter) bool { return f.external != "" && f.name == cell.Get(plan.FactorFilter) })
}

func externalFilters() []filter {
	return []filter{
		{
			name: filterXDPFilter, inside: true, render: renderXDPFilter,
			nature:  nature{mechanism: catalog.XDP, structure: catalog.Hash, regime: catalog.Stateless, external: "xdp-tools", hook: hookXDPEdge},
			doc:     "xdp-filter of xdp-tools, external: an XDP hash of addresses; stateless; names no port with an address, so an upper bound",
			options: slices.Concat([]plan.Option{xdpFilterPolicy()}, policyOptions()[1:], xdpOptions()),
			refuse:  refuseFirst(refuseXDPFilter, refuseMatch, refuseXDP),
		},
		{
			name: filterBPFilter, inside: true, render: renderBPFilter,
			// Mechanism and structure are as its options say.
			nature: nature{regime: catalog.Stateless, external: "bpfilter", hook: "tc, netfilter or generic XDP, as option " + optHook + " says", since: "6.6"},
			doc:    "bpfilter 0.6, external: rules compiled into one eBPF program, as a list or a set; stateless, no connection tracking",
			options: slices.Concat(policyOptions(), []plan.Option{
				{Key: optForm, Allowed: []string{formSet, formLinear}, Doc: "one rule that asks a hash of the policies, or one rule for each"},
				{Key: optHook, Allowed: []string{hookTC, hookInput, hookForward, hookXDP},
					Doc: "tcx ingress of the server's eth0, netfilter's LOCAL_IN of its namespace, netfilter's FORWARD of its node, or generic XDP of eth0"},
			}),
			refuse: refuseFirst(refuseMatch, refuseBPFilter),
		},
		customFilter(),
	}
}

// xdpFilterPolicy has for its default what xdp-filter can say.
func xdpFilterPolicy() plan.Option {
	o := policyOptions()[0]
	o.Allowed = []string{policyL3, policyL4, policyCIDR, PolicyOwn}
	return o
}

func refuseXDPFilter(_ plan.Lab, _ fabric, _ string, o map[string]string) string {
	switch o[optPolicy] {
	case policyL4:
		return fmt.Sprintf("xdp-filter admits or drops by address OR by port, and cannot ask for both; write policy = %q, or filter = %q", policyL3, "xdp-hash")
	case policyCIDR:
		return fmt.Sprintf("xdp-filter finds whole addresses, no prefixes; write policy = %q, or filter = %q", policyL3, "xdp-lpm")
	}
	return ""
}

func refuseBPFilter(_ plan.Lab, fa fabric, _ string, o map[string]string) string {
	switch {
	case o[optForm] == formSet && o[optMatch] != matchLast:
		return fmt.Sprintf("a set has no order; remove match, or write form = %q", formLinear)
	case o[optHook] == hookXDP && fa.redirects: // it is generic XDP
		return fmt.Sprintf("generic XDP does not see what was redirected, which is all that fabric %q delivers; write hook = %q", fa.name, hookTC)
	case o[optHook] == hookForward && fa.pastNetfilter:
		return fmt.Sprintf("fabric %q takes packets past the node's netfilter; write hook = %q", fa.name, hookInput)
	}
	return ""
}

// xdp-filter as its version 1.6 is: where it pins, how its maps read
// (xdp-filter/common_kern_user.h), and how many addresses they hold
// (xdp-filter/xdpfilt_prog.h).
const (
	xdpFilterPins     = "/sys/fs/bpf/xdp-filter"
	xdpFilterStats    = "xdp_stats_map"
	xdpFilterCapacity = 10000
	xdpFilterSource   = 1 // flag of an entry: the packet's source
	xdpFilterTarget   = 2 // its destination
)

// renderXDPFilter loads xdp-filter by its own command, and fills the map that it
// made in batches: its command adds one address a process, 3 ms each.
func renderXDPFilter(r *renderer) error {
	at := r.edge()
	handle := filterXDPFilter + "@" + at.node.Name
	table := "filter_" + r.six(familyIPv4, familyIPv6)
	lines, entries := r.xdpFilterEntries(at)
	if room := xdpFilterCapacity - 1; entries > room { // one for the update
		r.Unsupported = fmt.Sprintf("xdp-filter's map has room for %d addresses, and %d policies make %d and one for the update", xdpFilterCapacity, r.policies.size(), entries)
	}
	otherwise := "allow"
	if r.policies.size() > 0 && !r.policies.deny {
		otherwise = "deny"
	}
	mode, hook, guarded := "native", bundle.HookXDPNative, bundle.XDPNative
	if r.cell.Get(optAttach) == attachGeneric {
		mode, hook, guarded = "skb", bundle.HookXDPGeneric, bundle.XDPGeneric
	}
	r.apply(at.node, at.in, bundle.Tool{
		Do:     bundle.Program{Argv: []string{"xdp-filter", "load", "{name:" + at.link + "}", "-m", mode, "-f", r.six(familyIPv4, familyIPv6), "-p", otherwise}},
		Undo:   &bundle.Program{Argv: []string{"xdp-filter", "unload", "{name:" + at.link + "}"}},
		Metric: bundle.MetricAttach,
	})
	r.apply(at.node, at.in, bundle.AdoptBPF{Handle: handle, Pins: xdpFilterPins, Maps: []string{table, xdpFilterStats}, Link: at.link, Hook: hook})
	counter := &bundle.BPFCounter{Handle: handle, Stats: xdpFilterStats, Ranges: []bundle.StatRange{
		{Key: bundle.CountDropped, First: 0, Count: 2}, {Key: bundle.CountAccepted, First: 2, Count: 1}, // XDP_ABORTED, XDP_DROP; XDP_PASS
	}}
	r.Hook = &Hook{Node: at.node.Name, From: bundle.Counter{BPF: counter}}
	r.guard(at.node, "", bundle.Guard{Handle: handle, JIT: true})
	r.guard(at.node, at.in, bundle.Guard{Link: at.link, XDP: guarded})
	if r.policies.size() == 0 {
		return nil
	}
	counter.Maps = []string{table}
	r.apply(at.node, "", bundle.FillMap{Handle: handle, Map: table, File: r.file(table, []byte(lines))})
	r.expectEntries(table, entries)
	one := r.file("update."+table, []byte(xdpFilterLine(r.policies.extra(r.Topology.IPv6).Source.Addr(), xdpFilterSource)))
	r.update(at.node, "", bundle.FillMap{Handle: handle, Map: table, File: one, Metric: bundle.MetricUpdate})
	r.revert(at.node, "", bundle.FillMap{Handle: handle, Map: table, File: one, Delete: true, Metric: bundle.MetricUpdate})
	return nil
}

// xdpFilterEntries are the policies as entries of xdp-filter's map, and, where
// the rest is dropped, those without which no neighbour could be found: it
// judges ARP and neighbour discovery by the same list.
func (r *renderer) xdpFilterEntries(at attachPoint) (lines string, n int) {
	var b strings.Builder
	for _, p := range r.policies.list {
		b.WriteString(xdpFilterLine(p.Source.Addr(), xdpFilterSource))
	}
	n = r.policies.size()
	if n == 0 || r.policies.deny {
		return b.String(), n
	}
	for _, a := range r.neighbours(at) {
		b.WriteString(xdpFilterLine(a, xdpFilterSource))
		n++
	}
	if r.Topology.IPv6 {
		// Solicitations are sent to this group; the server's own address as a
		// destination would admit everything.
		asked := r.Topology.Server.Addr
		if at.in == "" {
			asked = at.node.Data
		}
		b.WriteString(xdpFilterLine(solicitedNode(asked), xdpFilterTarget))
		n++
	}
	return b.String(), n
}

// neighbours are the addresses from which ARP and neighbour discovery come in at
// an attach point, without the client's own.
func (r *renderer) neighbours(at attachPoint) []netip.Addr {
	switch {
	case at.in == "":
		return []netip.Addr{r.Topology.Client.Node.Data}
	case r.fabric.bridged:
		return []netip.Addr{r.Topology.Server.Node.Gateway}
	}
	return nil // they are permanent entries, or the client's
}

// solicitedNode is the multicast group to which solicitations of an IPv6 address go
// (RFC 4291, 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b, low := netip.MustParseAddr("ff02::1:ff00:0").As16(), a.As16()
	copy(b[13:], low[13:])
	return netip.AddrFrom16(b)
}

// xdpFilterLine is an entry: the address in network order, and flags whose
// upper bits count hits.
func xdpFilterLine(a netip.Addr, flags uint64) string {
	return hex.EncodeToString(a.AsSlice()) + " " + hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, flags)) + "\n"
}

// bpfilter as its version 0.6 is.
const (
	bpfilterSocket = "/run/bpfilter/daemon.sock"
	bpfilterStats  = "counters_map" // a counter for each rule, then the policy's and the errors'
	bpfilterSet    = "set_0000"
	bpfilterChain  = "hookbed"
	// bpfilterLimit bounds one compilation, in seconds: 10 000 rules under emulation.
	bpfilterLimit = 300
)

// renderBPFilter starts bpfilter's daemon and has it load one chain.
func renderBPFilter(r *renderer) error {
	node, in := r.Topology.Server.Node, Server
	if r.cell.Get(optHook) == hookForward {
		in = ""
	}
	handle := filterBPFilter + "@" + node.Name
	chain := r.bpfilterChain(nil)
	text := r.file("bpfilter.chain", []byte(chain.text))
	r.apply(node, in, bundle.Daemon{Handle: handle, Argv: []string{"bpfilter", "--transient", "--no-iptables", "--no-nftables"}, Socket: bpfilterSocket})
	r.apply(node, in, bundle.Tool{
		Do:   bundle.Program{Argv: []string{"bfcli", "chain", "set", "--from-file", "/proc/self/fd/0"}, Stdin: text, Timeout: bpfilterLimit},
		Undo: &bundle.Program{Argv: []string{"bfcli", "ruleset", "flush"}},
	})
	adopt := bundle.AdoptBPF{Handle: handle, Daemon: handle, Maps: []string{bpfilterStats}}
	if r.cell.Get(optHook) == hookXDP {
		adopt.Link, adopt.Hook = endpointLink, bundle.HookXDPGeneric
	}
	r.apply(node, in, adopt)
	counter := &bundle.BPFCounter{Handle: handle, Stats: bpfilterStats, Ranges: chain.ranges(r.policies.deny)}
	r.Hook = &Hook{Node: node.Name, From: bundle.Counter{BPF: counter}}
	r.guard(node, "", bundle.Guard{Handle: handle, JIT: true})
	r.realised = append(r.realised, bundle.Expect{
		What: fmt.Sprintf("counters of bpfilter's %d rules, its policy and its errors", chain.frame+chain.rules),
		Key:  bundle.CountSlots, Op: bundle.Equal, Value: uint64(chain.frame + chain.rules + 2),
	})
	if chain.elements > 0 {
		counter.Maps = append(counter.Maps, bpfilterSet)
		r.expectEntries(bpfilterSet, chain.elements)
	}
	if r.policies.size() > 0 {
		extra := r.policies.extra(r.Topology.IPv6)
		swap := func(stdin string) bundle.Tool {
			return bundle.Tool{Metric: bundle.MetricUpdate, Do: bundle.Program{
				Argv: []string{"bfcli", "chain", "update", "--name", bpfilterChain, "--from-file", "/proc/self/fd/0"}, Stdin: stdin, Timeout: bpfilterLimit,
			}}
		}
		r.update(node, in, swap(r.file("bpfilter.update", []byte(r.bpfilterChain(&extra).text))))
		r.update(node, in, adopt)
		r.revert(node, in, swap(text))
		r.revert(node, in, adopt)
	}
	return nil
}

// bfChain is a chain in bpfilter's language: rules of the frame, which are
// subject to no policy, then those of the policies.
type bfChain struct {
	text                   string
	frame, rules, elements int
}

// ranges say what the indices of the chain's counters mean.
func (c bfChain) ranges(deny bool) []bundle.StatRange {
	hit, miss := bundle.CountAccepted, bundle.CountDropped
	if deny {
		hit, miss = miss, hit
	}
	if c.rules == 0 {
		miss = bundle.CountPassed
	}
	at := uint32(c.frame + c.rules)
	out := []bundle.StatRange{{Key: hit, First: uint32(c.frame), Count: uint32(c.rules)}, {Key: miss, First: at, Count: 1}, {Key: "errors", First: at + 1, Count: 1}}
	if c.frame > 0 {
		out = append(out, bundle.StatRange{Key: bundle.CountPassed, Count: uint32(c.frame)})
	}
	return out
}

// bpfilterChain renders the policies, and one more if extra is not nil.
func (r *renderer) bpfilterChain(extra *bpf.Policy) bfChain {
	verdict, otherwise := "ACCEPT", "DROP"
	if r.policies.deny {
		verdict, otherwise = otherwise, verdict
	}
	all := r.installed()
	if extra != nil {
		all = slices.Insert(slices.Clone(all), len(r.policies.list), *extra)
	}
	if len(all) == 0 {
		otherwise = "ACCEPT"
	}
	var frame, rules []string
	if len(all) > 0 && !r.policies.deny {
		frame = r.bpfilterFrame()
	}
	elements := 0
	if r.cell.Get(optForm) == formLinear || len(all) == 0 {
		for _, p := range all {
			rules = append(rules, r.bpfilterRule(p))
		}
	} else {
		rules, elements = r.bpfilterSets(all)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "chain %s %s %s\n", bpfilterChain, r.bpfilterHook(), otherwise)
	for _, f := range frame {
		fmt.Fprintf(&b, "rule %s counter ACCEPT\n", f)
	}
	for _, m := range rules {
		fmt.Fprintf(&b, "rule %s counter %s\n", m, verdict)
	}
	return bfChain{text: b.String(), frame: len(frame), rules: len(rules), elements: elements}
}

func (r *renderer) bpfilterHook() string {
	family := r.six("inet4", "inet6")
	switch r.cell.Get(optHook) {
	case hookInput:
		return "BF_HOOK_NF_LOCAL_IN{family=" + family + ",priorities=101-102}"
	case hookForward:
		return "BF_HOOK_NF_FORWARD{family=" + family + ",priorities=101-102}"
	case hookXDP:
		return "BF_HOOK_XDP{ifindex={index:" + endpointLink + "}}"
	}
	return "BF_HOOK_TC_INGRESS{ifindex={index:" + endpointLink + "}}"
}

// bpfilterFrame are the matches of what must pass though no policy names it:
// how neighbours find each other, and, where both directions pass, replies.
func (r *renderer) bpfilterFrame() []string {
	var out []string
	hook := r.cell.Get(optHook)
	if r.Topology.IPv6 {
		out = append(out, "icmpv6.type eq 135", "icmpv6.type eq 136")
	} else if hook == hookTC || hook == hookXDP {
		out = append(out, "meta.l3_proto eq 0") // what it reads as neither IPv4 nor IPv6: ARP
	}
	if hook == hookForward {
		out = append(out, r.bpfilterIP()+".saddr eq "+r.Topology.Server.Addr.String())
	}
	return out
}

func (r *renderer) bpfilterIP() string { return r.six("ip4", "ip6") }

// bpfilterRule is the match of one policy.
func (r *renderer) bpfilterRule(p bpf.Policy) string {
	match := r.bpfilterIP() + ".saddr eq " + p.Source.Addr().String()
	if !p.Source.IsSingleIP() {
		match = r.bpfilterIP() + ".snet eq " + p.Source.String()
	}
	if p.Port != 0 {
		match += fmt.Sprintf(" %s.dport eq %d", protocolName(p.Proto), p.Port)
	}
	return match
}

// bpfilterSets is the match of all policies by one set, and how many elements
// it has. A set of prefixes can have no ports in it, so the port that all of
// them share is matched next to it, and the control connection has a rule.
func (r *renderer) bpfilterSets(all []bpf.Policy) (rules []string, elements int) {
	ip := r.bpfilterIP()
	port := protocolName(r.policies.proto) + ".dport"
	key, rest := "("+ip+".saddr, "+port+")", ""
	element := func(p bpf.Policy) string { return fmt.Sprintf("%s, %d", p.Source.Addr(), p.Port) }
	switch {
	case r.policies.own != nil && r.policies.kind == policyCIDR: // hosts are in the set, prefixes next to it
	case r.policies.kind == policyL3:
		key, element = "("+ip+".saddr)", func(p bpf.Policy) string { return p.Source.Addr().String() }
	case r.policies.kind == policyCIDR:
		key, element = "("+ip+".snet)", func(p bpf.Policy) string { return p.Source.String() }
		rest = fmt.Sprintf(" %s eq %d", port, ServicePort)
	}
	var list, beside []string
	for _, p := range all {
		if r.besideSet(p) || p.Port != 0 && p.Proto != r.policies.proto {
			beside = append(beside, r.bpfilterRule(p))
			continue
		}
		list = append(list, element(p))
	}
	if len(list) == 0 {
		return beside, 0
	}
	return append([]string{key + " in { " + strings.Join(list, "; ") + " }" + rest}, beside...), len(list)
}

// besideSet says whether a policy has a rule next to the set, because the set's key or the port
// that is matched with it is another.
func (r *renderer) besideSet(p bpf.Policy) bool {
	if r.policies.own != nil {
		return !p.Source.IsSingleIP() || (p.Port == 0) != (r.policies.kind == policyL3)
	}
	return r.policies.kind == policyCIDR && p.Port != ServicePort
}
