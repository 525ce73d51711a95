package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/tail"
)

// patience only ends a test that hangs: a machine that is busy with other things
// may take long for anything.
const patience = 2 * time.Minute

// heard is how long, in seconds, a probe waits that will be answered although it
// should not; the answer ends it.
const heard = 60

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// gone waits a while for a process to end.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if !alive(pid) {
			return
		}
	}
	t.Errorf("process %d still runs", pid)
}

func TestStartAndStop(t *testing.T) {
	r := newRig(t)
	r.pair()
	start := bundle.Start{Handle: "server", Argv: []string{self(t), "test-server", "5001"}, CPUs: []int{0}, Port: 5001}
	try := func(want string) bundle.Probes {
		return bundle.Probes{Link: "eth0", Timeout: heard, Tries: []bundle.Probe{{What: "server", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: want}}}
	}
	r.must("server", start)
	r.must("client", try(bundle.Allow))
	r.fails("server", bundle.FaultRig, start, "is taken")
	again := start
	again.Handle = "other"
	r.fails("server", bundle.FaultRig, again, "port 5001 is listened on already")
	r.must("server", bundle.Stop{Handle: "server"})
	// Nothing listens: the packet gets through and is reset.
	r.fails("client", bundle.FaultSubject, try(bundle.Deny), "server: 198.18.1.2 -> 198.18.1.3:5001 was let through and reset", "want deny")
	r.fails("server", bundle.FaultRig, bundle.Stop{Handle: "server"}, `no server "server"`)
	r.must("server", start) // ended by undo
}

// policyOf reads a process's scheduling policy.
func policyOf(t *testing.T, pid int) uint32 {
	t.Helper()
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return attr.Policy
}

// TestScheduling: a program runs under the policy that was asked for, and so do its
// children; others are left alone.
func TestScheduling(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Start{Handle: "rr", Argv: []string{"sh", "-c", "sleep 410070; true"}, Sched: bundle.SchedRR})
	r.must("server", bundle.Start{Handle: "usual", Argv: []string{"sh", "-c", "sleep 410071; true"}})
	for arg, want := range map[string]uint32{"410070": unix.SCHED_RR, "410071": unix.SCHED_NORMAL} {
		await(t, func() bool { return len(processes(t, "sleep", arg)) == 1 })
		if got := policyOf(t, processes(t, "sleep", arg)[0]); got != want {
			t.Errorf("child of the server runs under policy %d, want %d", got, want)
		}
	}
	policy := []string{"sh", "-c", "cut -d' ' -f41 /proc/self/stat"}
	for sched, want := range map[string]string{"": "0\n", bundle.SchedRR: "2\n", bundle.SchedBatch: "3\n"} {
		if r.must("client", bundle.Exec{Argv: policy, Timeout: 60, Out: "o.txt", Sched: sched}); r.raw["o.txt"] != want {
			t.Errorf("%q: the client ran under policy %q, want %q", sched, r.raw["o.txt"], want)
		}
	}
	r.fails("client", bundle.FaultRig, bundle.Exec{Argv: policy, Timeout: 60, Sched: "idle"}, `schedule as "idle": no such policy`)
}

func TestStartFailures(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	r.fails("server", bundle.FaultSubject, bundle.Start{Handle: "a", Argv: []string{"sh", "-c", "echo no luck >&2; exit 3"}, Port: 5001}, "ended before it listened on port 5001", "exit status 3", "no luck")
	r.fails("server", bundle.FaultRig, bundle.Start{Handle: "b", Argv: []string{"no-such-server"}, Port: 5001}, `no command "no-such-server"`)
	r.fails("server", bundle.FaultRig, bundle.Start{Handle: "c", Argv: []string{"sleep", "9"}, CPUs: []int{1000}}, "pin to CPU")
	r.fails("server", bundle.FaultRig, bundle.Start{Handle: "d"}, "empty argv")
}

