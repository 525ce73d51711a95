package datapath

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func entryOf(t *testing.T, name string) plan.DatapathEntry {
	t.Helper()
	for _, d := range Catalog() {
		if d.Name == name {
			return d
		}
	}
	t.Fatalf("no datapath %q", name)
	return plan.DatapathEntry{}
}

func cellOf(t *testing.T, name, scenario, endpoint string, n int, options map[string]string) plan.Cell {
	t.Helper()
	d := entryOf(t, name)
	factors := map[string]string{
		plan.FactorDatapath: name, plan.FactorScenario: scenario, plan.FactorEndpoint: endpoint,
		plan.FactorPolicies: fmt.Sprint(n), plan.FactorCongestion: "reno",
		plan.FactorFabric: d.Fabric, plan.FactorFilter: d.Filter,
	}
	for _, o := range d.Options {
		factors[o.Key] = o.Allowed[0]
	}
	for k, v := range options {
		factors[k] = v
	}
	files := map[string]plan.File{}
	if len(d.Keys) > 0 { // of the user's own filter
		for _, key := range []string{keyApply, keyRemove, keyCounters} {
			files[key] = plan.File{Path: key + ".sh", Data: []byte("#!/bin/sh\n")}
		}
	}
	return plan.Cell{ID: "test", Factors: factors, Files: files}
}

// possible are the datapaths that an arm can have: presets, or the cross.
func possible(crossed bool) (out []plan.DatapathEntry) {
	for _, d := range Catalog() {
		if d.Crossed == crossed && d.Impossible == "" {
			out = append(out, d)
		}
	}
	return out
}

func render(t *testing.T, c plan.Cell) Setup {
	t.Helper()
	s, err := Render(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGolden fixes the steps and text files of every preset as a node gets them.
func TestGolden(t *testing.T) {
	for _, d := range possible(false) {
		for _, scenario := range []string{plan.Localhost, plan.MultiHost} {
			for _, endpoint := range []string{plan.EndpointDocker, plan.EndpointNetns} {
				name := strings.Join([]string{d.Name, scenario, endpoint}, "-")
				t.Run(name, func(t *testing.T) {
					golden(t, name, written(t, render(t, cellOf(t, d.Name, scenario, endpoint, some(d), nil))))
				})
			}
		}
	}
	t.Run("forward", func(t *testing.T) {
		options := map[string]string{optPlacement: placementForward, optState: stateEstablished}
		golden(t, "iptables-forward", written(t, render(t, cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, 3, options))))
	})
}

// TestGoldenOfEveryFilter fixes what each filter does on each fabric, next to the
// fabric's own steps.
func TestGoldenOfEveryFilter(t *testing.T) {
	text := map[string]string{}
	for _, d := range possible(true) {
		bare := map[string]bool{}
		for _, st := range render(t, cellOf(t, crossName(d.Fabric, "none"), plan.Localhost, plan.EndpointNetns, 0, nil)).Apply {
			bare[stepLine(t, st)] = d.Filter != "none"
		}
		s := render(t, cellOf(t, d.Name, plan.Localhost, plan.EndpointNetns, some(d), nil))
		s.Apply = slices.DeleteFunc(s.Apply, func(st bundle.Step) bool { return bare[stepLine(t, st)] })
		text[d.Filter] += "=== " + d.Name + "\n" + written(t, s)
	}
	for name, got := range text {
		golden(t, "filter-"+name, got)
	}
}

// some is a number of policies that shows what a datapath does with them.
func some(d plan.DatapathEntry) int {
	if d.NoPolicies {
		return 0
	}
	return 3
}

func stepLine(t *testing.T, st bundle.Step) string {
	t.Helper()
	line, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

// written is a setup as text: its steps, then its text files.
func written(t *testing.T, s Setup) string {
	t.Helper()
	var b strings.Builder
	for _, step := range append(s.Apply, s.Prove...) {
		b.WriteString(stepLine(t, step) + "\n")
	}
	for _, f := range (&bundle.Bundle{Files: s.Files}).FileNames() {
		if strings.HasSuffix(f, ".o") {
			continue // the objects have tests of their own
		}
		fmt.Fprintf(&b, "--- %s\n%s", f, s.Files[f].Data)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from what is rendered (go test ./driver/datapath -update rewrites it):\n%s", path, got)
	}
}

func TestPoliciesAreDistinctSeededAndInPlace(t *testing.T) {
	for _, family := range []string{familyIPv4, familyIPv6} {
		for _, kind := range []string{policyL3, policyL4, policyCIDR} {
			for _, n := range []int{1, 2, 5, 1000, 10000} {
				o := map[string]string{optFamily: family, optPolicy: kind}
				for match, at := range map[string]int{matchLast: n - 1, matchFirst: 0} {
					o[optMatch], o[optAction] = match, actionAllow
					checkPolicies(t, cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, n, o), n, at)
				}
				o[optMatch], o[optAction] = matchLast, actionDeny
				checkPolicies(t, cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, n, o), n, -1)
			}
		}
	}
	if c := cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, 0, nil); policiesOf(c, Layout(c)).size() != 0 {
		ps := policiesOf(c, Layout(c))
		t.Errorf("%d policies at N = 0", ps.size())
	}
}

