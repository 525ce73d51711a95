//go:build vm

package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/trace"
)

const tracedExperiment = `schema = 1
name = "traced"
[lab]
clock = "virtual"
[measure]
count = { TCP_RR = 60 }
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10, 20, 40]
[[arm]]
name = "iptables"
datapath = "iptables"
`

// TestVMTrace: two traces of one cell are the same files, the second while programs use the CPUs
// and the disk; its rows are those of the same boot without an observer; every instruction is accounted
// for; functions are called as often as what they do is counted by others, and in the order that the
// kernel's own tracer recorded; a list costs the same for each of its rules; and refused packets end in
// the function that the kernel's own event names.
func TestVMTrace(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	r := newVMRig(t)
	if err := os.WriteFile(filepath.Join(r.dir, "traced.toml"), []byte(tracedExperiment), 0o644); err != nil {
		t.Fatal(err)
	}
	before := machineState(t)
	r.run("trace", "traced.toml", "--drop", "--only", "policies=10", "--out", "a")
	stop := r.hog()
	r.run("trace", "traced.toml", "--drop", "--only", "policies=10", "--out", "b", "--jobs", "1")
	stop()
	r.untraced("a", "plain")
	r.run("trace", "traced.toml", "--only", "policies=20|40", "--out", "long")
	r.expectSame(before)
	r.expectSameRows("a", "b")
	r.expectSameRows("a", "plain")
	r.expectSameFiles("a/trace", "b/trace")

	tr := r.traces("a", 1)[0]
	r.expectCalls(tr)
	r.expectAgreement(tr.Path, orderIn(t, recordedOrder), sameInVirtualTime)
	r.expectSameForEachRule(append(r.traces("long", 2), tr))
	r.expectRowOfTheClient("a", tr)
	r.expectDrop(tr)
	if text := r.run("report", "a"); !strings.Contains(text, "report") {
		t.Errorf("the report of a traced run says %q", text)
	}
	r.run("pack", "a", "--out", "a.hookbed.tar.gz")
}

// traces reads so many exact traces of a run. Reading compares the sums of the stacks and of the path
// with the window's.
func (r *vmRig) traces(run string, n int) []trace.Trace {
	r.t.Helper()
	all, err := trace.Read(filepath.Join(r.dir, run))
	if err != nil || len(all) != n {
		r.t.Fatalf("%d traces in %s, %v, want %d", len(all), run, err, n)
	}
	for _, tr := range all {
		if w := tr.Window; !w.Exact() || w.Instructions == 0 || w.Clocks == 0 || w.Misrooted*1000 > w.Instructions {
			r.t.Fatalf("the account of %s, N = %s is not exact: %+v", tr.Factors["arm"], tr.Factors["policies"], w)
		}
	}
	return all
}

// expectCalls compares the calls of functions with what a transaction has to do, and with the counter
// of the rules, which counts the packets that the server received: each is looked up in the table of
// connections once, and passes the rules once.
func (r *vmRig) expectCalls(tr trace.Trace) {
	r.t.Helper()
	if 2*tr.Path.Same < tr.Path.Units {
		r.t.Errorf("%d of %d transactions took the path, want most", tr.Path.Same, tr.Path.Units)
	}
	for _, f := range []string{"ipt_do_table", "nf_conntrack_in", "__nf_conntrack_find_get"} {
		if calls := callsOf(tr.Path.Calls, f); calls != 2 {
			r.t.Errorf("a transaction calls %s %d times, want 2: where the server receives and sends", f, calls)
		}
	}
	counted := r.metric("a", "hook_packets")
	for hook, f := range map[string]string{"ip_local_deliver": "ipt_do_table", "ip_rcv": "nf_conntrack_in"} {
		if received := callsAtHook(tr, hook, f); float64(received) != counted {
			r.t.Errorf("%s was called for %d packets received, and their counter says %g", f, received, counted)
		}
	}
	passed, _ := ofFunction(tr, "ipt_do_table")
	for _, f := range []string{"nf_conntrack_in", "__nf_conntrack_find_get"} {
		if calls, _ := ofFunction(tr, f); calls != passed {
			r.t.Errorf("%d packets passed the rules, and %s was called %d times", passed, f, calls)
		}
	}
}

// expectSameForEachRule holds the rules' walk against the length of the list.
func (r *vmRig) expectSameForEachRule(all []trace.Trace) {
	r.t.Helper()
	self := map[string]uint64{}
	for _, tr := range all {
		_, self[tr.Factors["policies"]] = ofFunction(tr, "ipt_do_table")
	}
	few, many := self["20"]-self["10"], self["40"]-self["20"]
	if self["10"] == 0 || few == 0 || many != 2*few {
		r.t.Errorf("ipt_do_table executed %v instructions by number of policies: 10 more cost %d, and then 20 more %d, want twice as many", self, few, many)
	}
}

// ofFunction counts a function's calls, and the instructions of itself, in a whole window.
func ofFunction(tr trace.Trace, name string) (calls, self uint64) {
	for _, tree := range []trace.Tree{tr.Measured, tr.Around} {
		for _, n := range tree.Nodes {
			if n.Name == name {
				calls, self = calls+n.Calls, self+n.Self
			}
		}
	}
	return calls, self
}

