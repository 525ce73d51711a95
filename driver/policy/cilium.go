package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What is read of Cilium's policies (cilium.io/v2, pkg/policy/api): the parts that this
// model carries. Other fields are refused.
type (
	ciliumPolicy struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
		Spec            *ciliumRule       `json:"spec"`
		Specs           []ciliumRule      `json:"specs"`
		Status          any               `json:"status"`
	}
	ciliumRule struct {
		EndpointSelector *metav1.LabelSelector `json:"endpointSelector"`
		Ingress          []ciliumIngress       `json:"ingress"`
		Egress           []ciliumEgress        `json:"egress"`
		Description      string                `json:"description"`
		Labels           []any                 `json:"labels"`
	}
	ciliumIngress struct {
		FromEndpoints []metav1.LabelSelector `json:"fromEndpoints"`
		FromCIDR      []string               `json:"fromCIDR"`
		FromCIDRSet   []ciliumCIDR           `json:"fromCIDRSet"`
		ToPorts       []ciliumPorts          `json:"toPorts"`
	}
	ciliumEgress struct {
		ToEndpoints []metav1.LabelSelector `json:"toEndpoints"`
		ToCIDR      []string               `json:"toCIDR"`
		ToCIDRSet   []ciliumCIDR           `json:"toCIDRSet"`
		ToPorts     []ciliumPorts          `json:"toPorts"`
	}
	ciliumCIDR struct {
		CIDR   string   `json:"cidr"`
		Except []string `json:"except"`
	}
	ciliumPorts struct {
		Ports []ciliumPort `json:"ports"`
		Rules *ciliumL7    `json:"rules"`
	}
	ciliumPort struct {
		Port     intstr.IntOrString `json:"port"`
		EndPort  *int32             `json:"endPort"`
		Protocol string             `json:"protocol"`
	}
	ciliumL7 struct {
		HTTP []HTTP `json:"http"`
	}
)

// Labels that Cilium gives to pods.
const (
	labelNamespace       = "io.kubernetes.pod.namespace"
	labelNamespaceLabels = "io.cilium.k8s.namespace.labels."
	labelCluster         = "io.cilium.k8s.policy.cluster"
	labelAccount         = "io.cilium.k8s.policy.serviceaccount"
)

// ciliumPolicy reads a CiliumNetworkPolicy, or one of the whole cluster.
func (r *reader) ciliumPolicy(n *yaml.Node, everywhere bool) {
	var cp ciliumPolicy
	if !r.strict(n, &cp) {
		return
	}
	ns, name := cmp.Or(cp.Metadata.Namespace, defaultNamespace), kindCilium+" "
	if everywhere {
		ns, name = "", kindCiliumCluster+" "
	} else {
		name += ns + "/"
	}
	name += cp.Metadata.Name
	if cp.Spec == nil && len(cp.Specs) == 0 {
		r.problem(n.Line, "has neither spec nor specs; write spec: with endpointSelector")
		return
	}
	if cp.Spec != nil {
		cilium{r, ns}.rule(*cp.Spec, below(n, "spec"), name)
	}
	for i, s := range cp.Specs {
		cilium{r, ns}.rule(s, below(n, "specs", i), fmt.Sprintf("%s specs[%d]", name, i))
	}
}

// rules2017 reads an array of rules, as `cilium policy import` took it. Labels select
// in every namespace, and the rules of HTTP may be named in capitals.
func (r *reader) rules2017(n *yaml.Node) {
	for i, item := range n.Content {
		lowerHTTP(item)
		var rule ciliumRule
		if r.read++; r.read > maxDocuments {
			r.problem(item.Line, "is policy %d, want at most %d; write several files", r.read, maxDocuments)
			return
		}
		if r.strict(item, &rule) {
			cilium{r, ""}.rule(rule, item, fmt.Sprintf("rule %d", i+1))
		}
	}
}

// lowerHTTP writes the key "HTTP" of a rule's L7 rules in small letters: Cilium decoded
// either.
func lowerHTTP(rule *yaml.Node) {
	for _, d := range []string{"ingress", "egress"} {
		sections := child(rule, d)
		if sections == nil || sections.Kind != yaml.SequenceNode {
			continue
		}
		for _, s := range sections.Content {
			ports := child(s, "toPorts")
			if ports == nil {
				continue
			}
			for _, p := range ports.Content {
				if l7 := child(p, "rules"); l7 != nil && l7.Kind == yaml.MappingNode {
					for i := 0; i < len(l7.Content); i += 2 {
						if l7.Content[i].Value == "HTTP" {
							l7.Content[i].Value = "http"
						}
					}
				}
			}
		}
	}
}

// cilium reads rules of a namespace; "" is every one.
type cilium struct {
	*reader
	namespace string
}

