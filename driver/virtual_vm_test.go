//go:build vm

package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/lab"
)

const virtualExperiment = `schema = 1
name = "exact"
seed = 11
[lab]
clock = "virtual"
[measure]
seeds = 2
count = { TCP_RR = 1200 }
[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_RR", "TCP_STREAM"]
policies = [50]
[[arm]]
name = "iptables"
datapath = "iptables"
[[arm]]
name = "xdp"
datapath = "xdp"
`

// withoutRun are the rows of a run without the column that names it.
func (r *vmRig) withoutRun(run string) string {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, run, "rows.csv"))
	if err != nil {
		r.t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		r.t.Fatal(err)
	}
	at := slices.Index(rows[0], "run")
	var out strings.Builder
	for _, row := range rows {
		fmt.Fprintln(&out, strings.Join(slices.Delete(row, at, at+1), ","))
	}
	return out.String()
}

func (r *vmRig) expectSameRows(a, b string) {
	r.t.Helper()
	x, y := strings.Split(r.withoutRun(a), "\n"), strings.Split(r.withoutRun(b), "\n")
	if len(x) != len(y) {
		r.t.Errorf("%s has %d rows, %s has %d", a, len(x), b, len(y))
	}
	differ := 0
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			if differ++; differ <= 5 {
				r.t.Errorf("%s and %s differ:\n%s\n%s", a, b, x[i], y[i])
			}
		}
	}
	if differ > 5 {
		r.t.Errorf("%s and %s differ in %d rows", a, b, differ)
	}
	if differ > 0 {
		r.t.Error(keepBlocks(r.t, r.dir, a, b))
	}
}

// burst is a load that comes and goes: it disturbs a clock more than one that stays.
const burst = "while :; do i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done; sleep 1; done"

// hog loads CPUs and disk until the test or the returned function ends it.
func (r *vmRig) hog() (stop func()) {
	r.t.Helper()
	runtime.LockOSThread() // the hogs die with the thread that starts them
	r.t.Cleanup(runtime.UnlockOSThread)
	var hogs []*exec.Cmd
	disk := filepath.Join(r.dir, "hog")
	for _, script := range []string{
		burst, burst, burst, burst,
		"while :; do dd if=/dev/zero of=" + disk + " bs=1M count=200 conv=fsync 2>/dev/null; done",
	} {
		cmd := exec.Command("timeout", "1800", "sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			r.t.Fatal(err)
		}
		hogs = append(hogs, cmd)
	}
	stop = func() {
		for _, cmd := range hogs {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
		hogs = nil
		_ = os.Remove(disk)
	}
	r.t.Cleanup(stop)
	return stop
}

// TestVMVirtualExact is the promise of virtual time: one experiment gives the
// same rows to the last byte with one guest on a computer left alone, and as two shards with three
// guests on one that is overloaded, of which one is killed and resumed, and which are merged.
func TestVMVirtualExact(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	if err := os.WriteFile(filepath.Join(r.dir, "exact.toml"), []byte(virtualExperiment), 0o644); err != nil {
		t.Fatal(err)
	}
	before := machineState(t)
	r.run("run", "exact.toml", "--out", "alone", "--jobs", "1")
	r.expectTrials("alone/rows.csv", 16)
	r.expectSame(before)
	r.expectTurns("alone")

	stop := r.hog()
	r.shards("exact.toml", "killed", "whole")
	stop()
	r.run("down", "--all")
	r.expectSame(before)
	r.run("run", "--resume", "killed", "--jobs", "3")
	r.run("merge", "killed", "whole", "-o", "merged")
	r.expectSameRows("alone", "merged")
	r.expectSame(before)

	if out := r.run("compare", "alone", "merged"); !strings.Contains(out, "identical") {
		t.Errorf("compare says %q of identical runs", out)
	}
	r.run("report", "merged")
}

// expectTurns says that client and server of TCP_RR took turns by sleeping, both in
// every transaction: which of them preempts the other must not be left to chance.
func (r *vmRig) expectTurns(run string) {
	r.t.Helper()
	blocks, err := filepath.Glob(filepath.Join(r.dir, run, "blocks", "*.jsonl"))
	if err != nil {
		r.t.Fatal(err)
	}
	clients := 0
	for _, file := range blocks {
		data, err := os.ReadFile(file)
		if err != nil {
			r.t.Fatal(err)
		}
		replies, err := lab.DecodeReplies(data)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, reply := range replies {
			if _, netperf := reply.Reply.Raw["result.txt"]; !netperf {
				continue
			}
			for _, step := range reply.Reply.Results {
				if step.Kind != (bundle.Exec{}).Kind() {
					continue
				}
				clients++
				if slept, gaveWay := step.Values["switches_voluntary"], step.Values["switches_involuntary"]; slept < 1000 || gaveWay > slept/20 {
					r.t.Errorf("%s: a client of TCP_RR slept %v times and was made to give way %v times", file, slept, gaveWay)
				}
			}
		}
	}
	if clients < 8 {
		r.t.Errorf("%d clients of TCP_RR were seen, want 8 or more", clients)
	}
}

// shards runs an experiment as two shards at once, one with one guest and one with two, and kills
// the first when one of its blocks is finished and another has begun.
func (r *vmRig) shards(file, killed, whole string) {
	r.t.Helper()
	first := r.start("run", file, "--shard", "1/2", "--out", killed, "--jobs", "1")
	second := r.start("run", file, "--shard", "2/2", "--out", whole, "--jobs", "2")
	done := func() []string {
		blocks, err := filepath.Glob(filepath.Join(r.dir, killed, "blocks", "*.jsonl"))
		if err != nil {
			r.t.Fatal(err)
		}
		return blocks
	}
	first.until(r.t, func() error {
		finished := done()
		if len(finished) == 0 {
			return errors.New("no block is finished")
		}
		of := fmt.Sprintf("guest=hookbed-r%d-block", first.cmd.Process.Pid)
		this := of + strings.TrimSuffix(filepath.Base(finished[0]), ".jsonl") + ","
		if _, ok := machine(func(argv string) bool { return strings.Contains(argv, of) && !strings.Contains(argv, this) }); !ok {
			return errors.New("no other block has begun")
		}
		return nil
	})
	first.kill()
	if blocks := done(); len(blocks) != 1 {
		r.t.Fatalf("killed with %d blocks of 2 finished, want 1\n%s", len(blocks), first.out)
	}
	if <-second.ended; !second.cmd.ProcessState.Success() {
		r.t.Fatalf("shard 2: %v\n%s", second.cmd.ProcessState, second.out)
	}
}
