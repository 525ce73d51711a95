package campaign

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hookbed/driver/plan"
)

// A trace costs what an untraced boot costs, its own share of each boot, and more for each measured
// second; guests at once share it.
func TestEstimateOfTraces(t *testing.T) {
	p, err := plan.Trace(planOf(t, virtualExperiment), plan.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	plain := *p
	plain.Spec.Traced = nil
	boots := len(p.Blocks)
	want := Estimate(&plain, 1) + time.Duration(boots)*tracedBoot + tracedPace*p.Measuring()
	if got := Estimate(p, 1); boots < 2 || got < want-time.Second || got > want+time.Second {
		t.Errorf("%s, want %s: untraced %s, %d boots, %s measured", got, want, Estimate(&plain, 1), boots, p.Measuring())
	}
	if one, all := Estimate(p, 1), Estimate(p, boots); all*time.Duration(boots) != one {
		t.Errorf("%d guests at once need %s, and one after the other %s", boots, all, one)
	}
}

// agentExperiment is one of an arm and more lines of it, in a lab, with 2 x 3 setups of each scenario.
func agentExperiment(t *testing.T, lab, arm string) *plan.Plan {
	t.Helper()
	return planOf(t, fmt.Sprintf(`
schema = 1
name = "agent"
[lab]
%s
[measure]
blocks = 2
trials = 1
duration = "1s"
warmup = "0s"
[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_RR", "TCP_STREAM"]
policies = [0, 10, 100]
[[arm]]
name = "a"
%s
`, lab, arm))
}

// Each setup of Cilium costs what its agents compile, where they run, and no setup of another arm
// does.
func TestEstimateOfAgents(t *testing.T) {
	const (
		other  = `datapath = "cilium-like"`
		cilium = "datapath = \"cilium\"\ncilium_image = \"quay.io/cilium/cilium@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\""
		setups = 2 * 3 // of each scenario: blocks, numbers of policies
	)
	for lab, want := range map[string]time.Duration{
		`provider = "local"`: 2 * setups * agentHere,
		"provider = \"libvirt\"\nendpoint = \"netns\"\nmemory = \"3GiB\"\naccel = \"kvm\"":  2 * setups * agentHere,
		"provider = \"libvirt\"\nendpoint = \"netns\"\nmemory = \"3GiB\"\naccel = \"tcg\"":  setups * (2*agentEmulated + agentEmulatedMore),
		"provider = \"libvirt\"\nendpoint = \"netns\"\nmemory = \"3GiB\"\naccel = \"auto\"": setups * (2*agentEmulated + agentEmulatedMore),
	} {
		name := strings.ReplaceAll(lab, "\n", ", ")
		plain := agentExperiment(t, lab, other)
		if got := Estimate(plain, 1); got >= want {
			t.Errorf("%s: cilium-like takes %s", name, got)
		}
		if got := Estimate(agentExperiment(t, lab, cilium), 1) - Estimate(plain, 1); got != want {
			t.Errorf("%s: agents take %s, want %s", name, got, want)
		}
	}
}