// TestUndoEndsWholeFamilies: a server's children end with it, and so does one
// that ignores SIGTERM.
func TestUndoEndsWholeFamilies(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	file := filepath.Join(t.TempDir(), "pids")
	r.x.undo.mark()
	r.must("server", bundle.Start{Handle: "a", Argv: []string{"sh", "-c", "trap '' TERM; sleep 410060 & sleep 410060"}})
	r.must("server", bundle.Start{Handle: "b", Argv: []string{"sh", "-c", "sleep 410061 & exec sleep 410061"}})
	r.must("server", bundle.Exec{Argv: []string{"setsid", "sh", "-c", "sleep 410062 >" + file + " 2>&1 &"}, Timeout: 60})
	sleepers := func() []int {
		return append(append(processes(t, "sleep", "410060"), processes(t, "sleep", "410061")...), processes(t, "sleep", "410062")...)
	}
	await(t, func() bool { return len(sleepers()) == 5 })
	start := time.Now()
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > patience {
		t.Errorf("undo took %v", d)
	}
	await(t, func() bool { return len(sleepers()) == 1 }) // the daemon
	if err := r.x.undoTo(0); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(sleepers()) == 0 })
}

// processes lists the PIDs of processes with exactly these arguments.
func processes(t *testing.T, argv ...string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, dir := range dirs {
		data, _ := os.ReadFile(dir + "/cmdline")
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if string(data) == strings.Join(argv, "\x00")+"\x00" && alive(pid) {
			out = append(out, pid)
		}
	}
	return out
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v", patience)
		}
	}
}

func TestExec(t *testing.T) {
	r := newRig(t)
	r.pair()
	last := r.must("client", bundle.Exec{Argv: []string{"sh", "-c", "ip -4 -br addr show eth0; grep Cpus_allowed_list /proc/self/status; echo talk >&2"}, CPUs: []int{1}, Timeout: 60, Out: "o.txt"})
	if out := r.raw["o.txt"]; !strings.Contains(out, "198.18.1.2/24") || !strings.Contains(out, "Cpus_allowed_list:\t1\n") || strings.Contains(out, "talk") {
		t.Errorf("output is %q", out)
	}
	if last.Values["exit"] != 0 || last.Values["seconds"] <= 0 || last.Note != "" {
		t.Errorf("result is %+v", last)
	}
	if v := last.Values["switches_voluntary"]; v < 2 { // it waited for two children
		t.Errorf("the process slept %v times", v)
	}
	if env := r.env(); env != "HOME=/root\nLC_ALL=C\nPATH="+binDirs+"\nTERM=dumb\n" {
		t.Errorf("environment is %q", env)
	}
	r.fails("client", bundle.FaultRig, bundle.Exec{Argv: []string{"true"}}, "without a timeout")
	r.fails("client", bundle.FaultRig, bundle.Exec{Argv: []string{"netwarp"}, Timeout: 1}, `no command "netwarp"`)
}

func (r *rig) env() string {
	r.t.Helper()
	r.must("client", bundle.Exec{Argv: []string{"sh", "-c", "env -u PWD | sort"}, Timeout: 60, Out: "env"})
	return r.raw["env"]
}

func TestExecFailures(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "client"})
	reply := r.steps("client", bundle.Exec{Argv: []string{"sh", "-c", "echo half; echo broken pipe >&2; exit 7"}, Timeout: 60, Out: "o"})
	if reply.Fault != bundle.FaultSubject || !strings.Contains(reply.Error, "exit status 7: broken pipe") || reply.Raw["o"] != "half\n" || reply.Results[0].Values["exit"] != 7 {
		t.Errorf("reply is %+v", reply)
	}
	r.expires("client", "waiting", func(limit float64) bundle.Action {
		return bundle.Exec{Argv: []string{"sh", "-c", "echo waiting >&2; sleep 410063"}, Timeout: limit}
	})
	if left := processes(t, "sleep", "410063"); len(left) > 0 {
		t.Errorf("processes %v survive the timeout", left)
	}
	res := r.must("client", bundle.Exec{Argv: []string{"sh", "-c", "head -c 5000000 /dev/zero"}, Timeout: 60, Out: "big"})
	if len(r.raw["big"]) != rawLimit || !strings.Contains(res.Note, "cut") {
		t.Errorf("kept %d bytes with note %q, want %d and a note", len(r.raw["big"]), res.Note, rawLimit)
	}
}

// expires runs an action that says something and then takes too long, and gives it
// ever more time until it could say it.
func (r *rig) expires(in, said string, action func(limit float64) bundle.Action) {
	r.t.Helper()
	for limit := 0.1; ; limit *= 4 {
		reply := r.steps(in, action(limit))
		if want := fmt.Sprintf("not finished after %g s", limit); reply.Fault != bundle.FaultSubject || !strings.Contains(reply.Error, want) {
			r.t.Fatalf("%s fault %q, want the subject's and that it is %s", reply.Fault, reply.Error, want)
		}
		if strings.Contains(reply.Error, said) {
			return
		}
		if limit > heard {
			r.t.Fatalf("error %q does not contain %q", reply.Error, said)
		}
	}
}

