//go:build vm

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// cutMachine has the interactive lab's only node as an existing machine.
const cutMachine = `schema = 1
name = "cut"
seed = 3
[lab]
provider = "ssh"
[[lab.machine]]
name = "node1"
host = "%s"
key = "%s"
known_hosts = "%s"
data = "data0"
` + ftraceCell

// lookAtTracer prints what a recording may change of a machine's tracefs, and the programs that it has
// there.
const lookAtTracer = `; cd /sys/kernel/tracing && ls instances && ls /run | grep hookbed-tracefs
for f in current_tracer tracing_on buffer_size_kb trace_clock trace_options set_event set_ftrace_pid set_ftrace_filter set_ftrace_notrace set_graph_function set_graph_notrace max_graph_depth tracing_thresh options/*; do echo "$f: $(cat $f)"; done
for p in /proc/[0-9]*; do case $(readlink $p/exe) in */netperf|*/netserver) echo $p runs; esac; done`

// isRecorded succeeds on a machine whose tracer records calls for a driver.
const isRecorded = `ls /run/hookbed-tracefs-* && grep -q function_graph /sys/kernel/tracing/instances/hookbed-calls-*/current_tracer`

// TestTraceCut: the link to an existing machine is cut while the order of calls is recorded there. The
// driver gives the machine up. The machine puts its tracer back, and ends what ran for the driver,
// before the link is back.
func TestTraceCut(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	before := machineState(t)
	r.write("ftrace.toml", ftraceExperiment)
	r.run("up", "ftrace.toml")
	t.Cleanup(func() { // where the test ended early
		cmd, _ := r.command("down", "--all")
		_ = cmd.Run()
	})
	s := r.upState(1)
	r.write("cut.toml", fmt.Sprintf(cutMachine, s.Nodes[0].Addr, s.Key, s.Known))
	look := func() string {
		cmd, out := r.command("ssh", "node1", "--", "sh", "-c", lookAtVM+lookAtTracer)
		_ = cmd.Run() // a process may end while it is looked at
		return out.String()
	}
	eventually(t, "the interactive lab's own helper has ended", func() error {
		if text := look(); strings.Contains(text, "\nguest\n") || !strings.Contains(text, "current_tracer: nop\n") {
			return fmt.Errorf("there is %s", text)
		}
		return nil
	})
	was := look()
	far := r.farFrom(s.NetNS)
	// More transactions than a recorded client makes before the link is cut, and found to be.
	started := far.start("trace", "cut.toml", "--ftrace", "--window", "50000", "--out", "run")
	recorded := func() error {
		cmd, out := r.command("ssh", "node1", "--", "sh", "-c", isRecorded)
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("the tracer does not record: %w: %s", err, out)
		}
		return nil
	}
	started.until(t, recorded)
	far.cut()
	if err := recorded(); err != nil {
		t.Fatalf("the recording was over before the link was cut: %v", err)
	}
	select {
	case <-started.ended:
	case <-time.After(longest):
		started.kill()
		t.Fatalf("the driver does not give the machine up:\n%s", started.out)
	}
	t.Logf("the driver said:\n%s", started.out)
	if code := started.cmd.ProcessState.ExitCode(); code != exitRig || !strings.Contains(started.out.String(), "node1") {
		t.Errorf("the driver ended with %d, want %d and a word of node1", code, exitRig)
	}
	eventually(t, "node1 is as it was, with the link still cut", func() error {
		if got := look(); got != was {
			return fmt.Errorf("difference:\n%s", difference(was, got))
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(r.dir, "run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a run directory without a recording is left: %v", err)
	}
	r.run("down", "up")
	r.expectSame(before)
}

// farPlace is a network namespace behind a link of its own to a lab's management network.
type farPlace struct {
	r         *vmRig
	home, own netns.NsHandle
}

// farFrom makes such a place. A link that is cut there separates a driver from the machines, and not
// the test.
func (r *vmRig) farFrom(lab string) *farPlace {
	r.t.Helper()
	home, err := netns.GetFromPath(lab)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { home.Close() })
	f := &farPlace{r: r, home: home, own: newNetns(r.t)}
	joinNetns(r.t, home, "far", f.own, "eth0")
	f.ip(home, "link set far master hbm-up up")
	f.ip(f.own, "address add 198.18.0.99/24 dev eth0")
	f.ip(f.own, "link set eth0 up")
	return f
}

func (f *farPlace) cut() { f.r.t.Helper(); f.ip(f.home, "link set far down") }

// in is a program's command line in a namespace.
func (f *farPlace) in(ns netns.NsHandle, argv ...string) []string {
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(ns)), "--"}, argv...)
}

func (f *farPlace) ip(ns netns.NsHandle, args string) {
	f.r.t.Helper()
	argv := f.in(ns, append([]string{"ip"}, strings.Fields(args)...)...)
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		f.r.t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// start starts a driver in the place.
func (f *farPlace) start(args ...string) *drivenRun {
	f.r.t.Helper()
	cmd, out := f.r.command(args...)
	cmd.Args = f.in(f.own, append([]string{cmd.Path}, args...)...)
	cmd.Path = "/usr/bin/nsenter"
	return startDriver(f.r.t, cmd, out)
}
