package callpath

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"hookbed/analysis/trace"
)

// orderCell is a cell as both tracers saw it: netperf's TCP_RR through iptables as in the study with 10
// policies, one host, Linux 6.12. `driver trace` wrote calls.csv in virtual time, of 60 transactions,
// and `driver trace --ftrace` function_graph-node1.txt.gz in an emulated VM, of which the last
// transactions are here.
const orderCell = "iptables-6.12"

// leastAgreement is the share of calls whose order is the same. What is left depends on time: a timer
// takes a lock only if its expiry changes.
const leastAgreement = 0.99

// TestOrderOfBothTracers: the kernel's own tracer saw the functions that it can see in the order in
// which the exact trace has them.
func TestOrderOfBothTracers(t *testing.T) {
	exact := exactPath(t, filepath.Join("testdata", "calls-"+orderCell+".csv.gz"))
	recorded := recordedPath(t, filepath.Join("testdata", "function_graph-"+orderCell+".txt.gz"))
	share, differences := trace.Agreement(exact, recorded)
	t.Logf("the orders of calls agree to %.4f", share)
	if share < leastAgreement {
		t.Errorf("the orders of calls agree to %.4f, want %v: %+v", share, leastAgreement, differences)
	}
}

// unpacked opens a compressed file until the test ends.
func unpacked(t *testing.T, file string) *gzip.Reader {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(errors.Join(err, f.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(z.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	return z
}

// exactPath reads the calls of a path as a trace has them: depth, function, and whether it goes on.
func exactPath(t *testing.T, file string) trace.Path {
	t.Helper()
	lines, err := csv.NewReader(unpacked(t, file)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	root := &trace.Call{}
	open := []*trace.Call{root}
	for _, line := range lines[1:] {
		depth, err := strconv.Atoi(line[0])
		if err != nil || depth >= len(open) {
			t.Fatalf("%v below depth %d, %v", line, len(open)-1, err)
		}
		c := &trace.Call{Name: line[1], Resumed: line[4] == "true"}
		open[depth].Calls = append(open[depth].Calls, c)
		open = append(open[:depth+1], c)
	}
	return trace.Path{Calls: root.Calls}
}

// recordedPath reads what function_graph said of the one client netperf.
func recordedPath(t *testing.T, file string) trace.Path {
	t.Helper()
	r := bufio.NewReaderSize(unpacked(t, file), 1<<20)
	turns, others, _ := Turns("TCP_RR")
	p, err := ReadPath(r, Cut{Client: recordedClient, Server: "netserver", At: turns, Of: roleClient, OtherAt: others})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// recordedClient is the PID of netperf in the recording.
const recordedClient = 269
