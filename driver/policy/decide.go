package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Cluster is policies about the pods of an inventory: the reference that every filter is
// held to.
type Cluster struct {
	inventory *Inventory
	set       *Set
}

// NewCluster joins policies and pods. It refuses named ports that no pod has. A nil
// inventory is one of no pods.
func NewCluster(set *Set, in *Inventory) (*Cluster, error) {
	if in == nil {
		in = &Inventory{}
	}
	c := &Cluster{in, set}
	var problems []Problem
	for _, p := range set.Policies {
		for _, rule := range slices.Concat(p.Rules[Ingress], p.Rules[Egress]) {
			for _, ports := range rule.Ports {
				if ports.Name != "" && !in.names(ports.Name) {
					problems = append(problems, Problem{rule.At, fmt.Sprintf("%s names the port %q, and no pod of the inventory has one of that name; write ports = { %s = NUMBER } for the pod, or the number here", p.Name, ports.Name, ports.Name)})
				}
			}
		}
	}
	return c, invalid(problems)
}

// Inventory is the cluster's; it may have no pods.
func (c *Cluster) Inventory() *Inventory { return c.inventory }

// Policies is how many there are.
func (c *Cluster) Policies() int { return len(c.set.Policies) }

func (in *Inventory) names(port string) bool {
	return slices.ContainsFunc(in.Pods, func(p Pod) bool { return p.Ports[port] != 0 })
}

// Flow is a new connection, or a datagram, between two addresses.
type Flow struct {
	From, To netip.Addr
	Proto    uint8
	Port     uint16 // of the destination
}

// Decision is what becomes of a flow, and why.
type Decision struct {
	Allowed bool `json:"allowed"`
	// Direction is in which the flow was decided; "" if no policy is about it.
	Direction string `json:"direction,omitempty"`
	// Policy and At are the first rule that admits it, or, if none does, the first policy
	// that isolates the endpoint.
	Policy string   `json:"policy,omitempty"`
	At     Position `json:"at,omitzero"`
	Why    string   `json:"why"`
	// HTTP is what its requests must be, one of these; nil is any.
	HTTP []HTTP `json:"http,omitempty"`
}

// Decide says whether the policies admit a flow: those of egress of its source and those of
// ingress of its destination both must. An endpoint that no policy selects in a direction is
// free in it; one that is selected may do what any rule of any of its policies admits.
// Pods reach themselves. It reads the policies as they are written.
func (c *Cluster) Decide(f Flow) Decision {
	from, to := c.inventory.podAt(f.From), c.inventory.podAt(f.To)
	if f.From == f.To || from != nil && from == to {
		return Decision{Allowed: true, Why: "an endpoint reaches itself"}
	}
	out := Decision{Allowed: true, Why: "no policy selects either end"}
	if from != nil {
		if d := c.judge(Egress, from, f.To, to, to, f); d.Direction != "" {
			if out = d; !d.Allowed {
				return out
			}
		}
	}
	if d := c.judge(Ingress, to, f.From, from, to, f); d.Direction != "" {
		d.HTTP = slices.Concat(d.HTTP, out.HTTP)
		out = d
	}
	return out
}

// subject says whether a policy selects an endpoint. One that is no pod is selected only
// by policies that select everything, which are those of lists.
func (p *Policy) subject(pod *Pod) bool {
	if pod == nil {
		return p.Subject == Selector{}
	}
	return p.Subject.Matches(pod)
}

// judge asks the policies of one direction of an endpoint.
func (c *Cluster) judge(d Direction, subject *Pod, peer netip.Addr, peerPod, destination *Pod, f Flow) Decision {
	var out Decision
	for i := range c.set.Policies {
		p := &c.set.Policies[i]
		if !p.Isolates[d] || !p.subject(subject) {
			continue
		}
		if out.Direction == "" {
			out = Decision{Direction: d.String(), Policy: p.Name, At: p.At, Why: "no rule of the policies that select the endpoint admits it"}
		}
		for _, rule := range p.Rules[d] {
			if !rule.admits(c, peer, peerPod, destination, f) {
				continue
			}
			if rule.HTTP == nil {
				return Decision{Allowed: true, Direction: d.String(), Policy: p.Name, At: rule.At, Why: "a rule admits it"}
			}
			if !out.Allowed {
				out = Decision{Allowed: true, Direction: d.String(), Policy: p.Name, At: rule.At, Why: "a rule admits it, with requests as it says"}
			}
			out.HTTP = append(out.HTTP, rule.HTTP...)
		}
	}
	return out
}

func (r *Rule) admits(c *Cluster, peer netip.Addr, peerPod, destination *Pod, f Flow) bool {
	named := r.Peers == nil
	for _, p := range r.Peers {
		named = named || p.matches(peer, peerPod)
	}
	if !named {
		return false
	}
	if r.Ports == nil {
		return true
	}
	for _, p := range r.Ports {
		if p.Name == "" && p.covers(f.Proto, f.Port) {
			return true
		}
		if p.Name != "" && destination != nil && p.Proto == f.Proto && f.Port != 0 && destination.Ports[p.Name] == f.Port {
			return true
		}
	}
	return false
}

func (p Peer) matches(a netip.Addr, pod *Pod) bool {
	if p.Pods != nil {
		return pod != nil && p.Pods.Matches(pod)
	}
	b := p.Block
	if b.NotPods && pod != nil || !b.Prefix.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(b.Except, func(e netip.Prefix) bool { return e.Contains(a) })
}
