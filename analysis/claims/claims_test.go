package claims

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// arm is an invented arm: its latency is (t0 + each*N), with some spread.
type arm struct {
	name     string
	factors  map[string]string
	policies []int
	latency  func(n int) float64
}

// rows makes TCP_RR rows on localhost.
func rows(blocks, trials int, spread float64, arms ...arm) []record.Row {
	rng := rand.New(rand.NewPCG(1, 2))
	var out []record.Row
	for block := 1; block <= blocks; block++ {
		boot := math.Exp(rng.NormFloat64() * 0.2) // cancels where cells are paired by block
		for _, a := range arms {
			for _, n := range a.policies {
				f := map[string]string{"scenario": "localhost", "workload": "TCP_RR", "arm": a.name, "policies": strconv.Itoa(n), "clock": "wall"}
				for k, v := range a.factors {
					f[k] = v
				}
				for trial := 1; trial <= trials; trial++ {
					t := a.latency(n) * math.Exp(rng.NormFloat64()*spread)
					if blocks >= runs.MinBlocks {
						t *= boot
					}
					out = append(out, record.Row{Run: "r", Cell: fmt.Sprint(a.name, n), Block: block, Trial: trial, Status: record.StatusOK,
						Metric: "latency_mean", Unit: "s", Value: t, Factors: f})
				}
			}
		}
	}
	return out
}

func linear(t0, each float64) func(int) float64 {
	return func(n int) float64 { return t0 + each*float64(n) }
}

func list(latency func(int) float64) arm {
	return arm{"list", map[string]string{"datapath": "iptables"}, []int{0, 10, 100, 1000}, latency}
}

func hash(latency func(int) float64) arm {
	return arm{"hash", map[string]string{"datapath": "tc"}, []int{0, 10, 100, 1000}, latency}
}

func verdictOf(t *testing.T, c Claim, all []record.Row) Verdict {
	t.Helper()
	set, err := runs.Arrange([]runs.Run{runstest.Read(t, runs.Run{Name: "r"}, all)})
	if err != nil {
		t.Fatal(err)
	}
	v := Judge(set, []Claim{c})[0]
	if _, err := json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	return v
}

func claim(hypothesis string, margin float64) Claim {
	c := Claim{ID: "x", Sentence: "s", Source: "s", Reason: "r", Hypothesis: hypothesis, Scenario: "localhost", Workload: "TCP_RR",
		Metrics: []string{"latency_p50", "latency_mean"}, A: map[string]string{"datapath": "tc"}, Margin: margin}
	switch hypothesis {
	case Better, Same:
		c.B = map[string]string{"datapath": "iptables"}
	case NoPenaltyUntil:
		c.Until = 1000
	}
	return c
}

func TestVerdicts(t *testing.T) {
	flat, steep := linear(1, 0), linear(1, 0.001)
	late := func(n int) float64 { return 1 + 0.5*float64(n/1000) }
	tests := []struct {
		hypothesis string
		margin     float64
		a, b       func(int) float64
		want       string
	}{
		{Better, 0.02, linear(0.8, 0), flat, Reproduced},
		{Better, 0.02, linear(1.2, 0), flat, Contradicted},
		{Better, 0.02, flat, flat, Contradicted}, // a tie is not better
		{Better, 0.02, linear(0.8, 0.001), flat, Contradicted},
		{Same, 0.05, flat, flat, Reproduced},
		{Same, 0.05, linear(1.2, 0), flat, Contradicted},
		{Flat, 0.05, flat, flat, Reproduced},
		{Flat, 0.05, steep, flat, Contradicted},
		{Hurts, 0.2, steep, flat, Reproduced},
		{Hurts, 0.2, flat, flat, Contradicted},
		{Hurts, 0.2, linear(1, -0.0005), flat, Contradicted},
		{NoPenaltyUntil, 0.05, late, flat, Reproduced},
		{NoPenaltyUntil, 0.05, flat, flat, Contradicted},
		{NoPenaltyUntil, 0.05, steep, flat, Contradicted},
	}
	for _, tt := range tests {
		for _, blocks := range []int{1, 5} {
			v := verdictOf(t, claim(tt.hypothesis, tt.margin), rows(blocks, 10, 0.005, hash(tt.a), list(tt.b)))
			if v.Verdict != tt.want || v.Missing || v.Deciding() == nil {
				t.Errorf("%s, %d blocks: %s (%s), want %s\n%+v", tt.hypothesis, blocks, v.Verdict, v.Reason, tt.want, v.Comparisons)
			}
			if d := v.Deciding(); d != nil && (d.Paired != (blocks == 5) || d.Metric != "latency_mean" || d.Ratio.Confidence != 0.9 || d.Trials != 10*blocks) {
				t.Errorf("%s, %d blocks: deciding %+v", tt.hypothesis, blocks, d)
			}
		}
	}
}

