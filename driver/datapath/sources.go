package datapath

import (
	"net/netip"

	"hookbed/driver/plan"
)

// PolicySources lists an address of each policy's source in a cell, in the order
// in which a list holds them, and one that no policy names.
func PolicySources(cell plan.Cell) (named []netip.Addr, unnamed netip.Addr) {
	t := Layout(cell)
	for _, p := range policiesOf(cell, t).list {
		named = append(named, lastAddr(p))
	}
	return named, unlistedSource(t.IPv6)
}
