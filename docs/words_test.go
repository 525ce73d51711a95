package docs_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
	"hookbed/images"
)

func catalog() plan.Catalog {
	return plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: images.Kernels(), Versions: images.Versions(), NICs: images.NICs()}
}

var glossaryRow = regexp.MustCompile(`(?m)^\| ([a-z][a-z -]*) \| (.+) \|$`)

// The glossary has the words that users meet: in the rows, in the reports' tables and in errors.
func TestTheGlossaryHasTheWordsThatUsersMeet(t *testing.T) {
	var words []string
	for _, m := range glossaryRow.FindAllStringSubmatch(open(t, "docs/glossary.md").text, -1) {
		if m[1] != "word" {
			words = append(words, m[1])
		}
		if n := strings.Count(m[2], ". "); n > 0 {
			t.Errorf("%q is explained in %d sentences, want one", m[1], n+1)
		}
	}
	if !slices.IsSorted(words) {
		t.Error("the words of docs/glossary.md are not in their order")
	}
	want := slices.Concat(record.Statuses(), []string{
		// columns of rows.csv
		"run", "cell", "block", "trial", "reason", "raw",
		// tables of an experiment, and what its errors name
		"lab", "arm", "fabric", "filter", "option", "level", "policy", "action", "workload", "scenario", "provider", "clock", "experiment", "factor", "seed", "estimator",
		// what errors blame, and what a run consists of
		"subject", "fault", "guard", "proof", "probe", "hook", "setup", "bundle", "step", "sealed", "machine", "node", "endpoint", "datapath", "plan", "shard", "claim", "environment",
	})
	for _, w := range want {
		if !slices.Contains(words, w) {
			t.Errorf("docs/glossary.md does not have %q", w)
		}
	}
	for _, m := range regexp.MustCompile(`\*\*([a-z ]+)\*\*`).FindAllStringSubmatch(open(t, "docs/glossary.md").text, -1) {
		if !slices.Contains(words, m[1]) && !slices.Contains(words, strings.TrimSuffix(m[1], "s")) && !slices.Contains(words, strings.TrimSuffix(m[1], "ies")+"y") && m[1] != "bold" {
			t.Errorf("docs/glossary.md refers to %q, which it does not have", m[1])
		}
	}
}

// fences are the blocks of a language in a page.
func fences(p page, lang string) (out []string) {
	for _, s := range sections(p) {
		for _, b := range s.blocks {
			if b.fence == lang {
				out = append(out, b.text)
			}
		}
	}
	return out
}

// The trial that docs/architecture.md follows is one of experiments/answer.toml: its cell, its place in
// the plan, its bundle.
func TestTheTrialOfTheArchitectureIsReal(t *testing.T) {
	spec, err := plan.Load(filepath.Join(root, "experiments", "answer.toml"), catalog())
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(spec, catalog())
	if err != nil {
		t.Fatal(err)
	}
	architecture := open(t, "docs/architecture.md")
	texts := fences(architecture, "json")
	if len(texts) != 2 {
		t.Fatalf("docs/architecture.md has %d blocks of JSON, want the cell and its trials", len(texts))
	}
	var want plan.Cell
	if err := json.Unmarshal([]byte(texts[0]), &want); err != nil {
		t.Fatal(err)
	}
	cell, ok := p.CellByID(want.ID)
	if !ok || cell.Setup != want.Setup || !maps.Equal(cell.Factors, want.Factors) {
		t.Fatalf("the cell is\n%+v\nthe page has\n%+v", cell, want)
	}
	var trials []plan.Trial
	for _, line := range strings.Split(strings.TrimSpace(texts[1]), "\n") {
		var trial plan.Trial
		if err := json.Unmarshal([]byte(line), &trial); err != nil {
			t.Fatal(err)
		}
		trials = append(trials, trial)
	}
	if got := slices.DeleteFunc(slices.Clone(p.Trials), func(tr plan.Trial) bool { return tr.Cell != cell.ID }); !slices.Equal(got, trials) {
		t.Errorf("the cell's trials are %+v, the page has %+v", got, trials)
	}
	rendered(t, architecture, cell)
}

// rendered holds the rule set of the page against the cell's.
func rendered(t *testing.T, architecture page, cell plan.Cell) {
	t.Helper()
	setup, err := datapath.Render(cell)
	if err != nil {
		t.Fatal(err)
	}
	rules := string(setup.Files["policy.nft"].Data)
	for _, text := range fences(architecture, "-") {
		if !strings.HasPrefix(text, "create table") {
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
			if !strings.Contains(rules, line+"\n") && strings.TrimSpace(line) != "..." {
				t.Errorf("the rule set has no line %q:\n%s", line, rules)
			}
		}
	}
	kinds := map[string]bool{}
	for _, s := range slices.Concat(setup.Apply, setup.Prove, setup.Guards(bundle.Prove)) {
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var step struct{ Kind string }
		if err := json.Unmarshal(data, &step); err != nil {
			t.Fatal(err)
		}
		kinds[step.Kind] = true
	}
	for _, kind := range []string{"bridge", "netns", "veth", "rules", "listen", "read", "probes", "expect", "guard"} {
		if !kinds[kind] || !regexp.MustCompile(`(?m)^(apply|prove) +`+kind+` `).MatchString(architecture.text) {
			t.Errorf("the page or the bundle has no step %q", kind)
		}
	}
}

// The last of the five steps: the number is that of the figure's data, in the report and in the page.
func TestTheFigureSaysHowItWasMade(t *testing.T) {
	data, err := os.ReadFile("answer.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "virtual clock") || !strings.Contains(open(t, "docs/reading.md").text, "`driver run experiments/answer.toml`") {
		t.Error("docs/reading.md does not say how docs/answer.svg was made")
	}
}
