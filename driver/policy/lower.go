package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Entry is one line of an endpoint's list: connections that are admitted. Entries of a list
// add up. From = To = 0 is every port.
type Entry struct {
	Source   netip.Prefix
	Proto    uint8 // ProtoAny only with every port
	From, To uint16
	// Policy and At are the first rule that has it.
	Policy string
	At     Position
	HTTP   []HTTP // what requests must be; nil is any
}

// Ports are the entry's protocol and ports.
func (e Entry) Ports() Ports { return Ports{Proto: e.Proto, From: e.From, To: e.To} }

// Rules are what an endpoint admits, without labels: what a filter in front of it is given.
type Rules struct {
	// Isolated: some policy selects the endpoint; else it admits everything, and Entries
	// are none.
	Isolated bool
	Entries  []Entry
}

// Ingress lists what a pod admits from addresses of a family, in the order of the
// policies, each entry once. pod is nil for the subject of policies that select everything.
func (c *Cluster) Ingress(pod *Pod, v6 bool) Rules {
	var out Rules
	seen := map[string]bool{}
	for i := range c.set.Policies {
		p := &c.set.Policies[i]
		if !p.Isolates[Ingress] || !p.subject(pod) {
			continue
		}
		out.Isolated = true
		for _, rule := range p.Rules[Ingress] {
			for _, e := range c.entries(p, rule, pod, v6) {
				key := e.Line() + httpKey(e.HTTP)
				if !seen[key] {
					seen[key] = true
					out.Entries = append(out.Entries, e)
				}
			}
		}
	}
	return out
}

func httpKey(list []HTTP) string {
	if list == nil {
		return ""
	}
	return fmt.Sprintf(" with requests %q", list)
}

// entries are those of one rule.
func (c *Cluster) entries(p *Policy, rule Rule, pod *Pod, v6 bool) (out []Entry) {
	ports := rule.Ports
	if ports == nil {
		ports = []Ports{{}}
	}
	for _, source := range c.sources(rule, v6) {
		for _, at := range ports {
			if at.Name != "" {
				if pod == nil || pod.Ports[at.Name] == 0 {
					continue
				}
				at.From = pod.Ports[at.Name]
				at.To = at.From
			}
			out = append(out, Entry{Source: source, Proto: at.Proto, From: at.From, To: at.To, Policy: p.Name, At: rule.At, HTTP: rule.HTTP})
		}
	}
	return out
}

// sources are the peers of a rule as prefixes of a family.
func (c *Cluster) sources(rule Rule, v6 bool) (out []netip.Prefix) {
	if rule.Peers == nil {
		return []netip.Prefix{anywhere(v6)}
	}
	for _, p := range rule.Peers {
		if p.Pods == nil {
			out = append(out, c.blockPrefixes(p.Block, v6)...)
			continue
		}
		for i := range c.inventory.Pods {
			if p.Pods.Matches(&c.inventory.Pods[i]) {
				out = append(out, hosts(c.inventory.Pods[i].Addresses, v6)...)
			}
		}
	}
	return out
}

