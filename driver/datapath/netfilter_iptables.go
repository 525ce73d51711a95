package datapath

import (
	"fmt"
	"slices"
	"strings"

	"hookbed/driver/bundle"
)

// Matches and names of iptables rule sets.
const (
	ruleEstablished = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
	ruleNew         = " -m conntrack --ctstate NEW"
	chainInput      = "INPUT"
	chainDockerUser = "DOCKER-USER"
	ipsetName       = "hookbed"
)

// The size of every ipset, whatever it holds, so that sets differ neither in
// how full their buckets are nor by a resize while they are loaded.
const (
	ipsetHashSize = 16384 // buckets: 10 000 elements fill 0.6 each
	ipsetMaxElem  = 65536
)

// iptables renders a linear list, one rule a policy, in one atomic
// iptables-restore.
func (rs ruleset) iptables() renderedRules {
	var rules []string
	for _, e := range rs.Policies {
		rules = append(rules, rs.iptablesRule(e))
	}
	out := rs.iptablesFrame(rules)
	if rs.Update == nil {
		return out
	}
	rule := rs.iptablesRule(*rs.Update)
	line := func(name, format string, args ...any) ruleFile {
		return ruleFile{name, rs.iptablesTool(), fmt.Appendf(nil, "*filter\n"+format+"\nCOMMIT\n", args...)}
	}
	out.Update = line("update.rules", "-I %s %s", rs.iptablesChain(), rule)
	out.Revert = line("revert.rules", "-D %s %s", rs.iptablesChain(), rule)
	return out
}

// iptablesTool is the tool of the rule set's family. An ipset is matched by
// the legacy tables.
func (rs ruleset) iptablesTool() string {
	tool := rs.Filter
	if tool == filterIpset {
		tool = filterIptablesLegacy
	}
	if rs.Family == familyIPv6 {
		return "ip6" + strings.TrimPrefix(tool, "ip")
	}
	return tool
}

func (rs ruleset) iptablesChain() string {
	if rs.Placement == placementInput {
		return chainInput
	}
	return chainDockerUser
}

// iptablesTo matches the server where a chain sees the packets of others too.
func (rs ruleset) iptablesTo() string {
	if rs.Placement == placementInput {
		return ""
	}
	return " -d " + cidr(rs.Server, rs.Server.BitLen())
}

func (rs ruleset) iptablesVerdict() string {
	if rs.Deny {
		return " -j DROP"
	}
	return " -j ACCEPT"
}

// iptablesNew matches packets that begin a connection, as the study's rules do.
func (rs ruleset) iptablesNew() string {
	if rs.State == stateStateless {
		return ""
	}
	return ruleNew
}

func (rs ruleset) iptablesRule(e entry) string {
	rule := "-s " + e.Source.String() + rs.iptablesTo()
	switch {
	case e.Last != 0:
		rule += fmt.Sprintf(" -p %[1]s -m %[1]s --dport %[2]d:%[3]d", protocolName(e.Proto), e.Port, e.Last)
	case e.Port != 0:
		rule += fmt.Sprintf(" -p %[1]s -m %[1]s --dport %[2]d", protocolName(e.Proto), e.Port)
	case e.Proto != 0:
		rule += " -p " + protocolName(e.Proto)
	}
	return rule + rs.iptablesNew() + rs.iptablesVerdict()
}

// iptablesFrame puts what is no policy around the rules of the policies.
func (rs ruleset) iptablesFrame(policies []string) renderedRules {
	var rules []string
	if rs.State == stateEstablished {
		rules = append(rules, ruleEstablished)
	}
	rules = append(rules, policies...)
	if !rs.Deny {
		rules = append(rules, rs.iptablesDiscovery()...)
		rules = append(rules, strings.TrimSpace(rs.iptablesTo()+rs.iptablesNew()+" -j DROP"))
	}
	if rs.Placement == placementForward {
		rules = append(rules, "-j RETURN")
	}
	tool := rs.iptablesTool()
	return renderedRules{
		Steps: []ruleStep{{
			Load: ruleFile{"policy.rules", tool, rs.restoreFile(rules)},
			Undo: ruleFile{"policy.undo.rules", tool, rs.restoreUndo()},
		}},
		Counter: bundle.RuleCounter{Tool: tool, Table: "filter", Chain: rs.iptablesChain()},
		Rules:   uint64(len(rules)),
	}
}

