// Package experiments_test expands every experiment of this directory.
package experiments_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
	"hookbed/images"
)

func catalog() plan.Catalog {
	return plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: images.Kernels(), Versions: images.Versions(), NICs: images.NICs()}
}

func expand(t *testing.T, file string) *plan.Plan {
	t.Helper()
	spec, err := plan.Load(file, catalog())
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(spec, catalog())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEveryFileExpands(t *testing.T) {
	files, err := filepath.Glob("*.toml")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %q, %v, want at least full, local and smoke", files, err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			p := expand(t, file)
			if want := file[:len(file)-len(".toml")]; p.Spec.Name != want {
				t.Errorf("name %q, want the file's, %q", p.Spec.Name, want)
			}
			for _, c := range p.Cells {
				if _, err := datapath.Render(c); err != nil {
					t.Errorf("%s: %v", c.Title(), err)
				}
			}
		})
	}
}

// The study ran ten trials of 60 s with each of nine numbers of policies, both
// on one host and across two, with iperf3 and netperf.
func TestFullIsTheStudysMatrix(t *testing.T) {
	p := expand(t, "full.toml")
	m := p.Spec.Measure
	if m.Blocks*m.Trials != 10 || m.Duration != 60*time.Second {
		t.Errorf("%d x %v a cell, want 10 x 1m0s", m.Blocks*m.Trials, m.Duration)
	}
	study := []string{"0", "1", "5", "10", "25", "50", "100", "200", "1000"}
	if got := p.Levels(plan.FactorPolicies); !slices.Equal(got, study) {
		t.Errorf("policies %v, want %v", got, study)
	}
	for factor, want := range map[string][]string{
		plan.FactorScenario: {"localhost", "multi-host"},
		plan.FactorWorkload: {"TCP_STREAM", "TCP_RR"},
		plan.FactorArm:      {"docker", "iptables-as-study", "iptables-established-first", "cilium-like", "xdp", "xdp-pass"},
	} {
		if got := p.Levels(factor); !slices.Equal(got, want) {
			t.Errorf("%s %v, want %v", factor, got, want)
		}
	}
	// Four arms with nine numbers of policies and two without any.
	const cells = (4*9 + 2) * 2 * 2
	if len(p.Cells) != cells || len(p.Trials) != 10*cells {
		t.Errorf("%d cells and %d trials, want %d and %d", len(p.Cells), len(p.Trials), cells, 10*cells)
	}
}

func TestSmokeHasTheArmsOfAFirstResult(t *testing.T) {
	p := expand(t, "smoke.toml")
	if got, want := p.Levels(plan.FactorPolicies), []string{"0", "100"}; !slices.Equal(got, want) {
		t.Errorf("policies %v, want %v", got, want)
	}
	if got, want := p.Levels(plan.FactorScenario), []string{"localhost", "multi-host"}; !slices.Equal(got, want) {
		t.Errorf("scenarios %v, want %v", got, want)
	}
	if n := len(p.Levels(plan.FactorArm)); n < 4 {
		t.Errorf("%d arms, want at least 4", n)
	}
	if p.Measuring() > 4*time.Minute {
		t.Errorf("measuring takes %v, which leaves too little of 8 minutes for the rest", p.Measuring())
	}
}

func TestLocalTakesUnderAMinute(t *testing.T) {
	p := expand(t, "local.toml")
	if got := p.Estimate(300*time.Millisecond, 400*time.Millisecond); got > time.Minute {
		t.Errorf("estimated at %v, want under a minute", got)
	}
}

// The first command answers the study's questions: it has the study's arms, and the
// arms that separate list, eBPF and path, in both scenarios.
func TestAnswerAsksTheStudysQuestions(t *testing.T) {
	p := expand(t, "answer.toml")
	for factor, want := range map[string][]string{
		plan.FactorScenario: {"localhost", "multi-host"},
		plan.FactorWorkload: {"TCP_STREAM", "TCP_RR"},
		plan.FactorPolicies: {"0", "100", "1000"},
		plan.FactorClock:    {plan.ClockVirtual},
		plan.FactorArm:      {"docker", "iptables-as-study", "iptables-established-first", "nft-set", "tc-linear", "tc-hash", "cilium-like", "xdp"},
	} {
		if got := p.Levels(factor); !slices.Equal(got, want) {
			t.Errorf("%s %v, want %v", factor, got, want)
		}
	}
	if p.Spec.Measure.Seeds != 2 {
		t.Errorf("%d seeds, want 2", p.Spec.Measure.Seeds)
	}
	for _, c := range p.Cells {
		if counted := c.Get(plan.FactorCount) != ""; counted != (c.Get(plan.FactorWorkload) == "TCP_RR") {
			t.Errorf("cell %s is measured by transactions: %v", c.Title(), counted)
		}
	}
}

// The default traces are those of the study's arms and of what separates them, each in a boot of its
// own, and compared with Docker's bridge.
func TestTraceHasTheArmsOfTheAnswer(t *testing.T) {
	p, err := plan.Trace(expand(t, "trace.toml"), plan.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	for factor, want := range map[string][]string{
		plan.FactorScenario: {"localhost", "multi-host"},
		plan.FactorWorkload: {"TCP_RR", "TCP_STREAM", "TCP_CRR"},
		plan.FactorPolicies: {"0", "100"},
		plan.FactorArm:      {"docker", "iptables-as-study", "iptables-established-first", "nft-set", "ipset", "cilium-like", "xdp"},
	} {
		if got := p.Levels(factor); !slices.Equal(got, want) {
			t.Errorf("%s %v, want %v", factor, got, want)
		}
	}
	if p.Spec.Traced.Against != "docker" || len(p.Blocks) != len(p.Cells) {
		t.Errorf("compared with %s, %d boots for %d cells", p.Spec.Traced.Against, len(p.Blocks), len(p.Cells))
	}
	for _, c := range p.Cells {
		if o, ok := p.Counterpart(c, "docker"); !ok || o.Get(plan.FactorWorkload) != c.Get(plan.FactorWorkload) || o.Get(plan.FactorScenario) != c.Get(plan.FactorScenario) {
			t.Errorf("%s is compared with %s", c.Title(), o.Title())
		}
	}
}

// Stored baselines of nightly.toml are compared by the IDs of cells, so a new option
// must not change the IDs of cells that do not use it. The file has the IDs from
// before the option prealloc.
func TestNightlyKeepsTheIDsOfItsBaselines(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "nightly.cells"))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, c := range expand(t, "nightly.toml").Cells {
		fmt.Fprintf(&got, "%s %s\n", c.ID, c.Title())
	}
	if got.String() != string(want) {
		t.Errorf("got cells\n%s\nwant\n%s", got.String(), want)
	}
}
