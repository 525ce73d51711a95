package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
	"hookbed/driver/guest/step"
)

// helper is a helper process with a session.
type helper struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	blobs  string
	stderr bytes.Buffer
	ended  chan error
}

// startHelper runs `guest serve --node-netns` in a process group of its own.
func startHelper(t *testing.T, args ...string) *helper {
	t.Helper()
	h := &helper{t: t, cmd: exec.Command(guesttest.Self(t), append([]string{"serve", "--node-netns"}, args...)...), blobs: t.TempDir(), ended: make(chan error, 1)}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	h.cmd.Stderr = &h.stderr
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	// A pipe of our own: Wait would close StdoutPipe's before it is read.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	h.cmd.Stdout, h.out = w, bufio.NewReader(r)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() { h.ended <- h.cmd.Wait() }()
	t.Cleanup(func() {
		h.in.Close()
		h.cmd.Process.Kill()
		r.Close()
	})
	return h
}

func (h *helper) send(line string) {
	h.t.Helper()
	if _, err := io.WriteString(h.in, line+"\n"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *helper) receive() bundle.Reply {
	h.t.Helper()
	line, err := h.out.ReadBytes('\n')
	if err != nil {
		h.t.Fatalf("read reply: %v\n%s", err, h.stderr.String())
	}
	var reply bundle.Reply
	if err := json.Unmarshal(line, &reply); err != nil {
		h.t.Fatalf("reply %q: %v", line, err)
	}
	return reply
}

func (h *helper) call(req bundle.Request) bundle.Reply {
	h.t.Helper()
	data, err := json.Marshal(req)
	if err != nil {
		h.t.Fatal(err)
	}
	h.send(string(data))
	return h.receive()
}

// must makes a call that must succeed.
func (h *helper) must(req bundle.Request) bundle.Reply {
	h.t.Helper()
	reply := h.call(req)
	if reply.Error != "" {
		h.t.Fatalf("%s fault: %s", reply.Fault, reply.Error)
	}
	return reply
}

func (h *helper) hello(root string) bundle.Reply {
	h.t.Helper()
	return h.must(bundle.Request{Hello: &bundle.Hello{Schema: bundle.Schema, Node: "node1", Blobs: h.blobs, EndpointRoot: root}})
}

func chunk(in string, actions ...bundle.Action) bundle.Request {
	s := &bundle.Steps{Name: "test"}
	for _, a := range actions {
		s.Steps = append(s.Steps, bundle.Step{Node: "node1", Phase: bundle.Apply, In: in, Do: a})
	}
	return bundle.Request{Exec: s}
}

// wait checks that the helper ends in time with a status.
func (h *helper) wait(status int) {
	h.t.Helper()
	select {
	case <-h.ended: //nolint:errcheck // the status says it
		if got := h.cmd.ProcessState.ExitCode(); got != status {
			h.t.Errorf("exit status %d, want %d\n%s", got, status, h.stderr.String())
		}
	case <-time.After(guesttest.Patience):
		h.t.Fatalf("the helper still runs after %v\n%s", guesttest.Patience, h.stderr.String())
	}
}

// netnsOf identifies the network namespace of a process. The test holds it, so that its
// number is not given to the next one.
func netnsOf(t *testing.T, pid int) string {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// users lists the processes in a network namespace.
func users(ns string) []string {
	var out []string
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, l := range links {
		if s, err := os.Readlink(l); err == nil && s == ns {
			out = append(out, l)
		}
	}
	return out
}

func TestSession(t *testing.T) {
	h := startHelper(t, "--die-with-parent")
	if reply := h.call(bundle.Request{Mark: true}); !strings.Contains(reply.Error, "must begin with hello") {
		t.Errorf("a mark before hello says %+v", reply)
	}
	if reply := h.call(bundle.Request{Hello: &bundle.Hello{Schema: bundle.Schema + 1}}); reply.Fault != bundle.FaultUnsupported || !strings.Contains(reply.Error, "version 2") {
		t.Errorf("a foreign schema says %+v", reply)
	}
	root := guesttest.MiniRoot(t)
	if reply := h.hello(root); reply.PID != h.cmd.Process.Pid {
		t.Errorf("the helper says PID %d, it is %d", reply.PID, h.cmd.Process.Pid)
	}
	if ours := netnsOf(t, os.Getpid()); netnsOf(t, h.cmd.Process.Pid) == ours {
		t.Fatal("the helper is in the namespace of the test")
	}
	for line, want := range map[string]string{
		`{"mark":true,"facts":true}`:         "2 calls in one request",
		`{}`:                                 "0 calls in one request",
		`{"jump":1}`:                         "unknown field",
		`nonsense`:                           "decode request",
		`{"undo_to":9}`:                      "there are 0 marks",
		`{"hello":{"schema":1}}`:             "open already",
		`{"bind":{"endpoint":"x","pid":-7}}`: "bind",
		`{"exec":{"name":"x","steps":[{"node":"node1","phase":"run","kind":"teleport","args":{}}]}}`:                    `unknown step kind "teleport"`,
		`{"exec":{"name":"x","steps":[{"node":"node1","phase":"run","kind":"bridge","args":{"link":"b","colour":1}}]}}`: `unknown field "colour"`,
	} {
		h.send(line)
		if reply := h.receive(); reply.Fault != bundle.FaultRig || !strings.Contains(reply.Error, want) {
			t.Errorf("%s: reply %+v, want %q", line, reply, want)
		}
	}
	if f := h.must(bundle.Request{Facts: true}).Facts; f["kernel.release"] == "" || f["bpf_jit_enable"] == "" {
		t.Errorf("facts are %v", f)
	}
	if mark := h.must(bundle.Request{Mark: true}).Mark; mark != 1 {
		t.Errorf("mark is %d, want 1", mark)
	}
	reply := h.must(chunk("", bundle.Netns{Name: "client"}, bundle.Exec{Argv: []string{"sh", "-c", "echo a >/tmp/a; head -c 1 /dev/zero | wc -c; ls /proc/self >/dev/null && echo ok"}, Timeout: 60, Out: "o"}))
	if len(reply.Results) != 2 {
		t.Errorf("results are %+v", reply.Results)
	}
	reply = h.must(chunk("client", bundle.Exec{Argv: []string{"sh", "-c", "echo a >/tmp/a; cat /here; cat /proc/loadavg >/dev/null && cat </dev/null && echo mounted"}, Timeout: 60, Out: "o"}))
	if reply.Raw["o"] != "inside\nmounted\n" {
		t.Errorf("the endpoint root shows %q", reply.Raw["o"])
	}
	if _, err := os.Stat(filepath.Join(root, "tmp", "a")); err == nil {
		t.Error("the endpoint's /tmp is not a mount of its own")
	}
	reply = h.call(chunk("", bundle.Bridge{Link: "br0"}, bundle.Bridge{Link: "br0"}, bundle.Bridge{Link: "br1"}))
	if reply.Step != 2 || reply.Fault != bundle.FaultRig || len(reply.Results) != 2 {
		t.Errorf("a chunk with a bad second step says %+v", reply)
	}
	zero := 0
	h.must(bundle.Request{UndoTo: &zero})
	h.must(chunk("", bundle.Bridge{Link: "br0"}))
	ns := netnsOf(t, h.cmd.Process.Pid)
	h.in.Close()
	h.wait(0)
	if left := users(ns); len(left) > 0 {
		t.Errorf("%v are left in the helper's namespace", left)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), root) {
		t.Errorf("mounts under %s are left (%v)", root, err)
	}
}

// TestEnds: whatever ends a session, while a workload runs, everything is
// undone and nothing stays.
func TestEnds(t *testing.T) {
	for name, end := range map[string]func(*helper){
		"end of input": func(h *helper) { h.in.Close() },
		"SIGTERM":      func(h *helper) { h.cmd.Process.Signal(unix.SIGTERM) },
		"SIGINT":       func(h *helper) { h.cmd.Process.Signal(unix.SIGINT) },
		"SIGHUP":       func(h *helper) { h.cmd.Process.Signal(unix.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) { testEnd(t, end, 0) })
	}
}

// TestKilled: what the helper cannot undo itself, the kernel does.
func TestKilled(t *testing.T) {
	testEnd(t, func(h *helper) { h.cmd.Process.Kill() }, -1)
}

func testEnd(t *testing.T, end func(*helper), status int) {
	h := startHelper(t)
	h.hello("")
	h.must(chunk("", bundle.Netns{Name: "server"}, bundle.Bridge{Link: "br0"}))
	h.must(chunk("server",
		bundle.Start{Handle: "s", Argv: []string{guesttest.Self(t), "test-server", "5001"}, Port: 5001},
		bundle.Start{Handle: "d", Argv: []string{"sh", "-c", "setsid sleep 410066 & exec sleep 410067"}}))
	data, err := json.Marshal(chunk("server", bundle.Exec{Argv: []string{"sh", "-c", "sleep 410068 & wait"}, Timeout: 60}))
	if err != nil {
		t.Fatal(err)
	}
	h.send(string(data))
	sleepers := func() int {
		return len(guesttest.Processes(t, "sleep", "410066")) + len(guesttest.Processes(t, "sleep", "410067")) + len(guesttest.Processes(t, "sleep", "410068"))
	}
	guesttest.Await(t, func() bool { return sleepers() == 3 })
	ns := netnsOf(t, h.cmd.Process.Pid)
	inner := netnsOf(t, guesttest.Processes(t, "sleep", "410067")[0])
	end(h)
	h.wait(status)
	guesttest.Await(t, func() bool { return sleepers() == 0 && len(users(ns)) == 0 && len(users(inner)) == 0 })
}

// TestUndoBeforeExit shows that the end of the input undoes what is outside
// the helper's own namespaces: here a container's.
func TestUndoBeforeExit(t *testing.T) {
	c := guesttest.StartContainer(t)
	h := startHelper(t)
	h.hello("")
	h.must(bundle.Request{Bind: &bundle.Bind{Endpoint: "server", PID: c.Process.Pid}})
	h.must(chunk("server", bundle.Bridge{Link: "br9"}, bundle.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}))
	look := func() string {
		out, err := exec.Command("nsenter", "-t", fmt.Sprint(c.Process.Pid), "-n", "sh", "-c", "ip -br link; cat /proc/sys/net/ipv4/ip_forward").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got := look(); !strings.Contains(got, "br9") || !strings.HasSuffix(got, "\n1\n") {
		t.Fatalf("the container has %s", got)
	}
	h.in.Close()
	h.wait(0)
	if got := look(); strings.Contains(got, "br9") || !strings.HasSuffix(got, "\n0\n") {
		t.Errorf("the container is left with %s", got)
	}
}

// TestParentDies: with --die-with-parent the helper follows its parent even
// when somebody else holds its input open.
func TestParentDies(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	parent := exec.Command("sh", "-c", guesttest.Self(t)+" serve --node-netns --die-with-parent <&3 & echo $!; sleep 410069")
	parent.ExtraFiles = []*os.File{r}
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, `{"hello":{"schema":%d,"node":"n","blobs":""}}`+"\n", bundle.Schema)
	if _, err := out.ReadString('}'); err != nil { // it serves
		t.Fatal(err)
	}
	parent.Process.Kill()
	for _, p := range guesttest.Processes(t, "sleep", "410069") {
		unix.Kill(p, unix.SIGKILL)
	}
	guesttest.Gone(t, pid)
	parent.Wait()
}

