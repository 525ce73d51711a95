package experiments_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	words "hookbed/analysis/catalog"
	"hookbed/analysis/claims"
	"hookbed/analysis/pack"
	"hookbed/analysis/report"
	"hookbed/analysis/runs"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// older copies a run directory that a driver of schema 1 made: smoke.toml on two
// emulated machines, with only the headline metrics of its rows.
func older(t *testing.T, files ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "smoke")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		write(t, filepath.Join(dir, name), []byte(read(t, filepath.Join("testdata", "schema1", name))))
	}
	return dir
}

// Run directories from before plans carried a catalog, and those without a plan, have
// the same reports as before.
func TestOlderRunDirectoriesAreRead(t *testing.T) {
	for name, files := range map[string][]string{"schema 1": {"plan.json", "rows.csv"}, "no plan": {"rows.csv"}} {
		dir, out := older(t, files...), t.TempDir()
		if _, err := report.Make([]string{dir}, out, report.Options{Resamples: 100}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var doc report.Document
		if err := json.Unmarshal([]byte(read(t, filepath.Join(out, "report.json"))), &doc); err != nil {
			t.Fatal(err)
		}
		if len(doc.Explanations) != 4 || doc.Explanations[0].Policies != 100 || !strings.Contains(doc.Explanations[0].Sentence, "From bridge+iptables-legacy (as-study) to bpf+tc-hash at N = 100") {
			t.Errorf("%s: explanations %+v", name, doc.Explanations)
		}
		if doc.Reference != "docker" || len(doc.Verdicts) == 0 || len(doc.Claims) == 0 {
			t.Errorf("%s: reference %q, %d verdicts, %d claims", name, doc.Reference, len(doc.Verdicts), len(doc.Claims))
		}
		judged(t, name, dir)
	}
}

// judged finds the study's arms in an older run.
func judged(t *testing.T, name, dir string) {
	t.Helper()
	all, err := runs.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	set, err := runs.Arrange(all)
	if err != nil {
		t.Fatal(err)
	}
	list, err := claims.Study()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range claims.Judge(set, list) {
		if v.ID == "localhost-throughput-ebpf-better" && v.Missing {
			t.Errorf("%s: %s: %s", name, v.ID, v.Reason)
		}
	}
}

// They can also be resumed, merged and packed with the plan that they have.
func TestOlderRunDirectoriesGoOn(t *testing.T) {
	dir := older(t, "plan.json", "rows.csv")
	write(t, filepath.Join(dir, "env.json"), []byte("{}"))
	d, err := rundir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := d.Plan()
	if w, _ := p.Words().Workload("TCP_RR"); p.Schema != 1 || w.Stopping().Name != "rate" || p.Cells[0].Protocol != words.TCP {
		t.Errorf("schema %d, %s stops by %q", p.Schema, w.Name, w.Stopping().Name)
	}
	again, err := p.Encode()
	if err != nil || string(again) != read(t, filepath.Join("testdata", "schema1", "plan.json")) {
		t.Errorf("encoded anew the plan is another: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := rundir.Merge(filepath.Join(t.TempDir(), "merged"), []string{dir}, true); err != nil {
		t.Errorf("merge: %v", err)
	}
	if _, err := pack.Write(dir, filepath.Join(t.TempDir(), "smoke"+pack.Extension)); err != nil {
		t.Errorf("pack: %v", err)
	}
}

// A run is resumed though plans have a new schema, if the experiment still expands
// to the same trials.
func TestResumeAcrossSchemas(t *testing.T) {
	p := expand(t, "nightly.toml")
	d, err := rundir.Create(filepath.Join(t.TempDir(), "nightly"), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	before := *p
	before.Schema, before.Catalog = 1, nil
	if err := d.Check(&before); err != nil {
		t.Errorf("of schema 1: %v", err)
	}
	before.Cells = before.Cells[1:]
	if err := d.Check(&before); err == nil {
		t.Error("fewer cells are the same plan")
	}
}

// Names of schema 1 that still exist have the same meaning now: the upgrade and the
// driver agree.
func TestSchema1AgreesWithTheDriver(t *testing.T) {
	then := words.Schema1()
	for _, file := range []string{"arms.toml", "optimised.toml", "xdp.toml", "peers.toml", "custom.toml", "vxlan.toml", "controls.toml"} {
		now := *expand(t, file).Catalog
		for _, f := range now.Filters {
			was, ok := then.Filter(f.Name)
			if !ok {
				continue // it was added later
			}
			if was.Mechanism != f.Mechanism || was.Structure != f.Structure || was.Policies != f.Policies || was.Regime != f.Regime || was.Control != f.Control || was.External != f.External {
				t.Errorf("%s: %+v, was %+v", file, f, was)
			}
			for key, level := range f.Defaults {
				if was.Defaults[key] != level {
					t.Errorf("%s: %s of %s is %q by default, was %q", file, key, f.Name, level, was.Defaults[key])
				}
			}
		}
		for _, o := range now.Options {
			if was, ok := then.Option(o.Key); ok && was.Role != o.Role {
				t.Errorf("%s: option %s is about %q, was about %q", file, o.Key, o.Role, was.Role)
			}
		}
		for _, w := range now.Workloads {
			was, ok := then.Workload(w.Name)
			if !ok {
				continue
			}
			for i, m := range was.Headline {
				if i >= len(w.Headline) || w.Headline[i] != m {
					t.Errorf("%s: headline %+v of %s, was %+v", file, w.Headline, w.Name, was.Headline)
				}
			}
			if was.Work != w.Work || was.Protocol != w.Protocol || was.Figure != w.Figure {
				t.Errorf("%s: %+v, was %+v", file, w, was)
			}
		}
	}
	if plan.PlanSchema != 2 {
		t.Errorf("schema %d: say what schema 2 was, too", plan.PlanSchema)
	}
}
