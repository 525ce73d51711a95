package datapath

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func cellOf(t *testing.T, name, scenario, endpoint string, n int, options map[string]string) plan.Cell {
	t.Helper()
	factors := map[string]string{
		plan.FactorDatapath: name, plan.FactorScenario: scenario, plan.FactorEndpoint: endpoint,
		plan.FactorPolicies: fmt.Sprint(n), plan.FactorCongestion: "reno",
	}
	for _, d := range Catalog() {
		if d.Name != name {
			continue
		}
		factors[plan.FactorFilter] = d.Filter
		for _, o := range d.Options {
			factors[o.Key] = o.Allowed[0]
		}
	}
	for k, v := range options {
		factors[k] = v
	}
	return plan.Cell{ID: "test", Factors: factors}
}

func render(t *testing.T, c plan.Cell) Setup {
	t.Helper()
	s, err := Render(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGolden fixes every arm's steps and text files as a node gets them.
func TestGolden(t *testing.T) {
	for _, d := range Catalog() {
		for _, scenario := range []string{plan.Localhost, plan.MultiHost} {
			for _, endpoint := range []string{plan.EndpointDocker, plan.EndpointNetns} {
				n := 3
				if d.NoPolicies {
					n = 0
				}
				name := strings.Join([]string{d.Name, scenario, endpoint}, "-")
				t.Run(name, func(t *testing.T) {
					golden(t, name, render(t, cellOf(t, d.Name, scenario, endpoint, n, nil)))
				})
			}
		}
	}
	t.Run("forward", func(t *testing.T) {
		options := map[string]string{optPlacement: placementForward, optState: stateEstablished}
		golden(t, "iptables-forward", render(t, cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, 3, options)))
	})
}

func golden(t *testing.T, name string, s Setup) {
	t.Helper()
	var b strings.Builder
	for _, step := range append(s.Apply, s.Prove...) {
		line, err := json.Marshal(step)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	for _, f := range (&bundle.Bundle{Files: s.Files}).FileNames() {
		if strings.HasSuffix(f, ".o") {
			continue // the objects have tests of their own
		}
		fmt.Fprintf(&b, "--- %s\n%s", f, s.Files[f].Data)
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s differs from what is rendered (go test ./driver/datapath -update rewrites it):\n%s", path, b.String())
	}
}

func TestPoliciesAreDistinctSeededAndLast(t *testing.T) {
	client := netip.MustParseAddr("198.18.11.10")
	for _, n := range []int{0, 1, 5, 1000, 10000} {
		c := cellOf(t, "iptables", plan.Localhost, plan.EndpointNetns, n, nil)
		ps := policies(c, client)
		if len(ps) != n {
			t.Fatalf("%d policies, want %d", len(ps), n)
		}
		seen := map[netip.Addr]bool{}
		for i, p := range ps {
			if seen[p.source] || p.source == unlistedSource() {
				t.Fatalf("policy %d repeats or names the unlisted source: %s", i, p.source)
			}
			seen[p.source] = true
			if i < n-1 && !netip.MustParsePrefix(otherSources).Contains(p.source) {
				t.Fatalf("policy %d names %s, outside %s", i, p.source, otherSources)
			}
		}
		if n > 0 && ps[n-1].source != client {
			t.Fatalf("last policy names %s, want the client", ps[n-1].source)
		}
	}
}

// TestSizesFollowPolicies: what the kernel is asked to hold, and what the
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
	for _, d := range Catalog() {
		s := render(t, cellOf(t, d.Name, plan.Localhost, plan.EndpointNetns, 0, nil))
		for _, st := range append(s.Apply, s.Prove...) {
			if _, ok := st.Do.(bundle.Rules); ok {
				t.Errorf("%s loads rules at N = 0", d.Name)
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
	for _, d := range Catalog() {
		s := render(t, cellOf(t, d.Name, plan.MultiHost, plan.EndpointDocker, 2, nil))
		used := map[string]bool{}
		for _, st := range s.Apply {
			switch do := st.Do.(type) {
			case bundle.Rules:
				used[do.File] = true
			case bundle.LoadBPF:
				used[do.Object] = true
			case bundle.FillMap:
				used[do.File] = true
			}
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
		lab := plan.Lab{Provider: tc.provider, VCPUs: 2, Queues: tc.queues}
		if got := refuseXDP(lab, tc.scenario, map[string]string{optAttach: tc.attach}); (got != "") != tc.refused {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// TestControlKnowsItsCost: what the kernel is told to spin is what the setup
// says it costs, and no other datapath claims to know.
func TestControlKnowsItsCost(t *testing.T) {
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
	for _, d := range Catalog() {
		if s := render(t, cellOf(t, d.Name, plan.Localhost, plan.EndpointNetns, 0, nil)); (s.KnownInstructions != nil) != (d.Name == "control") {
			t.Errorf("%s: known cost %v", d.Name, s.KnownInstructions)
		}
	}
}
