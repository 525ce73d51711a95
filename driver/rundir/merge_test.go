package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/driver/plan"
)

var threeBlocks = strings.Replace(experiment, "blocks = 1", "blocks = 3", 1)

func TestParseShard(t *testing.T) {
	if s, err := ParseShard("2/3"); err != nil || s != (Shard{2, 3}) {
		t.Errorf("got %v, %v", s, err)
	}
	for _, text := range []string{"0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/", "1/99999999999"} {
		if _, err := ParseShard(text); !errors.Is(err, ErrShard) {
			t.Errorf("%q: error %v, want ErrShard", text, err)
		}
	}
	p := makePlan(t, threeBlocks)
	if err := (Shard{1, 4}).Check(p); !errors.Is(err, ErrShard) || !strings.Contains(err.Error(), "at most 3") {
		t.Errorf("four shards of three blocks: %v", err)
	}
	stopping := makePlan(t, strings.Replace(threeBlocks, "trials = 3", "stop = { ci = 0.1, min = 3, max = 9 }", 1))
	if err := (Shard{1, 2}).Check(stopping); !errors.Is(err, ErrShard) {
		t.Errorf("shard of a run with a stopping rule: %v", err)
	}
}

// fillRun fills a directory with rows, raw files and an environment.
func fillRun(t *testing.T, path string, s Shard, edit func(tr plan.Trial, rows []record.Row)) {
	t.Helper()
	d, err := CreateShard(path, makePlan(t, threeBlocks), s)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.WriteEnv(map[string]any{"kernel_release": "6.12"}); err != nil {
		t.Fatal(err)
	}
	for _, tr := range d.Pending() {
		if _, err := d.SaveRaw(tr.Cell, tr.Block, tr.Trial, "x", []byte(tr.Cell)); err != nil {
			t.Fatal(err)
		}
		rows := rowsOf(d, tr, record.StatusOK, 2)
		if edit != nil {
			edit(tr, rows)
		}
		if err := d.AppendRows(rows); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(d.Pending()); n != 0 {
		t.Errorf("%s: %d pending after all were recorded", s, n)
	}
}

func TestShardsPartThePlan(t *testing.T) {
	seen := map[Key]int{}
	for i := range 2 {
		path := filepath.Join(t.TempDir(), "run")
		d, err := CreateShard(path, makePlan(t, threeBlocks), Shard{i + 1, 2})
		if err != nil {
			t.Fatal(err)
		}
		d = reopen(t, d) // the shard is remembered
		for _, tr := range d.Pending() {
			seen[keyOf(tr)]++
			if want := (tr.Block - 1) % 2; want != i {
				t.Errorf("block %d in shard %d", tr.Block, i+1)
			}
		}
	}
	if len(seen) != 18 {
		t.Errorf("%d trials in all shards, want 18", len(seen))
	}
}

func TestMergedIsTheRunThatWasNotParted(t *testing.T) {
	base := t.TempDir()
	whole := filepath.Join(base, "whole", "m")
	fillRun(t, whole, Shard{}, nil)
	a, b := filepath.Join(base, "a"), filepath.Join(base, "b")
	fillRun(t, a, Shard{1, 2}, nil)
	fillRun(t, b, Shard{2, 2}, nil)
	out := filepath.Join(base, "m")
	m, err := Merge(out, []string{b, a}, false)
	if err != nil {
		t.Fatal(err)
	}
	if m.Trials != 18 || m.Rows != 36 || len(m.Missing)+len(m.Warnings) != 0 {
		t.Errorf("merged %+v", m)
	}
	for _, name := range []string{"rows.csv", "plan.json"} {
		want, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not that of the whole run", name)
		}
	}
	raw, err := filepath.Glob(filepath.Join(out, "raw", "*", "*", "x"))
	if err != nil || len(raw) != 18 || !exists(filepath.Join(out, "env-2.json")) {
		t.Errorf("%d raw files, %v, want 18, and two environments", len(raw), err)
	}
	d, err := Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if len(d.Pending()) != 0 || d.Name() != "m" {
		t.Errorf("%d pending, name %s", len(d.Pending()), d.Name())
	}
}