// rule reads one rule. A direction with sections isolates; one section without anything
// admits nothing, which is how Cilium writes "deny".
func (c cilium) rule(rule ciliumRule, n *yaml.Node, name string) {
	p := Policy{Name: name, At: c.at(n)}
	if rule.EndpointSelector == nil {
		c.problem(n.Line, "has no endpointSelector; write endpointSelector: {} to select every endpoint")
		return
	}
	p.Subject = c.endpoints(*rule.EndpointSelector, below(n, "endpointSelector"))
	if rule.Ingress == nil && rule.Egress == nil {
		c.problem(n.Line, "has neither ingress nor egress; write one of them")
	}
	p.Isolates = [directions]bool{Ingress: len(rule.Ingress) > 0, Egress: len(rule.Egress) > 0}
	for i, s := range rule.Ingress {
		at := below(n, "ingress", i)
		peers, some := c.peers(at, s.FromEndpoints, s.FromCIDR, s.FromCIDRSet, "fromEndpoints", "fromCIDR", "fromCIDRSet")
		p.Rules[Ingress] = append(p.Rules[Ingress], c.section(peers, some, s.ToPorts, at)...)
	}
	for i, s := range rule.Egress {
		at := below(n, "egress", i)
		peers, some := c.peers(at, s.ToEndpoints, s.ToCIDR, s.ToCIDRSet, "toEndpoints", "toCIDR", "toCIDRSet")
		p.Rules[Egress] = append(p.Rules[Egress], c.section(peers, some, s.ToPorts, at)...)
	}
	c.set.Policies = append(c.set.Policies, p)
}

// peers are those of a section; some is false if it names no kind of peers. Lists that are
// there and empty select nothing.
func (c cilium) peers(at *yaml.Node, endpoints []metav1.LabelSelector, cidrs []string, sets []ciliumCIDR, keys ...string) (out []Peer, some bool) {
	for i, s := range endpoints {
		sel := c.endpoints(s, below(at, keys[0], i))
		out = append(out, Peer{Pods: &sel})
	}
	for i, text := range cidrs {
		out = append(out, Peer{Block: c.block(text, nil, below(at, keys[1], i), nil, true)})
	}
	for i, s := range sets {
		in := below(at, keys[2], i)
		out = append(out, Peer{Block: c.block(s.CIDR, s.Except, below(in, "cidr"), below(in, "except"), true)})
	}
	return out, endpoints != nil || cidrs != nil || sets != nil
}

// section is the rules of one section: one for each of its lists of ports.
func (c cilium) section(peers []Peer, some bool, ports []ciliumPorts, at *yaml.Node) (out []Rule) {
	switch {
	case some && len(peers) == 0, !some && len(ports) == 0:
		return nil
	case len(ports) == 0:
		return []Rule{{At: c.at(at), Peers: peers}}
	}
	for i, p := range ports {
		in := below(at, "toPorts", i)
		rule := Rule{At: c.at(in), Peers: peers, Ports: c.ports(p.Ports, below(in, "ports"))}
		if p.Rules != nil {
			if rule.HTTP = p.Rules.HTTP; len(rule.HTTP) == 0 {
				c.problem(below(in, "rules").Line, "rules has no http rule; write http: with method and path, or remove rules")
			}
		}
		for k, h := range rule.HTTP {
			if what := h.problem(); what != "" {
				c.problem(below(in, "rules", "http", k).Line, "%s", what)
			}
		}
		if rule.Ports == nil && rule.HTTP != nil {
			c.problem(in.Line, "has rules of HTTP and no ports; write the ports that HTTP is spoken at")
		}
		out = append(out, rule)
	}
	return out
}

// ports reads ports. ANY, which is the default, is TCP and UDP: Cilium has SCTP only where
// its agent is told so.
func (c cilium) ports(list []ciliumPort, n *yaml.Node) (out []Ports) {
	for i, p := range list {
		at := below(n, i)
		proto, ok := protoOf(cmp.Or(p.Protocol, "any"))
		if !ok {
			c.problem(below(at, "protocol").Line, "protocol %q, want TCP, UDP, SCTP or ANY", cut(p.Protocol))
			continue
		}
		port := p.Port
		if port.Type == intstr.String { // numbers are written as text
			if n := intstr.Parse(port.StrVal); n.Type == intstr.Int {
				port = n
			}
		}
		var read Ports
		whole := port.Type == intstr.Int && port.IntVal == 0 // 0 is every port
		if whole && p.EndPort != nil && *p.EndPort != 0 {
			c.problem(below(at, "endPort").Line, "endPort without a port; write port, which the range begins with")
			continue
		}
		if !whole {
			end := p.EndPort
			if end != nil && *end == 0 {
				end = nil
			}
			if !c.number(&read, &port, end, at) {
				continue
			}
		}
		for _, proto := range protosOf(proto) {
			read.Proto = proto
			out = append(out, read)
		}
	}
	return out
}

func protosOf(proto uint8) []uint8 {
	if proto == ProtoAny {
		return []uint8{ProtoTCP, ProtoUDP}
	}
	return []uint8{proto}
}

// endpoints compiles a selector of endpoints: labels may have a source before them, and
// one without a namespace selects within the policy's.
func (c cilium) endpoints(s metav1.LabelSelector, at *yaml.Node) Selector {
	out := metav1.LabelSelector{MatchLabels: map[string]string{}}
	namespace := c.namespace
	key := func(k string) string {
		source, rest, ok := strings.Cut(k, ":")
		if ok && slices.Contains([]string{"k8s", "any", "container"}, source) {
			k = rest
		} else if ok {
			c.problem(at.Line, "label %q is of the source %q, want k8s, any or container", cut(k), cut(source))
		}
		if k == labelNamespace || strings.HasPrefix(k, labelNamespaceLabels) {
			namespace = ""
		}
		if k == labelAccount {
			c.problem(at.Line, "label %q is of a service account, which an inventory has not; select by other labels", k)
		}
		return k
	}
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		out.MatchLabels[key(k)] = s.MatchLabels[k]
	}
	for _, e := range s.MatchExpressions {
		e.Key = key(e.Key)
		out.MatchExpressions = append(out.MatchExpressions, e)
	}
	return Selector{namespace: namespace, endpoints: c.selector(&out, at)}
}
