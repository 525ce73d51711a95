package experiments_test

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/claims"
	"hookbed/analysis/explain"
	"hookbed/analysis/record"
	"hookbed/analysis/report"
	"hookbed/driver/plan"
)

// truth is the time of an arm's transaction, in seconds, in the invented world of
// these tests: a fabric has a path, a filter adds to it, and a list costs per policy
// if every packet passes it.
func truth(c plan.Cell) float64 {
	t := map[string]float64{"bridge": 30e-6, "routed": 28e-6, "bpf": 22e-6, "cilium": 23e-6, "veth": 18e-6}[c.Get(plan.FactorFabric)]
	filter, option := c.Get(plan.FactorFilter), func(key string) string { return c.Factors[key] }
	switch {
	case filter == "none" || filter == "offloads-off":
	case strings.HasPrefix(filter, "xdp"):
		t += 0.5e-6
	default:
		t += 1e-6
	}
	list := strings.HasSuffix(filter, "-linear") || strings.HasPrefix(filter, "iptables") || option("form") == "linear"
	walks := option("state") != "established-first" && option("enforce") != "new" || c.Get(plan.FactorWorkload) == "TCP_CRR"
	if list && walks {
		t += 40e-9 * float64(c.Int(plan.FactorPolicies))
	}
	if o := option("overlay"); o != "" && o != "none" {
		t += 6e-6
	}
	spin, _ := strconv.ParseFloat(option("spin"), 64)
	t += 16e-9 * spin
	if c.Get(plan.FactorScenario) == plan.MultiHost {
		t *= 2
	}
	return t
}

// measured are the rows of one trial.
func measured(rng *rand.Rand, c plan.Cell) []record.Row {
	t := truth(c) * math.Exp(rng.NormFloat64()*0.004)
	m := func(metric, unit string, v float64) record.Row {
		return record.Row{Status: record.StatusOK, Metric: metric, Unit: unit, Value: v}
	}
	n := float64(c.Int(plan.FactorPolicies))
	rows := []record.Row{m("policies_realised", "1", n), m("probes_allowed", "1", 1), m("cpu.server_node", "1", 1), m("apply_seconds", "s", 0.1)}
	if n > 0 {
		rows = append(rows, m("probes_denied", "1", 3), m("hook_packets", "1", 4/t))
	}
	if spin := c.Factors["spin"]; spin != "" {
		known, _ := strconv.ParseFloat(spin, 64)
		rows = append(rows, m("known_added_instructions", "1", known))
		if n == 0 {
			rows = append(rows, m("hook_packets", "1", 4/t))
		}
	}
	instructions := func(metric string, seconds float64) {
		if c.Get(plan.FactorClock) == plan.ClockVirtual {
			rows = append(rows, m(metric, "1", seconds*1e9/plan.InstructionNanoseconds))
		}
	}
	switch c.Get(plan.FactorWorkload) {
	case "TCP_STREAM":
		instructions("instructions_per_mib", (8<<20)/(2.4e5/t))
		return append(rows, m("throughput", "bit/s", 2.4e5/t), m("retransmits", "1", float64(rng.IntN(4))), m("rtt_mean", "s", t))
	case "TCP_CRR":
		t *= 4
	}
	instructions("instructions_per_transaction", t)
	return append(rows, m("rate", "1/s", 1/t), m("latency_mean", "s", t), m("latency_p50", "s", t*0.97), m("latency_p90", "s", t*1.4), m("latency_p99", "s", t*1.9))
}

// runDirectory is a run of a plan in the invented world.
func runDirectory(t *testing.T, p *plan.Plan) string {
	t.Helper()
	dir, rng := t.TempDir(), rand.New(rand.NewPCG(3, p.Spec.Seed))
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "plan.json"), data)
	write(t, filepath.Join(dir, "env.json"), []byte(`{"accelerator": "tcg"}`))
	names := p.FactorNames()
	out := bytes.NewBuffer(record.EncodeHeader(names))
	for _, trial := range p.Trials {
		c, _ := p.CellByID(trial.Cell)
		factors := map[string]string{}
		for f, level := range c.Factors {
			factors[f] = level
		}
		if b, ok := p.BlockByNumber(trial.Block); ok && b.Seed > 0 {
			factors[plan.FactorSeed] = strconv.Itoa(b.Seed)
		}
		rows := measured(rng, c)
		for i := range rows {
			rows[i].Run, rows[i].Cell, rows[i].Order, rows[i].Block, rows[i].Trial, rows[i].Factors = "synthetic", c.ID, trial.Order, trial.Block, trial.Trial, factors
		}
		lines, err := record.Encode(names, rows)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(lines)
	}
	write(t, filepath.Join(dir, "rows.csv"), out.Bytes())
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// said is what the report of an experiment must say about the invented world. A
// section that is in neither list is optional.
type said struct {
	// contrast is the form of the study's contrast: in steps of structure, path and
	// mechanism, in a part of these steps, as a whole, or not at all.
	contrast string
	has      []string // headings
	lacks    []string
	claims   map[string]string // verdicts, by ID
	text     []string          // anywhere in report.md
}

