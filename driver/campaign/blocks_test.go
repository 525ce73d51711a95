package campaign

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/rundir"
)

// sealedRun is the directory of a run in virtual time, with its environment.
func sealedRun(t *testing.T, how func(setup int) string) *rundir.Dir {
	t.Helper()
	dir := newSealedDir(t)
	_, err := RunSealed(t.Context(), SealedConfig{
		Config: Config{Plan: dir.Plan(), Dir: dir, Trials: dir.Pending(), Progress: &quiet{}, Log: slog.New(slog.DiscardHandler)},
		Jobs:   2, Boot: pretender(how), Facts: Environment(dir.Plan(), "test", nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// change replaces a text in a file of a run directory, where it is last: a block begins with a trial
// that is not used.
func change(t *testing.T, dir *rundir.Dir, name, from, to string) {
	t.Helper()
	path := filepath.Join(dir.Path(), name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(string(data), from)
	if at < 0 {
		t.Fatalf("%s has no %q", name, from)
	}
	if err := os.WriteFile(path, []byte(string(data[:at])+to+string(data[at+len(from):])), 0o600); err != nil {
		t.Fatal(err)
	}
}

func checkBlocks(t *testing.T, dir *rundir.Dir) BlockCheck {
	t.Helper()
	c, err := CheckBlocks(t.Context(), dir.Path(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBlocksGiveTheRows: what sealed guests wrote gives every row and raw file of a run, also of
// trials that failed.
func TestBlocksGiveTheRows(t *testing.T) {
	for _, how := range []string{"behaves", "not-enforced", "bypass"} {
		dir := sealedRun(t, func(int) string { return how })
		c := checkBlocks(t, dir)
		if planned := dir.Plan(); c.Blocks != len(planned.Blocks) || c.Trials != len(planned.Trials) || c.Other || len(c.Missing)+len(c.Differ) > 0 {
			t.Errorf("%s: %+v, want all %d blocks and %d trials", how, c, len(planned.Blocks), len(planned.Trials))
		}
	}
}

// TestBlocksThatDoNotGiveTheRows: a number that only the guest's reply has, a raw file, a trial.
func TestBlocksThatDoNotGiveTheRows(t *testing.T) {
	dir := sealedRun(t, behaves)
	change(t, dir, "blocks/2.jsonl", `1000000000000000`, `2000000000000000`)
	if c := checkBlocks(t, dir); len(c.Differ) == 0 || !strings.Contains(c.Differ[0], "hook_bytes is 1e+15 By in rows.csv, and 2e+15 By") || !strings.Contains(c.Differ[0], "block 2") {
		t.Errorf("another counter: %q", c.Differ)
	}
	dir = sealedRun(t, behaves)
	first := dir.Plan().Trials[0]
	change(t, dir, filepath.Join("raw", first.Cell, "1-1", "server-after.json"), `"cpu_waited_seconds": 5`, `"cpu_waited_seconds": 6`)
	if c := checkBlocks(t, dir); len(c.Differ) != 1 || !strings.Contains(c.Differ[0], "server-after.json is not what its guest wrote") {
		t.Errorf("another raw file: %q", c.Differ)
	}
	dir = sealedRun(t, behaves)
	if err := os.Remove(filepath.Join(dir.Path(), "blocks", "3.jsonl")); err != nil {
		t.Fatal(err)
	}
	if c := checkBlocks(t, dir); len(c.Missing) != 1 || c.Missing[0] != "block 3" || c.Blocks != len(dir.Plan().Blocks)-1 {
		t.Errorf("without a block: %+v", c)
	}
	dir = sealedRun(t, behaves)
	change(t, dir, "env.json", `"bundle_sha256": {`, `"bundle_sha256": {"other": "one",`)
	if c := checkBlocks(t, dir); !c.Other || c.Blocks > 0 {
		t.Errorf("of other bundles: %+v", c)
	}
	change(t, dir, "blocks/1.jsonl", `{`, `[`)
	change(t, dir, "env.json", `"other": "one",`, "")
	if _, err := CheckBlocks(t.Context(), dir.Path(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "block 1") {
		t.Errorf("a block that cannot be read: %v", err)
	}
}
