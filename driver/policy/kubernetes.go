package policy

import (
	"cmp"
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// defaultNamespace is that of policies and pods that name none.
const defaultNamespace = "default"

// networkPolicy reads a NetworkPolicy (networking.k8s.io/v1).
func (r *reader) networkPolicy(n *yaml.Node) {
	var np networkingv1.NetworkPolicy
	if !r.strict(n, &np) {
		return
	}
	spec := child(n, "spec")
	if spec == nil {
		r.problem(n.Line, "has no spec; write spec: with podSelector")
		return
	}
	ns := cmp.Or(np.Namespace, defaultNamespace)
	k := kubernetes{r, ns}
	p := Policy{Name: kindNetworkPolicy + " " + ns + "/" + np.Name, At: r.at(n)}
	p.Subject = Selector{namespace: ns, pods: r.selector(&np.Spec.PodSelector, below(spec, "podSelector"))}
	p.Isolates = k.isolates(np.Spec, spec)
	for i, in := range np.Spec.Ingress {
		at := below(spec, "ingress", i)
		p.Rules[Ingress] = append(p.Rules[Ingress], Rule{At: r.at(at), Peers: k.peers(in.From, below(at, "from")), Ports: k.ports(in.Ports, below(at, "ports"))})
	}
	for i, out := range np.Spec.Egress {
		at := below(spec, "egress", i)
		p.Rules[Egress] = append(p.Rules[Egress], Rule{At: r.at(at), Peers: k.peers(out.To, below(at, "to")), Ports: k.ports(out.Ports, below(at, "ports"))})
	}
	r.set.Policies = append(r.set.Policies, p)
}

// kubernetes reads the parts of a NetworkPolicy of a namespace.
type kubernetes struct {
	*reader
	namespace string
}

// isolates are the directions of policyTypes; without them ingress always, and egress if
// there is a rule of it.
func (k kubernetes) isolates(s networkingv1.NetworkPolicySpec, n *yaml.Node) (out [directions]bool) {
	if len(s.PolicyTypes) == 0 {
		return [directions]bool{Ingress: true, Egress: len(s.Egress) > 0}
	}
	for i, t := range s.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			out[Ingress] = true
		case networkingv1.PolicyTypeEgress:
			out[Egress] = true
		default:
			k.problem(below(n, "policyTypes", i).Line, "policyTypes has %q, want Ingress or Egress", cut(string(t)))
		}
	}
	for d, rules := range map[Direction]int{Ingress: len(s.Ingress), Egress: len(s.Egress)} {
		if rules > 0 && !out[d] {
			k.problem(below(n, d.String()).Line, "%s has rules, and policyTypes does not name it, so they mean nothing; add it there, or remove them", d)
		}
	}
	return out
}

func (k kubernetes) peers(list []networkingv1.NetworkPolicyPeer, n *yaml.Node) (out []Peer) {
	for i, p := range list {
		at := below(n, i)
		switch {
		case p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil):
			k.problem(at.Line, "has ipBlock with a selector in one peer; write two")
		case p.IPBlock != nil:
			at = below(at, "ipBlock")
			out = append(out, Peer{Block: k.block(p.IPBlock.CIDR, p.IPBlock.Except, below(at, "cidr"), below(at, "except"), false)})
		case p.PodSelector == nil && p.NamespaceSelector == nil:
			k.problem(at.Line, "is a peer of nothing; write podSelector, namespaceSelector or ipBlock")
		default:
			s := Selector{namespace: k.namespace}
			if p.NamespaceSelector != nil {
				s.namespace, s.namespaces = "", k.selector(p.NamespaceSelector, below(at, "namespaceSelector"))
			}
			if p.PodSelector != nil {
				s.pods = k.selector(p.PodSelector, below(at, "podSelector"))
			}
			out = append(out, Peer{Pods: &s})
		}
	}
	return out
}