func anywhere(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func hosts(addrs []netip.Addr, v6 bool) (out []netip.Prefix) {
	for _, a := range addrs {
		if a.Is6() == v6 {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// blockPrefixes is a block as prefixes: what it excepts, and the pods that it does not mean,
// are taken out exactly.
func (c *Cluster) blockPrefixes(b *Block, v6 bool) []netip.Prefix {
	if b.Prefix.Addr().Is6() != v6 {
		return nil
	}
	out := []netip.Prefix{b.Prefix}
	for _, e := range b.Except {
		out = without(out, e)
	}
	if b.NotPods {
		for i := range c.inventory.Pods {
			for _, h := range hosts(c.inventory.Pods[i].Addresses, v6) {
				out = without(out, h)
			}
		}
	}
	return out
}

// without is prefixes that do not overlap, less one: the halves that the removed one is
// not in, down to its length.
func without(list []netip.Prefix, less netip.Prefix) (out []netip.Prefix) {
	for _, p := range list {
		switch {
		case !p.Overlaps(less):
			out = append(out, p)
		case less.Bits() <= p.Bits(): // all of it goes
		default:
			for p.Bits() < less.Bits() {
				low, high := halves(p)
				if low.Contains(less.Addr()) {
					p, out = low, append(out, high)
				} else {
					p, out = high, append(out, low)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}

// halves are the two prefixes that are one bit longer.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	b := p.Addr().AsSlice()
	b[(bits-1)/8] |= 1 << (7 - (bits-1)%8)
	second, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Addr(), bits), netip.PrefixFrom(second, bits)
}

// Admits says whether some entry admits a flow from a source, and which is the first.
func (r Rules) Admits(from netip.Addr, proto uint8, port uint16) (first int, ok bool) {
	if !r.Isolated {
		return -1, true
	}
	for i, e := range r.Entries {
		if e.Source.Contains(from) && e.Ports().covers(proto, port) {
			return i, true
		}
	}
	return -1, false
}

// EgressConflict finds an entry of a pod's list whose source is a pod that its own policies
// of egress do not let send there: what a filter in front of the destination cannot know.
// It returns the entry, and the first policy that isolates the source.
func (c *Cluster) EgressConflict(pod *Pod, r Rules) (e Entry, by *Policy, ok bool) {
	if pod == nil {
		return e, nil, false
	}
	for i := range c.inventory.Pods {
		peer := &c.inventory.Pods[i]
		if peer == pod {
			continue
		}
		by := c.isolating(Egress, peer)
		if by == nil {
			continue
		}
		for _, e := range r.Entries {
			for _, a := range peer.Addresses {
				if e.Source.Contains(a) && !c.sends(peer, pod, a, e) {
					return e, by, true
				}
			}
		}
	}
	return e, nil, false
}

// isolating is the first policy that isolates a pod in a direction, nil if none does.
func (c *Cluster) isolating(d Direction, pod *Pod) *Policy {
	for i := range c.set.Policies {
		if p := &c.set.Policies[i]; p.Isolates[d] && p.subject(pod) {
			return p
		}
	}
	return nil
}

// sends says whether the policies of egress let a pod reach all of an entry's ports. It is
// asked at each port where a rule begins or has ended.
func (c *Cluster) sends(from, to *Pod, a netip.Addr, e Entry) bool {
	target := to.Addresses[slices.IndexFunc(to.Addresses, func(x netip.Addr) bool { return x.Is6() == a.Is6() })]
	protos := []uint8{e.Proto}
	if e.Proto == ProtoAny {
		protos = []uint8{ProtoTCP, ProtoUDP, ProtoSCTP, 1} // and one that no rule names
	}
	for _, proto := range protos {
		for _, port := range c.edges(from, to, e) {
			d := c.judge(Egress, from, target, to, to, Flow{From: a, To: target, Proto: proto, Port: port})
			if !d.Allowed || d.HTTP != nil {
				return false
			}
		}
	}
	return true
}

// edges are the ports of an entry at which the answer of a source's rules can change.
func (c *Cluster) edges(from, to *Pod, e Entry) []uint16 {
	first, last := e.From, e.To
	if first == 0 {
		first, last = 1, LastPort
	}
	out := []uint16{first}
	add := func(port int) {
		if port > int(first) && port <= int(last) {
			out = append(out, uint16(port))
		}
	}
	for i := range c.set.Policies {
		p := &c.set.Policies[i]
		if !p.Isolates[Egress] || !p.subject(from) {
			continue
		}
		for _, rule := range p.Rules[Egress] {
			for _, at := range rule.Ports {
				if n := to.Ports[at.Name]; at.Name != "" {
					at.From, at.To = n, n
				}
				add(int(at.From))
				add(int(at.To) + 1)
			}
		}
	}
	return out
}

// Without is a prefix less another, as prefixes.
func Without(p, less netip.Prefix) []netip.Prefix { return without([]netip.Prefix{p}, less) }
