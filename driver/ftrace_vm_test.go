//go:build vm

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/trace"
	"hookbed/driver/callpath"
	"hookbed/images"
)

// ftraceCell is the cell whose calls are recorded.
const ftraceCell = oneShortTrial + `[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10]
[[arm]]
name = "iptables-input"
datapath = "iptables"
state = "as-study"
`

// ftraceExperiment is one cell with policies, on one machine with the default kernel: that of
// tracedExperiment, so that both tracers see one path.
const ftraceExperiment = `schema = 1
name = "ftrace"
seed = 3
[lab]
provider = "libvirt"
endpoint = "netns"
memory = "1GiB"
` + ftraceCell

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
	raw, err := filepath.Glob(filepath.Join(files[0], "function_graph-*.txt.gz"))
	if err != nil || len(raw) != 1 {
		t.Fatalf("the tracer's words are in %v (%v), want one file", raw, err)
	}
	r.expectAgreement(orderIn(t, raw[0]), orderIn(t, recordedOrder), sameOnTheWallClock)
}

// recordedOrder is what the tracer said of five transactions of this cell in another run.
const recordedOrder = "callpath/testdata/function_graph-iptables-6.12.txt.gz"

// Shares of calls by which two orders agree at the least. Two recordings on the wall clock differ by
// what the scheduler and timers do: without the same policy of scheduling less than 0.95.
const (
	sameInVirtualTime  = 0.99
	sameOnTheWallClock = 0.95
)

// expectAgreement compares two orders of the calls of one transaction.
func (r *vmRig) expectAgreement(got, want trace.Path, least float64) {
	r.t.Helper()
	share, differences := trace.Agreement(got, want)
	r.t.Logf("the orders of calls agree to %.4f", share)
	if share < least {
		r.t.Errorf("the orders of calls agree to %.4f, want %v: %+v", share, least, differences)
	}
}

// orderIn is the path in what function_graph said of a client netperf.
func orderIn(t *testing.T, file string) trace.Path {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	client := regexp.MustCompile(`netperf-(\d+)`).FindSubmatch(text)
	if client == nil {
		t.Fatalf("%s has no client", file)
	}
	pid, err := strconv.Atoi(string(client[1]))
	if err != nil {
		t.Fatal(err)
	}
	turns, others, _ := callpath.Turns("TCP_RR")
	p, err := callpath.ReadPath(bytes.NewReader(text), callpath.Cut{Client: pid, Server: "netserver", Of: "client", At: turns, OtherAt: others})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// dropExperiment has a way of each mechanism to refuse, within a machine and between two.
const dropExperiment = `schema = 1
name = "drop"
seed = 3
[lab]
provider = "libvirt"
endpoint = "netns"
kernel = "KERNEL"
memory = "1GiB"
` + oneShortTrial + `[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_RR"]
policies = [5]
[[arm]]
name = "iptables"
datapath = "iptables"
[[arm]]
name = "nft-set"
fabric = "bridge"
filter = "nft-set"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
[[arm]]
name = "xdp"
datapath = "xdp"
`

// TestKernelsDrop: on every locked kernel, on the wall clock, the packets that a cell's policies refuse
// are found where its mechanism gives packets up, with the kernel's reason since Linux 5.17. XDP on a
// virtio network card, where it is between two machines, ends them before they are a socket buffer.
func TestKernelsDrop(t *testing.T) {
	for _, kernel := range images.Kernels() {
		t.Run(kernel, func(t *testing.T) {
			r := newVMRig(t)
			before := machineState(t)
			r.write("drop.toml", strings.Replace(dropExperiment, "KERNEL", kernel, 1))
			t.Log("\n" + r.run("trace", "drop.toml", "--ftrace", "--drop", "--out", "run"))
			r.expectSame(before)
			const arms, scenarios = 4, 2
			files, err := filepath.Glob(filepath.Join(r.dir, "run/trace/*/ftrace.json"))
			if err != nil || len(files) != arms*scenarios {
				t.Fatalf("recordings %v (%v), want %d", files, err, arms*scenarios)
			}
			for _, file := range files {
				data, err := os.ReadFile(file)
				var rec callpath.Recording
				if err == nil {
					err = json.Unmarshal(data, &rec)
				}
				if err != nil {
					t.Fatal(err)
				}
				expectDropped(t, rec, kernel != "5.10")
			}
		})
	}
}

// expectDropped: a drop is where the arm's mechanism gives packets up.
func expectDropped(t *testing.T, rec callpath.Recording, reasons bool) {
	t.Helper()
	cell := rec.Factors["arm"] + ", " + rec.Factors["scenario"]
	want, by := "NETFILTER_DROP", []string{"nf_hook_slow", "nft_do_chain"}
	switch rec.Factors["arm"] {
	case "cilium-like":
		want, by = "TC_INGRESS", []string{"__netif_receive_skb_core", "sch_handle_ingress"}
	case "xdp":
		want, by = "NOT_SPECIFIED", []string{"veth_xdp_rcv_skb", "veth_poll"}
	}
	if !reasons {
		want = ""
	}
	if rec.Status != "ok" || rec.Drops == nil || len(rec.Drops.Denied) == 0 {
		t.Fatalf("%s: %s %s, drops %+v; want denied attempts", cell, rec.Status, rec.Reason, rec.Drops)
	}
	if cell == "xdp, multi-host" {
		if len(rec.Drops.Drops) > 0 {
			t.Errorf("%s: dropped %+v as socket buffers", cell, rec.Drops.Drops)
		}
		return
	}
	if rec.Drops.Reasons != reasons {
		t.Errorf("%s: reasons: %v, want %v", cell, rec.Drops.Reasons, reasons)
	}
	places := rec.Drops.ByPlace()
	if slices.ContainsFunc(places, func(d callpath.Drop) bool { return d.Where == "" }) {
		t.Errorf("%s: a drop is nowhere: %+v", cell, rec.Drops.Drops)
	}
	for _, d := range places {
		if d.Reason == want && slices.Contains(by, d.Where) && d.Packets > 0 {
			return
		}
	}
	t.Errorf("%s: dropped %+v, want some for %q in one of %v", cell, rec.Drops.Drops, want, by)
}
