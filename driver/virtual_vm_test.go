//go:build vm

package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

// hog loads CPUs and disk until the test or the returned function ends it.
func (r *vmRig) hog() (stop func()) {
	r.t.Helper()
	var hogs []*exec.Cmd
	disk := filepath.Join(r.dir, "hog")
	for _, script := range []string{
		"while :; do :; done", "while :; do :; done", "while :; do :; done", "while :; do :; done",
		"while :; do dd if=/dev/zero of=" + disk + " bs=1M count=200 conv=fsync 2>/dev/null; done",
	} {
		cmd := exec.Command("timeout", "600", "sh", "-c", script)
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
// same rows to the last byte with one job on a computer left alone, with three on
// one that is overloaded, and as two shards, one killed and resumed, that are merged.
func TestVMVirtualExact(t *testing.T) {
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
	r.run("run", "exact.toml", "--out", "crowded", "--jobs", "3")
	stop()
	r.expectSameRows("alone", "crowded")

	r.shards("exact.toml", "shard1", "shard2")
	r.run("down", "--all")
	r.expectSame(before)
	r.run("run", "--resume", "shard1", "--jobs", "3")
	r.run("merge", "shard1", "shard2", "-o", "merged")
	r.expectSameRows("alone", "merged")
	r.expectSame(before)

	if out := r.run("compare", "alone", "crowded"); !strings.Contains(out, "identical") {
		t.Errorf("compare says %q of identical runs", out)
	}
	r.run("report", "crowded")
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

// shards runs an experiment as two shards at once, and kills the first when one of
// its blocks is finished and another has begun.
func (r *vmRig) shards(file, killed, whole string) {
	r.t.Helper()
	start := func(shard, out string) (*exec.Cmd, *bytes.Buffer) {
		cmd, said := r.command("run", file, "--shard", shard, "--out", out, "--jobs", "1")
		if err := cmd.Start(); err != nil {
			r.t.Fatal(err)
		}
		return cmd, said
	}
	first, said := start("1/2", killed)
	second, saidToo := start("2/2", whole)
	r.killAfterABlock(first, said, killed)
	if err := second.Wait(); err != nil {
		r.t.Fatalf("shard 2: %v\n%s", err, saidToo)
	}
}

// killAfterABlock kills a run when one block is finished and another has begun.
func (r *vmRig) killAfterABlock(cmd *exec.Cmd, said *bytes.Buffer, out string) {
	r.t.Helper()
	done := filepath.Join(r.dir, out, "blocks", "*.jsonl")
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if first, _ := filepath.Glob(done); len(first) > 0 {
			break
		}
	}
	time.Sleep(5 * time.Second) // well into the second block
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if blocks, _ := filepath.Glob(done); len(blocks) != 1 {
		r.t.Fatalf("killed with %d blocks of 2 finished, want 1\n%s", len(blocks), said)
	}
}