// checkPolicies: no two policies are about one address, only that at the position
// at names the client, and none names a source that must stay unnamed.
func checkPolicies(t *testing.T, c plan.Cell, n, at int) {
	t.Helper()
	client := Layout(c).Client.Addr
	ps := policiesOf(c, Layout(c))
	if ps.size() != n || ps.admits() != (at >= 0) || ps.admits() && !slices.Equal(ps.clients, []int{at}) {
		t.Fatalf("%v: %d policies, the clients' at %v, want %d and %d", c.Factors, ps.size(), ps.clients, n, at)
	}
	type span struct{ first, last netip.Addr }
	var spans []span
	for i, p := range ps.list {
		if p.Source != p.Source.Masked() {
			t.Fatalf("policy %d: %s has bits beyond its prefix", i, p.Source)
		}
		if p.Source.Contains(client) != (i == at) {
			t.Fatalf("policy %d of %d names %s, the client %s is at %d", i, n, p.Source, client, at)
		}
		if i != at && !otherSources(client.Is6()).Contains(p.Source.Addr()) {
			t.Fatalf("policy %d names %s, outside %s", i, p.Source, otherSources(client.Is6()))
		}
		for _, host := range []uint16{unlistedHost, updateHost} {
			if p.Source.Contains(otherHost(host, client.Is6())) {
				t.Fatalf("policy %d names %s, which must stay unnamed", i, p.Source)
			}
		}
		spans = append(spans, span{p.Source.Addr(), lastAddr(p)})
	}
	slices.SortFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	for i := 1; i < len(spans); i++ {
		if spans[i].first.Compare(spans[i-1].last) <= 0 {
			t.Fatalf("policies overlap: %v and %v", spans[i-1], spans[i])
		}
	}
}

func TestPrefixesAreOfMixedLengths(t *testing.T) {
	for n, want := range map[int]int{100: 4, 1000: 4, 10000: 2} {
		lengths := map[int]bool{}
		c := cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, n, map[string]string{optPolicy: policyCIDR})
		for _, p := range policiesOf(c, Layout(c)).list {
			lengths[p.Source.Bits()] = true
		}
		if len(lengths) < want {
			t.Errorf("N = %d: lengths %v, want at least %d", n, lengths, want)
		}
	}
}