func (k kubernetes) ports(list []networkingv1.NetworkPolicyPort, n *yaml.Node) (out []Ports) {
	for i, p := range list {
		at := below(n, i)
		ports := Ports{Proto: ProtoTCP}
		if p.Protocol != nil {
			proto, ok := protoOf(string(*p.Protocol))
			if !ok || proto == ProtoAny {
				k.problem(below(at, "protocol").Line, "protocol %q, want TCP, UDP or SCTP", cut(string(*p.Protocol)))
				continue
			}
			ports.Proto = proto
		}
		if k.number(&ports, p.Port, p.EndPort, at) {
			out = append(out, ports)
		}
	}
	return out
}

// number reads a port, which may be a name, and the end of a range.
func (r *reader) number(out *Ports, port *intstr.IntOrString, end *int32, at *yaml.Node) bool {
	line := below(at, "port").Line
	switch {
	case port == nil && end != nil:
		r.problem(below(at, "endPort").Line, "endPort is there without port; write port, which the range begins with")
		return false
	case port == nil:
		return true
	case port.Type == intstr.String && end != nil:
		r.problem(below(at, "endPort").Line, "endPort of the named port %q; write port as a number", cut(port.StrVal))
		return false
	case port.Type == intstr.String:
		out.Name = port.StrVal
		if !isPortName(out.Name) {
			r.problem(line, "port %q is no name of a port; write 1 to 15 of a-z, 0-9 and -, or a number", cut(out.Name))
			return false
		}
		return true
	case port.IntVal < 1 || port.IntVal > LastPort:
		r.problem(line, "port %d, want 1 to %d", port.IntVal, LastPort)
		return false
	}
	out.From, out.To = uint16(port.IntVal), uint16(port.IntVal)
	if end == nil {
		return true
	}
	if *end < port.IntVal || *end > LastPort {
		r.problem(below(at, "endPort").Line, "endPort %d, want %d (port) to %d", *end, port.IntVal, LastPort)
		return false
	}
	out.To = uint16(*end)
	return true
}

// isPortName says whether a text can be the name of a port (RFC 6335, 5.1).
func isPortName(s string) bool {
	letter := false
	for _, c := range []byte(s) {
		letter = letter || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !(c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			return false
		}
	}
	return letter && len(s) <= 15
}

// selector compiles a selector of labels.
func (r *reader) selector(s *metav1.LabelSelector, at *yaml.Node) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		r.problem(at.Line, "is no selector of labels: %v", err)
		return labels.Nothing()
	}
	return out
}

// block reads a prefix and what is taken out of it.
func (r *reader) block(cidr string, except []string, at, exceptAt *yaml.Node, notPods bool) *Block {
	b := &Block{Prefix: r.prefix(cidr, at), NotPods: notPods, At: r.at(at)}
	for i, text := range except {
		line := below(exceptAt, i)
		p := r.prefix(text, line)
		if p.IsValid() && b.Prefix.IsValid() && (!b.Prefix.Overlaps(p) || p.Bits() < b.Prefix.Bits()) {
			r.problem(line.Line, "except %s is not inside of %s; write a longer prefix of it", p, b.Prefix)
		}
		b.Except = append(b.Except, p)
	}
	return b
}

// prefix reads a prefix without bits behind it.
func (r *reader) prefix(text string, at *yaml.Node) netip.Prefix {
	p, what := parsePrefix(text)
	if what != "" {
		r.problem(at.Line, "%s", what)
	}
	return p
}

// parsePrefix is a prefix, or what is wrong with it.
func parsePrefix(text string) (p netip.Prefix, what string) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Sprintf("%q is no prefix; write one as in 198.18.0.0/24", cut(text))
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Sprintf("%q is an IPv4 address in one of IPv6; write the IPv4 prefix", cut(text))
	case p != p.Masked():
		return netip.Prefix{}, fmt.Sprintf("%q has bits set behind the prefix; write %s", cut(text), p.Masked())
	}
	return p, ""
}