// untraced runs the plan of a traced run without an observer.
func (r *vmRig) untraced(run, into string) {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, run, "plan.json"))
	if err == nil {
		err = os.Mkdir(filepath.Join(r.dir, into), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, into, "plan.json"), data, 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.run("run", "--resume", into)
	if _, err := os.Stat(filepath.Join(r.dir, into, "trace")); err == nil {
		r.t.Error("a run without an observer has traces")
	}
}

// expectSameFiles compares two directories, file by file.
func (r *vmRig) expectSameFiles(a, b string) {
	r.t.Helper()
	read := func(dir string) map[string][]byte {
		out := map[string][]byte{}
		root := os.DirFS(filepath.Join(r.dir, dir))
		err := fs.WalkDir(root, ".", func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				out[path], err = fs.ReadFile(root, path)
			}
			return err
		})
		if err != nil {
			r.t.Fatal(err)
		}
		return out
	}
	x, y := read(a), read(b)
	if len(x) < 8 || len(x) != len(y) {
		r.t.Errorf("%s has %d files, %s has %d", a, len(x), b, len(y))
	}
	for path, data := range x {
		if !bytes.Equal(data, y[path]) {
			r.t.Errorf("%s differs in %s and %s", path, a, b)
		}
	}
}

// metric is the value of a metric of a run with one trial.
func (r *vmRig) metric(run, name string) float64 {
	r.t.Helper()
	return r.metricOf(run, "", name)
}

// metricOf is the value of a metric of a cell with one trial; "" is the only cell.
func (r *vmRig) metricOf(run, cell, name string) float64 {
	r.t.Helper()
	return r.rowOf(run, cell, name).Value
}

// rowOf is the row of a metric of a cell with one trial; "" is the only cell.
func (r *vmRig) rowOf(run, cell, name string) record.Row {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, run, "rows.csv"))
	if err != nil {
		r.t.Fatal(err)
	}
	rows, err := record.Read(bytes.NewReader(data))
	if err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(rows, func(row record.Row) bool {
		return row.Metric == name && row.Status == record.StatusOK && (cell == "" || row.Cell == cell)
	})
	if i < 0 {
		r.t.Fatalf("%s has no good row of %s %s", run, cell, name)
	}
	return rows[i]
}

// expectRowOfTheClient compares a row, which an end of the workload made by its own clock, with the same
// part of the trace. netperf prints its rate with two decimals, and reads the clock a few instructions
// from where it begins and ends to count.
func (r *vmRig) expectRowOfTheClient(run string, tr trace.Trace) {
	r.t.Helper()
	metric, what := "instructions_per_transaction", tr.Factors["arm"]+", "+tr.Factors["workload"]+", "+tr.Factors["scenario"]
	if tr.Unit == trace.UnitMiB {
		metric = "instructions_per_mib"
	}
	if tr.Client.Units <= 0 {
		r.t.Fatalf("%s: the trace does not say what the row is of", what)
	}
	row, traced := r.metricOf(run, tr.Cell, metric), float64(tr.Client.Instructions)/tr.Client.Units
	if row/traced < 0.9999 || row/traced > 1.0001 {
		r.t.Errorf("%s: the row has %.3f instructions a %s, the trace of the same part %.3f", what, row, tr.Unit, traced)
	}
}

// expectDrop: a packet that the list refuses ends at the server's INPUT hook, each in the same place.
func (r *vmRig) expectDrop(tr trace.Trace) {
	r.t.Helper()
	d := tr.Drop
	if d == nil {
		r.t.Fatal("the trace does not say where a refused packet ends")
	}
	if d.Where() != "netfilter INPUT, iptables rules" || d.Function != "nf_hook_slow" || d.Reason != "NETFILTER_DROP" || d.Recorded == 0 {
		r.t.Errorf("a refused packet ends at %s, in %s, for %q of %d recorded", d.Where(), d.Function, d.Reason, d.Recorded)
	}
	if w := d.Window; !w.Exact() || w.Misrooted*1000 > w.Instructions || d.Ended != uint64(d.Compared) || d.Compared < 50 || 2*d.Same < d.Compared {
		r.t.Errorf("of %d attempts %d took the path and %d ended there; the account is %+v", d.Compared, d.Same, d.Ended, w)
	}
	if d.FromWire == 0 || d.FromWire >= d.ToDrop || d.ToDrop >= d.Instructions {
		r.t.Errorf("an attempt has %d instructions, %d to its packet's end, %d from the wire", d.Instructions, d.ToDrop, d.FromWire)
	}
}

// callsOf counts the calls of a function on a path.
func callsOf(calls []*trace.Call, name string) (n int) {
	for _, c := range calls {
		if c.Name == name && !c.Resumed {
			n++
		}
		n += callsOf(c.Calls, name)
	}
	return n
}

// callsAtHook counts the calls of a function at the hook that another one runs, in a whole window: a
// packet that is received may have one sent, whose hooks are further below.
func callsAtHook(tr trace.Trace, hook, name string) (n uint64) {
	const between = 3 // callers, the hook's own included
	for _, t := range []trace.Tree{tr.Measured, tr.Around} {
		for _, node := range t.Nodes {
			p := node.Parent
			for depth := 0; node.Name == name && depth < between && p >= 0; depth++ {
				if t.Nodes[p].Name == hook {
					n += node.Calls
					break
				}
				p = t.Nodes[p].Parent
			}
		}
	}
	return n
}
