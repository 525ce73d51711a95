package datapath

import (
	"fmt"
	"strings"

	"hookbed/driver/bundle"
)

const iptablesTool = "iptables-legacy"

// Besides the policies a rule set has a rule for netperf's control connection
// and the final drop; the forward placement ends with Docker's own RETURN.
const (
	ruleEstablished = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
	ruleNew         = "-m conntrack --ctstate NEW"
)

// iptablesFilter loads the study's rule, once a policy, in one atomic
// iptables-restore. With N = 0 there is no rule and no call: merely reading an
// empty legacy table would register it and cost every packet.
func iptablesFilter(r *renderer) error {
	if len(r.policies) == 0 {
		return nil
	}
	forward := r.cell.Get(optPlacement) == placementForward
	chain, in := "INPUT", Server
	if forward {
		chain, in = "DOCKER-USER", ""
	}
	rules := iptablesRules(r, forward)
	load := bundle.Rules{Tool: iptablesTool, File: r.file("policy.rules", restoreFile(chain, forward && !r.Topology.Docker, rules))}
	if forward {
		load.Undo = r.file("policy.undo.rules", forwardUndo(r.Topology.Docker))
	}
	node := r.Topology.Server.Node
	r.apply(node, in, load)
	r.Hook = &Hook{Node: node.Name, In: in, From: bundle.Counter{Rules: &bundle.RuleCounter{Tool: iptablesTool, Table: "filter", Chain: chain}}}
	r.realised = append(r.realised, bundle.Expect{
		What: fmt.Sprintf("rules in %s (%d policies and %d of the frame)", chain, len(r.policies), len(rules)-len(r.policies)),
		Key:  "rules", Op: bundle.Equal, Value: uint64(len(rules)),
	})
	return nil
}

func iptablesRules(r *renderer, forward bool) []string {
	to := ""
	if forward {
		to = " -d " + cidr(r.Topology.Server.Addr, 32)
	}
	var rules []string
	if r.cell.Get(optState) == stateEstablished {
		rules = append(rules, ruleEstablished)
	}
	admit := func(p policy, port int) string {
		return fmt.Sprintf("-s %s%s -p tcp -m tcp --dport %d %s -j ACCEPT", cidr(p.source, 32), to, port, ruleNew)
	}
	for _, p := range r.policies {
		rules = append(rules, admit(p, ServicePort))
	}
	rules = append(rules, admit(policy{r.Topology.Client.Addr}, ControlPort), strings.TrimSpace(to+" "+ruleNew+" -j DROP"))
	if forward {
		rules = append(rules, "-j RETURN")
	}
	return rules
}

// restoreFile is the rule set as iptables-restore --noflush takes it. Naming a
// user chain flushes it; a builtin one is in a fresh namespace and empty.
func restoreFile(chain string, jump bool, rules []string) []byte {
	var b strings.Builder
	b.WriteString("*filter\n")
	if chain == "INPUT" {
		b.WriteString(":INPUT ACCEPT [0:0]\n")
	} else {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
	}
	if jump {
		fmt.Fprintf(&b, "-A FORWARD -j %s\n", chain)
	}
	for _, rule := range rules {
		fmt.Fprintf(&b, "-A %s %s\n", chain, rule)
	}
	b.WriteString("COMMIT\n")
	return []byte(b.String())
}

// forwardUndo leaves DOCKER-USER as Docker makes it, or removes it where the
// bundle made it.
func forwardUndo(docker bool) []byte {
	if docker {
		return []byte("*filter\n:DOCKER-USER - [0:0]\n-A DOCKER-USER -j RETURN\nCOMMIT\n")
	}
	return []byte("*filter\n-D FORWARD -j DOCKER-USER\n-F DOCKER-USER\n-X DOCKER-USER\nCOMMIT\n")
}