const (
	inSteps = "in steps"
	inPart  = "in part" // an order has some of its arms
	asWhole = "as a whole"
	ofOne   = "of one trial" // one trial is too few for any arms
	notAll  = ""             // the run does not have both ends
)

const (
	explains = "What explains it"
	overlay  = "What the overlay costs"
	costs    = "What each policy costs"
	controls = "Controls"
)

func reports() map[string]said {
	better := map[string]string{"localhost-throughput-ebpf-better": "reproduced", "localhost-latency-ebpf-better": "reproduced", "localhost-latency-ebpf-flat": "reproduced"}
	return map[string]said{
		"answer.toml": {contrast: inSteps, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: better,
			text: []string{"In short:", "Turn point:", "tc-linear costs more than tc-hash from N = ", "What explains it, TCP\\_RR:", "multi-host, virtual clock"}},
		"arms.toml": {contrast: inSteps, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: better,
			text: []string{"| structure | bridge+tc-hash | bridge+tc-linear | 1000 |", "| path | routed+none | bridge+none | 0 |", "| state | bridge+iptables-legacy (established-first) |"}},
		"cilium.toml": {contrast: asWhole, has: []string{explains, costs}, lacks: []string{overlay, controls}, text: []string{"iptables-as-study"}},
		"controls.toml": {contrast: asWhole, has: []string{explains, controls}, lacks: []string{overlay},
			text: []string{"A/A: the same datapath under two names", "docker-again", "Positive control", "control-10000"}},
		"custom.toml":         {contrast: notAll, has: []string{costs}, lacks: []string{explains, overlay, controls}},
		"docker-overlay.toml": {contrast: asWhole, has: []string{explains, overlay}, lacks: []string{controls}, text: []string{"docker-overlay", "The study's two sides over the same overlay"}},
		"endpoints.toml":      {contrast: inPart, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: better, text: []string{"streams 8", "16 clients"}},
		"explain.toml":        {contrast: inSteps, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: better},
		"full.toml":           {contrast: asWhole, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: better},
		"hypervisors.toml":    {contrast: asWhole, has: []string{explains}, lacks: []string{overlay, controls}},
		"kernels.toml":        {contrast: ofOne, has: []string{explains, "Kernels"}, lacks: []string{overlay, controls}, text: []string{"Results, localhost, kernel 6.1"}},
		"l7.toml":             {contrast: notAll, has: []string{explains, costs}, lacks: []string{overlay, controls}, text: []string{"latency of a request"}},
		"local.toml":          {contrast: asWhole, has: []string{explains}, lacks: []string{overlay, controls}},
		"mine.toml":           {contrast: notAll, has: []string{explains}, lacks: []string{overlay, controls}},
		"nightly.toml":        {contrast: asWhole, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: better},
		"optimised.toml": {contrast: notAll, has: []string{explains, costs}, lacks: []string{overlay, controls},
			text: []string{"One thing at a time", "prealloc on", "bpf+tc-hash (enforce new"}},
		"peers.toml":    {contrast: notAll, has: []string{explains, costs}, lacks: []string{overlay, controls}, text: []string{"| structure | bridge+tc-hash | bridge+tc-linear |"}},
		"policies.toml": {contrast: asWhole, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: map[string]string{"localhost-latency-ebpf-better": "reproduced"}},
		"smoke.toml":    {contrast: asWhole, has: []string{explains}, lacks: []string{overlay, controls}},
		"trace.toml":    {contrast: ofOne, has: []string{explains}, lacks: []string{overlay, controls}, text: []string{"TCP\\_CRR"}},
		"vagrant.toml":  {contrast: asWhole, has: []string{explains}, lacks: []string{overlay, controls}},
		"versions.toml": {contrast: asWhole, has: []string{explains, "Kernels"}, lacks: []string{overlay, controls}, text: []string{"Results, localhost, kernel 7.0.13"}},
		"virtual.toml":  {contrast: asWhole, has: []string{explains, costs}, lacks: []string{overlay, controls}, claims: better, text: []string{"The study's figure 5, measured anew"}},
		"vxlan.toml": {contrast: asWhole, has: []string{explains, overlay, costs}, lacks: []string{controls}, text: []string{"The study's two sides over the same overlay", "udpcsum off"},
			claims: map[string]string{"multi-host-latency-deficit-is-vxlan": "reproduced"}},
		"xdp.toml": {contrast: notAll, has: []string{explains, costs}, lacks: []string{overlay, controls}, text: []string{"| structure | bridge+xdp-hash | bridge+xdp-linear |", "attach generic"}},
	}
}

