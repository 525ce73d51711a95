package datapath

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"hookbed/bpf"
	"hookbed/driver/plan"
)

// TestMostPoliciesAreWhatTheGeneratorHas renders as many policies as the catalog
// promises, of every kind and family, and finds that there is no source left.
func TestMostPoliciesAreWhatTheGeneratorHas(t *testing.T) {
	for _, family := range []string{familyIPv4, familyIPv6} {
		for _, kind := range []string{policyL3, policyL4, policyCIDR} {
			for _, action := range []string{actionAllow, actionDeny} {
				for _, clients := range []int{1, 16} {
					t.Run(strings.Join([]string{family, kind, action, strconv.Itoa(clients)}, "-"), func(t *testing.T) {
						checkMost(t, map[string]string{optFamily: family, optPolicy: kind, optAction: action}, clients)
					})
				}
			}
		}
	}
}

func checkMost(t *testing.T, options map[string]string, clients int) {
	t.Helper()
	most, why := entryOf(t, crossName(FabricBridge, filterNftInterval)).MostPolicies(options, clients)
	at := func(n int) plan.Cell {
		c := cellOf(t, crossName(FabricBridge, filterNftInterval), plan.Localhost, plan.EndpointNetns, n, options)
		c.Factors[plan.FactorClients] = strconv.Itoa(clients)
		return c
	}
	c := at(most)
	if s := render(t, c); len(s.Apply) == 0 {
		t.Error("the setup has no steps")
	}
	ps := policiesOf(c, Layout(c))
	checkDistinct(t, ps, most)
	if left := unnamedHosts(ps); left != 0 && options[optPolicy] != policyCIDR {
		t.Errorf("at N = %d, the most, %d sources are left", most, left)
	}
	if _, err := Render(at(most + 1)); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("at N = %d, one above the most: %v, want %q", most+1, err, why)
	}
}

// checkDistinct: there are N policies, about sources that do not overlap and are
// not those that must stay unnamed.
func checkDistinct(t *testing.T, ps policies, n int) {
	t.Helper()
	if ps.size() != n {
		t.Fatalf("%d policies, want %d", ps.size(), n)
	}
	taken := map[netip.Addr]bool{}
	for _, p := range ps.list {
		for a := p.Source.Masked().Addr(); p.Source.Contains(a); a = a.Next() {
			if taken[a] {
				t.Fatalf("two policies name %s", a)
			}
			taken[a] = true
		}
	}
	for _, host := range []uint16{unlistedHost, updateHost} {
		for _, v6 := range []bool{false, true} {
			if taken[otherHost(host, v6)] {
				t.Errorf("a policy names %s, which must stay unnamed", otherHost(host, v6))
			}
		}
	}
}

// unnamedHosts counts the hosts that could be sources and are not.
func unnamedHosts(ps policies) int {
	named := map[netip.Addr]bool{}
	for _, p := range ps.list {
		named[p.Source.Addr()] = true
	}
	left := 0
	for host := 1; host < topHosts; host++ {
		if !named[otherHost(uint16(host), ps.list[0].Source.Addr().Is6())] {
			left++
		}
	}
	return left
}

// TestMostPrefixesAreWhatTheBlockHolds: one prefix more than the most would name
// hosts that must stay unnamed, and they are of mixed lengths to the end.
func TestMostPrefixesAreWhatTheBlockHolds(t *testing.T) {
	most := mostOthers(policyCIDR)
	for n, fits := range map[int]bool{most: true, most + 1: false, 16381: true} {
		top, lengths := 0, map[int]bool{}
		for _, p := range mixedPrefixes(rand.New(rand.NewPCG(1, 2)), n, false) {
			b := p.Addr().As4()
			top = max(top, int(b[2])<<8+int(b[3])+1<<(32-p.Bits()))
			lengths[p.Bits()] = true
		}
		if (top <= topHosts) != fits || len(lengths) < 2 {
			t.Errorf("%d prefixes of lengths %v end at host %#x, the top begins at %#x", n, lengths, top, topHosts)
		}
	}
}

// TestEveryArmSaysItsMost: every filter with policies says how many it can be
// given, and filters with less room than the generator has sources keep some for
// what is installed in addition.
func TestEveryArmSaysItsMost(t *testing.T) {
	for _, d := range Catalog() {
		if (d.MostPolicies == nil) != d.NoPolicies {
			t.Errorf("%s: policies %v, but says how many: %v", d.Name, !d.NoPolicies, d.MostPolicies != nil)
		}
	}
	for _, filter := range []string{filterIpset, "tc-linear", "xdp-linear"} {
		d := entryOf(t, crossName(FabricBridge, filter))
		most, why := d.MostPolicies(map[string]string{optPolicy: policyL4, optAction: actionAllow}, 16)
		if want := bpf.MaxListRules - 16 - 1; most != want || !strings.Contains(why, "65536 entries") {
			t.Errorf("%s with 16 clients: %d, want %d: %s", filter, most, want, why)
		}
		if most, _ := d.MostPolicies(map[string]string{optPolicy: policyL4, optAction: actionDeny}, 16); most != mostOthers(policyL4) {
			t.Errorf("%s as a deny list: %d, want all %d sources", filter, most, mostOthers(policyL4))
		}
	}
}

// TestListIsAsLongAsItsHeaderSays compares the length of lists with the C header.
func TestListIsAsLongAsItsHeaderSays(t *testing.T) {
	header, err := os.ReadFile("../../bpf/headers/list.h")
	if err != nil {
		t.Fatal(err)
	}
	product := bpf.ListBlock
	for _, name := range []string{"CHUNK_BLOCKS", "MAX_CHUNKS"} {
		_, after, _ := strings.Cut(string(header), "#define "+name+" ")
		n, err := strconv.Atoi(strings.Fields(after + " none")[0])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		product *= n
	}
	if product != bpf.MaxListRules {
		t.Errorf("the header scans %d rules, MaxListRules is %d", product, bpf.MaxListRules)
	}
}
