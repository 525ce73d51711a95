//go:build vm

package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	conformAll   = flag.Bool("conform.all", false, "put every arm to the test in a VM, not some")
	conformTable = flag.String("conform.table", os.Getenv("HOOKBED_CONFORMANCE_VM_TABLE"), "file to write the VM's conformance table to")
)

// someArms are those that a VM is asked about when time is short: one of each
// mechanism, and what this computer's kernel may lack. Under emulation an arm takes
// a quarter of a minute and more.
const someArms = `^(bridge\+(nft-set|tc-hash|xdp-hash)|bpf\+tc-hash .*delivery=netkit.*)$`

// conformanceLab is one machine: its nodes and endpoints are namespaces that
// the suite's own helper makes.
const conformanceLab = `schema = 1
name = "conformance"
seed = 1
[lab]
provider = "libvirt"
endpoint = "netns"
[measure]
blocks = 1
trials = 1
duration = "1s"
warmup = "0s"
client_cpu = 1
server_cpu = 1
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [0]
[[arm]]
name = "docker"
datapath = "docker"
[[arm]]
name = "peers"
filter = "xdp-filter"
`

// TestVMConform runs the conformance suite on the pinned kernel: the suite's own
// test binary and the helper, in one VM.
func TestVMConform(t *testing.T) {
	r := newVMRig(t)
	before := machineState(t)
	if err := os.WriteFile(filepath.Join(r.dir, "lab.toml"), []byte(conformanceLab), 0o644); err != nil {
		t.Fatal(err)
	}
	suite := filepath.Join(r.dir, "suite")
	build := exec.Command("go", "test", "-c", "-o", suite, "hookbed/driver/datapath/datapathtest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	r.run("up", "lab.toml")
	defer r.run("down")
	r.install(suite, "/run/hookbed/suite")
	r.install(filepath.Join(binaries, "guest"), "/run/hookbed/helper")
	args := []string{"ssh", "node1", "--", "env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "/run/hookbed/suite", "-test.run", "^TestConform$", "-test.timeout", "0",
		"-test.parallel", "4", "-guest", "/run/hookbed/helper", "-peers", "/run/hookbed/peers", "-silence", "1s", "-table", "/run/hookbed/table.md", "-all"}
	if !*conformAll {
		args = append(args, "-arms", someArms)
	}
	cmd, out := r.command(args...)
	err := cmd.Run()
	table := r.run("ssh", "node1", "--", "cat", "/run/hookbed/table.md")
	t.Log("\n" + table)
	if *conformTable != "" {
		if err := os.WriteFile(*conformTable, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(table, "| `bridge+tc-hash` | ok |") {
		t.Error("the table has no row of bridge+tc-hash")
	}
	r.run("down")
	r.expectSame(before)
}

// install copies a program to the machine.
func (r *vmRig) install(from, to string) {
	r.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd, out := r.command("ssh", "node1", "--", "sh", "-c", "cat >"+to+" && chmod 755 "+to)
	cmd.Stdin = bytes.NewReader(data)
	if err := cmd.Run(); err != nil {
		r.t.Fatalf("copy %s to the machine: %v\n%s", from, err, out)
	}
}
