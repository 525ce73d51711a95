package datapath

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"hookbed/bpf"
	"hookbed/driver/plan"
)

const protoTCP = 6

// policies are the N policies of a cell, in the order in which a list holds them.
type policies struct {
	kind string // policyL3, policyL4, policyCIDR
	deny bool   // they name who is denied, and everything else is admitted
	list []bpf.Policy
	// client is the place of the policy that admits the client, -1 in a deny list.
	client int
}

// policiesOf lists the policies of a cell. All but the client's name other
// sources, drawn without repetition by a fixed seed, so that every arm and run
// gets the same list.
func policiesOf(cell plan.Cell, client netip.Addr) policies {
	ps := policies{kind: cell.Get(optPolicy), deny: cell.Get(optAction) == actionDeny, client: -1}
	n := cell.Int(plan.FactorPolicies)
	if n == 0 {
		return ps
	}
	others := n - 1
	if ps.deny {
		others = n
	}
	for _, source := range otherPrefixes(ps.kind, others, client.Is6()) {
		ps.list = append(ps.list, ps.of(source))
	}
	if !ps.deny {
		ps.client = matchAt(cell.Get(optMatch), n)
		ps.list = slices.Insert(ps.list, ps.client, ps.of(ps.clientPrefix(client)))
	}
	return ps
}

// of is the policy about a source.
func (ps policies) of(source netip.Prefix) bpf.Policy {
	p := bpf.Policy{Source: source, Deny: ps.deny}
	if ps.kind != policyL3 {
		p.Port, p.Proto = ServicePort, protoTCP
	}
	return p
}

// clientPrefix is the source of the policy that admits the client: with
// prefixes, the /30 (IPv6: /126) around it.
func (ps policies) clientPrefix(client netip.Addr) netip.Prefix {
	if ps.kind == policyCIDR {
		return netip.PrefixFrom(client, client.BitLen()-2).Masked()
	}
	return netip.PrefixFrom(client, client.BitLen())
}

// matchAt is the place of the client's policy among n: the last is the worst
// case of a list, the first its best; uniform is a place drawn by a fixed seed.
func matchAt(match string, n int) int {
	switch match {
	case matchFirst:
		return 0
	case matchUniform:
		return rand.New(rand.NewPCG(0x6d_61_74_63_68, uint64(n))).IntN(n)
	}
	return n - 1
}

// size is N.
func (ps policies) size() int { return len(ps.list) }

// control admits netperf's control connection, which the workload needs beside
// the measured one. Policies without ports admit it already.
func (ps policies) control(client netip.Addr) []bpf.Policy {
	if ps.size() == 0 || ps.deny || ps.kind == policyL3 {
		return nil
	}
	return []bpf.Policy{{Source: netip.PrefixFrom(client, client.BitLen()), Port: ControlPort, Proto: protoTCP}}
}

// installed is what the filter is given: the policies and what the workload
// needs beside them.
func (ps policies) installed(client netip.Addr) []bpf.Policy {
	return append(slices.Clone(ps.list), ps.control(client)...)
}

// extra is one policy more than the cell has, about a source that none names:
// what updating by one policy means.
func (ps policies) extra(v6 bool) bpf.Policy {
	a := otherHost(updateHost, v6)
	return ps.of(netip.PrefixFrom(a, a.BitLen()))
}

// middle is a policy in the middle of the others than the client's; ok is false if there is none.
func (ps policies) middle() (p bpf.Policy, number int, ok bool) {
	if ps.size() == 0 || ps.client >= 0 && ps.size() == 1 {
		return p, 0, false
	}
	i := (ps.size() - 1) / 2
	if i == ps.client {
		i = (i + 1) % ps.size()
	}
	return ps.list[i], i + 1, true
}

// Hosts of the other sources that no policy of a cell ever names: 0, the one
// that must be denied, and the one an update is about.
const (
	unlistedHost = 0xfffe
	updateHost   = 0xfffc
	topHosts     = 0xfff0 // where they and nothing else are
)

func unlistedSource(v6 bool) netip.Addr { return otherHost(unlistedHost, v6) }

func otherHost(host uint16, v6 bool) netip.Addr {
	b := otherSources(v6).Addr().AsSlice()
	binary.BigEndian.PutUint16(b[len(b)-2:], host)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// otherSources is the block of the sources that policies name and nobody has.
// It has 2^16 of them in either family.
func otherSources(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix(otherSources6)
	}
	return netip.MustParsePrefix(otherSources4)
}

// otherPrefixes draws n sources: single addresses, or for CIDR policies
// prefixes of mixed lengths that do not overlap.
func otherPrefixes(kind string, n int, v6 bool) []netip.Prefix {
	rng := rand.New(rand.NewPCG(0x68_6f_6f_6b, 0x62_65_64))
	if kind == policyCIDR {
		return mixedPrefixes(rng, n, v6)
	}
	seen := map[uint16]bool{0: true}
	out := make([]netip.Prefix, 0, n)
	for len(out) < n {
		host := uint16(rng.UintN(1 << 16))
		if (seen[host] || host >= topHosts) && len(seen) < topHosts {
			continue
		}
		seen[host] = true
		a := otherHost(host, v6)
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// mixedPrefixes lays n prefixes of 1, 2, 4, 8 and, as far as the block has room
// for n of them, more addresses side by side, and shuffles them.
func mixedPrefixes(rng *rand.Rand, n int, v6 bool) []netip.Prefix {
	widest := 0 // log2 of the addresses in the widest prefix
	for widest < 8 && n<<(widest+1) <= topHosts/2 {
		widest++
	}
	out := make([]netip.Prefix, 0, n)
	for i, at := 0, 1<<widest; i < n; i++ {
		free := i % (widest + 1) // bits of the host part
		at = (at + 1<<free - 1) >> free << free
		a := otherHost(uint16(at), v6)
		out = append(out, netip.PrefixFrom(a, a.BitLen()-free))
		at += 1 << free
	}
	rng.Shuffle(n, func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
