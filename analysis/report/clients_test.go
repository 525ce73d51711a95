package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/runs/runstest"
)

// TestClientsAreLinesOfTheirOwn: trials of different numbers of clients are not
// mixed, each number is compared with the reference of as many, and a figure shows
// each arm over their number.
func TestClientsAreLinesOfTheirOwn(t *testing.T) {
	s := runstest.Small()
	s.Arms, s.Scenarios, s.Clients, s.Spoil = []string{"docker", "iptables"}, []string{"localhost"}, []int{1, 4, 16}, nil
	run, out := filepath.Join(t.TempDir(), "run"), t.TempDir()
	s.Write(t, run)
	res, err := Make([]string{run}, out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range res.Warnings {
		if strings.Contains(w, "clients") {
			t.Errorf("warning: %s", w)
		}
	}
	data, err := os.ReadFile(filepath.Join(out, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc Document
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var arms []string
	for _, m := range doc.Summaries {
		if m.Metric != "throughput" {
			continue
		}
		if m.N != s.Blocks*s.Trials {
			t.Errorf("%s N=%d rests on %d trials, want %d", m.Arm, m.Policies, m.N, s.Blocks*s.Trials)
		}
		if !slices.Contains(arms, m.Arm) {
			arms = append(arms, m.Arm)
		}
		if strings.HasPrefix(m.Arm, "iptables") && m.VsReference == nil {
			t.Errorf("%s N=%d is compared with nothing", m.Arm, m.Policies)
		}
	}
	if want := []string{"docker", "docker, 4 clients", "docker, 16 clients", "iptables", "iptables, 4 clients", "iptables, 16 clients"}; !slices.Equal(arms, want) {
		t.Errorf("lines %q, want %q", arms, want)
	}
	svg, err := os.ReadFile(filepath.Join(out, "figures", "throughput-localhost-clients.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"number of clients", "iptables: ", " at 1 clients", " at 16 clients"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("the figure lacks %q", want)
		}
	}
	if plain, err := os.ReadFile(filepath.Join(out, "figures", "throughput-localhost.csv")); err != nil || strings.Contains(string(plain), "4 clients") {
		t.Errorf("the figure over policies has other numbers of clients than the fewest: %v\n%s", err, plain)
	}
}
