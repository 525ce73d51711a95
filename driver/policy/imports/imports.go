// Package imports reads rule sets of iptables and nft, and policies about a pod, as entries
// of a list of policies: connections that are admitted. What the entries cannot carry is
// named with its line. It is pure.
package imports

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"hookbed/driver/policy"
)

// Bounds of what is read and made.
const (
	maxSize    = 8 << 20 // bytes of a rule set
	maxEntries = 10_000
)

// Result is what was read.
type Result struct {
	Entries []policy.Entry
	// Left is what the entries do not carry: with it, they are not the rule set.
	Left []policy.Problem
	// Notes are rules that are no policy, and which every arm has in a form of its own.
	Notes []policy.Problem
}

// Pod is what the policies admit at a pod, in both families.
func Pod(c *policy.Cluster, pod *policy.Pod) (out Result) {
	for _, v6 := range []bool{false, true} {
		if !hasFamily(pod, v6) {
			continue
		}
		rules := c.Ingress(pod, v6)
		if !rules.Isolated {
			out.Left = append(out.Left, policy.Problem{At: pod.At, What: fmt.Sprintf("no policy selects pod %q for ingress, so that everything is admitted; choose another pod", pod.Name)})
			return out
		}
		for _, e := range rules.Entries {
			if e.HTTP != nil {
				out.Left = append(out.Left, policy.Problem{At: e.At, What: fmt.Sprintf("%s has rules of HTTP, which entries cannot carry", e.Policy)})
				continue
			}
			out.Entries = append(out.Entries, e)
		}
		if e, by, ok := c.EgressConflict(pod, rules); ok {
			out.Left = append(out.Left, policy.Problem{At: by.At, What: fmt.Sprintf("%s isolates the egress of a source that %s (%s) admits, and entries are about ingress", by.Name, e.At, e.Policy)})
		}
	}
	return out
}

func hasFamily(pod *policy.Pod, v6 bool) bool {
	for _, a := range pod.Addresses {
		if a.Is6() == v6 {
			return true
		}
	}
	return false
}

// box is connections: a prefix of sources, a protocol (0 any) and a range of ports (0 any).
type box struct {
	source   netip.Prefix
	proto    uint8
	from, to uint16
}

func (b box) ends() (from, to int) {
	if b.from == 0 {
		return 0, policy.LastPort
	}
	return int(b.from), int(b.to)
}

// less is a box without another. ok is false if what remains is no list of boxes: every
// protocol but one.
func (b box) less(o box) (out []box, ok bool) {
	bFrom, bTo := b.ends()
	oFrom, oTo := o.ends()
	switch {
	case !b.source.Overlaps(o.source), b.proto != 0 && o.proto != 0 && b.proto != o.proto, bTo < oFrom, oTo < bFrom:
		return []box{b}, true
	case b.proto == 0 && o.proto != 0:
		return nil, false
	}
	for _, p := range policy.Without(b.source, o.source) {
		out = append(out, box{p, b.proto, b.from, b.to})
	}
	common := b.source
	if o.source.Bits() > common.Bits() {
		common = o.source
	}
	if bFrom < oFrom {
		out = append(out, box{common, b.proto, uint16(max(bFrom, 1)), uint16(oFrom - 1)})
	}
	if oTo < bTo {
		out = append(out, box{common, b.proto, uint16(oTo + 1), uint16(bTo)})
	}
	return out, true
}

// chain collects the rules of one chain in their order.
type chain struct {
	file   string
	denied []box
	Result
}

func (c *chain) left(line int, format string, args ...any) {
	c.Left = append(c.Left, policy.Problem{At: policy.Position{File: c.file, Line: line}, What: fmt.Sprintf(format, args...)})
}

func (c *chain) note(line int, format string, args ...any) {
	c.Notes = append(c.Notes, policy.Problem{At: policy.Position{File: c.file, Line: line}, What: fmt.Sprintf(format, args...)})
}

// rule is one rule that could be read.
type rule struct {
	line    int
	sources []netip.Prefix // nil: every one of the family
	protos  []uint8        // nil: every one
	ports   [][2]uint16    // nil: every one
	pairs   []box          // of a set of sources with ports; instead of the others
	accept  bool
}

// apply adds a rule: what it admits and no rule before it denies becomes entries; what it
// denies is kept for those behind it.
func (c *chain) apply(r rule, families []netip.Prefix) {
	if r.ports != nil && r.protos == nil {
		c.left(r.line, "has ports of no protocol, which entries cannot carry; write tcp or udp")
		return
	}
	boxes := r.pairs
	if boxes == nil {
		boxes = r.boxes(families)
	}
	if !r.accept {
		c.denied = append(c.denied, boxes...)
		return
	}
	for _, b := range boxes {
		remain := []box{b}
		for _, d := range c.denied {
			var next []box
			for _, m := range remain {
				some, ok := m.less(d)
				if !ok {
					c.left(r.line, "admits every protocol where a rule before it denies one, which entries cannot carry; write a rule for each protocol")
					return
				}
				next = append(next, some...)
			}
			if remain = next; len(remain)+len(c.Entries) > maxEntries {
				c.left(r.line, "makes more than %d entries with the rules that deny before it; write fewer", maxEntries)
				return
			}
		}
		for _, m := range remain {
			c.Entries = append(c.Entries, policy.Entry{Source: m.source, Proto: m.proto, From: m.from, To: m.to, At: policy.Position{File: c.file, Line: r.line}})
		}
	}
}

func (r rule) boxes(families []netip.Prefix) (out []box) {
	sources, protos, ports := r.sources, r.protos, r.ports
	if sources == nil {
		sources = families
	}
	if protos == nil {
		protos = []uint8{0}
	}
	if ports == nil {
		ports = [][2]uint16{{}}
	}
	for _, s := range sources {
		for _, p := range protos {
			for _, at := range ports {
				out = append(out, box{s, p, at[0], at[1]})
			}
		}
	}
	return out
}

// done removes entries that are there twice.
func (c *chain) done() Result {
	seen := map[string]bool{}
	var out []policy.Entry
	for _, e := range c.Entries {
		if !seen[e.Line()] {
			seen[e.Line()] = true
			out = append(out, e)
		}
	}
	c.Entries = out
	return c.Result
}

func everything(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// prefix reads an address or a prefix.
func prefix(text string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err == nil && !p.Addr().Is4In6()
}

// ports reads a port or a range.
func ports(text, separator string) (out [2]uint16, ok bool) {
	first, last, ranged := strings.Cut(text, separator)
	a, err := strconv.ParseUint(first, 10, 16)
	if err != nil || a == 0 {
		return out, false
	}
	b := a
	if ranged {
		if b, err = strconv.ParseUint(last, 10, 16); err != nil || b < a {
			return out, false
		}
	}
	return [2]uint16{uint16(a), uint16(b)}, true
}

// proto reads a protocol that entries can name.
func proto(text string) (uint8, bool) {
	n, ok := map[string]uint8{"tcp": policy.ProtoTCP, "udp": policy.ProtoUDP, "sctp": policy.ProtoSCTP, "6": policy.ProtoTCP, "17": policy.ProtoUDP, "132": policy.ProtoSCTP}[strings.ToLower(text)]
	return n, ok
}

// opens says whether a list of connection states has new ones.
func opens(states string) bool {
	for _, s := range strings.Split(strings.ToLower(states), ",") {
		if strings.TrimSpace(s) == "new" {
			return true
		}
	}
	return false
}