// TestVerdicts: what each kind of policy says of the tuples that are probed.
func TestVerdicts(t *testing.T) {
	for _, tc := range []struct {
		kind, action string
		n            int
		// client, unlisted source, client on another port, middle source, the same on another port
		want []string
	}{
		{policyL4, actionAllow, 3, []string{"allow", "deny", "deny", "allow", "deny"}},
		{policyCIDR, actionAllow, 3, []string{"allow", "deny", "deny", "allow", "deny"}},
		{policyL3, actionAllow, 3, []string{"allow", "deny", "allow", "allow", "allow"}},
		{policyL4, actionDeny, 3, []string{"allow", "allow", "allow", "deny", "allow"}},
		{policyL3, actionDeny, 1, []string{"allow", "allow", "allow", "deny", "deny"}},
		{policyL4, actionAllow, 1, []string{"allow", "deny", "deny"}},
		{policyL3, actionAllow, 0, []string{"allow", "allow", "allow"}},
	} {
		s := render(t, cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, tc.n, map[string]string{optPolicy: tc.kind, optAction: tc.action}))
		var got []string
		for _, st := range s.Prove {
			if p, ok := st.Do.(bundle.Probes); ok {
				for _, try := range p.Tries {
					got = append(got, try.Want)
				}
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s %s N = %d: %v, want %v", tc.kind, tc.action, tc.n, got, tc.want)
		}
	}
}

// TestDenialsHaveAWitness: next to every probe that must be denied is one to the same
// server that must be allowed. Without it a busy machine's late answer would pass for
// a denial.
func TestDenialsHaveAWitness(t *testing.T) {
	denied := 0
	for _, kind := range []string{policyL3, policyL4, policyCIDR} {
		for _, action := range []string{actionAllow, actionDeny} {
			for _, clients := range []int{1, 3} {
				c := clientsCell(t, "iptables", plan.MultiHost, 9, clients, map[string]string{optPolicy: kind, optAction: action})
				for _, st := range render(t, c).Prove {
					for _, p := range probesIn(st) {
						allowed := map[string]bool{}
						for _, try := range p.Tries {
							allowed[try.To] = allowed[try.To] || try.Want == bundle.Allow
						}
						for _, try := range p.Tries {
							if try.Want != bundle.Deny {
								continue
							}
							denied++
							if !allowed[try.To] {
								t.Errorf("%s %s, %d clients: nothing vouches for the way of %+v", kind, action, clients, try)
							}
						}
					}
				}
			}
		}
	}
	if denied == 0 {
		t.Error("nothing is denied")
	}
}

// probesIn are the probes of a step, or of those that it does at once.
func probesIn(st bundle.Step) (out []bundle.Probes) {
	switch a := st.Do.(type) {
	case bundle.Probes:
		out = append(out, a)
	case bundle.Parallel:
		for _, s := range a.Steps {
			out = append(out, probesIn(s)...)
		}
	}
	return out
}

// TestSizesFollowPolicies: what the kernel is to hold, and what the
// proof expects of it, is N and the frame of each filter.
func TestSizesFollowPolicies(t *testing.T) {
	for _, tc := range []struct {
		datapath string
		options  map[string]string
		key      string
		frame    uint64
	}{
		{"iptables", nil, "rules", 2},
		{"iptables", map[string]string{optState: stateEstablished}, "rules", 3},
		{"iptables", map[string]string{optPlacement: placementForward}, "rules", 3},
		{"cilium-like", nil, "entries.policy", 1},
		{"xdp", nil, "entries.policy", 1},
	} {
		for _, n := range []int{1, 2, 100, 1000} {
			s := render(t, cellOf(t, tc.datapath, plan.MultiHost, plan.EndpointDocker, n, tc.options))
			if got := expected(s, tc.key); got != uint64(n)+tc.frame {
				t.Errorf("%s %v N=%d: proof expects %d %s, want %d", tc.datapath, tc.options, n, got, tc.key, uint64(n)+tc.frame)
			}
		}
	}
}

func expected(s Setup, key string) uint64 {
	for _, st := range s.Prove {
		if e, ok := st.Do.(bundle.Expect); ok && e.Key == key {
			return e.Value
		}
	}
	return 0
}

