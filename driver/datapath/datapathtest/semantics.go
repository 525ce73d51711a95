package datapathtest

import (
	"net/netip"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
)

// Levels of options that decide what an arm promises.
const (
	optPolicy    = "policy"
	optAction    = "action"
	optFamily    = "family"
	optPlacement = "placement"
	optEnforce   = "enforce"
	optHook      = "hook"

	levelL3      = "l3"
	levelDeny    = "deny"
	levelIPv6    = "ipv6"
	levelInput   = "input"
	levelForward = "forward"
	levelNew     = "new"
)

// bpfilter is the one of others' filters that has exceptions of its own.
const bpfilter = "bpfilter"

// cilium is the filter of Cilium's agent.
const cilium = "cilium"

// promise is something on which arms differ. What an arm does not promise is
// checked too: it must really not happen, or the declaration is wrong.
type promise string

const (
	// promiseReplies: answers to what the server itself began reach it, although
	// no policy names the other side.
	promiseReplies promise = "replies to the server's own connections"
	// promiseFragments: what policies admit is admitted in fragments too.
	promiseFragments promise = "fragments of admitted packets"
	// promiseClosed: what policies deny is denied in fragments too.
	promiseClosed promise = "fragments of denied packets are denied"
	// promiseErrors: an ICMP error about an admitted connection reaches its
	// sender, so path MTU discovery works.
	promiseErrors promise = "ICMP errors about admitted connections"
	// promiseKept: a connection goes on when the policy that admitted it goes.
	promiseKept promise = "connections outlive their policy"
	// promiseUnregistered: no table of netfilter's stays registered on a node.
	promiseUnregistered promise = "no table stays registered"
)

// exception is a promise that some arms do not give, and why.
type exception struct {
	promise promise
	arms    func(Arm) bool
	reason  string
}

// ours: a filter of this mechanism that has policies and is hookbed's own.
func (a Arm) ours(mechanism string) bool {
	return a.entry.Mechanism == mechanism && a.entry.External == "" && !a.NoPolicies
}

// stateless: a filter without connection tracking.
func (a Arm) stateless() bool { return a.entry.RegimeOf(a.Options) == catalog.Stateless }

// namesPorts: the arm's policies admit some ports and protocols of a source,
// and by default nothing.
func (a Arm) namesPorts() bool { return !a.Is(optPolicy, levelL3) && !admitsByDefault(a) }

// admitsByDefault: what no policy names is admitted, so most promises come true
// by themselves.
func admitsByDefault(a Arm) bool { return a.NoPolicies || a.Is(optAction, levelDeny) }

// exceptions is the one table of what arms do not promise.
func exceptions() []exception {
	return []exception{
		{promiseReplies, func(a Arm) bool { return a.stateless() && a.namesPorts() },
			"the filter knows no connections: an answer needs a policy of its own"},

		{promiseErrors, func(a Arm) bool { return a.stateless() && a.namesPorts() },
			"the filter knows no connections: an error needs a policy that names its sender"},

		{promiseKept, Arm.stateless, "the filter knows no connections: every packet needs a policy"},
		{promiseKept, func(a Arm) bool { return a.ours(catalog.TC) && !a.Is(optEnforce, levelNew) },
			"policy is asked for every packet that is no reply (enforce = all or policy-first)"},

		{promiseKept, func(a Arm) bool { return a.Filter == cilium },
			"the agent's programs ask the policies for every packet that is no reply"},

		{promiseFragments, func(a Arm) bool { return a.ours(catalog.TC) || a.ours(catalog.XDP) },
			"a later fragment has no ports to judge, and the programs reassemble nothing: dropped towards an endpoint with policies"},
		{promiseFragments, func(a Arm) bool {
			return a.ours(catalog.Netfilter) && a.stateless() && a.namesPorts() && !a.Is(optPlacement, levelInput)
		}, "on a node without connection tracking nobody reassembles: a later fragment has no port to match"},
		{promiseFragments, func(a Arm) bool {
			return a.ours(catalog.Netfilter) && a.stateless() && a.namesPorts() && a.Is(optPlacement, levelInput) && a.Is(optFamily, levelIPv6)
		}, "IPv6 is reassembled after the hook INPUT: without connection tracking a later fragment has no port to match"},

		{promiseFragments, func(a Arm) bool { return a.Filter == bpfilter && a.namesPorts() && a.Is(optFamily, levelIPv6) },
			"bpfilter 0.6 reads no port behind IPv6's fragment header, so that no rule about a port admits it"},

		{promiseClosed, func(a Arm) bool {
			return a.Filter == bpfilter && a.Is(optAction, levelDeny) && !a.Is(optPolicy, levelL3) && !(a.Is(optHook, levelInput) && !a.Is(optFamily, levelIPv6))
		}, "bpfilter 0.6 reads no port behind IPv6's fragment header nor in a first fragment that ends within TCP's header, so that no rule about a port denies it"},

		{promiseUnregistered, func(a Arm) bool {
			return (a.Filter == "iptables-legacy" || a.Filter == "ipset") && a.Is(optPlacement, levelForward)
		}, "the kernel keeps a legacy table registered, empty, for as long as its namespace lives"},
	}
}

// promises says whether an arm promises something, and if not why.
func (a Arm) promises(p promise) (bool, string) {
	for _, e := range exceptions() {
		if e.promise == p && e.arms(a) {
			return false, e.reason
		}
	}
	return true, ""
}

// policySet is what an arm enforces: the oracle that its verdicts are compared
// with.
type policySet struct {
	arm       Arm
	installed []bpf.Policy
	extra     bpf.Policy // that Setup.Update adds
	deny      bool
}

func protocolNumber(p protocol, v6 bool) uint8 {
	switch {
	case p == tcp:
		return 6
	case p == udp:
		return 17
	case v6:
		return protoICMPv6
	}
	return protoICMP
}

// admits is what the policies say of the first packet of a flow towards the
// server.
func (ps policySet) admits(f flow) bool {
	if len(ps.installed) == 0 {
		return true
	}
	for _, p := range ps.installed {
		if p.Source.Contains(f.from) && ps.names(p, f) {
			return !ps.deny
		}
	}
	return ps.deny
}

// names says whether a policy about a flow's source is about its port and
// protocol too.
func (ps policySet) names(p bpf.Policy, f flow) bool {
	proto := protocolNumber(f.proto, f.from.Is6())
	match := func(q bpf.Policy) bool {
		return (q.Proto == 0 || q.Proto == proto) && (q.Port == 0 || int(q.Port) == f.port)
	}
	if ps.arm.entry.Structure != catalog.HashAndList {
		return match(p)
	}
	// Its ports are of the endpoint: one that any policy names is open to every
	// source that any policy names.
	for _, q := range ps.installed {
		if match(q) {
			return true
		}
	}
	return false
}

// with is the set with the policy that Setup.Update adds.
func (ps policySet) with() policySet {
	ps.installed = append(ps.installed[:len(ps.installed):len(ps.installed)], ps.extra)
	return ps
}

// first and last address of a policy's source.
func firstAddr(p bpf.Policy) netip.Addr { return p.Source.Masked().Addr() }

func lastAddr(p bpf.Policy) netip.Addr {
	b := p.Source.Addr().AsSlice()
	for i := p.Source.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
