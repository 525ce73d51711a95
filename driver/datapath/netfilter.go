package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// Filters of netfilter.
const (
	filterIptablesLegacy = "iptables-legacy"
	filterIptablesNft    = "iptables-nft"
	filterIpset          = "ipset"
	filterNftLinear      = "nft-linear"
	filterNftSet         = "nft-set"
	filterNftVmap        = "nft-vmap"
	filterNftInterval    = "nft-interval"
)

// entry is one policy as a rule set states it: a source, and what it is let
// (or not let) reach at the server. A host is a prefix of one address.
type entry struct {
	Source netip.Prefix
	Port   uint16 // destination port, 0 any
	Proto  uint8  // number of IANA's protocol registry, 0 any
	Last   uint16 // end of a range of ports that begins at Port; 0 is Port alone
}

// ruleset is what a netfilter filter is to enforce. It is the whole input of
// the rendering.
type ruleset struct {
	Filter, State, Placement, Family string
	// Policy is the kind of every entry, and decides the structure: l4, l3, cidr.
	Policy string
	// Own: the entries are of the user's policies, and a list may have any kinds of them.
	Own bool
	// Deny: the policies deny and the default admits, else the other way round.
	Deny bool
	// Policies in the order of the list, the control connection's included.
	Policies []entry
	// Update is one more policy, put in and taken out by the files Update and
	// Revert of the rendering; nil renders neither.
	Update *entry
	Server netip.Addr
	// Docker: the chain DOCKER-USER is there already, in the tables of this tool
	// and family, and FORWARD jumps to it.
	Docker bool
}

// ruleFile is the input of one call of a rule-set tool.
type ruleFile struct {
	Name, Tool string
	Data       []byte
}

// ruleStep is one call that loads, and the call of the same tool that takes
// away what it loaded.
type ruleStep struct{ Load, Undo ruleFile }

// renderedRules is a rule set as the tools take it. A rule set of no policies
// has no step: merely loading a table would cost every packet.
type renderedRules struct {
	Steps   []ruleStep // undone in the reverse order
	Counter bundle.RuleCounter
	// Rules is what the value "rules" of Counter must read.
	Rules uint64
	// Elements is what the values "elements.NAME" must read, by name.
	Elements map[string]uint64
	// Admits is the value of Counter that grows with each admitted connection.
	Admits         string
	Update, Revert ruleFile
}

// render renders the rule set. An error says what the filter cannot express.
func (rs ruleset) render() (renderedRules, error) {
	if err := rs.check(); err != nil {
		return renderedRules{}, err
	}
	if len(rs.Policies) == 0 {
		return renderedRules{}, nil
	}
	var out renderedRules
	switch rs.Filter {
	case filterIptablesLegacy, filterIptablesNft:
		out = rs.iptables()
	case filterIpset:
		out = rs.ipset()
	default:
		out = rs.nft()
	}
	out.Admits = bundle.CountAccepted
	if rs.Deny {
		out.Admits = bundle.CountPassed
	}
	return out, nil
}

// check refuses what the filter cannot express, and an input that contradicts
// itself.
func (rs ruleset) check() error {
	for _, level := range []struct {
		key, got string
		allowed  []string
	}{
		{"filter", rs.Filter, []string{filterIptablesLegacy, filterIptablesNft, filterIpset, filterNftLinear, filterNftSet, filterNftVmap, filterNftInterval}},
		{optState, rs.State, []string{stateAsStudy, stateEstablished, stateStateless}},
		{optPlacement, rs.Placement, []string{placementInput, placementForward, placementBridge}},
		{"family", rs.Family, []string{familyIPv4, familyIPv6}},
		{"policy", rs.Policy, []string{policyL4, policyL3, policyCIDR}},
	} {
		if !slices.Contains(level.allowed, level.got) {
			return fmt.Errorf("%s %q, want one of %s", level.key, level.got, strings.Join(level.allowed, ", "))
		}
	}
	if why := netfilterRefuses(rs.Filter, rs.Policy, rs.Placement); why != "" {
		return errors.New(why)
	}
	if rs.Server.Is4() != (rs.Family == familyIPv4) {
		return fmt.Errorf("server %s is not of family %s", rs.Server, rs.Family)
	}
	all := rs.Policies
	if rs.Update != nil {
		all = append(all[:len(all):len(all)], *rs.Update)
	}
	return rs.checkEntries(all)
}

