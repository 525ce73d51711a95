package datapath

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"hookbed/analysis/catalog"
	"hookbed/bpf"
	"hookbed/driver/plan"
)

// Protocols of policies by their numbers in an IP header.
const (
	protoTCP = 6
	protoUDP = 17
)

// protocolName is what rule languages call a protocol, "" if policies cannot name it.
func protocolName(number uint8) string {
	return map[uint8]string{protoTCP: catalog.TCP, protoUDP: catalog.UDP}[number]
}

// protocolOf is the number of a workload's protocol; TCP of a cell that says none.
func protocolOf(cell plan.Cell) (uint8, error) {
	name := cmp.Or(cell.Protocol, catalog.TCP)
	for _, number := range []uint8{protoTCP, protoUDP} {
		if protocolName(number) == name {
			return number, nil
		}
	}
	return 0, fmt.Errorf("no policy can name the protocol %q", name)
}

// policies are the N policies of a cell, in the order in which a list holds them.
type policies struct {
	kind  string // policyL3, policyL4, policyCIDR
	proto uint8  // of the workload, which they name unless they name no port
	deny  bool   // they name who is denied, and everything else is admitted
	list  []bpf.Policy
	// clients are the positions of the policies that admit clients, in the order of
	// the list; none in a deny list.
	clients []int
	port    int // at which the measured workload is served
	// own is the policies that the user wrote, of which list then is; nil: they are
	// generated. err says what the filter cannot hold of them.
	own *own
	err error
	// requests are the user's policies as a filter of requests holds them; list is empty then.
	requests []RequestPolicy
}

// policiesOf lists the N policies of a cell. One for each client admits it where
// the server serves it; the rest name other sources, drawn without repetition by
// a fixed seed, so that every arm and run gets the same list. There are N in all,
// so that more clients do not also mean a longer list. N is at most mostPolicies.
func policiesOf(cell plan.Cell, t Topology) policies {
	if cell.Own != nil && cell.Int(plan.FactorPolicies) > 0 {
		return ownPolicies(cell, t)
	}
	proto, _ := protocolOf(cell) // Render has refused others
	ps := policies{kind: cell.Get(optPolicy), proto: proto, deny: cell.Get(optAction) == actionDeny, port: ServicePort}
	if ps.kind == PolicyOwn {
		ps.kind = policyL4 // of no policies
	}
	n, clients := cell.Int(plan.FactorPolicies), t.Clients()
	if n == 0 || ps.kind == policyL7 {
		return ps
	}
	others := n - len(clients)
	if ps.deny {
		others = n
	}
	for _, source := range otherPrefixes(ps.kind, others, t.IPv6) {
		ps.list = append(ps.list, ps.of(source, ServicePort))
	}
	if !ps.deny {
		ps.clients = matchAt(cell.Get(optMatch), n, len(clients))
		for i, at := range ps.clients {
			ps.list = slices.Insert(ps.list, at, ps.of(ps.clientPrefix(clients[i].Addr), clients[i].Port))
		}
	}
	return ps
}

// of is the policy about a source and, unless it names none, a port.
func (ps policies) of(source netip.Prefix, port int) bpf.Policy {
	p := bpf.Policy{Source: source, Deny: ps.deny}
	if ps.kind != policyL3 {
		p.Port, p.Proto = uint16(port), ps.proto
	}
	return p
}

// admits says whether some policies name clients.
func (ps policies) admits() bool { return len(ps.clients) > 0 }

// clientPrefix is the source of the policy that admits the client: with
// prefixes, the /30 (IPv6: /126) around it.
func (ps policies) clientPrefix(client netip.Addr) netip.Prefix {
	if ps.kind == policyCIDR {
		return netip.PrefixFrom(client, client.BitLen()-2).Masked()
	}
	return netip.PrefixFrom(client, client.BitLen())
}

// matchAt are the positions of the clients' policies among n, ascending: the last
// ones are the worst case of a list, the first its best; uniform are positions drawn
// by a fixed seed.
func matchAt(match string, n, clients int) []int {
	var out []int
	rng := rand.New(rand.NewPCG(0x6d_61_74_63_68, uint64(n)))
	for k := 0; len(out) < clients; k++ {
		at := n - clients + k
		switch match {
		case matchFirst:
			at = k
		case matchUniform:
			if at = rng.IntN(n); slices.Contains(out, at) {
				continue
			}
		}
		out = append(out, at)
	}
	slices.Sort(out)
	return out
}