// iptablesDiscovery lets neighbour discovery through before a drop that matches no
// state: without it no IPv6 address is found. Conntrack calls it untracked,
// so that a drop of what is NEW lets it through by itself.
func (rs ruleset) iptablesDiscovery() []string {
	if rs.Family != familyIPv6 || rs.State != stateStateless {
		return nil
	}
	var out []string
	for _, kind := range []int{135, 136} { // solicitation, advertisement (RFC 4861)
		out = append(out, fmt.Sprintf("-p ipv6-icmp -m icmp6 --icmpv6-type %d -j ACCEPT", kind))
	}
	return out
}

// restoreFile is the rule set as iptables-restore --noflush takes it. Naming a
// user chain flushes it; a builtin one is in a fresh namespace and empty.
func (rs ruleset) restoreFile(rules []string) []byte {
	var b strings.Builder
	chain := rs.iptablesChain()
	b.WriteString("*filter\n")
	if chain == chainInput {
		b.WriteString(":INPUT ACCEPT [0:0]\n")
	} else {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		if !rs.Docker {
			fmt.Fprintf(&b, "-A FORWARD -j %s\n", chain)
		}
	}
	for _, rule := range rules {
		fmt.Fprintf(&b, "-A %s %s\n", chain, rule)
	}
	b.WriteString("COMMIT\n")
	return []byte(b.String())
}

// restoreUndo empties INPUT, leaves DOCKER-USER as Docker makes it, or removes
// it where the bundle made it.
func (rs ruleset) restoreUndo() []byte {
	switch {
	case rs.Placement == placementInput:
		return []byte("*filter\n-F INPUT\nCOMMIT\n")
	case rs.Docker:
		return []byte("*filter\n:DOCKER-USER - [0:0]\n-A DOCKER-USER -j RETURN\nCOMMIT\n")
	default:
		return []byte("*filter\n-D FORWARD -j DOCKER-USER\n-F DOCKER-USER\n-X DOCKER-USER\nCOMMIT\n")
	}
}

// ipset renders one set of all policies and one rule of iptables-legacy that
// matches it. The set is there before its rule and goes after it.
func (rs ruleset) ipset() renderedRules {
	match := "src,dst"
	if rs.Policy == policyL3 {
		match = "src"
	}
	rule := rs.iptablesTo() + " -m set --match-set " + ipsetName + " " + match + rs.iptablesNew() + rs.iptablesVerdict()
	out := rs.iptablesFrame([]string{strings.TrimSpace(rule)})
	out.Steps = append([]ruleStep{{
		Load: ruleFile{"policy.ipset", filterIpset, rs.ipsetFile()},
		Undo: ruleFile{"policy.undo.ipset", filterIpset, []byte("destroy " + ipsetName + "\n")},
	}}, out.Steps...)
	out.Counter.Sets = []string{ipsetName}
	out.Elements = map[string]uint64{ipsetName: uint64(len(rs.Policies))}
	if rs.Update != nil {
		key := ipsetKey(*rs.Update)
		out.Update = ruleFile{"update.ipset", filterIpset, fmt.Appendf(nil, "add %s %s\n", ipsetName, key)}
		out.Revert = ruleFile{"revert.ipset", filterIpset, fmt.Appendf(nil, "del %s %s\n", ipsetName, key)}
	}
	return out
}

func (rs ruleset) ipsetFile() []byte {
	kind := map[string]string{policyL4: "hash:ip,port", policyL3: "hash:ip", policyCIDR: "hash:net,port"}[rs.Policy]
	if rs.Policy == policyL3 && slices.ContainsFunc(rs.Policies, func(e entry) bool { return !e.Source.IsSingleIP() }) {
		kind = "hash:net"
	}
	family := "inet"
	if rs.Family == familyIPv6 {
		family = "inet6"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "create %s %s family %s hashsize %d maxelem %d\n", ipsetName, kind, family, ipsetHashSize, ipsetMaxElem)
	for _, e := range rs.Policies {
		fmt.Fprintf(&b, "add %s %s\n", ipsetName, ipsetKey(e))
	}
	return []byte(b.String())
}

// ipsetKey is an element of a set.
func ipsetKey(e entry) string {
	key := plainSource(e)
	if e.Port != 0 {
		// By its number: a sealed guest has no /etc/protocols to look "tcp" up in.
		key += fmt.Sprintf(",%d:%d", e.Proto, e.Port)
	}
	return key
}

// plainSource is an entry's source: the address alone where it is a host.
func plainSource(e entry) string {
	if e.Source.IsSingleIP() {
		return e.Source.Addr().String()
	}
	return e.Source.String()
}