// Noise and single trials do not decide a claim.
func TestUndecided(t *testing.T) {
	for _, h := range []string{Better, Same, Flat, Hurts, NoPenaltyUntil} {
		for _, tt := range []struct {
			trials int
			spread float64
		}{{1, 0.001}, {3, 0.5}} {
			v := verdictOf(t, claim(h, 0.05), rows(1, tt.trials, tt.spread, hash(linear(1, 0)), list(linear(1, 0))))
			if v.Verdict != Undecided || v.Missing {
				t.Errorf("%s with %d trials: %s, missing %v", h, tt.trials, v.Verdict, v.Missing)
			}
			if n := v.Decides(); n == nil || n.Finite() && n.N <= tt.trials {
				t.Errorf("%s with %d trials: decided by %v", h, tt.trials, n)
			}
		}
	}
	all := rows(1, 5, 0.01, hash(linear(1, 0)), list(linear(1, 0)))
	for i := range all {
		all[i].Metric = "elapsed"
	}
	if v := verdictOf(t, claim(Flat, 0.05), all); v.Verdict != Undecided || v.Missing || !strings.Contains(v.Reason, "no usable number of latency_p50 or latency_mean") {
		t.Errorf("without the metric: %+v", v)
	}
}

func TestMissing(t *testing.T) {
	few := hash(linear(1, 0))
	few.policies = []int{0}
	c := claim(Better, 0.05)
	c.A = map[string]string{"filter": "nft-set"}
	for _, tt := range []struct {
		c    Claim
		rows []record.Row
		want string
	}{
		{c, rows(1, 3, 0.01, hash(linear(1, 0)), list(linear(1, 0))), "no such arm in this run: filter=nft-set"},
		{claim(Better, 0.05), rows(1, 3, 0.01, hash(linear(1, 0))), "no such arm in this run: datapath=iptables"},
		{claim(Flat, 0.05), rows(1, 3, 0.01, few), "no arm with 0 and with more policies"},
		{claim(Hurts, 0.05), rows(1, 3, 0.01, few), "no arm with 0 and with 1 or more"},
		{claim(NoPenaltyUntil, 0.05), rows(1, 3, 0.01, few), "and with 1000 policies"},
	} {
		v := verdictOf(t, tt.c, tt.rows)
		if v.Verdict != Undecided || !v.Missing || !strings.Contains(v.Reason, tt.want) {
			t.Errorf("%s: %s, missing %v: %s", tt.c.Hypothesis, v.Verdict, v.Missing, v.Reason)
		}
	}
}

// An arm that has only N = 0 is used at every N, and arms on different rigs are
// not compared.
func TestReferenceAndRig(t *testing.T) {
	pass := list(linear(1, 0))
	pass.policies = []int{0}
	v := verdictOf(t, claim(Same, 0.05), rows(1, 8, 0.005, hash(linear(1, 0)), pass))
	if v.Verdict != Reproduced || len(v.Comparisons) != 4 || v.Comparisons[3].AgainstPolicies != 0 {
		t.Errorf("verdict %s with %d comparisons", v.Verdict, len(v.Comparisons))
	}
	other := list(linear(1, 0))
	other.factors["kernel"] = "another"
	if v := verdictOf(t, claim(Same, 0.05), rows(1, 8, 0.005, hash(linear(1, 0)), other)); !v.Missing || len(v.Comparisons) > 0 {
		t.Errorf("arms on two kernels are compared: %+v", v)
	}
}

// Arms are found by their properties, by their preset if rows lack the factors, and
// options that a claim does not name are at their default.
func TestSelectors(t *testing.T) {
	crossed := map[string]string{"datapath": "bpf+tc-hash", "fabric": "bpf", "filter": "tc-hash", "policy": "l4", "action": "allow", "delivery": "redirect"}
	with := func(f, level string) map[string]string {
		out := maps.Clone(crossed)
		out[f] = level
		return out
	}
	cilium := map[string]string{"fabric": "bpf", "filter": "tc-hash"}
	for _, tt := range []struct {
		cell, selector map[string]string
		want           bool
	}{
		{crossed, cilium, true},
		{map[string]string{"datapath": "cilium-like"}, cilium, true},
		{map[string]string{"datapath": "xdp", "attach": "native"}, map[string]string{"fabric": "bridge", "filter": "xdp-hash"}, true},
		{map[string]string{"datapath": "xdp", "attach": "generic"}, map[string]string{"fabric": "bridge", "filter": "xdp-hash"}, false},
		{map[string]string{"datapath": "xdp", "attach": "generic"}, map[string]string{"fabric": "bridge", "filter": "xdp-hash", "attach": "generic"}, true},
		{map[string]string{"datapath": "xdp", "scenario": "localhost", "where": "endpoint"}, map[string]string{"filter": "xdp-hash"}, true},
		{map[string]string{"datapath": "xdp", "scenario": "multi-host", "where": "endpoint"}, map[string]string{"filter": "xdp-hash"}, false},
		{map[string]string{"datapath": "iptables", "state": "as-study"}, map[string]string{"filter": "iptables-legacy", "state": "as-study", "placement": "input"}, true},
		{map[string]string{"datapath": "iptables", "state": "as-study"}, cilium, false},
		{with("fabric", "bridge"), cilium, false},
		{with("delivery", "peer"), cilium, false},
		{with("delivery", "peer"), map[string]string{"filter": "tc-hash", "delivery": "peer"}, true},
		{with("policy", "cidr"), cilium, false},
		{with("family", "ipv6"), cilium, false},
		{with("attach", "tcx"), cilium, false},
		{with("attach", "clsact"), cilium, true},
		{with("prealloc", "off"), cilium, true},
		{with("prealloc", "on"), cilium, false},
		{crossed, map[string]string{"filter": "tc-hash", "prealloc": "off"}, true},
	} {
		if got := matches(catalog.Schema1(), &runs.Cell{Factors: tt.cell}, tt.selector); got != tt.want {
			t.Errorf("%v by %v: %v, want %v", tt.cell, tt.selector, got, tt.want)
		}
	}
}