func TestMergeRefuses(t *testing.T) {
	base := t.TempDir()
	a, b, again := filepath.Join(base, "a"), filepath.Join(base, "b"), filepath.Join(base, "again")
	fillRun(t, a, Shard{1, 2}, nil)
	fillRun(t, b, Shard{2, 2}, nil)
	fillRun(t, again, Shard{1, 2}, func(tr plan.Trial, rows []record.Row) {
		if tr.Block == 3 {
			rows[0].Value = 99
		}
	})
	other, err := Create(filepath.Join(base, "other"), makePlan(t, experiment))
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	out := filepath.Join(base, "out")
	for name, c := range map[string]struct {
		dirs []string
		is   error
		says string
	}{
		"missing shard": {[]string{a}, ErrIncomplete, "shard 2/2 is missing (6 trials)"},
		"other plan":    {[]string{a, other.Path()}, ErrUnlike, "measure.blocks was 3, is 1"},
		"other rows":    {[]string{a, b, again}, ErrUnlike, "block 3"},
		"no run":        {[]string{a, base}, ErrNoRun, "plan.json"},
	} {
		if _, err := Merge(out, c.dirs, false); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v that says %s", name, err, c.is, c.says)
		}
	}
	if _, err := Merge(a, []string{b}, true); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("merge into a run: %v", err)
	}
	if entries, _ := filepath.Glob(filepath.Join(base, "*")); slices.Contains(entries, out) {
		t.Error("a refused merge left something")
	}
	if m, err := Merge(out, []string{a}, true); err != nil || m.Trials != 12 || len(m.Missing) != 1 {
		t.Errorf("partial merge: %+v, %v", m, err)
	}
	if m, err := Merge(filepath.Join(base, "out2"), []string{a, b, a + "/../a"}, false); err == nil {
		t.Errorf("merged a directory with itself: %+v", m)
	}
}

