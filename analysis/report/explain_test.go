package report

import (
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// TestExplainGolden holds the section as a reader sees it.
func TestExplainGolden(t *testing.T) {
	dir := runstest.Structural().Write(t)
	out, res := makeReport(t, Options{}, dir)
	again, _ := makeReport(t, Options{}, dir)
	compareTrees(t, again, out)
	if *keep != "" {
		if _, err := Make([]string{dir}, filepath.Join(*keep, "explain"), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	text := read(t, out, "report.md")
	from, to := strings.Index(text, "## What explains it"), strings.Index(text, "## At a glance")
	if from < 0 || to < from {
		t.Fatalf("the section is not first:\n%s", text)
	}
	golden := filepath.Join("testdata", "explain.md")
	if *update {
		runstest.WriteFile(t, golden, []byte(text[from:to]))
	}
	if want := read(t, golden); text[from:to] != want {
		t.Errorf("got:\n%s\nwant:\n%s\n(if this is meant: go test -update)", text[from:to], want)
	}
	if got := strings.Join(res.Answers[0].Lines(), "\n"); !strings.Contains(got, "structure explains 89 %") {
		t.Errorf("the answer is %s", got)
	}
	page := read(t, out, "report.html")
	if !strings.Contains(page, `id="s-explain"`) || strings.Index(page, `id="s-explain"`) > strings.Index(page, `id="glance"`) {
		t.Error("report.html does not begin with the section")
	}
	for _, name := range []string{"explain-localhost-tcp-rr", "each-policy-localhost-tcp-rr"} {
		svg, csv := read(t, out, "figures", name+".svg"), read(t, out, "figures", name+".csv")
		if !strings.Contains(page, "f-"+name) || !strings.Contains(text, name+".svg") || strings.Count(csv, "\n") < 8 {
			t.Errorf("figure %s is not shown, or %q", name, csv)
		}
		wellFormed(t, svg)
	}
}

// A run without one of the contrast's ends has nothing to say of it: no sentence, no
// table of dashes. What it has to say of other arms stays.
func TestExplainWithoutTheEnds(t *testing.T) {
	for name, c := range map[string]runstest.Cross{
		"no end":        runstest.Structural().Without("cilium-like"),
		"neither end":   runstest.Structural().Without("cilium-like", "legacy"),
		"another state": runstest.Structural().Changed("legacy", func(a *runstest.CrossArm) { a.Options = map[string]string{"state": "stateless"} }),
	} {
		out, _ := makeReport(t, Options{Resamples: 100}, c.Write(t))
		text := read(t, out, "report.md")
		if strings.Contains(text, "cannot be said") || strings.Contains(text, "study's contrast,") || strings.Contains(text, "| steps |") || strings.Contains(text, "not in this run") {
			t.Errorf("%s: the report says what it has no arms for:\n%s", name, text[:min(len(text), 4000)])
		}
		if !strings.Contains(text, "One thing at a time") || !strings.Contains(text, "| structure | bridge+tc-hash | bridge+tc-linear |") {
			t.Errorf("%s: the contrasts are gone", name)
		}
	}
	c := runstest.Structural()
	c.Arms = c.Arms[:1]
	out, _ := makeReport(t, Options{Resamples: 100}, c.Write(t))
	if strings.Contains(read(t, out, "report.md"), "What explains it") {
		t.Error("one arm has a section")
	}
}

// In virtual time the section says that gains are not in time.
func TestExplainVirtual(t *testing.T) {
	for _, clock := range []string{runs.ClockWall, runs.ClockVirtual} {
		c := runstest.Structural()
		c.Clock, c.Blocks, c.Trials = clock, 3, 1
		out, _ := makeReport(t, Options{Resamples: 100}, c.Write(t))
		if said := strings.Contains(read(t, out, "report.md"), "gains are in instructions"); said != (clock == runs.ClockVirtual) {
			t.Errorf("%s clock: said %v", clock, said)
		}
	}
}
