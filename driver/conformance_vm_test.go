//go:build vm

package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/images"
)

var (
	conformArms     = flag.String("conform.arms", someArms, "regular expression of the arms to put to the test in a VM; \"\" is all")
	conformParallel = flag.Int("conform.parallel", 4, "arms to put to the test at once in a VM")
	conformTable    = flag.String("conform.table", os.Getenv("HOOKBED_CONFORMANCE_VM_TABLE"), "file to write the VM's conformance table to")
)

// someArms are those that a VM is tested with when time is short: one of each
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
` + oneShortTrial + `[matrix]
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
	t.Parallel()
	if !apart(t) {
		return
	}
	table := conformOn(t, images.DefaultKernel, *conformArms)
	if *conformTable != "" {
		if err := os.WriteFile(*conformTable, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
	if *conformArms == someArms && !strings.Contains(table, "| `bridge+tc-hash` | ok |") {
		t.Error("the table has no row of bridge+tc-hash")
	}
	if len(armsOf(table)) == 0 {
		t.Errorf("no arm is like %q", *conformArms)
	}
}

// kernelArms are those that every kernel is tested with: one of each mechanism,
// and each way of tc programs to attach and to deliver that came with a version.
const kernelArms = `^(bridge\+(iptables-legacy|iptables-nft|ipset|nft-set|tc-hash|xdp-hash)|bpf\+tc-hash( .*(attach=tcx|delivery=netkit|delivery=peer).*)?)$`

// TestKernelsConform runs it on every locked kernel and prints how each arm fared
// on each. It takes some minutes a kernel under emulation.
func TestKernelsConform(t *testing.T) {
	fared := map[string]map[string]string{} // by arm, kernel
	var ran []string                        // all, unless subtests were chosen
	for _, kernel := range images.Kernels() {
		t.Run(kernel, func(t *testing.T) {
			ran = append(ran, kernel)
			for arm, how := range armsOf(conformOn(t, kernel, kernelArms)) {
				if fared[arm] == nil {
					fared[arm] = map[string]string{}
				}
				fared[arm][kernel] = how
			}
		})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| arm | %s |\n|---|%s\n", strings.Join(images.Kernels(), " | "), strings.Repeat("---|", len(images.Kernels())))
	for _, arm := range slices.Sorted(maps.Keys(fared)) {
		fmt.Fprintf(&b, "| %s |", arm)
		for _, k := range images.Kernels() {
			fmt.Fprintf(&b, " %s |", cmp.Or(fared[arm][k], "-"))
		}
		b.WriteString("\n")
	}
	t.Log("\n" + b.String())
	if *conformTable != "" {
		if err := os.WriteFile(*conformTable, []byte(b.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
	if len(ran) == 0 {
		t.Error("no kernel was tested")
	}
	for _, arm := range []string{"`bridge+tc-hash`", "`bridge+xdp-hash`", "`bridge+iptables-legacy`"} {
		for _, k := range ran {
			if fared[arm][k] != "ok" {
				t.Errorf("%s on kernel %s is %q, want ok", arm, k, fared[arm][k])
			}
		}
	}
}

// oneArm is the first cell of an arm's row; those of the summary go on behind the name.
var oneArm = regexp.MustCompile("^ *`[^`]*` *$")

// armsOf is how each arm of a conformance table fared: the worst of its checks.
func armsOf(table string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 10 || !oneArm.MatchString(cells[0]) {
			continue
		}
		worst := "ok"
		for _, c := range cells[1:] {
			switch c = strings.TrimSpace(c); {
			case strings.HasPrefix(c, "failed"):
				worst = "failed"
			case strings.HasPrefix(c, "unsupported") && worst != "failed":
				worst = "unsupported"
			}
		}
		out[strings.TrimSpace(cells[0])] = worst
	}
	return out
}

// conformOn holds arms, all of them where the pattern is "", to the suite in a
// machine of a kernel, and returns its table.
func conformOn(t *testing.T, kernel, arms string) string {
	t.Helper()
	r := newVMRig(t)
	before := machineState(t)
	lab := strings.Replace(conformanceLab, "[lab]\n", "[lab]\nkernel = \""+kernel+"\"\n", 1)
	if err := os.WriteFile(filepath.Join(r.dir, "lab.toml"), []byte(lab), 0o644); err != nil {
		t.Fatal(err)
	}
	suite := filepath.Join(r.dir, "suite")
	build := exec.Command("go", "test", "-c", "-o", suite, "hookbed/driver/datapath/datapathtest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	r.run("up", "lab.toml")
	defer r.run("down", "--all")
	r.install(suite, "/run/hookbed/suite")
	r.install(filepath.Join(binaries, "guest"), "/run/hookbed/helper")
	args := []string{"ssh", "node1", "--", "env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "/run/hookbed/suite", "-test.run", "^TestConform$", "-test.timeout", "0",
		"-test.parallel", strconv.Itoa(*conformParallel), "-guest", "/run/hookbed/helper", "-peers", "/run/hookbed/peers", "-silence", "1s", "-table", "/run/hookbed/table.md", "-tell", "-all"}
	if arms != "" {
		args = append(args, "-arms", arms)
	}
	cmd, out := r.command(args...)
	both := io.MultiWriter(out, os.Stdout) // seen at once with -v
	cmd.Stdout, cmd.Stderr = both, both
	err := cmd.Run()
	table := r.run("ssh", "node1", "--", "cat", "/run/hookbed/table.md")
	t.Log("\n" + table)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	r.run("down", "--all")
	r.expectSame(before)
	return table
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
