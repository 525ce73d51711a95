// Package policytest makes random policies, as the files that users write, with the
// inventory that they are about and the flows at which answers can differ. The same seed
// gives the same sample.
package policytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"hookbed/driver/policy"
)

// Sample is a set of policies, and what to hold it against.
type Sample struct {
	Policies  []byte // YAML
	Inventory []byte // YAML
	Server    string // the pod that filters guard
	IPv6      bool
	Flows     []policy.Flow // to the server
}

// Profiles of samples: what their rules are like. Hashes hold the first two only.
const (
	portless = iota // single pods, every port
	hosts           // single pods, single ports
	prefixes        // and blocks with exceptions
	ranges          // and ranges of ports, and whole protocols
	anything        // and rules without peers or ports, egress, SCTP, HTTP, named ports
	profiles
)

type generator struct {
	*rand.Rand
	profile int
	v6      bool
	pods    []netip.Addr
	edges   []netip.Addr // of blocks
	ports   []uint16     // of rules
	b       strings.Builder
}

// Generate makes the sample of a seed.
func Generate(seed uint64) Sample {
	g := &generator{Rand: rand.New(rand.NewPCG(0x70_6f_6c, seed))}
	g.profile, g.v6 = g.IntN(profiles), g.IntN(5) == 0
	s := Sample{Server: "ns0/pod0", IPv6: g.v6}
	s.Inventory = g.inventory(3 + g.IntN(8))
	for i := range 1 + g.IntN(6) {
		g.b.WriteString("---\n")
		if g.IntN(3) == 0 {
			g.cilium(i)
		} else {
			g.networkPolicy(i)
		}
	}
	s.Policies = []byte(g.b.String())
	s.Flows = g.flows()
	return s
}

func (g *generator) printf(format string, args ...any) { fmt.Fprintf(&g.b, format, args...) }

// address is one of few, so that blocks and pods meet.
func (g *generator) address() netip.Addr {
	if g.v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0, 2, 0, 0, 0x13, 0x19, 13: byte(g.IntN(2)), 14: byte(g.IntN(3)), 15: byte(g.IntN(256))})
	}
	return netip.AddrFrom4([4]byte{198, 19, byte(g.IntN(3)), byte(g.IntN(256))})
}

func (g *generator) inventory(n int) []byte {
	var b strings.Builder
	b.WriteString("namespace:\n- {name: ns0, labels: {env: prod}}\n- {name: ns1, labels: {env: test}}\npod:\n")
	for i := range n {
		a := g.address()
		for slices.Contains(g.pods, a) {
			a = g.address()
		}
		g.pods = append(g.pods, a)
		ns := 0
		if i > 0 {
			ns = g.IntN(2)
		}
		fmt.Fprintf(&b, "- {name: ns%d/pod%d, labels: {app: a%d, tier: t%d}, addresses: [\"%s\"], ports: {web: %d}}\n", ns, i, i%4, g.IntN(2), a, 80+g.IntN(3))
	}
	return []byte(b.String())
}

// selector is of labels of pods, which some have.
func (g *generator) selector() string {
	switch g.IntN(6) {
	case 0:
		return "{}"
	case 1:
		return fmt.Sprintf("{matchLabels: {tier: t%d}}", g.IntN(2))
	case 2:
		return fmt.Sprintf("{matchExpressions: [{key: app, operator: In, values: [a%d, a%d]}]}", g.IntN(4), g.IntN(4))
	case 3:
		return fmt.Sprintf("{matchExpressions: [{key: app, operator: NotIn, values: [a%d]}]}", g.IntN(4))
	}
	return fmt.Sprintf("{matchLabels: {app: a%d}}", g.IntN(4))
}

// subject selects the server more often than not.
func (g *generator) subject() string {
	if g.IntN(3) > 0 {
		return []string{"{}", "{matchLabels: {app: a0}}"}[g.IntN(2)]
	}
	return g.selector()
}

// block is a prefix, with prefixes in it taken out.
func (g *generator) block() (cidr string, except []string) {
	a := g.address()
	host := g.IntN(12)
	p := netip.PrefixFrom(a, a.BitLen()-host).Masked()
	if g.profile == anything && g.IntN(10) == 0 {
		p = netip.PrefixFrom(a, 0).Masked()
		host = a.BitLen()
	}
	g.edge(p)
	for range g.IntN(3) {
		if host == 0 {
			break
		}
		in := g.address()
		e := netip.PrefixFrom(in, max(p.Bits()+1, a.BitLen()-g.IntN(min(host, 9)))).Masked()
		if p.Contains(e.Addr()) && e.Bits() > p.Bits() {
			except = append(except, fmt.Sprintf("%q", e))
			g.edge(e)
		}
	}
	return fmt.Sprintf("%q", p), except
}

// edge notes addresses at which a prefix begins and ends, and those next to them.
func (g *generator) edge(p netip.Prefix) {
	first := p.Addr()
	b := first.AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	for _, a := range []netip.Addr{first, last, first.Prev(), last.Next()} {
		if a.IsValid() {
			g.edges = append(g.edges, a)
		}
	}
}

func (g *generator) port() int {
	p := []int{80, 81, 82, 443, 5001, 8080}[g.IntN(6)]
	g.ports = append(g.ports, uint16(p))
	return p
}

