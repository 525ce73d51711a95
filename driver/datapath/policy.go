package datapath

import (
	"math/rand/v2"
	"net/netip"

	"hookbed/driver/plan"
)

// policy admits one source to the service port of the server over TCP.
type policy struct{ source netip.Addr }

// policies lists the N policies of a cell: N-1 that name other sources, drawn
// from 198.19.0.0/16 without repetition by a fixed seed so that every arm and
// run gets the same list, then the one that admits the client. Coming last is
// the worst case for a list and no case at all for a hash.
func policies(cell plan.Cell, client netip.Addr) []policy {
	n := cell.Int(plan.FactorPolicies)
	if n == 0 {
		return nil
	}
	base := netip.MustParsePrefix(otherSources).Addr().As4()
	rng := rand.New(rand.NewPCG(0x68_6f_6f_6b, 0x62_65_64))
	seen := map[uint16]bool{0: true, unlistedHost: true}
	out := make([]policy, 0, n)
	for len(out) < n-1 {
		host := uint16(rng.UintN(1 << 16))
		if seen[host] && len(seen) < 1<<16 {
			continue
		}
		seen[host] = true
		out = append(out, policy{netip.AddrFrom4([4]byte{base[0], base[1], byte(host >> 8), byte(host)})})
	}
	return append(out, policy{client})
}

// unlistedHost is the host part in 198.19.0.0/16 that no policy ever names.
const unlistedHost = 0xfffe

func unlistedSource() netip.Addr {
	return netip.AddrFrom4([4]byte{198, 19, unlistedHost >> 8, unlistedHost & 0xff})
}
