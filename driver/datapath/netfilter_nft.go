package datapath

import (
	"fmt"
	"slices"
	"strings"

	"hookbed/driver/bundle"
)

// Names in nft rule sets.
const (
	nftTool  = "nft"
	nftTable = "hookbed"
	nftSet   = "policies"
	// nftUpdated is the comment by which a rule put in later is found again.
	nftUpdated = "update"
)

// nft renders a table of the bundle's own, in one transaction. Every packet
// that the hook sees meets exactly one counter: of the rule that decides, or
// of the last one, which is reached by what no rule decides.
func (rs ruleset) nft() renderedRules {
	var b strings.Builder
	table := rs.nftFamily() + " " + nftTable
	// "create" fails if the table is there, where "table" would add to it.
	fmt.Fprintf(&b, "create table %s\ntable %s {\n", table, table)
	out := renderedRules{Counter: bundle.RuleCounter{Tool: nftTool, Table: table, Chain: rs.nftChain()}}
	if rs.nftSets() {
		b.WriteString(rs.nftSet())
		out.Elements = map[string]uint64{nftSet: uint64(len(rs.Policies))}
	}
	if rs.Filter == filterNftVmap {
		b.WriteString(nftBlock("chain "+rs.nftVerdictChain(), []string{rs.nftDecision(), "counter"}))
	}
	rules := rs.nftRules(rs.nftPolicies())
	body := append([]string{fmt.Sprintf("type filter hook %s priority filter; policy accept;", rs.nftHook())}, rules...)
	b.WriteString(nftBlock("chain "+rs.nftChain(), body) + "}\n")
	out.Steps = []ruleStep{{
		Load: ruleFile{"policy.nft", nftTool, []byte(b.String())},
		Undo: ruleFile{"policy.undo.nft", nftTool, []byte("delete table " + table + "\n")},
	}}
	out.Rules = uint64(len(rules))
	if rs.Update != nil {
		out.Update, out.Revert = rs.nftUpdate(table)
	}
	return out
}

// nftBlock is a chain, set or map in the text of a table.
func nftBlock(head string, lines []string) string {
	return "\t" + head + " {\n\t\t" + strings.Join(lines, "\n\t\t") + "\n\t}\n"
}

func (rs ruleset) nftFamily() string {
	switch {
	case rs.Placement == placementBridge:
		return "bridge"
	case rs.Family == familyIPv6:
		return "ip6"
	default:
		return "ip"
	}
}

// nftSets says whether a set or map holds all policies, of one protocol then.
func (rs ruleset) nftSets() bool {
	return slices.Contains([]string{filterNftSet, filterNftVmap, filterNftInterval}, rs.Filter)
}

// nftHook is the hook, after which the chain is named.
func (rs ruleset) nftHook() string {
	if rs.Placement == placementInput {
		return "input"
	}
	return "forward"
}

func (rs ruleset) nftChain() string { return rs.nftHook() }

// nftIP is the protocol whose header holds the addresses.
func (rs ruleset) nftIP() string {
	if rs.Family == familyIPv6 {
		return "ip6"
	}
	return "ip"
}

// nftTo matches the server where a chain sees the packets of others too.
func (rs ruleset) nftTo() string {
	if rs.Placement == placementInput {
		return ""
	}
	return rs.nftIP() + " daddr " + rs.Server.String() + " "
}

func (rs ruleset) nftNew() string {
	if rs.State == stateStateless {
		return ""
	}
	return "ct state new "
}

func (rs ruleset) nftVerdict() string {
	if rs.Deny {
		return "drop"
	}
	return "accept"
}

// nftDecision is what is done with a packet that a policy matches.
func (rs ruleset) nftDecision() string { return rs.nftNew() + "counter " + rs.nftVerdict() }

// nftVerdictChain is where a verdict map sends what it matches: a map's own
// verdicts are counted nowhere.
func (rs ruleset) nftVerdictChain() string {
	if rs.Deny {
		return "denied"
	}
	return "admitted"
}

// nftPolicies is the rule of each policy, or the one rule that looks all up.
func (rs ruleset) nftPolicies() []string {
	if rs.nftSets() {
		return []string{rs.nftLookup()}
	}
	var out []string
	for _, e := range rs.Policies {
		out = append(out, rs.nftRule(e))
	}
	return out
}

