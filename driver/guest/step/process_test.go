package step

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
	"hookbed/driver/guest/guesttest"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

// heard is how long, in seconds, a probe waits that will be answered although it
// should not; the answer ends it.
const heard = 60

func TestStartAndStop(t *testing.T) {
	r := newRig(t)
	r.pair()
	start := bundle.Start{Handle: "server", Argv: []string{guesttest.Self(t), "test-server", "5001"}, CPUs: []int{0}, Port: 5001}
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
		guesttest.Await(t, func() bool { return len(guesttest.Processes(t, "sleep", arg)) == 1 })
		if got := policyOf(t, guesttest.Processes(t, "sleep", arg)[0]); got != want {
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
		return append(append(guesttest.Processes(t, "sleep", "410060"), guesttest.Processes(t, "sleep", "410061")...), guesttest.Processes(t, "sleep", "410062")...)
	}
	guesttest.Await(t, func() bool { return len(sleepers()) == 5 })
	start := time.Now()
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > guesttest.Patience {
		t.Errorf("undo took %v", d)
	}
	guesttest.Await(t, func() bool { return len(sleepers()) == 1 }) // the daemon
	if err := r.x.undoTo(0); err != nil {
		t.Fatal(err)
	}
	guesttest.Await(t, func() bool { return len(sleepers()) == 0 })
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
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
	if env := r.env(); env != "HOME=/root\nLC_ALL=C\nPATH="+proc.BinDirs+"\nTERM=dumb\n" {
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

// TestMarksAreAroundWorkloads: of sealed guests, around what a trial measures and nothing else.
func TestMarksAreAroundWorkloads(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "client"})
	var marks []string
	r.x.begin = func(setup, trial int) { marks = append(marks, fmt.Sprintf("begin %d %d", setup, trial)) }
	r.x.end = func(setup, trial int) { marks = append(marks, fmt.Sprintf("end %d %d", setup, trial)) }
	program := func(out, argv string) bundle.Exec {
		return bundle.Exec{Argv: strings.Fields(argv), Timeout: 60, Out: out}
	}
	run := func(phase bundle.Phase, do bundle.Action) {
		t.Helper()
		marks = nil
		r.x.steps(t.Context(), bundle.Steps{Name: "test", Steps: []bundle.Step{{In: "client", Phase: phase, Do: do}}})
	}
	both := bundle.Parallel{Steps: []bundle.Step{{In: "client", Do: program("a", "true")}, {In: "client", Do: program("b", "true")}}}
	run(bundle.Run, program("out", "true"))
	if len(marks) != 0 {
		t.Errorf("outside a sealed guest: marks %q", marks)
	}
	r.x.trial = &bundle.SealedAt{Setup: 3, Trial: 1}
	for what, do := range map[string]bundle.Action{"a program": program("out", "true"), "one that fails": program("out", "false"), "several": both} {
		run(bundle.Run, do)
		if got := strings.Join(marks, ", "); got != "begin 3 1, end 3 1" {
			t.Errorf("%s: marks %q", what, got)
		}
	}
	for what, do := range map[string]bundle.Action{"a warm-up": program("", "true"), "a snapshot": bundle.Snapshot{Out: "a"}, "nothing": bundle.Parallel{}} {
		if run(bundle.Run, do); len(marks) != 0 {
			t.Errorf("%s: marks %q", what, marks)
		}
	}
	if run(bundle.Prove, program("out", "true")); len(marks) != 0 {
		t.Errorf("in another phase: marks %q", marks)
	}
	refusals := bundle.Refusals{Try: bundle.Probe{From: client4, To: server4, Port: 5001, Want: bundle.Deny}, Times: 1}
	if run(bundle.Collect, refusals); len(marks) != 0 {
		t.Errorf("refusals without marks: marks %q", marks)
	}
	refusals.Marked = true
	if run(bundle.Collect, refusals); strings.Join(marks, ", ") != "begin 3 1, end 3 1" {
		t.Errorf("refusals: marks %q", marks)
	}
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
	if left := guesttest.Processes(t, "sleep", "410063"); len(left) > 0 {
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
	ctx, cancel := context.WithTimeout(t.Context(), guesttest.Patience)
	go func() {
		defer cancel()
		for ctx.Err() == nil && len(guesttest.Processes(t, argv...)) < n {
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
	if left := guesttest.Processes(t, "sleep", "410064"); len(left) > 0 {
		t.Errorf("processes %v survive", left)
	}
}

func TestEndpointRoot(t *testing.T) {
	r := newRig(t)
	r.x.root = guesttest.MiniRoot(t)
	r.must("", bundle.Netns{Name: "client"})
	r.must("client", bundle.Exec{Argv: []string{"cat", "/here"}, Timeout: 60, Out: "o"})
	if r.raw["o"] != "inside\n" {
		t.Errorf("the endpoint sees %q", r.raw["o"])
	}
	r.fails("client", bundle.FaultRig, bundle.Exec{Argv: []string{"iperf3"}, Timeout: 60}, `no command "iperf3"`)
	// On the node itself there is no other root.
	r.must("", bundle.Exec{Argv: []string{"ip", "link"}, Timeout: 60, Out: "o"})
}

func TestBind(t *testing.T) {
	r := newRig(t)
	c := guesttest.StartContainer(t)
	if err := r.x.bind(bundle.Bind{Endpoint: "server", PID: c.Process.Pid}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { delete(r.x.endpoints, "server") })
	r.must("", bundle.Veth{Link: "s0", Peer: "eth0", PeerIn: "server"})
	r.must("server", bundle.Addr{Link: "eth0", CIDR: "198.18.1.3/24"}, bundle.Exec{Argv: []string{"ip", "-4", "-br", "addr", "show", "eth0"}, Timeout: 60, Out: "o"})
	if !strings.Contains(r.raw["o"], "198.18.1.3/24") {
		t.Errorf("the container has %q", r.raw["o"])
	}
	if root := r.x.endpoints["server"].Root; root != fmt.Sprintf("/proc/%d/root", c.Process.Pid) {
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
	c := guesttest.StartContainer(t)
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
		cmd := exec.Command(guesttest.Self(t), "-test.run=^TestCgroup$")
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
	ns, err := netns.New(r.x.node.Namespace, "client")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	defer delete(r.x.endpoints, "client")
	r.x.endpoints["client"] = &proc.Endpoint{Namespace: ns, Cgroup: group}
	res := r.must("client", bundle.Exec{Argv: []string{"cat", "/proc/self/cgroup"}, Timeout: 60, Out: "o"})
	if !strings.Contains(r.raw["o"], "0::/") || !strings.Contains(r.raw["o"], filepath.Base(group)) || res.Note != "" {
		t.Errorf("the process is in %q (note %q), want %s", r.raw["o"], res.Note, group)
	}
	r.x.endpoints["client"].Cgroup = group + "/none"
	if res := r.must("client", bundle.Exec{Argv: []string{"true"}, Timeout: 60}); !strings.Contains(res.Note, "outside the endpoint's cgroup") {
		t.Errorf("note is %q, want that the cgroup could not be entered", res.Note)
	}
}

// TestPIDNamespaceMountsNothing: the tests stand in for a machine's first process
// and for a PID namespace's, and must not take one for the other. It runs in a mount
// namespace of its own, because the mistake would hide this computer's /proc.
func TestPIDNamespaceMountsNothing(t *testing.T) {
	const inside = "HOOKBED_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(guesttest.Self(t), "-test.run=^TestPIDNamespaceMountsNothing$")
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
	if note := r.must("client", bundle.Exec{Argv: []string{"true"}, Timeout: 60}).Note; note != "" {
		t.Fatalf("it did not run in a PID namespace: %s", note)
	}
	if after := read(); after != before {
		t.Errorf("a PID namespace left mounts\n%s\nthey were\n%s", after, before)
	}
}

// TestStopsAreTold: a program that is stopped and goes on is told of, however busy
// the machine; one that only sleeps is not.
func TestStopsAreTold(t *testing.T) {
	r := newRig(t)
	r.pair()
	// /proc may be of other process numbers than $$.
	const stop = `(read -r self name state parent rest </proc/self/stat
until grep -q '^State:.T' /proc/$parent/status; do sleep 0.02; done
sleep 0.3; kill -CONT $$) & kill -STOP $$; wait`
	got := r.must("client", bundle.Exec{Argv: []string{"sh", "-c", stop}, Timeout: 600}).Values
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
