//go:build vm

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/analysis/trace"
	"hookbed/driver/bundle"
	"hookbed/driver/lab"
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
// the kernel is entered, what enforces is called as often as its own counter says, and refused packets
// end where it is.
func TestKernelsTrace(t *testing.T) {
	for _, kernel := range images.Kernels() {
		t.Run(kernel, func(t *testing.T) {
			r := newVMRig(t)
			text := strings.Replace(kernelTraces, "KERNEL", kernel, 1)
			if err := os.WriteFile(filepath.Join(r.dir, "traced.toml"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Log("\n" + r.run("trace", "traced.toml", "--drop", "--out", "run"))
			for _, tr := range r.traces("run", strings.Count(kernelTraces, "[[arm]]")) {
				r.expectEnforced("run", tr)
				r.expectRefused(tr, kernel != "5.10")
			}
		})
	}
}

// expectRefused: the packets of refused attempts end at the part of the way at which the arm's policies
// are, each in the same place, and the kernel has a reason for it since Linux 5.17.
func (r *vmRig) expectRefused(tr trace.Trace, reasons bool) {
	r.t.Helper()
	arm := tr.Factors["arm"]
	where, reason := "netfilter INPUT", "NETFILTER_DROP"
	switch arm {
	case "cilium-like":
		where, reason = "tc ingress", "TC_INGRESS"
	case "tc":
		where, reason = "tc egress", "TC_EGRESS"
	case "xdp":
		where, reason = "XDP on veth", "NOT_SPECIFIED" // the kernel has no word for it
	}
	if !reasons {
		reason = ""
	}
	d := tr.Drop
	if d == nil {
		r.t.Fatalf("%s: the trace does not say where a refused packet ends", arm)
	}
	if !strings.HasPrefix(d.Where(), where) || d.Reason != reason || d.Recorded == 0 {
		r.t.Errorf("%s: a refused packet ends at %s, in %s, for %q of %d recorded; want %s, for %q", arm, d.Where(), d.Function, d.Reason, d.Recorded, where, reason)
	}
	if w := d.Window; !w.Exact() || w.Misrooted*1000 > w.Instructions || d.Ended != uint64(d.Compared) || d.Compared < 50 || d.FromWire == 0 {
		r.t.Errorf("%s: of %d attempts %d took the path and %d ended there, %d instructions from the wire; the account is %+v", arm, d.Compared, d.Same, d.Ended, d.FromWire, w)
	}
}

// evenTraces is one cell, for longer than the second in which kernels share the CPU out.
const evenTraces = `schema = 1
name = "even"
[lab]
clock = "virtual"
kernel = "KERNEL"
[measure]
duration = "2s"
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [0]
[[arm]]
name = "docker"
datapath = "docker"
`

// TestKernelsEven: on every locked kernel all transactions of two seconds take one way: nothing else
// runs in any of them for long, and no thread of the kernel handles their packets.
func TestKernelsEven(t *testing.T) {
	for _, kernel := range images.Kernels() {
		t.Run(kernel, func(t *testing.T) {
			r := newVMRig(t)
			r.write("even.toml", strings.Replace(evenTraces, "KERNEL", kernel, 1))
			t.Log("\n" + r.run("trace", "even.toml", "--out", "run"))
			tr := r.traces("run", 1)[0]
			t.Logf("%d of %d transactions took the path of %d instructions; the cheapest took %d, the dearest %d", tr.Path.Same, tr.Path.Units, tr.Path.Instructions, tr.Path.Least, tr.Path.Most)
			if p := tr.Path; p.Most > 3*p.Instructions {
				t.Errorf("a transaction took %d instructions, most of them %d", p.Most, p.Instructions)
			}
			threads := uint64(0)
			for _, n := range tr.Measured.Nodes[1:] {
				if n.Name == "process_backlog" && inThread(tr.Measured, n, trace.RoleKernel) {
					threads += n.Calls
				}
			}
			if threads*50 > uint64(tr.Path.Units) {
				t.Errorf("in %d transactions threads of the kernel handled packets %d times", tr.Path.Units, threads)
			}
		})
	}
}

// inThread says whether a node is of a thread with a role.
func inThread(t trace.Tree, n trace.Node, role string) bool {
	for n.Parent > 0 {
		n = t.Nodes[n.Parent]
	}
	return n.Name == role
}

// workloadTraces are all workloads that can be traced, within a host and between two.
const workloadTraces = `schema = 1
name = "workloads"
[lab]
clock = "virtual"
[measure]
count = { TCP_RR = 60, TCP_CRR = 30 }
duration = "1s"
warmup = "0s"
[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_RR", "TCP_CRR", "TCP_STREAM"]
policies = [10]
[[arm]]
name = "iptables"
datapath = "iptables"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
`

// TestWorkloadsTrace: of every workload and scenario a trace is exact, agrees with its row, and that row
// is the one of a boot without an observer.
func TestWorkloadsTrace(t *testing.T) {
	const arms, scenarios = 2, 2
	for _, workload := range []string{"TCP_RR", "TCP_CRR", "TCP_STREAM"} {
		t.Run(workload, func(t *testing.T) {
			r := newVMRig(t)
			r.write("workloads.toml", workloadTraces)
			t.Log("\n" + r.run("trace", "workloads.toml", "--only", "workload="+workload, "--out", "run"))
			r.untraced("run", "plain")
			r.expectSameRows("run", "plain")
			for _, tr := range r.traces("run", arms*scenarios) {
				r.expectRowOfTheClient("run", tr)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		r := newVMRig(t)
		r.write("workloads.toml", workloadTraces)
		t.Log("\n" + r.run("trace", "workloads.toml", "--only", "scenario=multi-host", "--drop", "--out", "run"))
		for _, tr := range r.traces("run", arms) {
			r.expectRefused(tr, true)
		}
	})
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

// otherArms are what arms.toml does not have of it: the other projects' filters, and the other ways to
// attach programs and to deliver packets.
const otherArms = `
[[arm]]
name = "xdp-filter"
filter = "xdp-filter"
[[arm]]
name = "bpfilter"
filter = "bpfilter"
[[arm]]
name = "bpfilter-list"
filter = "bpfilter"
form = "linear"
[[arm]]
name = "bpfilter-input"
filter = "bpfilter"
hook = "input"
[[arm]]
name = "bpfilter-forward"
filter = "bpfilter"
hook = "forward"
[[arm]]
name = "bpfilter-xdp"
filter = "bpfilter"
hook = "xdp"
[[arm]]
name = "cilium-tcx"
datapath = "cilium-like"
attach = "tcx"
[[arm]]
name = "cilium-netkit"
datapath = "cilium-like"
delivery = "netkit"
[[arm]]
name = "veth"
fabric = "veth"
filter = "nft-set"
[[arm]]
name = "control"
datapath = "control"
`

// TestFiltersTrace: of every fabric, mechanism and structure of experiments/arms.toml, and of the arms
// that it does not have, a trace is exact, and its stacks begin where the kernel is entered.
func TestFiltersTrace(t *testing.T) {
	const first, together = "[[arm]]\n", 6 // more take longer than is good for one test
	whole, err := os.ReadFile("../experiments/arms.toml")
	if err != nil {
		t.Fatal(err)
	}
	arms := strings.Split(string(whole)+otherArms, "\n"+first)[1:]
	for i := 0; i < len(arms); i += together {
		some := arms[i:min(i+together, len(arms))]
		t.Run(fmt.Sprintf("%d-%d", i+1, i+len(some)), func(t *testing.T) {
			r := newVMRig(t)
			r.write("filters.toml", filterTraces+first+strings.Join(some, "\n"+first))
			t.Log("\n" + r.run("trace", "filters.toml", "--out", "run"))
			r.traces("run", len(some))
		})
	}
}

// expectEnforced holds how often what enforces was called against its own counter of packets. What
// netfilter enforces with the state of connections looks each packet that is received up once. The
// programs are those that look policies up: tc_track, which sees the other direction, counts nothing.
// They count each frame, and their counter is read a little before and after the window: in between
// IPv6 of an end may solicit a router, which it does every 4 s at most (net/ipv6/addrconf.c).
func (r *vmRig) expectEnforced(run string, tr trace.Trace) {
	r.t.Helper()
	const ends = 2
	what, calls, around := "a BPF program", uint64(0), min(ends, r.unconcerned(run, tr.Cell))
	for _, name := range []string{"bpf:tc_from_endpoint", "bpf:tc_to_endpoint", "bpf:xdp_policy"} {
		n, _ := ofFunction(tr, name)
		calls += n
	}
	if calls == 0 {
		what, calls, around = "nf_conntrack_in", callsAtHook(tr, "ip_rcv", "nf_conntrack_in"), 0
	}
	if counted := r.metricOf(run, tr.Cell, "hook_packets"); float64(calls) > counted || float64(calls) < counted-around {
		r.t.Errorf("%s: %s was called %d times, and the counter has %g packets, of which %g may be from around the window", tr.Factors["arm"], what, calls, counted, around)
	}
}

// unconcerned is how many frames that no policy is about a filter counted while a cell, which is a
// block of its own, was measured.
func (r *vmRig) unconcerned(run, cell string) float64 {
	r.t.Helper()
	file := filepath.Join(r.dir, run, "blocks", fmt.Sprint(r.rowOf(run, cell, "hook_packets").Block)+".jsonl")
	data, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	replies, err := lab.DecodeReplies(data)
	if err != nil {
		r.t.Fatal(err)
	}
	var read []float64
	for _, reply := range replies {
		if reply.Setup == 0 || reply.Phase != string(bundle.Run) {
			continue // the first setup warms the guest up
		}
		for _, step := range reply.Reply.Results {
			if passed, is := step.Values[bundle.CountPassed]; is {
				read = append(read, passed)
			}
		}
	}
	if len(read) != 2 {
		r.t.Fatalf("%s has %d readings of a filter's counter, want one before the workload and one after it", file, len(read))
	}
	return read[1] - read[0]
}
