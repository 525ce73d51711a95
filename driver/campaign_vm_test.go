//go:build vm

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const vmExperiment = `schema = 1
name = "vm"
seed = 3
[lab]
provider = "libvirt"
endpoint = "docker"
` + oneShortTrial + `[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_STREAM", "TCP_RR"]
policies = [5]
[[arm]]
name = "docker"
datapath = "docker"
[[arm]]
name = "iptables-input"
datapath = "iptables"
[[arm]]
name = "iptables-forward"
datapath = "iptables"
placement = "forward"
state = "established-first"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
[[arm]]
name = "xdp"
datapath = "xdp"
[[arm]]
name = "xdp-pass"
datapath = "xdp-pass"
`

const vmTrials = 24

// TestVMRunKillResume is the main job and the worst that can happen to it:
// every arm in both scenarios between Docker containers in VMs, the driver
// killed in the middle, the run resumed; every trial once, none lost, and the
// computer as it was.
func TestVMRunKillResume(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	before := machineState(t)
	run := r.start("run", "vm.toml", "--out", "run")
	run.until(t, func() error {
		if n := trialsStarted(filepath.Join(r.dir, "run/rows.csv")); n < 3 {
			return fmt.Errorf("%d trials are done", n)
		}
		return nil
	})
	run.kill()
	if n := trialsStarted(filepath.Join(r.dir, "run/rows.csv")); n >= vmTrials {
		t.Fatalf("killed after %d trials, want some but not all\n%s", n, run.out)
	}
	r.run("down", "--all")
	r.expectSame(before)
	t.Log(r.run("run", "--resume", "run"))
	r.expectTrials("run/rows.csv", vmTrials)
	r.run("report", "run")
	r.expectSame(before)
}

func trialsStarted(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	trials := map[string]bool{}
	for _, line := range bytes.Split(data, []byte("\n")) {
		if f := bytes.SplitN(line, []byte(","), 7); len(f) == 7 {
			trials[string(f[5])] = true
		}
	}
	return max(0, len(trials)-1) // the header's column is not a trial
}

// TestVMNetnsEndpoints runs bare namespaces as endpoints in the VMs. One machine dies while it boots, and is booted again.
func TestVMNetnsEndpoints(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	before := machineState(t)
	netns := strings.Replace(vmExperiment, `endpoint = "docker"`, `endpoint = "netns"`, 1)
	if err := os.WriteFile(filepath.Join(r.dir, "netns.toml"), []byte(netns), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd, out := r.command("run", "netns.toml", "--out", "run", "--only", "workload=TCP_RR")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killMachine(t, fmt.Sprintf("guest=hookbed-r%d-node2,", cmd.Process.Pid))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out.String(), "boot a machine again") {
		t.Errorf("the machine that died while booting is not mentioned: %s", out)
	}
	r.expectTrials("run/rows.csv", vmTrials/2)
	r.expectSame(before)
}