// refuseNetfilter is netfilterRefuses for the plan's loader.
func refuseNetfilter(filter string) refusal {
	return func(_ plan.Lab, _ fabric, _ string, o map[string]string) string {
		return netfilterRefuses(filter, o[optPolicy], o[optPlacement])
	}
}

// netfilterRefuses says why a filter cannot carry a kind of policy or a
// placement, "" if it can.
func netfilterRefuses(filter, policy, placement string) string {
	switch {
	case placement == placementBridge && !strings.HasPrefix(filter, "nft-"):
		return fmt.Sprintf("placement %q is a hook of nft's bridge family, which filter %q has no access to; write placement = %q, or an nft filter", placement, filter, placementForward)
	case policy == policyCIDR && (filter == filterNftSet || filter == filterNftVmap):
		return fmt.Sprintf("filter %q looks up whole addresses and cannot hold prefixes (policy = %q); write filter = %q", filter, policy, filterNftInterval)
	default:
		return ""
	}
}

func (rs ruleset) checkEntries(all []entry) error {
	seen := map[entry]bool{}
	for i, e := range all {
		if err := rs.checkEntry(e); err != nil {
			return fmt.Errorf("policy %d (%s port %d): %w", i+1, e.Source, e.Port, err)
		}
		if seen[e] {
			return fmt.Errorf("policy %d (%s port %d) is there twice", i+1, e.Source, e.Port)
		}
		seen[e] = true
	}
	if rs.Filter == filterNftInterval {
		return checkDisjoint(seen)
	}
	return nil
}

func (rs ruleset) checkEntry(e entry) error {
	host := e.Source.IsSingleIP()
	switch {
	case !e.Source.IsValid() || e.Source != e.Source.Masked():
		return errors.New("the source is no prefix, or has bits set behind it")
	case e.Source.Addr().Is4() != (rs.Family == familyIPv4):
		return fmt.Errorf("the source is not of family %s", rs.Family)
	case rs.Own && !rs.nftSets() && rs.Filter != filterIpset:
		return nil
	case rs.Policy != policyCIDR && !host && !rs.Own:
		return fmt.Errorf("policy = %q is of single addresses", rs.Policy)
	case rs.Policy == policyL3 && (e.Port != 0 || e.Proto != 0):
		return fmt.Errorf("policy = %q names no port and no protocol", rs.Policy)
	case rs.Policy != policyL3 && (e.Port == 0 || protocolName(e.Proto) == ""):
		return fmt.Errorf("policy = %q names a port and its protocol", rs.Policy)
	case rs.nftSets() && e.Proto != rs.Policies[0].Proto:
		return fmt.Errorf("filter %q looks up ports of one protocol, and the policies name %s and %s", rs.Filter, protocolName(rs.Policies[0].Proto), protocolName(e.Proto))
	case rs.Filter == filterIpset && e.Source.Bits() == 0:
		return errors.New("ipset's hash types hold no prefix of length 0")
	default:
		return nil
	}
}

// checkDisjoint refuses entries of which one contains another at the same
// port: an interval set holds no two elements that overlap (the kernel's
// nft_set_pipapo.c and nft_set_rbtree.c refuse them by ENOTEMPTY). For each
// entry it looks for a wider one.
func checkDisjoint(all map[entry]bool) error {
	for e := range all {
		for bits := range e.Source.Bits() {
			wide, err := e.Source.Addr().Prefix(bits)
			if err != nil {
				return err
			}
			if all[entry{Source: wide, Port: e.Port, Proto: e.Proto, Last: e.Last}] {
				return fmt.Errorf("filter %q holds no prefixes that overlap, and %s contains %s", filterNftInterval, wide, e.Source)
			}
		}
	}
	return nil
}

