package experiments_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	words "hookbed/analysis/catalog"
	"hookbed/analysis/claims"
	"hookbed/analysis/record"
	"hookbed/analysis/report"
	"hookbed/analysis/runs"
	"hookbed/driver/cost"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
	"hookbed/experiments/invented"
)

// more is the driver's catalog with an additional filter and workload: one entry each,
// and no other change.
func more() plan.Catalog {
	c := catalog()
	for _, d := range datapath.Catalog() {
		if d.Crossed && d.Filter == "xdp-hash" {
			d.Filter, d.Name, d.Structure, d.Doc = "xdp-bloom", d.Fabric+"+xdp-bloom", "bloom", "a filter for this test"
			d.Options = slices.Concat(d.Options, []plan.Option{{Key: "bits", Allowed: []string{"8", "16"}}})
			c.Datapaths = append(c.Datapaths, d)
		}
	}
	c.Workloads = append(c.Workloads, plan.WorkloadEntry{Name: "TCP_CHAT", Protocol: words.TCP, Tool: "chat", Figure: "chat",
		Headline: []words.Metric{{Name: "chats", Title: "chat rate", Unit: "1/s", Higher: true}}, Work: words.Work{Name: "chat"}})
	return c
}

const throwAway = `schema = 1
name = "throw-away"
[lab]
provider = "local"
[measure]
blocks = 1
trials = 6
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_CHAT"]
policies = [0, 100, 1000]
[[arm]]
name = "plain"
filter = "none"
[[arm]]
name = "bloom"
filter = "xdp-bloom"
[[arm]]
name = "bloom-16"
filter = "xdp-bloom"
bits = "16"
[[arm]]
name = "list"
filter = "xdp-linear"
[[arm]]
name = "hash"
filter = "tc-hash"
`

func planned(t *testing.T, text string, c plan.Catalog) *plan.Plan {
	t.Helper()
	s, err := plan.Parse("throw-away.toml", []byte(text), c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(s, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The entries of a filter and a workload suffice for the whole of hookbed: for the
// plan, and for all that reads it.
func TestOneEntryMakesAFilterAndAWorkload(t *testing.T) {
	p := planned(t, throwAway, more())
	if f, ok := p.Catalog.Filter("xdp-bloom"); !ok || f.Structure != "bloom" || f.Regime != words.Stateless || f.Defaults["bits"] != "8" {
		t.Errorf("the plan has %+v of the filter", f)
	}
	dir := chats(t, p)
	out := t.TempDir()
	if _, err := report.Make([]string{dir}, out, report.Options{Resamples: 100}); err != nil {
		t.Fatal(err)
	}
	text := read(t, filepath.Join(out, "report.md"))
	for _, want := range []string{
		"| structure | bridge+xdp-bloom | bridge+xdp-linear | 1000 |", // explain
		"Time per chat, TCP\\_CHAT, localhost", "chat-localhost.svg", "chat rate (TCP\\_CHAT)", "per s",
		"list slower in chat rate", "bridge+xdp-bloom (bits 16)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	if csv := read(t, filepath.Join(out, "figures", "each-policy-localhost-tcp-chat.csv")); !strings.Contains(csv, "xdp-bloom") {
		t.Errorf("the figure of policies' costs has no such filter: %s", csv)
	}
	claimed(t, dir)
}

// chats is a run of the throw-away workload in the invented world.
func chats(t *testing.T, p *plan.Plan) string {
	t.Helper()
	dir, rng := t.TempDir(), rand.New(rand.NewPCG(1, 1))
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "plan.json"), data)
	out := record.EncodeHeader(p.FactorNames())
	for _, trial := range p.Trials {
		c, _ := p.CellByID(trial.Cell)
		lines, err := record.Encode(p.FactorNames(), []record.Row{{Run: "throw-away", Cell: c.ID, Block: trial.Block, Trial: trial.Trial, Order: trial.Order,
			Status: record.StatusOK, Metric: "chats", Unit: "1/s", Value: 1 / invented.Seconds(c) * (1 + 0.004*rng.NormFloat64()), Factors: c.Factors}})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, lines...)
	}
	write(t, filepath.Join(dir, "rows.csv"), out)
	return dir
}

