//go:build vm

package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var faultsVMFlag = flag.Int("faults.vm", 1, "tries of the fault suite on virtual machines")

// faultyVMs is the experiment of tries on virtual machines.
const faultyVMs = `schema = 1
name = "faulty"
[lab]
provider = "libvirt"
endpoint = "netns"
[measure]
blocks = 1
trials = 1
warmup = "0s"
count = { TCP_RR = 1000, TCP_CRR = 100 }
[matrix]
scenarios = [%q]
workloads = ["TCP_RR", "TCP_CRR"]
policies = [10]
[[arm]]
name = "a"
datapath = "cilium-like"
`

// Faults of virtual machines.
const (
	qemuShort    = "QEMU stopped for 6 s"
	qemuLong     = "QEMU stopped for 60 s"
	qemuKilled   = "QEMU killed"
	libvirtEnds  = "libvirtd killed"
	libvirtStops = "libvirtd stopped for 6 s"
	mgmtShort    = "management link cut for 3 s"
	mgmtLong     = "management link cut for good"
	dataShort    = "data link cut for 3 s"
	dataLong     = "data link cut for good"
	byVM         = "vm"
)

// vmFaultOf is the try of a number: each fault in turn, at moments that the seed chooses.
func vmFaultOf(seed uint64, number int) try {
	r := rand.New(rand.NewPCG(seed^0x564d, uint64(number)))
	all := []string{qemuShort, dataLong, mgmtShort, qemuKilled, mgmtLong, libvirtEnds, qemuLong, dataShort, libvirtStops, "KILL", "TERM", stopAWhile}
	f := try{Number: number, Kind: byVM, Fault: all[number%len(all)], Scenario: "localhost", Phase: []string{phaseRun, phaseRows, phaseAllRows}[r.IntN(3)]}
	if f.Fault == dataLong || f.Fault == dataShort {
		f.Scenario, f.Phase = "multi-host", phaseRun
	}
	if _, ok := sent()[f.Fault]; ok || f.Fault == stopAWhile {
		f.Kind, f.Victim = bySignal, theDriver
	}
	f.Delay = time.Duration(1+r.IntN(800)) * time.Millisecond
	return f
}

// TestVMFaults: as TestFaults, in virtual machines that the run makes.
func TestVMFaults(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	var all []logged
	for n := range *faultsVMFlag {
		if *faultsOnlyFlag >= 0 && n != *faultsOnlyFlag {
			continue
		}
		f := vmFaultOf(*faultsSeedFlag, n)
		var result tried
		ok := t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Log(f)
			tryVM(t, f, &result)
		})
		if !ok && result.survived() {
			result.Leaked = []string{"see above"}
		}
		all = append(all, logged{Seed: *faultsSeedFlag, Try: f, Result: result})
	}
	table := faultTable(all, func(f try) string { return "vm: " + f.kind() })
	t.Logf("seed %d\n%s", *faultsSeedFlag, table)
	if *faultsTableFlag != "" {
		if err := os.WriteFile(*faultsTableFlag+".vm", []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// tryVM makes a try: a run with the fault, what it left, and a run that goes on to the end.
func tryVM(t *testing.T, f try, result *tried) {
	r := newVMRig(t)
	if err := os.WriteFile(filepath.Join(r.dir, "e.toml"), fmt.Appendf(nil, faultyVMs, f.Scenario), 0o644); err != nil {
		t.Fatal(err)
	}
	before := machineState(t)
	s := insideSpec{Try: f, Dir: r.dir}
	cmd, out := r.command("run", "e.toml", "--out", "run")
	cmd.WaitDelay = time.Second
	started := startDriver(t, cmd, out)
	d := driven{cmd, out, started.ended}
	if awaitVM(s, d) {
		time.Sleep(f.Delay)
		strikeVM(t, s, cmd.Process.Pid, result)
	}
	o := d.end(result, time.Now(), longest)
	o.killed = f.Victim == theDriver && f.Fault == "KILL"
	s.checkEnd(result, o)
	if !o.killed {
		r.expectSame(before)
	}
	for result.Resumes = 1; ; result.Resumes++ {
		cmd, out := r.command(s.again()...)
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code == exitOK {
			break
		} else if result.Resumes == 3 {
			result.Lost = append(result.Lost, fmt.Sprintf("the run is not whole after %d resumes: exit code %d: %s", result.Resumes, code, out))
			break
		}
	}
	r.expectSame(before)
	s.checkRows(result)
	if !result.survived() {
		t.Errorf("lost %q, doubled %q, leaked %q, wrong %q; it said:\n%s", result.Lost, result.Doubled, result.Leaked, result.Wrong, o.out)
	}
}

// awaitVM waits until the phase has begun: of the client by the run's progress, which is on another
// kernel.
func awaitVM(s insideSpec, d driven) bool {
	if s.Try.Phase != phaseRun {
		return s.await(d.cmd.Process.Pid, d.ended)
	}
	for {
		if _, err := os.Stat(filepath.Join(s.Dir, "run", "env.json")); err == nil {
			return true
		}
		select {
		case <-d.ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// strikeVM makes the fault. What is cut for good ends with the lab.
func strikeVM(t *testing.T, s insideSpec, driver int, result *tried) {
	t.Helper()
	if s.Try.Kind == bySignal {
		result.Met = true
		s.strike(driver, driver)
		return
	}
	qemu, ok := machine(func(argv string) bool { return strings.Contains(argv, fmt.Sprintf("guest=hookbed-r%d-node1,", driver)) })
	if !ok {
		return
	}
	result.Met = true
	stop := func(pid int, length time.Duration) {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(length)
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	links := func(kind, state string) {
		script := `for l in $(ip -br link | sed -n "s/^\(hb$1[^ @]*\).*/\1/p"); do ip link set "$l" "$2"; done`
		if out, err := exec.Command("nsenter", "-t", fmt.Sprint(qemu), "--net", "sh", "-c", script, "sh", kind, state).CombinedOutput(); err != nil {
			t.Logf("links %s %s: %v: %s", kind, state, err, out) // the lab may have ended
		}
	}
	switch s.Try.Fault {
	case qemuShort:
		stop(qemu, 6*time.Second)
	case qemuLong:
		stop(qemu, time.Minute)
	case qemuKilled:
		_ = syscall.Kill(qemu, syscall.SIGKILL)
	case libvirtEnds, libvirtStops:
		for _, pid := range below(driver) {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) != "libvirtd\n" {
				continue
			}
			if s.Try.Fault == libvirtStops {
				stop(pid, 6*time.Second)
				continue
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	case mgmtShort, dataShort:
		kind := map[string]string{mgmtShort: "m", dataShort: "d"}[s.Try.Fault]
		links(kind, "down")
		time.Sleep(3 * time.Second)
		links(kind, "up")
	case mgmtLong, dataLong:
		links(map[string]string{mgmtLong: "m", dataLong: "d"}[s.Try.Fault], "down")
	}
}
