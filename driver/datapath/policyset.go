package datapath

import (
	"net/netip"

	"hookbed/bpf"
	"hookbed/driver/plan"
)

// PolicySet is what a cell's filter is to enforce, whatever its form.
type PolicySet struct {
	// Installed are the policies in the order of a list, the control
	// connection's last; none if there is no policy at all.
	Installed []bpf.Policy
	// Extra is the policy that Setup.Update adds and Setup.Revert takes out.
	Extra bpf.Policy
	// Deny: the policies deny, and what none of them names is admitted.
	Deny bool
}

// PolicySetOf lists the policies of a cell, for the conformance suite (datapathtest).
func PolicySetOf(cell plan.Cell) PolicySet {
	t := Layout(cell)
	ps := policiesOf(cell, t)
	return PolicySet{Installed: ps.installed(t), Extra: ps.extra(t.IPv6), Deny: ps.deny}
}

// PolicySources lists an address of each policy's source in a cell, in the order
// in which a list holds them, and one that no policy names.
func PolicySources(cell plan.Cell) (named []netip.Addr, unnamed netip.Addr) {
	t := Layout(cell)
	for _, p := range policiesOf(cell, t).list {
		named = append(named, lastAddr(p))
	}
	return named, unlistedSource(t.IPv6)
}