// claimed judges a claim about the filter and the workload.
func claimed(t *testing.T, dir string) {
	t.Helper()
	list, err := claims.Parse([]byte(`schema = 1
[[claim]]
id = "bloom"
sentence = "A Bloom filter is faster than a list."
source = "a test"
hypothesis = "better"
scenario = "localhost"
workload = "TCP_CHAT"
metrics = ["chats"]
a = { filter = "xdp-bloom" }
b = { filter = "xdp-linear" }
at_least = 1000
margin = 0.02
reason = "a test"
`))
	if err != nil {
		t.Fatal(err)
	}
	all, err := runs.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	set, err := runs.Arrange(all)
	if err != nil {
		t.Fatal(err)
	}
	if v := claims.Judge(set, list)[0]; v.Verdict != claims.Reproduced || len(v.Comparisons) != 1 || v.Comparisons[0].Arm != "bloom" {
		t.Errorf("the claim is %+v", v)
	}
}

// A filter or a workload that has a catalog entry, but no code that renders it, is
// refused by name.
func TestWhatIsNotThereIsRefusedByName(t *testing.T) {
	c := more()
	p := planned(t, throwAway, c)
	for _, cell := range p.Cells {
		if cell.Get(plan.FactorFilter) != "xdp-bloom" {
			continue
		}
		if _, err := datapath.Render(cell); err == nil || !strings.Contains(err.Error(), `"xdp-bloom"`) {
			t.Errorf("render %s: %v", cell.Title(), err)
		}
		if _, err := workload.Render(cell, workload.Target{}); err == nil || !strings.Contains(err.Error(), `"TCP_CHAT"`) {
			t.Errorf("render %s: %v", cell.Title(), err)
		}
	}
	if !slices.ContainsFunc(cost.SubjectsOf(c.Datapaths), func(s cost.Subject) bool { return s.Name == "xdp-bloom" && s.Hook == cost.HookXDP && !s.NoPolicies }) {
		t.Error("driver cost does not know the filter")
	}
	if _, err := cost.Select([]string{"xdp-bloom"}); err == nil || !strings.Contains(err.Error(), `no program "xdp-bloom"`) {
		t.Errorf("driver cost without the filter: %v", err)
	}
	if _, err := plan.Parse("throw-away.toml", []byte(throwAway), catalog()); err == nil || !strings.Contains(err.Error(), `unknown level "xdp-bloom"`) || !strings.Contains(err.Error(), `unknown level "TCP_CHAT"`) {
		t.Errorf("without the entries: %v", err)
	}
}

// A new option changes nothing for arms that do not use it: cells keep their IDs, and
// the report its sentences.
func TestALaterOptionChangesNothingWhereItIsNotUsed(t *testing.T) {
	const explain = "explain.toml"
	later := catalog()
	for i := range later.Datapaths {
		later.Datapaths[i].Options = append(slices.Clone(later.Datapaths[i].Options), plan.Option{Key: "later", Allowed: []string{"no", "yes"}, Silent: true})
	}
	loud := catalog()
	for i := range loud.Datapaths {
		loud.Datapaths[i].Options = append(slices.Clone(loud.Datapaths[i].Options), plan.Option{Key: "later", Allowed: []string{"no", "yes"}})
	}
	text := read(t, explain)
	before := planned(t, text, catalog())
	if after := planned(t, text, later); fmt.Sprint(after.Cells) != fmt.Sprint(before.Cells) {
		t.Error("an option that is silent at its default changes cells")
	}
	want, got := sentences(t, before), sentences(t, planned(t, text, loud))
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("with an option more:\n%s\nwant\n%s", got, want)
	}
}

func sentences(t *testing.T, p *plan.Plan) (out []string) {
	t.Helper()
	dir := t.TempDir()
	if _, err := report.Make([]string{runDirectory(t, p)}, dir, report.Options{Resamples: 100}); err != nil {
		t.Fatal(err)
	}
	var doc report.Document
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, "report.json"))), &doc); err != nil {
		t.Fatal(err)
	}
	for _, x := range doc.Explanations {
		out = append(out, x.Sentence)
	}
	return out
}