// cancelOnce ends a context once n processes with exactly these arguments run.
func cancelOnce(t *testing.T, n int, argv ...string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	go func() {
		defer cancel()
		for ctx.Err() == nil && len(processes(t, argv...)) < n {
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return ctx
}

func TestExecInterrupted(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "client"})
	ctx := cancelOnce(t, 1, "sleep", "410064")
	reply := r.x.steps(ctx, bundle.Steps{Steps: []bundle.Step{{Node: "node1", In: "client", Do: bundle.Exec{Argv: []string{"sleep", "410064"}, Timeout: 600}}}})
	if reply.Fault != bundle.FaultRig || !strings.Contains(reply.Error, "interrupted") {
		t.Errorf("reply is %+v", reply)
	}
	if left := processes(t, "sleep", "410064"); len(left) > 0 {
		t.Errorf("processes %v survive", left)
	}
}

// miniRoot makes a root file system with a shell in it.
func miniRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	files := []string{"/bin/sh", "/bin/cat"}
	for _, f := range files {
		out, err := exec.Command("ldd", f).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, f), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "here"), []byte("inside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestEndpointRoot(t *testing.T) {
	r := newRig(t)
	r.x.root = miniRoot(t)
	r.must("", bundle.Netns{Name: "client"})
	r.must("client", bundle.Exec{Argv: []string{"cat", "/here"}, Timeout: 60, Out: "o"})
	if r.raw["o"] != "inside\n" {
		t.Errorf("the endpoint sees %q", r.raw["o"])
	}
	r.fails("client", bundle.FaultRig, bundle.Exec{Argv: []string{"iperf3"}, Timeout: 60}, `no command "iperf3"`)
	// On the node itself there is no other root.
	r.must("", bundle.Exec{Argv: []string{"ip", "link"}, Timeout: 60, Out: "o"})
}

// container stands for a container: a process with namespaces of its own.
func container(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "410065")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Chroot: ""}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func TestBind(t *testing.T) {
	r := newRig(t)
	c := container(t)
	if err := r.x.bind(bundle.Bind{Endpoint: "server", PID: c.Process.Pid}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { delete(r.x.endpoints, "server") })
	r.must("", bundle.Veth{Link: "s0", Peer: "eth0", PeerIn: "server"})
	r.must("server", bundle.Addr{Link: "eth0", CIDR: "198.18.1.3/24"}, bundle.Exec{Argv: []string{"ip", "-4", "-br", "addr", "show", "eth0"}, Timeout: 60, Out: "o"})
	if !strings.Contains(r.raw["o"], "198.18.1.3/24") {
		t.Errorf("the container has %q", r.raw["o"])
	}
	if root := r.x.endpoints["server"].root; root != fmt.Sprintf("/proc/%d/root", c.Process.Pid) {
		t.Errorf("the container's root is %s", root)
	}
	r.must("", bundle.SetLink{Link: "peer:server/eth0", MTU: 1300})
	if err := r.x.undoTo(0); err != nil {
		t.Fatal(err)
	}
	if err := r.x.bind(bundle.Bind{Endpoint: "server"}); err != nil {
		t.Fatal(err)
	}
	r.fails("server", bundle.FaultRig, bundle.Addr{Link: "eth0", CIDR: "198.18.1.3/24"}, "no endpoint")
	if err := r.x.bind(bundle.Bind{Endpoint: "server", PID: 1 << 22}); err == nil {
		t.Error("binding to a process that is not there is no error")
	}
}

