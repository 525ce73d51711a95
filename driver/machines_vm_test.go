//go:build vm

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hookbed/driver/lab"
)

// machinesOnVMs is an experiment whose existing machines are the VMs of the
// interactive lab. Their data NIC is a real (virtio) one, with an address.
const machinesOnVMs = `schema = 1
name = "machines"
seed = 3
[lab]
provider = "ssh"
cache = true
[[lab.machine]]
name = "node1"
host = "%[1]s"
key = "%[3]s"
known_hosts = "%[4]s"
data = "data0"
[[lab.machine]]
name = "node2"
host = "%[2]s"
key = "%[3]s"
known_hosts = "%[4]s"
data = "data0"
` + oneShortTrial + `[matrix]
scenarios = ["multi-host"]
workloads = ["TCP_RR"]
policies = [5]
[[arm]]
name = "iptables-forward"
datapath = "iptables"
placement = "forward"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
[[arm]]
name = "xdp"
datapath = "xdp"
`

// lookAtVM prints what a borrowed NIC has to get back, and what is left on a machine.
const lookAtVM = `ip -d address; ip route show table all; ip link; cat /proc/modules | cut -d' ' -f1 | grep br_netfilter; ls -A /var/lib/hookbed 2>/dev/null
for p in /proc/[0-9]*; do case $(readlink $p/exe) in */guest*) echo guest; esac; done`

// killHelpers kills all that runs for a driver at one moment. One after the other,
// the attendant would see the end of the first and undo everything before its turn.
const killHelpers = `pids=; for p in /proc/[0-9]*; do case $(readlink $p/exe) in */guest*) pids="$pids ${p#/proc/}"; esac; done; kill -9 $pids`

var killedRun = regexp.MustCompile(`(?m)^run-.*\n`)

// TestVMUpSSHDown is the interactive lab: logins on its nodes, and its nodes as existing machines.
func TestVMUpSSHDown(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	before := machineState(t)
	r.write("vm.toml", strings.Replace(vmExperiment, `endpoint = "docker"`, `endpoint = "netns"`, 1))
	r.run("up", "vm.toml")
	t.Cleanup(func() { // where the test ended early
		cmd, _ := r.command("down", "--all")
		_ = cmd.Run()
	})
	r.logins()
	r.existingMachines()
	r.run("down", "up")
	r.expectSame(before)
}

func (r *vmRig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// logins run commands on nodes.
func (r *vmRig) logins() {
	r.t.Helper()
	if got := r.run("ssh", "node1", "--", "uname", "-n"); strings.TrimSpace(got) != "node1" {
		r.t.Errorf("node1 calls itself %q", got)
	}
	if got := r.run("ssh", "node2", "--", "sh", "-c", "ping -c 1 -w 120 198.18.1.11 >/dev/null && echo 'two words'"); strings.TrimSpace(got) != "two words" {
		r.t.Errorf("node2 says %q, want it to reach node1 and keep quoting", got)
	}
	if got := r.run("ssh", "node1", "--", "iptables", "-V"); !strings.Contains(got, "legacy") {
		r.t.Errorf("iptables in the guest is %q, want the legacy backend", got)
	}
	cmd, out := r.command("ssh", "node1", "--", "sh", "-c", "exit 7")
	if _ = cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
		r.t.Errorf("exit code %d of a command on a node, want its own 7: %s", cmd.ProcessState.ExitCode(), out)
	}
}

// existingMachines: two computers with kernels of their own as existing machines,
// which are as they were after a run. If all processes of a run on one are killed, the
// kernel gives its NIC back, and the next visit gives the NIC its addresses back.
func (r *vmRig) existingMachines() {
	t := r.t
	t.Helper()
	s := r.upState(2)
	r.write("machines.toml", fmt.Sprintf(machinesOnVMs, s.Nodes[0].Addr, s.Nodes[1].Addr, s.Key, s.Known))
	look := func(node string) string {
		cmd, out := r.command("ssh", node, "--", "sh", "-c", lookAtVM)
		_ = cmd.Run() // a process may end while it is looked at
		return out.String()
	}
	eventually(t, "the interactive lab's own helpers have ended", func() error {
		if text := look("node1") + look("node2"); strings.Contains(text, "\nguest\n") {
			return fmt.Errorf("there are %s", text)
		}
		return nil
	})
	was := []string{look("node1"), look("node2")}
	driver := func(args ...string) string {
		cmd, out := r.command(args...)
		cmd.Args = append([]string{"nsenter", "--net=" + s.NetNS, "--", cmd.Path}, args...)
		cmd.Path = "/usr/bin/nsenter"
		if err := cmd.Run(); err != nil {
			t.Fatalf("driver %v: %v\n%s", args, err, out)
		}
		return out.String()
	}
	t.Log(driver("run", "machines.toml", "--out", "run"))
	r.expectTrials("run/rows.csv", 3)
	for i, node := range []string{"node1", "node2"} {
		got := strings.Replace(look(node), ".hookbed\nimages\nlock\n", "", 1) // lab.cache
		if got != was[i] {
			t.Errorf("%s is not as it was:\n%s", node, difference(was[i], got))
		}
	}
	cmd, out := r.command("run", "machines.toml", "--out", "killed")
	cmd.Args = []string{"nsenter", "--net=" + s.NetNS, "--", cmd.Path, "run", "machines.toml", "--out", "killed"}
	cmd.Path = "/usr/bin/nsenter"
	killed := startDriver(t, cmd, out)
	killed.until(t, func() error {
		if trialsStarted(filepath.Join(r.dir, "killed/rows.csv")) == 0 {
			return errors.New("no trial has run")
		}
		return nil
	})
	r.run("ssh", "node1", "--", "sh", "-c", killHelpers)
	killed.kill()
	eventually(t, "node1 has its NIC, and lacks the address", func() error {
		if text := look("node1"); !strings.Contains(text, "data0") || strings.Contains(text, "198.18.1.11") {
			return fmt.Errorf("it has %s", text)
		}
		return nil
	})
	if text := driver("doctor", "machines.toml"); !strings.Contains(text, "ok    data link") {
		t.Errorf("doctor says %s", text)
	}
	eventually(t, "node1 is as it was", func() error {
		got := strings.Replace(look("node1"), ".hookbed\nimages\nlock\n", "", 1)
		got = killedRun.ReplaceAllString(got, "") // that directory waits for its hour
		if got != was[0] {
			return fmt.Errorf("difference:\n%s", difference(was[0], got))
		}
		return nil
	})
}

// upState is what the interactive lab of so many nodes says of itself.
func (r *vmRig) upState(nodes int) lab.State {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, "state/hookbed/labs/up/lab.json"))
	var s lab.State
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil || len(s.Nodes) != nodes {
		r.t.Fatalf("the lab's state: %v, %v", s, err)
	}
	return s
}
