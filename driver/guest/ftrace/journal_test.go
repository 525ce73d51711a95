package ftrace

import (
	"bufio"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// abandon is what is left of a recording whose process is killed: its journal, without a lock.
func abandon(t *testing.T, r *CallRecording) {
	t.Helper()
	if err := r.journal.lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := r.journal.file.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPutBackAfterAKill: the next recording puts back what one changed that was killed, and leaves
// one alone that is at work.
func TestPutBackAfterAKill(t *testing.T) {
	tr := topLevelTree(t, topLevelFiles())
	before := held(t, tr)
	killed, err := recordCallsIn(tr, Calls{BufferKiB: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Add(71); err != nil {
		t.Fatal(err)
	}
	if err := tr.write("trace", "what was recorded"); err != nil {
		t.Fatal(err)
	}
	during := held(t, tr)
	if err := tr.putBack(); err != nil {
		t.Fatal(err)
	}
	if now := held(t, tr); !maps.Equal(now, during) {
		t.Errorf("while it records, tracefs was changed: %v, %v", now, during)
	}
	abandon(t, killed)
	next, err := recordCallsIn(tr, Calls{BufferKiB: 64})
	if err != nil {
		t.Fatalf("a recording after one that was killed: %v", err)
	}
	root := tr.root
	if _, err := next.End(); err != nil {
		t.Fatal(err)
	}
	expectHeld(t, &tree{root: root}, before)
	if left, err := os.ReadDir(tr.journals); err != nil || len(left) > 0 {
		t.Errorf("journals are left: %v, %v", left, err)
	}
}

// TestJournals: a change that was not noted to the end was not made; what is no journal is said to be
// none, and not tried twice.
func TestJournals(t *testing.T) {
	tr := fakeTree(t, map[string]string{"current_tracer": "function_graph", "tracing_on": "1"})
	path := filepath.Join(tr.journals, journalPrefix+"1")
	put := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(`["instances/gone/tracing_on","1"]` + "\n" + `["current_tracer","nop"]` + "\n" + `["tracing_on","`)
	if err := tr.putBack(); err != nil {
		t.Error(err)
	}
	if got := tr.contents("current_tracer", "tracing_on"); got["current_tracer"] != "nop" || got["tracing_on"] != "1" {
		t.Errorf("put back to %v", got)
	}
	for _, text := range []string{"nonsense\n", `["one"]` + "\n"} {
		put(text)
		if err := tr.putBack(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want that %s is no journal", text, err, path)
		}
		if err := tr.putBack(); err != nil {
			t.Errorf("%q again: %v", text, err)
		}
	}
	if left, err := os.ReadDir(tr.journals); err != nil || len(left) > 0 {
		t.Errorf("journals are left: %v, %v", left, err)
	}
}

// killedRecorder is in the environment of a process that begins a recording and waits.
const killedRecorder = "HOOKBED_TEST_RECORDS"

// TestRecover: a process that records is killed, and what it changed in this kernel's tracefs is put
// back.
func TestRecover(t *testing.T) {
	if os.Getenv(killedRecorder) != "" {
		r, err := RecordCalls(Calls{BufferKiB: 64})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("records\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		_, _ = r.End()
		return
	}
	before, ok := snapshot(t)
	if !ok {
		return
	}
	if r, able := recordCalls(t); !able {
		return
	} else if _, err := r.End(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestRecover$")
	cmd.Env = append(os.Environ(), killedRecorder+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "records\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	if !Pending() {
		t.Error("no journal is there while another process records")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if err := Recover(); err != nil {
		t.Error(err)
	}
	wantAsBefore(t, before)
	if Pending() {
		t.Error("a journal is left")
	}
	if err := Recover(); err != nil {
		t.Errorf("again: %v", err)
	}
}