// TestUndoAfterContainerIsGone: what was in a container's namespace went away
// with it.
func TestUndoAfterContainerIsGone(t *testing.T) {
	r := newRig(t)
	c := container(t)
	if err := r.x.bind(bundle.Bind{Endpoint: "server", PID: c.Process.Pid}); err != nil {
		t.Fatal(err)
	}
	r.must("", bundle.Veth{Link: "s0", Peer: "eth0", PeerIn: "server"})
	r.must("server", bundle.Addr{Link: "eth0", CIDR: "198.18.1.3/24"}, bundle.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"})
	c.Process.Kill()
	c.Wait()
	if err := r.x.bind(bundle.Bind{Endpoint: "server"}); err != nil {
		t.Fatal(err)
	}
}

// TestCgroup runs in a mount namespace of its own, where it mounts a cgroup
// tree for the helper to find.
func TestCgroup(t *testing.T) {
	const inside = "HOOKBED_TEST_CGROUP"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(self(t), "-test.run=^TestCgroup$")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	group := filepath.Join(dir, fmt.Sprintf("hookbed-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t)
	ns, err := newNamespace(r.x.node.namespace, "client")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.file.Close()
	defer delete(r.x.endpoints, "client")
	r.x.endpoints["client"] = &endpoint{namespace: ns, cgroup: group}
	res := r.must("client", bundle.Exec{Argv: []string{"cat", "/proc/self/cgroup"}, Timeout: 60, Out: "o"})
	if !strings.Contains(r.raw["o"], "0::/") || !strings.Contains(r.raw["o"], filepath.Base(group)) || res.Note != "" {
		t.Errorf("the process is in %q (note %q), want %s", r.raw["o"], res.Note, group)
	}
	r.x.endpoints["client"].cgroup = group + "/none"
	if res := r.must("client", bundle.Exec{Argv: []string{"true"}, Timeout: 60}); !strings.Contains(res.Note, "outside the endpoint's cgroup") {
		t.Errorf("note is %q, want that the cgroup could not be entered", res.Note)
	}
}

// TestNurseryMountsNothing: the tests stand in for a machine's first process
// and for a nursery's, and must not take one for the other. It runs in a mount
// namespace of its own, because the mistake would hide this computer's /proc.
func TestNurseryMountsNothing(t *testing.T) {
	const inside = "HOOKBED_TEST_NURSERY"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(self(t), "-test.run=^TestNurseryMountsNothing$")
		cmd.Env = append(os.Environ(), inside+"=1", machineTest+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	mounts, err := os.Open("/proc/self/mountinfo") // works whatever is mounted over it
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	read := func() string {
		data, err := io.ReadAll(io.NewSectionReader(mounts, 0, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := read()
	r := newRig(t)
	r.must("", bundle.Netns{Name: "client"}, bundle.Netns{Name: "other"})
	r.must("client", bundle.Exec{Argv: []string{"true"}, Timeout: 60})
	if !r.x.nursery.works() {
		t.Fatalf("no nursery: %s", r.x.nursery.why)
	}
	if after := read(); after != before {
		t.Errorf("a nursery left mounts\n%s\nthey were\n%s", after, before)
	}
}

func TestHasListener(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:138A 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 2
`
	for port, want := range map[int]bool{5001: true, 5002: false, 80: false} {
		if got := hasListener(table, port); got != want {
			t.Errorf("hasListener(%d) = %t, want %t", port, got, want)
		}
	}
}

func TestTailAndHead(t *testing.T) {
	tl, h := tail.NewBuffer(4), &head{limit: 4}
	for _, s := range []string{"ab", "cde", "f"} {
		fmt.Fprint(tl, s)
		fmt.Fprint(h, s)
	}
	if tl.String() != "cdef" || string(h.data) != "abcd" || !h.cut {
		t.Errorf("tail %q, head %q, cut %t", tl, h.data, h.cut)
	}
}

// TestStopsAreTold: a program that is stopped and goes on is told of, however busy
// the machine; one that only sleeps is not.
func TestStopsAreTold(t *testing.T) {
	r := newRig(t)
	r.pair()
	got := r.must("client", bundle.Exec{Argv: []string{"sh", "-c", "(sleep 0.3; kill -CONT $$) & kill -STOP $$; wait"}, Timeout: 60}).Values
	if got["stops"] != 1 || got["stopped_seconds"] <= 0 || got["stopped_seconds"] > got["seconds"] {
		t.Errorf("values are %v, want one stop", got)
	}
	got = r.must("client", bundle.Exec{Argv: []string{"sh", "-c", "sleep 0.3; :"}, Timeout: 60}).Values
	if _, told := got["stops"]; told || got["cpu_seconds"] <= 0 {
		t.Errorf("values are %v, want no stop and some CPU time", got)
	}
	r.x.quiet = true
	got = r.must("client", bundle.Exec{Argv: []string{"sh", "-c", "exit 0"}, Timeout: 60}).Values
	if _, told := got["cpu_seconds"]; told {
		t.Errorf("a sealed guest tells %v", got)
	}
}
