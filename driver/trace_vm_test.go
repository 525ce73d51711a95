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
policies = [10]
[[arm]]
name = "iptables"
datapath = "iptables"
`

// TestVMTrace: two traces of one cell are the same files; its rows are those of the same boot without
// an observer; every instruction is accounted for; functions are called as often as what they do is
// counted by others; and refused packets end in the function that the kernel's own event names.
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
	r.run("trace", "traced.toml", "--drop", "--out", "a")
	r.run("trace", "traced.toml", "--drop", "--out", "b", "--jobs", "1")
	r.untraced("a", "plain")
	r.expectSame(before)
	r.expectSameRows("a", "b")
	r.expectSameRows("a", "plain")
	r.expectSameFiles("a/trace", "b/trace")

	all, err := trace.Read(filepath.Join(r.dir, "a"))
	if err != nil || len(all) != 1 {
		t.Fatalf("%d traces, %v, want one", len(all), err)
	}
	tr := all[0]
	if w := tr.Window; !w.Exact() || w.Instructions == 0 || w.Clocks == 0 || w.Misrooted*1000 > w.Instructions {
		t.Errorf("the account is not exact: %+v", w)
	}
	// Reading has compared the sums of the stacks and of the path with the window's.
	if calls := callsOf(tr.Path.Calls, "ipt_do_table"); calls != 2 || 2*tr.Path.Same < tr.Path.Units {
		t.Errorf("%d of %d transactions walked the rules %d times, want most of them, and twice: where the server receives and sends", tr.Path.Same, tr.Path.Units, calls)
	}
	received := callsAtHook(tr.Measured, "ip_local_deliver", "ipt_do_table") + callsAtHook(tr.Around, "ip_local_deliver", "ipt_do_table")
	if counted := r.metric("a", "hook_packets"); float64(received) != counted {
		t.Errorf("the rules were walked for %d packets received, and their counter says %g", received, counted)
	}
	r.expectRowOfTheClient(tr)
	r.expectDrop(tr)
	if text := r.run("report", "a"); !strings.Contains(text, "report") {
		t.Errorf("the report of a traced run says %q", text)
	}
	r.run("pack", "a", "--out", "a.hookbed.tar.gz")
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
	data, err := os.ReadFile(filepath.Join(r.dir, run, "rows.csv"))
	if err != nil {
		r.t.Fatal(err)
	}
	rows, err := record.Read(bytes.NewReader(data))
	if err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(rows, func(row record.Row) bool { return row.Metric == name && row.Status == record.StatusOK })
	if i < 0 {
		r.t.Fatalf("%s has no good row of %s", run, name)
	}
	return rows[i].Value
}

// expectRowOfTheClient compares the row, which the client made by its own clock, with the same part
// of the trace. netperf prints its rate with two decimals, and reads the clock a few instructions
// from where it begins and ends to count.
func (r *vmRig) expectRowOfTheClient(tr trace.Trace) {
	r.t.Helper()
	if tr.Client.Units <= 0 {
		r.t.Fatal("the trace does not say what the client counted")
	}
	row, traced := r.metric("a", "instructions_per_transaction"), float64(tr.Client.Instructions)/tr.Client.Units
	if row/traced < 0.9999 || row/traced > 1.0001 {
		r.t.Errorf("the row has %.3f instructions a transaction, the trace of the same part %.3f", row, traced)
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

// callsAtHook counts the calls of a function at the hook that another one runs: a packet that is
// received may have one sent, whose hooks are further below.
func callsAtHook(t trace.Tree, hook, name string) (n uint64) {
	const between = 3 // callers, the hook's own included
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
	return n
}