// netfilterFilter loads a cell's rule set and hooks its counters.
func netfilterFilter(r *renderer) error {
	rs := rulesetOf(r)
	out, err := rs.render()
	if err != nil || len(out.Steps) == 0 {
		return err
	}
	r.admits = out.Admits
	node, in := r.Topology.Server.Node, ""
	if rs.Placement == placementInput {
		in = Server
	}
	for _, s := range out.Steps {
		load := bundle.Rules{Tool: s.Load.Tool, File: r.file(s.Load.Name, s.Load.Data)}
		if in == "" { // else the namespace goes away, with all that is in it
			load.Undo = r.file(s.Undo.Name, s.Undo.Data)
		}
		r.apply(node, in, load)
	}
	r.Hook = &Hook{Node: node.Name, In: in, From: bundle.Counter{Rules: &out.Counter}}
	r.realised = append(r.realised, out.realised(r.policies.size())...)
	if rs.State != stateStateless {
		r.guard(node, in, bundle.Guard{Conntrack: tableShare})
	}
	if rs.Update == nil {
		return nil
	}
	r.update(node, in, bundle.Rules{Tool: out.Update.Tool, File: r.file(out.Update.Name, out.Update.Data), Metric: bundle.MetricUpdate})
	r.revert(node, in, bundle.Rules{Tool: out.Revert.Tool, File: r.file(out.Revert.Name, out.Revert.Data), Metric: bundle.MetricUpdate})
	return nil
}

// realised is what the kernel must hold of a rule set of n policies and the
// control connection's. In a set or map one rule is for all of them.
func (out renderedRules) realised(n int) []bundle.Expect {
	what := fmt.Sprintf("rules in %s (%d policies and %d of the frame)", out.Counter.Chain, n, out.Rules-uint64(n))
	if len(out.Elements) > 0 {
		what = fmt.Sprintf("rules in %s (one for all policies)", out.Counter.Chain)
	}
	expects := []bundle.Expect{{What: what, Key: bundle.CountRules, Op: bundle.Equal, Value: out.Rules}}
	for _, name := range slices.Sorted(maps.Keys(out.Elements)) {
		expects = append(expects, bundle.Expect{
			What: fmt.Sprintf("elements of %s", name), Key: bundle.CountElementsOf + name, Op: bundle.Equal, Value: out.Elements[name],
		})
	}
	return expects
}

// rulesetOf maps a cell's renderer to the rule set that it needs.
func rulesetOf(r *renderer) ruleset {
	filter := r.cell.Get(plan.FactorFilter)
	rs := ruleset{
		Filter: filter, State: r.cell.Get(optState), Placement: r.cell.Get(optPlacement), Family: r.cell.Get(optFamily),
		Policy: r.policies.kind, Own: r.policies.own != nil, Deny: r.policies.deny, Server: r.Topology.Server.Addr,
		// The engine of the guest image keeps its chains in iptables-legacy, and of
		// IPv4 only.
		Docker: r.Topology.Docker && !r.Topology.IPv6 && (filter == filterIptablesLegacy || filter == filterIpset),
	}
	for _, p := range r.installed() {
		rs.Policies = append(rs.Policies, entry{p.Source, p.Port, p.Proto, p.LastPort})
	}
	// A source that the user's policies admit already cannot be added.
	if extra := r.policies.extra(r.Topology.IPv6); len(rs.Policies) > 0 && !r.policies.covers(extra) {
		rs.Update = &entry{extra.Source, extra.Port, extra.Proto, 0}
	}
	return rs
}
