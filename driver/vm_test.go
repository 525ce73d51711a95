//go:build vm

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
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

// vmRig runs the real driver with a state directory of the test's own.
type vmRig struct {
	t   *testing.T
	dir string
}

func newVMRig(t *testing.T) *vmRig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("VM tests start virtual machines: run them as root")
	}
	r := &vmRig{t: t, dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(r.dir, "vm.toml"), []byte(vmExperiment), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *vmRig) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(filepath.Join(binaries, "driver"), args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(r.dir, "state"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func (r *vmRig) run(args ...string) string {
	r.t.Helper()
	cmd, out := r.command(args...)
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("driver %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out.String()
}

// machineState is everything a run could leave on this computer.
func machineState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, argv := range [][]string{
		{"ip", "-br", "link"}, {"ip", "-br", "addr"}, {"ip", "route"}, {"ip", "netns", "list"},
		{"findmnt", "-rn", "-o", "TARGET"},
		{"sysctl", "-n", "net.ipv4.ip_forward"}, {"ls", "/run/libvirt", "/etc/libvirt", "/var/lib/libvirt/qemu"},
	} {
		out, _ := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		b.WriteString(strings.Join(argv, " ") + ":\n" + string(out))
	}
	b.WriteString("processes:\n" + strings.Join(strayProcesses(t), "\n"))
	return b.String()
}

// strayProcesses lists the programs of this computer that a lab starts.
func strayProcesses(t *testing.T) []string {
	t.Helper()
	var out []string
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range comms {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		name := strings.TrimSpace(string(data))
		for _, ours := range []string{"libvirtd", "qemu-system", "tini", "dnsmasq", "guest", "iperf3", "netserver", "netperf"} {
			if strings.HasPrefix(name, ours) {
				out = append(out, name)
			}
		}
	}
	sort.Strings(out)
	return out
}

func (r *vmRig) expectSame(before string) {
	r.t.Helper()
	var after string
	for range 50 { // the kernel takes a moment to drop a namespace
		if after = machineState(r.t); after == before {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if after != before {
		r.t.Errorf("the computer is not as it was\nbefore:\n%s\nafter:\n%s", before, after)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, "state/hookbed/labs/*")); len(left) > 0 {
		r.t.Errorf("lab state left: %v", left)
	}
}

func (r *vmRig) expectTrials(rows string, want int) {
	r.t.Helper()
	seen, err := trialsIn(filepath.Join(r.dir, rows))
	if err != nil {
		r.t.Fatal(err)
	}
	if len(seen) != want {
		r.t.Fatalf("%d trials in %s, want %d", len(seen), rows, want)
	}
}

// TestVMRunKillResume is the main job and the worst that can happen to it:
// every arm in both scenarios between Docker containers in VMs, the driver
// killed in the middle, the run resumed; every trial once, none lost, and the
// computer as it was.
func TestVMRunKillResume(t *testing.T) {
	r := newVMRig(t)
	before := machineState(t)
	cmd, out := r.command("run", "vm.toml", "--out", "run")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(6 * time.Minute)
	for trialsStarted(filepath.Join(r.dir, "run/rows.csv")) < 3 && time.Now().Before(deadline) && cmd.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(50 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if n := trialsStarted(filepath.Join(r.dir, "run/rows.csv")); n < 3 || n >= vmTrials {
		t.Fatalf("killed after %d trials, want some but not all\n%s", n, out)
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

// killMachine kills the QEMU process that has a text in its command line, a
// moment after it is there: libvirt has let it go, and its kernel is on the way.
func killMachine(t *testing.T, text string) {
	t.Helper()
	eventually(t, "a machine boots", func() error {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range files {
			argv, _ := os.ReadFile(file)
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && strings.Contains(string(argv), text) && strings.Contains(string(argv), "qemu-system") {
				time.Sleep(time.Second)
				return syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return errors.New("no QEMU yet")
	})
}

// TestVMUpSSHDown is the interactive lab.
func TestVMUpSSHDown(t *testing.T) {
	r := newVMRig(t)
	before := machineState(t)
	r.run("up", "vm.toml")
	if got := r.run("ssh", "node1", "--", "uname", "-n"); strings.TrimSpace(got) != "node1" {
		t.Errorf("node1 calls itself %q", got)
	}
	if got := r.run("ssh", "node2", "--", "sh", "-c", "ping -c 1 -W 2 198.18.1.11 >/dev/null && echo 'two words'"); strings.TrimSpace(got) != "two words" {
		t.Errorf("node2 says %q, want it to reach node1 and keep quoting", got)
	}
	if got := r.run("ssh", "node1", "--", "iptables", "-V"); !strings.Contains(got, "legacy") {
		t.Errorf("iptables in the guest is %q, want the legacy backend", got)
	}
	cmd, out := r.command("ssh", "node1", "--", "sh", "-c", "exit 7")
	if _ = cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code %d of a command on a node, want its own 7: %s", cmd.ProcessState.ExitCode(), out)
	}
	r.run("down", "--all")
	r.expectSame(before)
}
