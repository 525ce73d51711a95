package policy

import (
	"net/netip"
	"slices"
)

// Moved is the cluster with other addresses for some pods, by name: each then has that
// address alone. Blocks of one address, as lists of lines have them, move with the pod that
// has it; in wider ones nothing moves.
func (c *Cluster) Moved(to map[string]netip.Addr) (*Cluster, error) {
	in, err := c.inventory.Moved(to)
	if err != nil {
		return nil, err
	}
	moves := map[netip.Addr]netip.Addr{}
	for _, p := range c.inventory.Pods {
		target, ok := to[p.Name]
		for _, a := range p.Addresses {
			if ok && a.Is6() == target.Is6() {
				moves[a] = target
			}
		}
	}
	set := &Set{Policies: slices.Clone(c.set.Policies)}
	for i := range set.Policies {
		for d := range set.Policies[i].Rules {
			set.Policies[i].Rules[d] = movedRules(set.Policies[i].Rules[d], moves)
		}
	}
	return &Cluster{in, set}, nil
}

func movedRules(rules []Rule, moves map[netip.Addr]netip.Addr) []Rule {
	out := slices.Clone(rules)
	for i := range out {
		out[i].Peers = slices.Clone(out[i].Peers)
		for k, p := range out[i].Peers {
			if p.Block != nil {
				b := *p.Block
				b.Prefix, b.Except = movedPrefix(b.Prefix, moves), slices.Clone(b.Except)
				for e := range b.Except {
					b.Except[e] = movedPrefix(b.Except[e], moves)
				}
				out[i].Peers[k].Block = &b
			}
		}
	}
	return out
}

func movedPrefix(p netip.Prefix, moves map[netip.Addr]netip.Addr) netip.Prefix {
	if a, ok := moves[p.Addr()]; ok && p.IsSingleIP() {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return p
}
