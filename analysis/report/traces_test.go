package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"hookbed/analysis/figure"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
	"hookbed/analysis/summary"
	"hookbed/analysis/trace"
	"hookbed/analysis/trace/tracetest"
)

// tracedRun is a run of invented numbers in virtual time, with a trace of each cell and with
// differences from docker.
func tracedRun(t *testing.T) string {
	t.Helper()
	study := map[string]string{"state": "as-study", "placement": "input"}
	tc, redirect := map[string]string{"enforce": "all", "attach": "clsact"}, map[string]string{"enforce": "all", "attach": "clsact", "delivery": "redirect"}
	xdp := map[string]string{"attach": "native", "where": "edge"}
	cost := func(arm string) func(int) float64 {
		return func(n int) float64 {
			x := tracetest.New("x", arm, tracetest.RR, n)
			return 8e-9 * x.PerUnit(x.Window.Measured)
		}
	}
	c := runstest.Cross{Kernels: []string{"6.12"}, Clock: runs.ClockVirtual, Blocks: 3, Trials: 1, Spread: 0.0005, Policies: []int{0, 100}, Arms: []runstest.CrossArm{
		{Name: tracetest.Docker, Fabric: "bridge", Filter: "none", Cost: cost(tracetest.Docker)},
		{Name: tracetest.Iptables, Fabric: "bridge", Filter: "iptables-legacy", Options: study, Cost: cost(tracetest.Iptables)},
		{Name: tracetest.NftSet, Fabric: "bridge", Filter: "nft-set", Options: study, Cost: cost(tracetest.NftSet)},
		{Name: tracetest.TCHash, Fabric: "bridge", Filter: "tc-hash", Options: tc, Cost: cost(tracetest.TCHash)},
		{Name: tracetest.CiliumLike, Fabric: "bpf", Filter: "tc-hash", Options: redirect, Cost: cost(tracetest.CiliumLike)},
		{Name: tracetest.XDP, Fabric: "bridge", Filter: "xdp-hash", Options: xdp, Cost: cost(tracetest.XDP)},
	}}
	dir := c.Write(t)
	reference := tracetest.New("6.12-docker-0", tracetest.Docker, tracetest.RR, 0)
	var all []trace.Trace
	for _, a := range c.Arms {
		for _, n := range c.Policies {
			if a.Name == tracetest.Docker && n > 0 {
				continue
			}
			x := tracetest.New(fmt.Sprintf("6.12-%s-%d", a.Name, n), a.Name, tracetest.RR, n)
			all = append(all, x)
			must(t, trace.Write(dir, &x))
			if a.Name != tracetest.Docker && n == 100 {
				must(t, trace.WriteDiff(dir, &x, &reference))
			}
		}
	}
	must(t, trace.WriteDiff(dir, &all[4], &all[2]))
	must(t, trace.WriteRun(dir, all, figure.AllLayers(all)))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTraces holds the report of one traced run, from several sides.
func TestTraces(t *testing.T) {
	dir := tracedRun(t)
	t.Run("golden", func(t *testing.T) { tracesGolden(t, dir) })
	t.Run("json", func(t *testing.T) { tracesJSON(t, dir) })
	t.Run("refused packets", func(t *testing.T) { dropsGolden(t, dir) })
	t.Run("not exact", func(t *testing.T) { tracesThatAreNotExact(t, dir) })
	t.Run("do not fit", func(t *testing.T) { tracesThatDoNotFit(t, dir) })
}

// regular reports whether a file is there.
func regular(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// tracesGolden holds what a report says of traces, as a reader sees it: the section, and the
// table of functions in what explains the contrast.
func tracesGolden(t *testing.T, dir string) {
	if _, err := Make([]string{dir}, dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if *keep != "" {
		must(t, os.CopyFS(filepath.Join(*keep, "traces"), os.DirFS(dir)))
	}
	text := read(t, dir, "report.md")
	section := between(t, text, "## Where the instructions go", "## At a glance")
	got := between(t, text, "### Which functions make it", "<details>") + section
	golden := filepath.Join("testdata", "traces.md")
	if *update {
		runstest.WriteFile(t, golden, []byte(got))
	}
	if want := read(t, golden); got != want {
		t.Errorf("got:\n%s\nwant:\n%s\n(if this is meant: go test -update)", got, want)
	}
	links := 0
	for _, m := range regexp.MustCompile(`\]\((trace/[^)]*)\)`).FindAllStringSubmatch(section, -1) {
		links++
		if !regular(filepath.Join(dir, m[1])) {
			t.Errorf("%s leads nowhere", m[1])
		}
	}
	if links != 2*11+5+1 {
		t.Errorf("%d links, want a path and a flame graph of each of 11 cells, five differences from the reference and another one", links)
	}
	page := read(t, dir, "report.html")
	for _, want := range []string{`id="s-instructions"`, `href="trace/6.12-iptables-100/flame.svg"`, `href="trace/6.12-iptables-100/path.md"`, `id="f-layers-tcp-rr--localhost"`} {
		if !strings.Contains(page, want) {
			t.Errorf("report.html lacks %s", want)
		}
	}
	svg := read(t, dir, "figures", "layers-tcp-rr--localhost.svg")
	wellFormed(t, svg)
	wellFormed(t, read(t, dir, trace.Dir, trace.LayersFigure))
}

func between(t *testing.T, text, from, to string) string {
	t.Helper()
	i := strings.Index(text, from)
	if i < 0 {
		t.Fatalf("no %q in the report", from)
	}
	j := strings.Index(text[i:], to)
	if j < 0 {
		t.Fatalf("no %q after %q", to, from)
	}
	return text[i : i+j]
}

// report.json has the numbers; they are those of the traces.
func tracesJSON(t *testing.T, dir string) {
	out, _ := makeReport(t, Options{Resamples: 100}, dir)
	var doc Document
	must(t, json.Unmarshal([]byte(read(t, out, "report.json")), &doc))
	if len(doc.Traces) != 11 {
		t.Fatalf("%d traces, want 11", len(doc.Traces))
	}
	for _, x := range doc.Traces {
		want := tracetest.New(x.Cell, x.Arm, tracetest.RR, x.Policies)
		sum := 0.0
		for _, l := range x.Layers {
			sum += l.PerUnit
		}
		if x.PerUnit != want.PerUnit(want.Window.Measured) || !x.Exact || !reflect.DeepEqual(x.Window, want.Window) || sum < x.PerUnit*0.999999 || sum > x.PerUnit*1.000001 {
			t.Errorf("%s at %d: %+v", x.Arm, x.Policies, x)
		}
		if (x.Against == nil) != (x.Arm == tracetest.Docker) {
			t.Errorf("%s is compared with %+v", x.Arm, x.Against)
		}
		if !regular(filepath.Join(out, filepath.FromSlash(x.Flame))) {
			t.Errorf("%s is not there from %s", x.Flame, out)
		}
	}
	steps := 0
	for _, d := range doc.Explanations[0].Orders {
		for _, s := range d.Steps {
			if s.Traced != nil {
				steps++
			}
			if s.Kind == "structure" && s.Traced != nil && s.Traced.Functions[0].Function != "ipt_do_table" {
				t.Errorf("the structure's term is made by %+v", s.Traced.Functions)
			}
		}
	}
	if steps < 3 {
		t.Errorf("%d steps by function", steps)
	}
}

// A trace of a cell that the run does not have, and a trace whose sums do not agree, are errors
// that name the file.
func tracesThatDoNotFit(t *testing.T, dir string) {
	x := tracetest.New("nowhere", tracetest.Docker, tracetest.RR, 0)
	must(t, trace.Write(dir, &x))
	if _, err := Make([]string{dir}, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "no cell nowhere") {
		t.Errorf("a trace of another run: %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(dir, trace.Dir, "nowhere")))
	path := filepath.Join(dir, trace.Dir, "6.12-xdp-0", "tree.csv")
	runstest.WriteFile(t, path, []byte(strings.Replace(read(t, path), "tcp_ack,124000", "tcp_ack,124001", 1)))
	if _, err := Make([]string{dir}, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "6.12-xdp-0") {
		t.Errorf("a changed trace: %v", err)
	}
}

// A trace that is not exact is named, and by how much it is off.
func tracesThatAreNotExact(t *testing.T, dir string) {
	x := tracetest.New("6.12-xdp-100", tracetest.XDP, tracetest.RR, 100)
	x.Window.ClockNS += 24
	x.Window.ClocksOff = 2
	must(t, trace.Write(dir, &x))
	out, _ := makeReport(t, Options{Resamples: 100}, dir)
	if text := read(t, out, "report.md"); !strings.Contains(text, "The clock does not agree with the instructions of xdp at N = 100, TCP\\_RR, localhost (by 24 ns in all, and at 2 of 800 readings).") {
		t.Error("the report does not say which trace is off")
	}
}

// The row that a trace is next to is the one of its seed.
func TestByRow(t *testing.T) {
	c := &runs.Cell{Factors: map[string]string{"workload": "TCP_RR"}}
	for i, v := range []float64{40_000, 41_000} {
		t := &runs.Trial{Status: "ok", Seed: fmt.Sprint(i + 1)}
		t.Set("instructions_per_transaction", "1", v)
		c.Trials = append(c.Trials, t)
	}
	e, err := summary.New([]runs.Run{{Name: "r"}}, summary.Options{})
	must(t, err)
	s := traceSet{e: e}
	if got := s.byRow(c, 2); got == nil || *got != 41_000 {
		t.Errorf("the row of seed 2: %v", got)
	}
	if got := s.byRow(c, 3); got != nil {
		t.Errorf("a row of seed 3: %v", *got)
	}
}

// Sentences of differences.
func TestDifferencesInWords(t *testing.T) {
	x := &traced{Traced: Traced{Arm: "a", Policies: 10, PerUnit: 41_000, Unit: "transaction"}}
	for want, d := range map[string]TraceDiff{
		"a at N = 10 executes 41 000 instructions a transaction, as many as b.":                                                                          {Arm: "b", Policies: 10, More: 0.2},
		"a at N = 10 executes 41 000 instructions a transaction, 19 000 more than b: 88 % of them in ipt_do_table, called 4 times a transaction, not 2.": {Arm: "b", Policies: 10, More: 19_000, Functions: []FunctionChange{{"ipt_do_table", 16_720, 0.88, 4, 2}, {"x", 19, 0.001, 1, 0}}},
		"a at N = 10 executes 41 000 instructions a transaction, 100 fewer than b at N = 0: 60 % of them in bridge; the most in one function is 30 % in br_forward, which b calls 2 times a transaction and a never.": {
			Arm: "b", More: -100, Layers: []LayerShare{{trace.LayerBridge, -60, 0.6}, {trace.LayerVeth, -5, 0.05}}, Functions: []FunctionChange{{"br_forward", -30, 0.3, 0, 2}}},
	} {
		if got := x.sentence(&d); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