// portRange ends a little or a lot behind a port.
func (g *generator) portRange(from int) int {
	to := min(from+1+g.IntN([]int{4, 60, 3000}[g.IntN(3)]), policy.LastPort)
	g.ports = append(g.ports, uint16(to), uint16(to+1), uint16(from-1))
	return to
}

func (g *generator) protocol() string {
	if g.profile == anything && g.IntN(30) == 0 {
		return "SCTP"
	}
	if g.profile != hosts && g.IntN(4) == 0 {
		return "UDP"
	}
	return "TCP"
}

func (g *generator) networkPolicy(i int) {
	g.printf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p%d, namespace: ns%d}\nspec:\n  podSelector: %s\n", i, min(g.IntN(4)/3, 1), g.subject())
	rules := g.IntN(3)
	if i == 0 {
		rules++
	}
	g.printf("  ingress:%s\n", []string{" []", "", "", ""}[rules])
	for range rules {
		g.networkRule("from")
	}
	if g.profile == anything && g.IntN(8) == 0 {
		g.printf("  egress:\n")
		g.networkRule("to")
		g.printf("  policyTypes: [Ingress, Egress]\n")
	}
}

func (g *generator) networkRule(peers string) {
	written := false
	dash := func() string {
		if written {
			return "    "
		}
		written = true
		return "  - "
	}
	if g.profile != anything || g.IntN(6) > 0 {
		g.printf("%s%s:\n", dash(), peers)
		for range 1 + g.IntN(2) {
			g.networkPeer()
		}
	}
	if g.profile > portless && (g.profile < anything || g.IntN(5) > 0) {
		g.printf("%sports:\n", dash())
		for range 1 + g.IntN(2) {
			g.networkPort()
		}
	}
	if !written {
		g.printf("  - {}\n")
	}
}

func (g *generator) networkPeer() {
	switch {
	case g.profile >= prefixes && g.IntN(2) == 0:
		cidr, except := g.block()
		g.printf("    - ipBlock: {cidr: %s, except: [%s]}\n", cidr, strings.Join(except, ", "))
	case g.IntN(3) == 0:
		g.printf("    - namespaceSelector: {matchLabels: {env: %s}}\n      podSelector: %s\n", []string{"prod", "test"}[g.IntN(2)], g.selector())
	default:
		g.printf("    - podSelector: %s\n", g.selector())
	}
}

func (g *generator) networkPort() {
	proto := g.protocol()
	switch {
	case g.profile >= ranges && g.IntN(6) == 0:
		g.printf("    - {protocol: %s}\n", proto)
	case g.profile >= ranges && g.IntN(2) == 0:
		from := g.port()
		g.printf("    - {protocol: %s, port: %d, endPort: %d}\n", proto, from, g.portRange(from))
	case g.profile == anything && g.IntN(6) == 0:
		g.printf("    - {protocol: %s, port: web}\n", proto)
	default:
		g.printf("    - {protocol: %s, port: %d}\n", proto, g.port())
	}
}

func (g *generator) cilium(i int) {
	g.printf("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c%d, namespace: ns0}\nspec:\n  endpointSelector: %s\n  ingress:\n", i, g.subject())
	for range 1 + g.IntN(2) {
		if g.IntN(8) == 0 {
			g.printf("  - {}\n")
			continue
		}
		switch {
		case g.profile >= prefixes && g.IntN(2) == 0:
			cidr, except := g.block()
			g.printf("  - fromCIDRSet: [{cidr: %s, except: [%s]}]\n", cidr, strings.Join(except, ", "))
		case g.IntN(4) == 0:
			g.printf("  - fromEndpoints: [{matchLabels: {\"k8s:app\": a%d, \"k8s:io.kubernetes.pod.namespace\": ns1}}]\n", g.IntN(4))
		default:
			g.printf("  - fromEndpoints: [%s, %s]\n", g.selector(), g.selector())
		}
		if g.profile > portless && (g.profile < anything || g.IntN(4) > 0) {
			g.ciliumPorts()
		}
	}
}

func (g *generator) ciliumPorts() {
	g.printf("    toPorts:\n    - ports:\n")
	from := g.port()
	switch {
	case g.profile >= ranges && g.IntN(2) == 0:
		g.printf("      - {port: \"%d\", endPort: %d, protocol: %s}\n", from, g.portRange(from), g.protocol())
	case g.profile >= ranges && g.IntN(4) == 0:
		g.printf("      - {port: \"%d\"}\n", from)
	default:
		g.printf("      - {port: \"%d\", protocol: %s}\n", from, g.protocol())
	}
	if g.profile == anything && g.IntN(12) == 0 {
		g.printf("      rules: {http: [{method: GET, path: /public}]}\n")
	}
}

// mostFlows bounds the flows of a sample.
const mostFlows = 60

// flows are from pods, from where blocks begin and end, and from others, to where ranges
// begin and end, and to other ports.
func (g *generator) flows() []policy.Flow {
	sources := slices.Concat(g.pods[1:], g.edges, []netip.Addr{g.address(), g.address()})
	ports := append(g.ports, 80, 5001, 1, policy.LastPort)
	var out []policy.Flow
	for range mostFlows {
		f := policy.Flow{From: sources[g.IntN(len(sources))], To: g.pods[0], Proto: policy.ProtoTCP, Port: ports[g.IntN(len(ports))]}
		if g.IntN(4) == 0 {
			f.Proto = policy.ProtoUDP
		}
		if f.Port != 0 && f.From != f.To && f.From.Is4() == f.To.Is4() {
			out = append(out, f)
		}
	}
	return out
}