// TestNoPolicyNoFilter: N = 0 has no rule, no drop and no denial, and the same
// tuples that policies deny must get through.
func TestNoPolicyNoFilter(t *testing.T) {
	for _, d := range possible(true) {
		s := render(t, cellOf(t, d.Name, plan.Localhost, plan.EndpointNetns, 0, nil))
		for _, st := range append(s.Apply, s.Prove...) {
			if rules, ok := st.Do.(bundle.Rules); ok && rules.Metric != metricIntercept {
				t.Errorf("%s loads rules at N = 0", d.Name)
			}
			if p, ok := st.Do.(bundle.Requests); ok {
				for _, try := range p.Tries {
					if try.Want != "200" {
						t.Errorf("%s at N = 0 wants %s denied", d.Name, try.What)
					}
				}
			}
			if p, ok := st.Do.(bundle.Probes); ok {
				for _, try := range p.Tries {
					if try.Want != bundle.Allow {
						t.Errorf("%s at N = 0 wants %s denied", d.Name, try.What)
					}
				}
			}
		}
	}
}

func TestEveryFileIsUsedAndPresent(t *testing.T) {
	for _, d := range possible(true) {
		s := render(t, cellOf(t, d.Name, plan.MultiHost, plan.EndpointDocker, 2, nil))
		used := map[string]bool{}
		b := bundle.Bundle{Files: s.Files}
		for f := range b.FilesOf(slices.Concat(s.Apply, s.Prove)) {
			used[f] = true
		}
		if len(used) != len(s.Files) {
			t.Errorf("%s: steps use files %v, bundle has %d", d.Name, used, len(s.Files))
		}
		for f := range used {
			if len(s.Files[f].Data) == 0 && !strings.HasSuffix(f, "endpoints") {
				t.Errorf("%s: file %s is empty", d.Name, f)
			}
		}
	}
}

func TestCheckNamesTheMissingTool(t *testing.T) {
	s := render(t, cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, 2, nil))
	if err := Check(s, map[string]string{"tool.iptables-legacy": "v1.8.11"}); err != nil {
		t.Errorf("with the tool: %v", err)
	}
	if err := Check(s, nil); err == nil || !strings.Contains(err.Error(), "iptables-legacy") {
		t.Errorf("without the tool: %v, want it named", err)
	}
}

