package experiments_test

import (
	"encoding/json"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/claims"
	"hookbed/analysis/explain"
	"hookbed/analysis/report"
	"hookbed/driver/plan"
	"hookbed/experiments/invented"
)

// runDirectory is a run of a plan in the invented world.
func runDirectory(t *testing.T, p *plan.Plan) string {
	t.Helper()
	dir := t.TempDir()
	if err := invented.Write(dir, p, nil); err != nil {
		t.Fatal(err)
	}
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
		"kernels.toml":        {contrast: inPart, has: []string{explains, "Kernels"}, lacks: []string{overlay, controls}, text: []string{"Results, localhost, kernel 6.1"}},
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
			want.checkPage(t, read(t, filepath.Join(out, "report.html")))
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

var pageHeading = regexp.MustCompile(`<h2[^>]*>([^<]*)</h2>`)

// checkPage holds report.html to the sections of report.md, of which it shows claims and what
// cannot be compared in its own way.
func (s said) checkPage(t *testing.T, page string) {
	t.Helper()
	var headings []string
	for _, m := range pageHeading.FindAllStringSubmatch(page, -1) {
		headings = append(headings, html.UnescapeString(m[1]))
	}
	for _, h := range append([]string{"The answer", "Figures", "Proof of enforcement", "Environment", "How to read this"}, s.has...) {
		if !slices.Contains(headings, h) {
			t.Errorf("report.html has no section %q, only %q", h, headings)
		}
	}
	for _, h := range s.lacks {
		if slices.Contains(headings, h) {
			t.Errorf("report.html has a section %q, for which there are no arms", h)
		}
	}
	for id, verdict := range s.claims {
		if !strings.Contains(page, fmt.Sprintf(`data-claim="%s" data-verdict="%s"`, id, verdict)) {
			t.Errorf("report.html has no claim %s that is %s", id, verdict)
		}
	}
}

// structureShare is what structure makes of the study's gain in the invented world, at a number of
// policies.
func structureShare(policies int) float64 {
	seconds := func(fabric, filter string) float64 {
		return invented.Seconds(plan.Cell{Factors: map[string]string{plan.FactorFabric: fabric, plan.FactorFilter: filter, plan.FactorPolicies: strconv.Itoa(policies)}})
	}
	list, hash, other := seconds("bridge", "iptables-legacy"), seconds("bridge", "tc-hash"), seconds("bpf", "tc-hash")
	return math.Log(list/hash) / math.Log(list/other)
}

// explained compares the sentence and the steps with the truth: structure and path
// make the study's gain, and mechanism makes none of it.
func (s said) explained(t *testing.T, x explain.Explanation) {
	t.Helper()
	has := func(words ...string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(x.Sentence, w) })
	}
	near := map[string]float64{"structure": 0.035, "path": 0.035, "mechanism": 0.02} // trials differ by tenths of a percent
	structure := structureShare(x.Policies)
	truth := map[string]float64{"structure": structure, "path": 1 - structure, "mechanism": 0}
	steps, explained := map[string]bool{}, map[string]bool{} // the second: in the sentence, with a share that is right
	for _, d := range x.Orders {
		for _, step := range d.Steps {
			steps[step.Kind] = steps[step.Kind] || step.Gain != nil
			if step.Gain == nil || step.Share == nil {
				continue
			}
			if want := truth[step.Kind]; math.Abs(step.Share.Estimate-want) > near[step.Kind] {
				t.Errorf("%s, %s: %s makes %g of the gain, want %g", x.Workload, d.Order, step.Kind, step.Share.Estimate, want)
			}
			explained[step.Kind] = explained[step.Kind] || has(fmt.Sprintf("%s explains %.0f %%", step.Kind, 100*step.Share.Estimate))
		}
	}
	ok := false
	switch s.contrast {
	case inSteps:
		ok = explained["structure"] && explained["path"] && has("mechanism is not distinguishable from none") && !has("not in this run") && steps["mechanism"]
	case inPart:
		ok = explained["structure"] && has("to tell mechanism and path apart takes what is not in this run: bridge+tc-hash") && !has("Mechanism first")
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