// size is N.
func (ps policies) size() int { return len(ps.list) }

// control admits each client's control connection of netperf, TCP always, which the workload
// needs in addition to the measured one. Policies without ports admit it already.
func (ps policies) control(t Topology) []bpf.Policy {
	if ps.size() == 0 || ps.deny || ps.kind == policyL3 {
		return nil
	}
	var out []bpf.Policy
	for _, c := range t.Clients() {
		p := bpf.Policy{Source: netip.PrefixFrom(c.Addr, c.Addr.BitLen()), Port: ControlPort, Proto: protoTCP}
		if !ps.covers(p) {
			out = append(out, p)
		}
	}
	return out
}

// installed is what the filter is given: the policies and what the workload
// needs in addition.
func (ps policies) installed(t Topology) []bpf.Policy {
	return append(slices.Clone(ps.list), ps.control(t)...)
}

// extra is one policy more than the cell has, about a source that none names:
// what updating by one policy means.
func (ps policies) extra(v6 bool) bpf.Policy {
	a := otherHost(updateHost, v6)
	return ps.of(netip.PrefixFrom(a, a.BitLen()), ps.port)
}

// middle is a policy in the middle of the others than the clients'; ok is false if there is none.
func (ps policies) middle() (p bpf.Policy, number int, ok bool) {
	if ps.size() <= len(ps.clients) {
		return p, 0, false
	}
	i := (ps.size() - 1) / 2
	for slices.Contains(ps.clients, i) {
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

// otherSources is the block of the sources that policies name and no endpoint has.
// It has 2^16 of them in either family.
func otherSources(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix(otherSources6)
	}
	return netip.MustParsePrefix(otherSources4)
}

// otherPrefixes draws n sources, at most mostOthers: single addresses, or for
// CIDR policies prefixes of mixed lengths that do not overlap.
func otherPrefixes(kind string, n int, v6 bool) []netip.Prefix {
	if most := mostOthers(kind); n > most {
		panic(fmt.Sprintf("datapath: %d sources of %d", n, most))
	}
	rng := rand.New(rand.NewPCG(0x68_6f_6f_6b, 0x62_65_64))
	if kind == policyCIDR {
		return mixedPrefixes(rng, n, v6)
	}
	seen := map[uint16]bool{0: true}
	out := make([]netip.Prefix, 0, n)
	for len(out) < n {
		host := uint16(rng.UintN(1 << 16))
		if seen[host] || host >= topHosts {
			continue
		}
		seen[host] = true
		a := otherHost(host, v6)
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// mixedPrefixes lays n prefixes of 1, 2 and, as far as the block has room for n of
// them, 4, 8 and more addresses side by side, and shuffles them.
func mixedPrefixes(rng *rand.Rand, n int, v6 bool) []netip.Prefix {
	widest := 1 // log2 of the addresses in the widest prefix
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

// mostOthers is how many sources otherPrefixes has of a kind, in either family:
// every host but 0 and those at the top; or prefixes of 1 and 2 addresses in turn,
// which take 2 each and begin at host 2.
func mostOthers(kind string) int {
	if kind == policyCIDR {
		return (topHosts - 2) / 2
	}
	return topHosts - 1
}

// mostPolicies is how many policies a cell with these options can have, and why
// not more. rules is how many entries the filter holds, 0 for any number.
func mostPolicies(options map[string]string, clients, rules int) (most int, why string) {
	kind, deny := options[optPolicy], options[optAction] == actionDeny
	what := "addresses"
	if kind == policyCIDR {
		what = "prefixes of mixed lengths"
	}
	most, why = mostOthers(kind), fmt.Sprintf("sources are drawn from %s, which has %d %s for them", otherSources(options[optFamily] == familyIPv6), mostOthers(kind), what)
	if !deny {
		most, why = most+clients, why+" beside the clients'"
	}
	if rules == 0 {
		return most, why
	}
	beside := 1 // the update's
	if !deny && kind != policyL3 {
		beside += clients // their control connections'
	}
	if rules-beside < most {
		return rules - beside, fmt.Sprintf("the filter holds %d entries, of which the workload and the update need %d", rules, beside)
	}
	return most, why
}