func TestNativeXDPWantsQueues(t *testing.T) {
	for _, tc := range []struct {
		provider, scenario, attach string
		queues                     int
		refused                    bool
	}{
		{plan.ProviderLibvirt, plan.MultiHost, attachNative, 3, true},
		{plan.ProviderLibvirt, plan.MultiHost, attachNative, 4, false},
		{plan.ProviderLibvirt, plan.MultiHost, attachGeneric, 1, false},
		{plan.ProviderLibvirt, plan.Localhost, attachNative, 1, false},
		{plan.ProviderLocal, plan.MultiHost, attachNative, 0, false},
	} {
		lab, bridge := plan.Lab{Provider: tc.provider, VCPUs: 2, Queues: tc.queues}, fabrics()[0]
		if got := refuseXDP(lab, bridge, tc.scenario, map[string]string{optAttach: tc.attach, optWhere: whereEdge}); (got != "") != tc.refused {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// TestControlSaysItsCost: how often the program is set to spin is what the setup
// says it costs, and no other datapath says a cost.
func TestControlSaysItsCost(t *testing.T) {
	for spin, want := range map[string]struct {
		bytes string
		cost  float64
	}{"0": {"00000000", 0}, "100": {"64000000", 302}, "1000": {"e8030000", 3002}, "10000": {"10270000", 30002}} {
		s := render(t, cellOf(t, "control", plan.MultiHost, plan.EndpointNetns, 0, map[string]string{optSpin: spin}))
		if s.KnownInstructions == nil || *s.KnownInstructions != want.cost {
			t.Errorf("spin %s: known cost %v, want %v", spin, s.KnownInstructions, want.cost)
		}
		loaded := ""
		for _, st := range s.Apply {
			if l, ok := st.Do.(bundle.LoadBPF); ok {
				loaded = l.Vars[bpf.VarSpin]
			}
		}
		if loaded != want.bytes {
			t.Errorf("spin %s: the program is told %q, want %q", spin, loaded, want.bytes)
		}
	}
	for _, d := range possible(true) {
		if s := render(t, cellOf(t, d.Name, plan.Localhost, plan.EndpointNetns, 0, nil)); (s.KnownInstructions != nil) != (d.Filter == "tc-control") {
			t.Errorf("%s: known cost %v", d.Name, s.KnownInstructions)
		}
	}
}

// TestRefusals: what cannot work is refused before anything runs, with a reason.
func TestRefusals(t *testing.T) {
	lab := plan.Lab{Provider: plan.ProviderLocal}
	for _, tc := range []struct {
		fabric, filter, scenario string
		options                  map[string]string
		want                     string
	}{
		{FabricBridge, "tc-hash", plan.Localhost, map[string]string{optPolicy: policyCIDR}, `no prefixes; write filter = "tc-lpm"`},
		{FabricBridge, "xdp-hash", plan.Localhost, map[string]string{optPolicy: policyCIDR}, `no prefixes; write filter = "xdp-lpm"`},
		{FabricBridge, "tc-cilium09", plan.Localhost, map[string]string{optAction: actionDeny}, "could only admit"},
		{FabricBridge, "iptables-legacy", plan.Localhost, map[string]string{optAction: actionDeny, optMatch: matchFirst}, "a deny list has none"},
		{FabricBPF, "iptables-legacy", plan.Localhost, map[string]string{optPlacement: placementForward}, "past the node's netfilter"},
		{FabricBridge, "nft-set", plan.MultiHost, map[string]string{optPlacement: placementBridge}, "past its forward hook"},
		{FabricRouted, "nft-set", plan.Localhost, map[string]string{optPlacement: placementBridge}, "has no bridge"},
		{FabricVeth, "none", plan.MultiHost, nil, "one link between two endpoints"},
		{FabricBridge, "xdp-hash", plan.Localhost, map[string]string{optWhere: whereNIC}, "do not meet its NIC"},
		{FabricBPF, "xdp-hash", plan.Localhost, map[string]string{optDelivery: deliverPeer}, "does not see what bpf_redirect_peer delivers"},
		{FabricBPF, "xdp-hash", plan.Localhost, map[string]string{optDelivery: deliverNetkit}, "netkit has no native XDP"},
		{FabricBPF, "tc-hash", plan.Localhost, map[string]string{optDelivery: deliverNetkit, optAttach: attachTCX}, "hooks"},
		{FabricBPF, "xdp-hash", plan.MultiHost, map[string]string{optDelivery: deliverPeer}, ""},
		{FabricBPF, "xdp-hash", plan.Localhost, map[string]string{optAttach: attachGeneric}, "does not see what was redirected"},
		{FabricBPF, "xdp-hash", plan.MultiHost, map[string]string{optAttach: attachGeneric}, "does not see what was redirected"},
		{FabricBPF, filterBPFilter, plan.Localhost, map[string]string{optHook: hookXDP}, "does not see what was redirected"},
		{FabricBridge, "tc-lpm", plan.Localhost, map[string]string{optPolicy: policyCIDR}, ""},
	} {
		d := entryOf(t, crossName(tc.fabric, tc.filter))
		options := cellOf(t, d.Name, tc.scenario, plan.EndpointNetns, 3, tc.options).Factors
		got := d.Refuse(lab, tc.scenario, options)
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s %s %v: %q, want %q", d.Name, tc.scenario, tc.options, got, tc.want)
		}
	}
}
