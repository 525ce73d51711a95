//go:build vm

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/trace"
	"hookbed/images"
)

// kernelTraces is one arm of each mechanism.
const kernelTraces = `schema = 1
name = "traced"
[lab]
clock = "virtual"
kernel = "KERNEL"
[measure]
count = { TCP_RR = 60 }
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10]
[[arm]]
name = "iptables"
datapath = "iptables"
[[arm]]
name = "iptables-nft"
fabric = "bridge"
filter = "iptables-nft"
[[arm]]
name = "nft-set"
fabric = "bridge"
filter = "nft-set"
[[arm]]
name = "ipset"
fabric = "bridge"
filter = "ipset"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
[[arm]]
name = "tc"
fabric = "bridge"
filter = "tc-hash"
[[arm]]
name = "xdp"
datapath = "xdp"
`

// TestKernelsTrace: on every locked kernel a trace of each mechanism is exact, its stacks begin where
// the kernel is entered, and what enforces is called as often as its own counter says.
func TestKernelsTrace(t *testing.T) {
	for _, kernel := range images.Kernels() {
		t.Run(kernel, func(t *testing.T) {
			r := newVMRig(t)
			text := strings.Replace(kernelTraces, "KERNEL", kernel, 1)
			if err := os.WriteFile(filepath.Join(r.dir, "traced.toml"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Log("\n" + r.run("trace", "traced.toml", "--out", "run"))
			for _, tr := range r.traces("run", strings.Count(kernelTraces, "[[arm]]")) {
				r.expectEnforced("run", tr)
			}
		})
	}
}

// filterTraces are the arms of an experiment, each with so few policies that it takes seconds.
const filterTraces = `schema = 1
name = "filters"
[lab]
clock = "virtual"
[measure]
count = { TCP_RR = 60 }
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10]

`

// TestFiltersTrace: of every fabric, mechanism and structure of experiments/arms.toml a trace is exact,
// and its stacks begin where the kernel is entered.
func TestFiltersTrace(t *testing.T) {
	r := newVMRig(t)
	const first = "[[arm]]"
	whole, err := os.ReadFile("../experiments/arms.toml")
	if err != nil {
		t.Fatal(err)
	}
	arms := string(whole[bytes.Index(whole, []byte("\n"+first))+1:])
	r.write("filters.toml", filterTraces+arms)
	t.Log("\n" + r.run("trace", "filters.toml", "--out", "run"))
	r.traces("run", strings.Count(arms, "\n"+first)+1)
}

// expectEnforced holds how often what enforces was called against its own counter of packets. What
// netfilter enforces with the state of connections looks each packet that is received up once.
func (r *vmRig) expectEnforced(run string, tr trace.Trace) {
	r.t.Helper()
	what, calls := "a BPF program", uint64(0)
	for _, tree := range []trace.Tree{tr.Measured, tr.Around} {
		for _, n := range tree.Nodes {
			if strings.HasPrefix(n.Name, "bpf:") && !strings.HasPrefix(n.Name, "bpf:[") {
				calls += n.Calls
			}
		}
	}
	if calls == 0 {
		what, calls = "nf_conntrack_in", callsAtHook(tr, "ip_rcv", "nf_conntrack_in")
	}
	if counted := r.metricOf(run, tr.Cell, "hook_packets"); float64(calls) != counted {
		r.t.Errorf("%s: %s was called %d times, and the counter has %g packets", tr.Factors["arm"], what, calls, counted)
	}
}
