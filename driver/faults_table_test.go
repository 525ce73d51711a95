package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// readFaultLog reads the tries of the seed that an earlier call made, by number. A line that was cut
// is made again.
func readFaultLog(t *testing.T) map[int]logged {
	t.Helper()
	out := map[int]logged{}
	data, err := os.ReadFile(*faultsLogFlag)
	if *faultsLogFlag == "" || errors.Is(err, fs.ErrNotExist) {
		return out
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var l logged
		if json.Unmarshal(line, &l) == nil && l.Seed == *faultsSeedFlag {
			out[l.Try.Number] = l
		}
	}
	return out
}

func appendFaultLog(t *testing.T, l logged) {
	t.Helper()
	if *faultsLogFlag == "" {
		return
	}
	data, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(*faultsLogFlag, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(append([]byte("\n"), append(data, '\n')...)); err != nil {
		t.Error(err)
	}
}

// judgeFaults compares the numbers of all tries, writes the table, and fails for each try that was
// not survived.
func judgeFaults(t *testing.T, all []logged) {
	t.Helper()
	unlike := unlikeNumbers(all)
	for i := range all {
		r := &all[i].Result
		r.Wrong = append(r.Wrong, unlike[all[i].Try.Number]...)
		if !r.survived() {
			t.Errorf("seed %d, %s: lost %q, doubled %q, leaked %q, wrong %q\n%s", all[i].Seed, all[i].Try, r.Lost, r.Doubled, r.Leaked, r.Wrong, all[i].Said)
		}
	}
	table := faultTable(all, try.kind)
	t.Logf("seed %d\n%s", *faultsSeedFlag, table)
	if *faultsTableFlag == "" {
		return
	}
	if err := os.WriteFile(*faultsTableFlag, []byte(table), 0o644); err != nil {
		t.Error(err)
	}
}

// Numbers of tries of one cell are compared once there are enough of them. A median latency, or a
// throughput, may be off by a factor: other tries run at the same time. Where more was runnable than
// mostLoad for each CPU, a turn of a program took as long as others let it, and that is not compared.
const (
	enoughTries = 5
	mostFactor  = 30
	mostLoad    = 3
	loadMetric  = "load1.client_node"
)

// exactNumbers are the same in every trial of a cell, however busy the computer is.
func exactNumbers(metric string) bool {
	return metric == "policies_realised" || metric == "probes_allowed" || metric == "probes_denied" || strings.HasPrefix(metric, "hook_rules") || strings.HasPrefix(metric, "hook_entries")
}

// spreadNumbers vary with the computer's load.
func spreadNumbers(metric string) bool { return metric == "latency_p50" || metric == "throughput" }

// busy says that a trial's computer had more to do than can be compared.
func (r tried) busy(workload string) bool {
	return r.Numbers[workload+" "+loadMetric] > mostLoad*float64(runtime.NumCPU())
}

// unlikeNumbers says by try which of its trials' numbers is not as in the other tries of its cell.
func unlikeNumbers(all []logged) map[int][]string {
	type key struct{ cell, metric string }
	values := map[key][]float64{}
	for _, l := range all {
		for name, v := range l.Result.Numbers {
			if workload, metric, _ := strings.Cut(name, " "); spreadNumbers(metric) && l.Result.busy(workload) {
				continue
			}
			k := key{l.Try.cell(), name}
			values[k] = append(values[k], v)
		}
	}
	out := map[int][]string{}
	for _, l := range all {
		for _, name := range slices.Sorted(maps.Keys(l.Result.Numbers)) {
			of := slices.Sorted(slices.Values(values[key{l.Try.cell(), name}]))
			if len(of) < enoughTries {
				continue
			}
			v, median := l.Result.Numbers[name], of[len(of)/2]
			workload, metric, _ := strings.Cut(name, " ")
			exact := exactNumbers(metric) && v != median
			far := spreadNumbers(metric) && !l.Result.busy(workload) && (v > mostFactor*median || v < median/mostFactor)
			if exact || far {
				out[l.Try.Number] = append(out[l.Try.Number], fmt.Sprintf("%s is %g, in %d tries of the cell the median is %g", name, v, len(of), median))
			}
		}
	}
	return out
}

// TestUnlikeNumbers: a number that no load explains is found, and one that load does explain is not.
func TestUnlikeNumbers(t *testing.T) {
	of := func(n int, numbers map[string]float64) logged {
		return logged{Try: try{Number: n}, Result: tried{Numbers: numbers}}
	}
	var all []logged
	for n := range enoughTries {
		all = append(all, of(n, map[string]float64{"TCP_RR latency_p50": 1e-5, "TCP_RR policies_realised": 10}))
	}
	all = append(all, of(10, map[string]float64{"TCP_RR latency_p50": 1e-4, "TCP_RR policies_realised": 10}),
		of(11, map[string]float64{"TCP_RR latency_p50": 1e-6, "TCP_RR policies_realised": 9}), of(12, map[string]float64{"TCP_RR latency_p50": 1e-2}))
	all = append(all, of(13, map[string]float64{"TCP_RR latency_p50": 1, "TCP_RR " + loadMetric: 1e6}))
	got := unlikeNumbers(all)
	if len(got) != 2 || len(got[11]) != 1 || !strings.Contains(got[11][0], "policies_realised is 9") || len(got[12]) != 1 {
		t.Errorf("unlike are %v, want the policies of try 11 and the latency of try 12", got)
	}
}

// faultCount is a line of the table.
type faultCount struct {
	tries, met, survived, lost, doubled, leaked, wrong int
	ending                                             float64
}

func (c *faultCount) add(r tried) {
	some := func(list []string) int { return min(len(list), 1) }
	c.tries++
	if r.Met {
		c.met++
	}
	if r.survived() {
		c.survived++
	}
	c.lost, c.doubled = c.lost+some(r.Lost), c.doubled+some(r.Doubled)
	c.leaked, c.wrong = c.leaked+some(r.Leaked), c.wrong+some(r.Wrong)
	c.ending = max(c.ending, r.Ending)
}

// faultTable counts what became of the tries, by the kind of fault.
func faultTable(all []logged, kindOf func(try) string) string {
	kinds, total := map[string]*faultCount{}, &faultCount{}
	for _, l := range all {
		kind := kindOf(l.Try)
		if kinds[kind] == nil {
			kinds[kind] = &faultCount{}
		}
		kinds[kind].add(l.Result)
		total.add(l.Result)
	}
	var out strings.Builder
	out.WriteString("| fault | tries | met | survived | lost | doubled | leaked | wrong | longest to the end, s |\n|---|---|---|---|---|---|---|---|---|\n")
	line := func(kind string, c *faultCount) {
		fmt.Fprintf(&out, "| %s | %d | %d | %d | %d | %d | %d | %d | %.0f |\n", kind, c.tries, c.met, c.survived, c.lost, c.doubled, c.leaked, c.wrong, c.ending)
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		line(kind, kinds[kind])
	}
	line("all", total)
	return out.String()
}