func TestRunBundle(t *testing.T) {
	dir := t.TempDir()
	b := bundle.Bundle{Schema: bundle.Schema, Name: "hand", Files: map[string]bundle.File{"rules": bundle.NewFile([]byte(guesttest.RuleFile))}}
	add := func(phase bundle.Phase, in string, a bundle.Action) {
		b.Steps = append(b.Steps, bundle.Step{Node: "node1", Phase: phase, In: in, Do: a})
	}
	add(bundle.Run, "server", bundle.Exec{Argv: []string{"iptables-legacy", "-S"}, Timeout: 60, Out: "rules.txt"})
	add(bundle.Apply, "", bundle.Netns{Name: "server"})
	add(bundle.Apply, "server", bundle.Rules{Tool: "iptables-legacy", File: "rules"})
	for _, f := range b.Files {
		if err := os.WriteFile(filepath.Join(dir, f.SHA256), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, status := runBundleProcess(t, dir, b, "--blobs", dir)
	// Files under their names, as the driver renders them, do too.
	if err := os.WriteFile(filepath.Join(dir, "rules"), b.Files["rules"].Data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, b.Files["rules"].SHA256)); err != nil {
		t.Fatal(err)
	}
	if _, status := runBundleProcess(t, dir, b); status != 0 {
		t.Errorf("with files by name the status is %d", status)
	}
	var report step.BundleReport
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status != 0 || report.Name != "hand" || len(report.Results) != 3 || !strings.Contains(report.Raw["rules.txt"], "198.19.0.7") {
		t.Errorf("status %d, report %s", status, out)
	}
	add(bundle.Collect, "server", bundle.Exec{Argv: []string{"false"}, Timeout: 60})
	if out, status := runBundleProcess(t, dir, b); status != 1 || !strings.Contains(string(out), `"fault": "subject"`) {
		t.Errorf("a failing bundle ends with status %d: %s", status, out)
	}
	b.Steps[0].Node = "node2"
	if out, status := runBundleProcess(t, dir, b); status != 1 || len(out) > 0 {
		t.Errorf("a bundle of two nodes ends with status %d: %s", status, out)
	}
}

func runBundleProcess(t *testing.T, dir string, b bundle.Bundle, args ...string) (out []byte, status int) {
	t.Helper()
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bundle.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(guesttest.Self(t), append([]string{"exec", path, "--node-netns"}, args...)...)
	out, _ = cmd.Output()
	return out, cmd.ProcessState.ExitCode()
}
