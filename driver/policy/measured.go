package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Measured is a flow between two pods that the policies admit, with any request.
type Measured struct {
	Client, Server string // names of pods; "" leaves the choice
	Proto          uint8
	Port           uint16 // 0 leaves the choice
	// Requests: a flow whose requests are restricted will do, if some GET is admitted.
	Requests bool
}

// Choose completes a flow that is to be measured: the server is the pod with the most
// entries, the client and the port those that its last possible entry admits, which is a
// list's worst case. What want names stays as it is. reserved are ports that cannot be
// served. An error says why no flow is admitted.
func (c *Cluster) Choose(want Measured, reserved ...uint16) (Measured, error) {
	servers, err := c.candidates(want.Server)
	if err != nil {
		return want, err
	}
	clients, err := c.candidates(want.Client)
	if err != nil {
		return want, err
	}
	entries := map[*Pod][]Entry{}
	for _, s := range servers {
		rules := c.Ingress(s, s.Addresses[0].Is6())
		if !rules.Isolated && want.Server != "" {
			return want, fmt.Errorf("%w: no policy selects pod %q for ingress, so that nothing would be enforced; select it, or choose another server", ErrInvalid, s.Name)
		}
		entries[s] = rules.Entries
	}
	slices.SortStableFunc(servers, func(a, b *Pod) int { return cmp.Compare(len(entries[b]), len(entries[a])) })
	for _, s := range servers {
		for i := len(entries[s]) - 1; i >= 0; i-- {
			if m, ok := c.admitted(want, s, clients, entries[s][i], reserved); ok {
				return m, nil
			}
		}
	}
	return want, fmt.Errorf("%w: the policies admit no flow of %s with any request from client %s to server %s at port %s; admit one, or choose others",
		ErrInvalid, ProtoName(want.Proto), orAny(want.Client), orAny(want.Server), orAny(portText(want.Port)))
}

func orAny(name string) string { return cmp.Or(name, "(any)") }

func portText(port uint16) string {
	if port == 0 {
		return ""
	}
	return fmt.Sprint(port)
}

// candidates are the pod of a name, or all.
func (c *Cluster) candidates(name string) (out []*Pod, err error) {
	if name != "" {
		p, err := c.inventory.Pod(name)
		return []*Pod{p}, err
	}
	for i := range c.inventory.Pods {
		out = append(out, &c.inventory.Pods[i])
	}
	return out, nil
}

// servedPort is where an entry of every port is measured.
const servedPort = 5001

// admitted finds a client of a server's entry that all policies admit.
func (c *Cluster) admitted(want Measured, server *Pod, clients []*Pod, e Entry, reserved []uint16) (Measured, bool) {
	out := want
	if out.Port == 0 {
		if out.Port = e.From; e.From == 0 || e.From <= servedPort && servedPort <= e.To {
			out.Port = servedPort
		}
	}
	if !want.serves(e.HTTP) || slices.Contains(reserved, out.Port) || !e.Ports().covers(want.Proto, out.Port) {
		return out, false
	}
	out.Server = server.Name
	for _, client := range clients {
		if client == server {
			continue
		}
		for _, a := range client.Addresses {
			at := slices.IndexFunc(server.Addresses, func(b netip.Addr) bool { return a.Is6() == b.Is6() })
			if at < 0 || !e.Source.Contains(a) {
				continue
			}
			d := c.Decide(Flow{From: a, To: server.Addresses[at], Proto: want.Proto, Port: out.Port})
			if d.Allowed && want.serves(d.HTTP) {
				out.Client = client.Name
				return out, true
			}
		}
	}
	return out, false
}

// serves says whether a flow that is restricted to some requests can be measured.
func (m Measured) serves(list []HTTP) bool {
	if list == nil {
		return true
	}
	_, ok := ExampleGET(list)
	return m.Requests && ok
}

// methodGET is what workloads request by.
const methodGET = "GET"

// ExampleGET is a path that the last possible of some rules admits for GET.
func ExampleGET(list []HTTP) (path string, ok bool) {
	for _, h := range slices.Backward(list) {
		some, _ := h.Requests()
		for _, r := range some {
			if r.Method == "" || r.Method == methodGET {
				return r.Example(), true
			}
		}
	}
	return "", false
}
