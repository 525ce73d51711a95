package rundir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hookbed/analysis/durable"
)

// traced puts a file into the trace of a cell.
func traced(t *testing.T, d *Dir, cell, text string) string {
	t.Helper()
	path := filepath.Join(d.Path(), "trace", cell, "trace.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTracesAreOfTheRun(t *testing.T) {
	d := create(t)
	a, b := traced(t, d, "a", "x"), traced(t, d, "b", "y")
	left, err := durable.TempDir(filepath.Dir(a))
	if err != nil {
		t.Fatal(err)
	}
	if d = reopen(t, d); exists(left) || !exists(a) || !exists(b) {
		t.Error("opened again, a run still has what a killed driver left of a trace, or lacks a trace")
	}
	cell := d.Plan().Cells[0].ID
	if none, err := d.Traced(); err != nil || len(none) != 0 {
		t.Errorf("traced cells %v, %v, want none of the plan's", none, err)
	}
	order := filepath.Join(d.Path(), "trace", cell)
	if err := os.MkdirAll(order, 0o755); err != nil {
		t.Fatal(err)
	}
	if none, err := d.Traced(); err != nil || len(none) != 0 {
		t.Errorf("traced cells %v, %v, want none: a directory without trace.json is no trace", none, err)
	}
	traced(t, d, cell, "z")
	if one, err := d.Traced(); err != nil || len(one) != 1 || !one[cell] {
		t.Errorf("traced cells %v, %v, want %s", one, err, cell)
	}
	if err := errors.Join(d.DropTrace("a"), d.DropTrace("a")); err != nil || exists(filepath.Dir(a)) || !exists(b) {
		t.Errorf("after one trace was dropped: %v", err)
	}
	if err := d.Discard(); err != nil || exists(filepath.Join(d.Path(), "trace")) {
		t.Errorf("a discarded run still has traces: %v", err)
	}
}

func TestMergeKeepsTraces(t *testing.T) {
	dir := t.TempDir()
	parts := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	for i, part := range parts {
		fillRun(t, part, Shard{i + 1, 2}, nil)
		d, err := Open(part)
		if err != nil {
			t.Fatal(err)
		}
		traced(t, d, filepath.Base(part), part)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "merged")
	if _, err := Merge(out, parts, false); err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		data, err := os.ReadFile(filepath.Join(out, "trace", filepath.Base(part), "trace.json"))
		if err != nil || string(data) != part {
			t.Errorf("the trace of %s is %q: %v", part, data, err)
		}
	}
}
