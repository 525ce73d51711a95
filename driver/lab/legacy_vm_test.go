//go:build vm

package lab

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/plan"
	"hookbed/images"
)

// TestVMLegacyTable: a rule set on a node that is a whole machine leaves no table
// of iptables-legacy registered, which later setups would pay for.
func TestVMLegacyTable(t *testing.T) {
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Up(t.Context(), Config{
		Name: "legacy", Nodes: 1, Store: store, GuestPath: buildGuest(t), StateDir: filepath.Join(t.TempDir(), "lab"),
		Lab: plan.Lab{Provider: plan.ProviderLibvirt, Endpoint: plan.EndpointNetns, Accel: plan.AccelAuto, Kernel: "6.12", VCPUs: 2, Memory: 2048, Queues: 4},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s, err := datapath.Render(plan.Cell{ID: "legacy", Factors: map[string]string{
		plan.FactorArm: "a", plan.FactorDatapath: "bridge+iptables-legacy", plan.FactorFabric: "bridge", plan.FactorFilter: "iptables-legacy", plan.FactorScenario: plan.Localhost,
		plan.FactorPolicies: "3", plan.FactorProvider: plan.ProviderLibvirt, plan.FactorEndpoint: plan.EndpointNetns, plan.FactorCongestion: "reno", plan.FactorClock: plan.ClockWall,
		"policy": "l4", "action": "allow", "family": "ipv4", "match": "last", "state": "as-study", "placement": "forward",
	}})
	if err != nil {
		t.Fatal(err)
	}
	tables := func() string {
		var out strings.Builder
		cmd := host.Cmd{Argv: []string{"sh", "-c", "cat /proc/net/ip_tables_names 2>/dev/null; lsmod | grep iptable_filter || true"}, Stdout: &out}
		if err := l.provider.(*virtual).nodes[0].ssh.Run(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for range 2 {
		if got := tables(); got != "" {
			t.Fatalf("before the setup the node has %q", got)
		}
		if err := l.Begin(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Exec(t.Context(), &bundle.Bundle{Schema: bundle.Schema, Name: "legacy", Files: s.Files, Steps: s.Apply}, bundle.Apply); err != nil {
			t.Fatal(err)
		}
		if got := tables(); !strings.Contains(got, "filter") {
			t.Fatalf("with the setup the node has %q, want the table filter", got)
		}
		if err := l.End(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if got := tables(); got != "" {
		t.Errorf("after the setup the node has %q", got)
	}
}