func (rs ruleset) nftRule(e entry) string {
	rule := fmt.Sprintf("%s saddr %s %s", rs.nftIP(), plainSource(e), rs.nftTo())
	switch {
	case e.Port != 0:
		rule += fmt.Sprintf("%s dport %s ", protocolName(e.Proto), nftPorts(e))
	case e.Proto != 0:
		rule += "meta l4proto " + protocolName(e.Proto) + " "
	}
	return rule + rs.nftDecision()
}

// nftLookup looks up first and matches the state then, like a rule of the
// list.
func (rs ruleset) nftLookup() string {
	key := rs.nftIP() + " saddr"
	if rs.Policy != policyL3 {
		key += " . " + protocolName(rs.Policies[0].Proto) + " dport"
	}
	if rs.Filter == filterNftVmap {
		return rs.nftTo() + key + " vmap @" + nftSet
	}
	return rs.nftTo() + key + " @" + nftSet + " " + rs.nftDecision()
}

// nftRules puts what is no policy around the policies.
func (rs ruleset) nftRules(policies []string) []string {
	var rules []string
	if rs.State == stateEstablished {
		rules = append(rules, "ct state established,related counter accept")
	}
	rules = append(rules, policies...)
	if !rs.Deny {
		// A drop that matches no state would drop neighbour discovery too;
		// conntrack calls that untracked and not new.
		if rs.Family == familyIPv6 && rs.State == stateStateless {
			rules = append(rules, "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } counter accept")
		}
		rules = append(rules, rs.nftTo()+rs.nftNew()+"counter drop")
	}
	return append(rules, "counter")
}

// nftSet is the set or map of the policies. It names no size, as sets that
// change do in practice: the kernel then takes its resizable hash.
func (rs ruleset) nftSet() string {
	kind, addr := "set", "ipv4_addr"
	if rs.Family == familyIPv6 {
		addr = "ipv6_addr"
	}
	head := "type " + addr
	if rs.Policy != policyL3 {
		head += " . inet_service"
	}
	if rs.Filter == filterNftVmap {
		kind = "map"
		head += " : verdict"
	}
	lines := []string{head}
	if rs.Filter == filterNftInterval {
		lines = append(lines, "flags interval")
	}
	lines = append(lines, "elements = {")
	for _, e := range rs.Policies {
		lines = append(lines, "\t"+rs.nftElement(e)+",")
	}
	return nftBlock(kind+" "+nftSet, append(lines, "}"))
}

func nftKey(e entry) string {
	if e.Port == 0 {
		return plainSource(e)
	}
	return plainSource(e) + " . " + nftPorts(e)
}

// nftPorts is a port, or a range of them.
func nftPorts(e entry) string {
	if e.Last != 0 {
		return fmt.Sprintf("%d-%d", e.Port, e.Last)
	}
	return fmt.Sprint(e.Port)
}

func (rs ruleset) nftElement(e entry) string {
	if rs.Filter == filterNftVmap {
		return nftKey(e) + " : goto " + rs.nftVerdictChain()
	}
	return nftKey(e)
}

// nftUpdate puts one policy in and takes it out. In a list it goes to the head:
// policies of one verdict may be in any order, and to insert between two rules
// nft would first list the chain. The rule is taken out by its handle, which
// the guest looks up by the rule's comment beforehand.
func (rs ruleset) nftUpdate(table string) (add, revert ruleFile) {
	var put, take string
	if rs.Filter == filterNftLinear {
		chain := table + " " + rs.nftChain()
		put = fmt.Sprintf("insert rule %s %s comment %q", chain, rs.nftRule(*rs.Update), nftUpdated)
		take = fmt.Sprintf("delete rule %s handle {handle:%s %s}", chain, chain, nftUpdated)
	} else {
		put = fmt.Sprintf("add element %s %s { %s }", table, nftSet, rs.nftElement(*rs.Update))
		take = fmt.Sprintf("delete element %s %s { %s }", table, nftSet, nftKey(*rs.Update))
	}
	return ruleFile{"update.nft", nftTool, []byte(put + "\n")}, ruleFile{"revert.nft", nftTool, []byte(take + "\n")}
}
