package browser_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// flamesJob is what flames.mjs reads.
type flamesJob struct {
	Modules  string   `json:"modules"`
	Chromium string   `json:"chromium"`
	Files    []string `json:"files"`
	Search   string   `json:"search"`
}

// flamesResult is what it prints for each file.
type flamesResult struct {
	File   string   `json:"file"`
	Frames int      `json:"frames"`
	Hits   int      `json:"hits"`
	Faults []string `json:"faults"`
}

// TestFlames uses flame graphs of real traces, and a small one: clicks, the search and the keyboard do
// what docs/reading.md says, and a graph requests nothing but itself.
func TestFlames(t *testing.T) {
	if *only != "" {
		return
	}
	var files []string
	for _, f := range []string{"docs/path-iptables.svg", "docs/path-cilium-like.svg", "analysis/trace/testdata/small/trace/bead/flame.svg"} {
		path, err := filepath.Abs(filepath.Join("..", "..", f))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	results := flames(t, flamesJob{Files: files, Search: "tcp_v4"})
	if len(results) != len(files) {
		t.Fatalf("%d of %d graphs were used", len(results), len(files))
	}
	for _, r := range results {
		for _, fault := range r.Faults {
			t.Errorf("%s: %s", filepath.Base(r.File), fault)
		}
		if r.Frames < 3 || strings.Contains(r.File, "docs") && r.Hits == 0 {
			t.Errorf("%s has %d frames, of which the search found %d", r.File, r.Frames, r.Hits)
		}
	}
}

// flames runs flames.mjs, in namespaces as inspect does.
func flames(t *testing.T, j flamesJob) (out []flamesResult) {
	t.Helper()
	var err error
	if j.Chromium, err = exec.LookPath("chromium"); err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	if j.Modules, err = filepath.Abs(filepath.Join("..", "..", ".cache", "browser")); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	path := filepath.Join(home, "job.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "--net", "--pid", "--mount-proc", "--kill-child", "--", "node", "flames.mjs", path)
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("flames.mjs: %v (is there a browser? run make deps)\n%s", err, errs.String())
	}
	for line := range bytes.Lines(text) {
		var r flamesResult
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("a line of flames.mjs, %q: %v", line, err)
		}
		t.Logf("%s: %d frames, %d found, %q", filepath.Base(r.File), r.Frames, r.Hits, r.Faults)
		out = append(out, r)
	}
	return out
}
