package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hookbed/analysis/record"
)

const stoppedExperiment = `schema = 1
name = "stopped"
seed = 1
[lab]
provider = "local"
[measure]
blocks = 1
trials = 2
duration = "1s"
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR", "TCP_STREAM"]
policies = [2]
[[arm]]
name = "d"
filter = "tc-hash"
`

// TestStoppedClientIsVoid stops each measured client for half of its second, once it
// has used some CPU time, and lets it go on: nothing of it is ok, however busy this
// computer is.
func TestStoppedClientIsVoid(t *testing.T) {
	stops := 0
	rows := runWatched(t, func(driver int) {
		for _, pid := range measuring(driver) {
			if syscall.Kill(pid, syscall.SIGSTOP) == nil && stopped(pid) {
				stops++
				time.Sleep(500 * time.Millisecond)
				_ = syscall.Kill(pid, syscall.SIGCONT)
				waitGone(pid)
			}
		}
	})
	void, seen := map[int]bool{}, map[int]bool{}
	for _, r := range rows {
		seen[r.Order] = true
		if r.Status == record.StatusVoid && strings.Contains(r.Reason, "the client was stopped for ") {
			void[r.Order] = true
		}
	}
	// A client that got no CPU time was not seen, and not stopped either.
	if len(seen) != 4 || stops == 0 || len(void) != stops {
		t.Errorf("%d trials have rows, %d clients were stopped, trials %v are void for that; want all 4, some, and as many: %+v", len(seen), stops, void, rows)
	}
}

// TestBusyComputerVoidsNothing: other programs make the trial slow, and that is
// for the limits of load and steal to judge, of which it has none.
func TestBusyComputerVoidsNothing(t *testing.T) {
	runtime.LockOSThread() // the hogs die with the thread that starts them
	t.Cleanup(runtime.UnlockOSThread)
	for range 8 {
		hog := exec.Command("sh", "-c", "while :; do :; done")
		hog.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = hog.Process.Kill()
			_ = hog.Wait()
		})
	}
	rows := runWatched(t, func(int) {})
	seen := map[int]bool{}
	for _, r := range rows {
		seen[r.Order] = true
		if r.Status == record.StatusVoid {
			t.Fatalf("trial %d is void: %s", r.Order, r.Reason)
		}
	}
	if len(seen) != 4 {
		t.Errorf("%d trials have rows, want 4", len(seen))
	}
}

// runWatched runs the experiment with the real driver, calls look over and over
// meanwhile, and returns the rows.
func runWatched(t *testing.T, look func(driver int)) []record.Row {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the local provider makes network namespaces: run this test as root")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "e.toml"), []byte(stoppedExperiment), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "driver"), "run", "e.toml", "--out", "run")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // an exit code is no matter here: the rows are
	for running := true; running; {
		select {
		case err := <-ended:
			running = false
			t.Logf("the run ended: %v", err)
		case <-time.After(5 * time.Millisecond):
			look(cmd.Process.Pid)
		}
	}
	f, err := os.Open(filepath.Join(dir, "run", "rows.csv"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	defer f.Close()
	rows, err := record.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// process is what /proc says of one.
type process struct {
	pid   int
	name  string
	state string // a letter
	ticks int    // of CPU time, 10 ms each
}

// readProcess reads /proc/PID/stat (proc(5)); the name may hold spaces.
func readProcess(path string) (p process, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return p, false
	}
	before, after, ok := strings.Cut(string(data), ") ")
	pid, name, ok2 := strings.Cut(before, " (")
	f := strings.Fields(after)
	if !ok || !ok2 || len(f) < 13 {
		return p, false
	}
	p.name, p.state = name, f[0]
	for i, text := range []string{pid, f[11], f[12]} {
		n, err := strconv.Atoi(text)
		if err != nil {
			return p, false
		}
		*[]*int{&p.pid, &p.ticks, &p.ticks}[i] += n
	}
	return p, true
}

// measuring are the clients below the driver that run and have used some CPU time.
func measuring(driver int) []int {
	var out []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", driver))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(data)) {
			p, ok := readProcess("/proc/" + child + "/stat")
			if !ok {
				continue
			}
			if p.ticks > 0 && (p.name == "netperf" || p.name == "iperf3" && isClient(p.pid)) {
				out = append(out, p.pid)
			}
			out = append(out, measuring(p.pid)...)
		}
	}
	return out
}

// isClient distinguishes iperf3's client from its server.
func isClient(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Contains(string(data), "\x00-c\x00")
}

// stopped waits until a process that was sent SIGSTOP stops. It says false of one that had ended: a
// zombie takes signals too, and on a busy computer it may stay for a while.
func stopped(pid int) bool {
	for {
		p, ok := readProcess(fmt.Sprintf("/proc/%d/stat", pid))
		if !ok || p.state == "Z" || p.state == "X" {
			return false
		}
		if p.state == "T" || p.state == "t" {
			return true
		}
		time.Sleep(time.Millisecond)
	}
}

// waitGone waits for the end of a process, which its tool's own limit bounds.
func waitGone(pid int) {
	for syscall.Kill(pid, 0) == nil {
		time.Sleep(time.Millisecond)
	}
}