// Every experiment's report answers the question of the experiment, with numbers whose
// truth is known; and it has no sections for which there are no arms.
func TestEveryReportSaysWhatItsExperimentIsFor(t *testing.T) {
	files, err := filepath.Glob("*.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			want, ok := reports()[file]
			if !ok {
				t.Fatalf("reports() does not say what the report of %s is for", file)
			}
			out := t.TempDir()
			if _, err := report.Make([]string{runDirectory(t, expand(t, file))}, out, report.Options{Resamples: 100}); err != nil {
				t.Fatal(err)
			}
			text := read(t, filepath.Join(out, "report.md"))
			var doc report.Document
			if err := json.Unmarshal([]byte(read(t, filepath.Join(out, "report.json"))), &doc); err != nil {
				t.Fatal(err)
			}
			want.check(t, text, doc)
		})
	}
}

func (s said) check(t *testing.T, text string, doc report.Document) {
	t.Helper()
	heading := func(h string) bool { return strings.Contains(text, "\n## "+h+"\n") }
	for _, h := range append([]string{"The answer", "At a glance", "Figures", "Proof of enforcement"}, s.has...) {
		if !heading(h) {
			t.Errorf("no section %q", h)
		}
	}
	for _, h := range s.lacks {
		if heading(h) {
			t.Errorf("a section %q, for which there are no arms", h)
		}
	}
	for _, want := range s.text {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	_, section, _ := strings.Cut(text, "\n## "+explains+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, never := range []string{"cannot be said", "| – | – | – |"} {
		if strings.Contains(section, never) {
			t.Errorf("the section %q says %q", explains, never)
		}
	}
	for id, want := range s.claims {
		i := slices.IndexFunc(doc.Claims, func(v claims.Verdict) bool { return v.ID == id })
		if i < 0 || doc.Claims[i].Verdict != want {
			t.Errorf("claim %s is not %s: %+v", id, want, doc.Claims)
		}
	}
	said := 0
	for _, x := range doc.Explanations {
		if x.Sentence != "" {
			said++
			s.explained(t, x)
		}
	}
	if (said > 0) != (s.contrast != notAll) {
		t.Errorf("%d sentences about the study's contrast, want it %q", said, s.contrast)
	}
}

// explained compares the sentence and the steps with the truth: structure and path
// make the study's gain, and mechanism makes none of it.
func (s said) explained(t *testing.T, x explain.Explanation) {
	t.Helper()
	has := func(words ...string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(x.Sentence, w) })
	}
	steps := map[string]bool{}
	for _, d := range x.Orders {
		for _, step := range d.Steps {
			steps[step.Kind] = steps[step.Kind] || step.Gain != nil
			if step.Gain == nil || step.Share == nil {
				continue
			}
			if want := map[string][2]float64{"structure": {0.7, 0.77}, "path": {0.23, 0.3}, "mechanism": {-0.02, 0.02}}[step.Kind]; step.Share.Estimate < want[0] || step.Share.Estimate > want[1] {
				t.Errorf("%s, %s: %s makes %g of the gain, want %v", x.Workload, d.Order, step.Kind, step.Share.Estimate, want)
			}
		}
	}
	ok := false
	switch s.contrast {
	case inSteps:
		ok = has("structure explains 7", "path explains 2", "mechanism is not distinguishable from none") && !has("not in this run") && steps["structure"] && steps["path"] && steps["mechanism"]
	case inPart:
		ok = has("structure explains 7", "to tell mechanism and path apart takes what is not in this run: bridge+tc-hash") && !has("Mechanism first")
	case ofOne:
		ok = has("of one trial, which is too few to say what explains it") && !steps["mechanism"]
	case asWhole:
		ok = has("×", "What explains it takes arms that are not in this run: bridge+nft-set (as-study), bridge+tc-hash and bridge+tc-linear.") && !steps["structure"]
	}
	if !ok || !has("From bridge+iptables-legacy (as-study) to bpf+tc-hash at N = ") {
		t.Errorf("%s, %s, want the contrast %s: %s", x.Workload, x.Scenario, s.contrast, x.Sentence)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
