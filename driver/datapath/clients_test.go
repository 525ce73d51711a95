package datapath

import (
	"fmt"
	"slices"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// clientsCell is a cell with several clients.
func clientsCell(t *testing.T, name, scenario string, n, clients int, options map[string]string) plan.Cell {
	t.Helper()
	c := cellOf(t, name, scenario, plan.EndpointNetns, n, options)
	c.Factors[plan.FactorClients] = fmt.Sprint(clients)
	return c
}

// TestGoldenOfClients fixes what a filter, and the fabric of tc programs, do for
// three clients.
func TestGoldenOfClients(t *testing.T) {
	for _, name := range []string{"iptables", "cilium-like"} {
		golden(t, "clients-"+name, written(t, render(t, clientsCell(t, name, plan.MultiHost, 5, 3, nil))))
	}
}

// TestOneClientIsTheSame: a cell that names one client is rendered as one that
// names none.
func TestOneClientIsTheSame(t *testing.T) {
	for _, d := range possible(true) {
		plain := written(t, render(t, cellOf(t, d.Name, plan.Localhost, plan.EndpointNetns, some(d), nil)))
		if got := written(t, render(t, clientsCell(t, d.Name, plan.Localhost, some(d), 1, nil))); got != plain {
			t.Errorf("%s: differs with clients = 1", d.Name)
		}
	}
}

// TestClientsAreApart: no two endpoints share a name, an address, a MAC or a
// port, and no port is one that must be closed.
func TestClientsAreApart(t *testing.T) {
	for _, family := range []string{familyIPv4, familyIPv6} {
		top := Layout(clientsCell(t, "iptables", plan.Localhost, 16, 16, map[string]string{optFamily: family}))
		seen := map[string]bool{}
		once := func(what string) {
			if seen[what] {
				t.Errorf("%s: %s is there twice", family, what)
			}
			seen[what] = true
		}
		if got := len(top.Clients()); got != 16 {
			t.Fatalf("%d clients, want 16", got)
		}
		for _, e := range top.Endpoints() {
			once(e.Role)
			once(e.Addr.String())
			once(e.MAC)
			once(e.HostMAC)
			if len(e.hostLink()) > 15 || !e.Node.Subnet.Contains(e.Addr) {
				t.Errorf("%s: link %q, address %s", e.Role, e.hostLink(), e.Addr)
			}
		}
		for _, c := range top.Clients() {
			once(fmt.Sprint("port ", c.Port))
			if c.Port == ForbiddenPort || c.Port == ControlPort {
				t.Errorf("%s has port %d", c.Role, c.Port)
			}
		}
	}
}

// TestPoliciesOfClients: N policies in all, of which exactly one admits each client at
// its own port, wherever in the list they are.
func TestPoliciesOfClients(t *testing.T) {
	const n = 100
	for _, kind := range []string{policyL3, policyL4, policyCIDR} {
		for match, first := range map[string]int{matchLast: n - 16, matchFirst: 0, matchUniform: -1} {
			cell := clientsCell(t, "iptables", plan.Localhost, n, 16, map[string]string{optPolicy: kind, optMatch: match})
			top := Layout(cell)
			ps := policiesOf(cell, top)
			if ps.size() != n || len(ps.clients) != 16 || first >= 0 && ps.clients[0] != first || !slices.IsSorted(ps.clients) {
				t.Fatalf("%s %s: %d policies, the clients' at %v", kind, match, ps.size(), ps.clients)
			}
			for _, c := range top.Clients() {
				var about []int
				for i, p := range ps.list {
					if p.Source.Contains(c.Addr) {
						about = append(about, int(p.Port))
						if !slices.Contains(ps.clients, i) {
							t.Errorf("%s %s: policy %d names %s and is not among %v", kind, match, i, c.Role, ps.clients)
						}
					}
				}
				want := []int{c.Port}
				if kind == policyL3 {
					want = []int{0}
				}
				if !slices.Equal(about, want) {
					t.Errorf("%s %s: policies about %s name the ports %v, want %v", kind, match, c.Role, about, want)
				}
			}
		}
	}
}

// TestEveryClientIsProven: with policies each client tries what its own admits and
// what none does, from its own namespace, and the filter's counters must have seen
// all of it; every filter on every fabric holds the policies of 16 clients.
func TestEveryClientIsProven(t *testing.T) {
	for _, d := range possible(true) {
		if d.MaxClients == 1 || d.NoPolicies {
			continue
		}
		clients := 16
		if d.MaxClients > 0 {
			clients = d.MaxClients
		}
		top := Layout(clientsCell(t, d.Name, plan.Localhost, 50, clients, nil))
		s := render(t, clientsCell(t, d.Name, plan.Localhost, 50, clients, nil))
		tried := map[string][]string{}
		var allowed, denied uint64
		count := func(p bundle.Probes) {
			for _, try := range p.Tries {
				tried[try.From] = append(tried[try.From], fmt.Sprint(try.Port, try.Want))
				if try.Want == bundle.Allow {
					allowed++
				} else {
					denied++
				}
			}
		}
		for _, st := range s.Prove {
			switch do := st.Do.(type) {
			case bundle.Probes:
				count(do)
			case bundle.Parallel:
				for _, in := range do.Steps {
					if p, ok := in.Do.(bundle.Probes); ok {
						count(p)
					}
				}
			}
		}
		for _, c := range top.Clients() {
			other := fmt.Sprint(ForbiddenPort, bundle.Deny)
			if d.Filter == filterXDPFilter { // names no port
				other = fmt.Sprint(ForbiddenPort, bundle.Allow)
			}
			if want := []string{fmt.Sprint(c.Port, bundle.Allow), other}; !slices.Equal(tried[c.Addr.String()], want) {
				t.Errorf("%s: %s tries %v, want %v", d.Name, c.Role, tried[c.Addr.String()], want)
			}
		}
		if got := expected(s, "dropped"); got != denied {
			t.Errorf("%s: %d drops expected, want one for each of %d denials", d.Name, got, denied)
		}
		if got := max(expected(s, "accepted"), expected(s, "passed")); got != allowed {
			t.Errorf("%s: %d admissions expected, want %d", d.Name, got, allowed)
		}
	}
}

// TestSizesOfClients: what the kernel must hold counts the control connection of
// every client.
func TestSizesOfClients(t *testing.T) {
	for name, want := range map[string]struct {
		key  string
		size uint64
	}{
		"bridge+ipset":       {bundle.CountElementsOf + ipsetName, 50 + 16},
		"bridge+nft-set":     {bundle.CountElementsOf + nftSet, 50 + 16},
		"bridge+tc-hash":     {"entries.policy", 50 + 16},
		"bridge+xdp-hash":    {"entries.policy", 50 + 16},
		"bridge+tc-lpm":      {"entries.trie", 50 + 16},
		"bridge+xdp-linear":  {"entries.list", 0},
		"bridge+nft-linear":  {"rules", 50 + 16 + 2},
		"bridge+xdp-filter":  {"entries.filter_ipv4", 50 + 1},
		"bridge+tc-cilium09": {"entries.allowed", 0},
	} {
		clients := 16
		if d := entryOf(t, name); d.MaxClients > 0 {
			clients = d.MaxClients
		}
		s := render(t, clientsCell(t, name, plan.Localhost, 50, clients, nil))
		got := expected(s, want.key)
		if want.size == 0 && got == 0 || want.size > 0 && got != want.size {
			t.Errorf("%s: %s must be %d, want %d", name, want.key, got, want.size)
		}
	}
}

// TestClientsThatCannotBe: the catalog says how many clients are too many.
func TestClientsThatCannotBe(t *testing.T) {
	for name, want := range map[string]int{"veth+none": 1, "bridge+tc-cilium09": 15, "bridge+iptables-legacy": 0} {
		if d := entryOf(t, name); d.MaxClients != want || (d.WhyClients == "") != (want == 0) {
			t.Errorf("%s: at most %d clients because %q, want %d", name, d.MaxClients, d.WhyClients, want)
		}
	}
	over := clientsCell(t, "bridge+tc-cilium09", plan.Localhost, 50, 16, nil)
	if _, err := Render(over); err == nil {
		t.Error("tc-cilium09 renders 16 clients, whose ports it has no room for")
	}
}
