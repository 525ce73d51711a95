//go:build vm

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/callpath"
)

// ftraceExperiment is one cell with a policy, on one machine with the default kernel.
const ftraceExperiment = `schema = 1
name = "ftrace"
seed = 3
[lab]
provider = "libvirt"
endpoint = "netns"
memory = "1GiB"
` + oneShortTrial + `[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [3]
[[arm]]
name = "iptables-input"
datapath = "iptables"
state = "as-study"
`

// TestVMFtrace records the order of calls of a cell in a machine: through netfilter's INPUT in both
// ends, without a cost, and with the reason why netfilter dropped what was denied.
func TestVMFtrace(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	if err := os.WriteFile(filepath.Join(r.dir, "ftrace.toml"), []byte(ftraceExperiment), 0o644); err != nil {
		t.Fatal(err)
	}
	before := machineState(t)
	t.Log(r.run("trace", "ftrace.toml", "--ftrace", "--window", "5", "--out", "run"))
	r.expectSame(before)
	files, err := filepath.Glob(filepath.Join(r.dir, "run/trace/*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("traces of %v (%v), want one cell", files, err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(files[0], name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	path := read("path.md")
	for _, want := range []string{"Order only", " __x64_sys_sendto   # system call sendto\n", " tcp_sendmsg ", " veth_xmit ", " nf_hook_slow   # netfilter INPUT\n", " ipt_do_table ", " tcp_v4_rcv ", "\nserver\n"} {
		if !strings.Contains(path, want) {
			t.Errorf("no %q in path.md:\n%.4000s", want, path)
		}
	}
	if drop := read("drop.md"); !strings.Contains(drop, "| NETFILTER_DROP | `nf_hook_slow` |") {
		t.Errorf("netfilter's drops are not in drop.md:\n%s", drop)
	}
	var rec callpath.Recording
	if err := json.Unmarshal([]byte(read("ftrace.json")), &rec); err != nil {
		t.Fatal(err)
	}
	if c := rec.Calls; rec.Status != "ok" || rec.Clock != "wall" || !c.OrderOnly || c.Buffer != "instance" || c.Units < 3 || c.Functions < 100 {
		t.Errorf("ftrace.json has %+v, calls %+v", rec, rec.Calls)
	}
	if rec.Instructions == nil && rec.WhyNot == "" {
		t.Error("nothing says whether instructions were counted")
	}
}
