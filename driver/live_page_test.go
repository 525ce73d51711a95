package main

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const grows = `schema = 1
name = "grows"
[lab]
provider = "local"
[measure]
blocks = 1
trials = 6
count = { TCP_RR = 60 }
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [3]
[[arm]]
name = "docker"
datapath = "docker"
`

// startServing starts a run that has --serve, and waits for the address of its page. What else it says
// is sent when it has ended.
func startServing(t *testing.T, cmd *exec.Cmd) (url string, rest <-chan string) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = nil, nil
	talk, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewReader(talk)
	for before := ""; url == ""; {
		line, err := lines.ReadString('\n')
		before += line
		if _, url, _ = strings.Cut(strings.TrimSpace(line), "live page: "); url == "" && err != nil {
			t.Fatalf("the run says no address: %v\n%s", err, before)
		}
	}
	said := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(lines) // it ends with the driver
		said <- string(data)
	}()
	return url, said
}

// TestLivePage: while a run goes on, its page has events of its progress, the report of the trials so
// far, and no more than that.
func TestLivePage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "grows.toml"), []byte(grows), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd, _ := driverIn(dir, "run", "grows.toml", "--out", "run", "--serve", "127.0.0.1:0")
	const secret = "a-secret-of-the-environment"
	cmd.Env = append(cmd.Env, "HOOKBED_TEST_SECRET="+secret)
	url, rest := startServing(t, cmd)
	fetch := func(path string) string {
		t.Helper()
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
		}
		return string(data)
	}
	resp, err := http.Get(url + "events")
	if err != nil {
		t.Fatalf("%q: %v", url, err)
	}
	defer resp.Body.Close()
	seen := map[string]int{}
	served := ""
	for events := bufio.NewScanner(resp.Body); events.Scan(); {
		name, is := strings.CutPrefix(events.Text(), "event: ")
		if seen[name]++; is && name == "report" && served == "" {
			served = fetch("") + fetch("report.html")
		}
	}
	said := <-rest
	_ = cmd.Wait() // on a busy computer trials may be void, which is not looked at here
	if code := cmd.ProcessState.ExitCode(); code != exitOK && code != exitFailedCells {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	if seen["progress"] < 6 || seen["report"] < 2 || seen["end"] != 1 {
		t.Errorf("the events are %v", seen)
	}
	if !strings.Contains(served, "EventSource") || !strings.Contains(served, "grows") {
		t.Errorf("the page and the report are %d bytes:\n%.2000s", len(served), served)
	}
	for _, not := range []string{secret, dir, "PRIVATE KEY"} {
		if strings.Contains(served, not) {
			t.Errorf("they have %q", not)
		}
	}
	for _, name := range []string{"report.html", "report.md"} {
		if _, err := os.Stat(filepath.Join(dir, "run", name)); err == nil {
			t.Errorf("the run directory has %s, which no one asked for", name)
		}
	}
}