// The rule about environments is that of every reader of runs; other bundles and
// another driver are warnings.
func TestMergeHoldsEnvironmentsAgainstEachOther(t *testing.T) {
	const like = `{"kernel_release": "6.12", "started": "x", "host_load": "9", "vcpus": 2%s}`
	for name, c := range map[string]struct {
		a, b    string
		refused string
		warned  string
	}{
		"another time and load": {fmt.Sprintf(like, ""), `{"kernel_release": "6.12", "vcpus": 2}`, "", ""},
		"another kernel":        {fmt.Sprintf(like, ""), `{"kernel_release": "6.13", "vcpus": 2}`, "kernel_release is 6.12 in ", ""},
		"another machine":       {fmt.Sprintf(like, ""), `{"kernel_release": "6.12", "vcpus": 4}`, "vcpus is 2 in ", ""},
		"another driver":        {fmt.Sprintf(like, `, "hookbed_revision": "a"`), fmt.Sprintf(like, `, "hookbed_revision": "b"`), "", "hookbed_revision differs"},
		"other rules":           {fmt.Sprintf(like, `, "bundle_sha256": {"c": "a"}`), fmt.Sprintf(like, `, "bundle_sha256": {"c": "b"}`), "", "bundle_sha256 differs"},
		"not recorded":          {fmt.Sprintf(like, ""), "", "env.json is recorded in ", ""},
		// Shards of a run that compares kernels may each have booted some of them.
		"other boots":           {`{"kernel_release": {"5.10": "x", "6.1": "y"}}`, `{"kernel_release": {"6.1": "y"}}`, "", ""},
		"another of a boot":     {`{"kernel_release": {"6.1": "y"}}`, `{"kernel_release": {"6.1": "z"}}`, "kernel_release.6.1 is y in ", ""},
		"one that does not say": {`{"kernel_release": {"6.1": "y"}}`, `{"kernel_release": "y"}`, "kernel_release is not recorded in ", ""},
		"cut short":             {fmt.Sprintf(like, ""), `{"kernel_rel`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			a, b := filepath.Join(base, "a"), filepath.Join(base, "b")
			fillRun(t, a, Shard{1, 2}, nil)
			fillRun(t, b, Shard{2, 2}, nil)
			for path, text := range map[string]string{filepath.Join(a, "env.json"): c.a, filepath.Join(b, "env.json"): c.b} {
				err := os.WriteFile(path, []byte(text), 0o600)
				if text == "" {
					err = os.Remove(path)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			m, err := Merge(filepath.Join(base, "out"), []string{a, b}, false)
			switch {
			case name == "cut short":
				if err == nil || !strings.Contains(err.Error(), filepath.Join(b, "env.json")) {
					t.Errorf("error %v, want one that names the file", err)
				}
			case c.refused != "":
				if !errors.Is(err, ErrUnlike) || !strings.Contains(err.Error(), c.refused+a) {
					t.Errorf("error %v, want ErrUnlike that says %s", err, c.refused)
				}
			case err != nil || strings.Join(m.Warnings, "") != "" != (c.warned != "") || !strings.Contains(strings.Join(m.Warnings, "; "), c.warned):
				t.Errorf("warnings %q, error %v, want %q", m.Warnings, err, c.warned)
			}
		})
	}
}

// stopping is a run of one cell in three blocks, at most five trials in each.
var stopping = strings.Replace(strings.Replace(threeBlocks, "trials = 3", "stop = { ci = 0.05, min = 6, max = 15 }", 1), "[0, 1]", "[0]", 1)

// runToEnd records what the rule does not pass over and returns the trials of
// each block.
func runToEnd(t *testing.T, d *Dir, value func(n int) float64) map[int]int {
	t.Helper()
	ran, n := map[int]int{}, 0
	for _, tr := range d.Plan().Trials {
		if d.Stopped(tr) {
			continue
		}
		rows := rowsOf(d, tr, record.StatusOK, 1)
		rows[0].Metric, rows[0].Value = "rate", value(n)
		if err := d.AppendRows(rows); err != nil {
			t.Fatal(err)
		}
		ran[tr.Block]++
		n++
	}
	return ran
}

func TestStoppingRule(t *testing.T) {
	for name, c := range map[string]struct {
		value func(n int) float64
		want  [3]int
	}{
		// The floor is 2 a block, and fewer than 6 trials never end a cell: block
		// 1 runs to its 5, and the 6th and 7th come with the floor of block 2.
		"quiet": {func(n int) float64 { return 100 + float64(n%2) }, [3]int{5, 2, 2}},
		"noisy": {func(n int) float64 { return 100 + 50*float64(n%3) }, [3]int{5, 5, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Create(filepath.Join(t.TempDir(), "run"), makePlan(t, stopping))
			if err != nil {
				t.Fatal(err)
			}
			ran := runToEnd(t, d, c.value)
			if got := [3]int{ran[1], ran[2], ran[3]}; got != c.want {
				t.Errorf("trials a block %v, want %v", got, c.want)
			}
			again := reopen(t, d)
			if n := len(again.Pending()); n != 0 {
				t.Errorf("%d trials pending in a finished run", n)
			}
		})
	}
}

func TestStoppingRuleAfterResume(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "run"), makePlan(t, stopping))
	if err != nil {
		t.Fatal(err)
	}
	for n, tr := range d.Pending()[:6] {
		rows := rowsOf(d, tr, record.StatusOK, 1)
		rows[0].Metric, rows[0].Value = "rate", 100+float64(n)
		if err := d.AppendRows(rows); err != nil {
			t.Fatal(err)
		}
	}
	live := d.Pending()
	resumed := reopen(t, d).Pending()
	if !slices.Equal(live, resumed) {
		t.Errorf("pending %v, after resume %v", live, resumed)
	}
	if len(live) == 0 || len(live) == 9 {
		t.Errorf("%d pending, want the floor of what is left", len(live))
	}
}
