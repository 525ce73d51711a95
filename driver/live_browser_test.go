package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestLivePageInChromium: a browser shows how far a run is and its report, which grows and keeps what
// was chosen in it; at the end it has the last report. It requests nothing of any other server.
func TestLivePageInChromium(t *testing.T) {
	t.Parallel()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	dir := t.TempDir()
	long := strings.Replace(grows, "trials = 6", "trials = 1000", 1) // until it is stopped
	if err := os.WriteFile(filepath.Join(dir, "grows.toml"), []byte(long), 0o644); err != nil {
		t.Fatal(err)
	}
	run, _ := driverIn(dir, "run", "grows.toml", "--out", "run", "--serve", "127.0.0.1:0")
	url, said := startServing(t, run)
	reader := exec.Command("node", "live.mjs", "../../.cache/browser", chromium, url)
	reader.Dir = filepath.Join("..", "experiments", "browser")
	reader.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	var errs bytes.Buffer
	reader.Stderr = &errs
	out, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Process.Kill() })
	var lines []string
	for read := bufio.NewScanner(out); read.Scan(); {
		if lines = append(lines, read.Text()); len(lines) == 1 {
			_ = run.Process.Signal(syscall.SIGINT)
		}
	}
	if err := reader.Wait(); err != nil || len(lines) != 2 || lines[0] != "grown" {
		t.Fatalf("the browser: %v, %q\n%s", err, lines, errs.String())
	}
	var seen struct {
		Faults []string
		Trials []int
	}
	if err := json.Unmarshal([]byte(lines[1]), &seen); err != nil {
		t.Fatalf("%q: %v", lines[1], err)
	}
	for _, fault := range seen.Faults {
		t.Error(fault)
	}
	t.Log(lines[1])
	rest := <-said
	_ = run.Wait()
	if code := run.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d, want %d\n%s", code, exitInterrupted, rest)
	}
}