// Every claim of the study, and every other claim on one host for which the
// experiment has arms, is judged by rows of arms that are found by their properties.
func TestStudyFindsTheCross(t *testing.T) {
	on := func(fabric, filter string, options map[string]string) arm {
		f := map[string]string{"datapath": fabric + "+" + filter, "fabric": fabric, "filter": filter}
		maps.Copy(f, options)
		return arm{fabric + "+" + filter + fmt.Sprint(options), f, []int{0, 100, 1000}, linear(1, 0)}
	}
	study := map[string]string{"state": "as-study", "placement": "input"}
	native := map[string]string{"attach": "native", "where": "edge"}
	all := rows(1, 8, 0.005, on("bridge", "iptables-legacy", study), on("bridge", "iptables-legacy", map[string]string{"state": "established-first"}),
		on("bridge", "iptables-legacy", map[string]string{"state": "stateless"}), on("bridge", "iptables-nft", study), on("bridge", "ipset", study), on("bridge", "nft-set", study),
		on("bridge", "nft-vmap", study), on("bridge", "nft-interval", study), on("bridge", "nft-linear", study), on("bridge", "nft-linear", map[string]string{"state": "established-first"}),
		on("bridge", "tc-linear", nil), on("bridge", "tc-hash", nil), on("bridge", "tc-lpm", nil), on("bridge", "tc-lpm", map[string]string{"policy": "cidr"}), on("bridge", "tc-cilium09", nil),
		on("bridge", "xdp-hash", native), on("bridge", "xdp-linear", native), on("bridge", "xdp-lpm", native), on("bpf", "tc-hash", nil), on("bpf", "tc-pass", nil), on("bridge", "none", nil))
	set, err := runs.Arrange([]runs.Run{runstest.Read(t, runs.Run{Name: "r"}, all)})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Study()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range Judge(set, list) {
		if v.Scenario == "localhost" && v.Workload == "TCP_RR" && v.Missing {
			t.Errorf("%s: %s", v.ID, v.Reason)
		}
	}
}

func TestStudy(t *testing.T) {
	list, err := Study()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 20 {
		t.Errorf("%d claims", len(list))
	}
	for _, c := range list {
		if c.Margin < 0.02 || c.Margin > 0.2 {
			t.Errorf("%s: margin %g", c.ID, c.Margin)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := `schema = 1
[[claim]]
id = "x"
sentence = "s"
source = "s"
hypothesis = "flat"
scenario = "localhost"
workload = "TCP_RR"
metrics = ["rate"]
a = {datapath = "xdp"}
margin = 0.05
reason = "r"
`
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"schema = 1", "schema = 2", "schema 2"},
		{`"flat"`, `"bumpy"`, `unknown hypothesis "bumpy"`},
		{`"flat"`, `"better"`, "wants a and b"},
		{`"flat"`, `"no-penalty-until"`, "until belongs"},
		{"margin = 0.05", "margin = 0", "margin is 0"},
		{"margin = 0.05", "margin = 0.05\nmargim = 1", "unknown keys"},
		{`reason = "r"`, `reason = ""`, "reason is missing"},
		{`metrics = ["rate"]`, `metrics = []`, "metrics is missing"},
		{"margin", "at_least = 3\nmargin", "at_least belongs"},
		{"schema = 1", good, "parse claims"},
	} {
		if _, err := Parse([]byte(strings.Replace(good, tt.old, tt.new, 1))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.new, err, tt.want)
		}
	}
	twice := good + strings.TrimPrefix(good, "schema = 1\n")
	if _, err := Parse([]byte(twice)); err == nil || !strings.Contains(err.Error(), "there twice") {
		t.Errorf("one ID twice: error %v", err)
	}
}
