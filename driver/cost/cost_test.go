package cost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/lab"
)

// fake executes bundles without a kernel: a run of a handle's program takes as
// many nanoseconds as cost says, and steps of kinds in fail end in that fault.
type fake struct {
	t     *testing.T
	cost  func(r bundle.TestRun) float64
	fail  func(st bundle.Step) error
	steps []bundle.Step
	// rounds are the names of the runs in each step of several.
	rounds [][]bundle.TestRun
}

func (f *fake) Exec(_ context.Context, b *bundle.Bundle, phases ...bundle.Phase) (lab.Execution, error) {
	var ex lab.Execution
	for _, chunk := range b.Chunks(phases...) {
		for _, st := range chunk.Steps {
			f.steps = append(f.steps, st)
			if f.fail != nil {
				if err := f.fail(st); err != nil {
					return ex, err
				}
			}
			res := bundle.StepResult{Kind: st.Do.Kind(), Values: map[string]float64{}}
			if do, ok := st.Do.(bundle.TestRuns); ok {
				f.rounds = append(f.rounds, do.Runs)
				for _, r := range do.Runs {
					res.Values[r.Name] = f.cost(r)
				}
			}
			ex.Steps = append(ex.Steps, lab.Outcome{Step: st, StepResult: res})
		}
	}
	return ex, nil
}

func fault(kind, text string) error { return &lab.Fault{Kind: kind, Err: errors.New(text)} }

// linear costs 10 ns and one more for each policy, of every program.
func linear(r bundle.TestRun) float64 {
	_, n, _ := strings.Cut(r.Handle, "/")
	var policies int
	_, _ = fmt.Sscan(n, &policies)
	return 10 + float64(policies)
}

func titleOf(c *Cell) string { return fmt.Sprintf("%s N=%d %s", c.Program, c.Policies, c.Match) }

func pick(t *testing.T, names ...string) []Subject {
	t.Helper()
	s, err := Select(names)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMeasureProvesBeforeItTimes(t *testing.T) {
	f := &fake{t: t, cost: linear}
	cells, err := Measure(t.Context(), Config{Lab: f, Subjects: pick(t, "tc-pass", "xdp-hash"), Policies: []int{1, 100}, Rounds: 3, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) != 1+2*4 {
		t.Fatalf("%d cells, want one of the control and eight of the filter", len(cells))
	}
	for i := range cells {
		if len(f.rounds[i]) != 1 || f.rounds[i][0].Repeat != 1 {
			t.Errorf("step %d has %d runs, want one that proves a verdict", i, len(f.rounds[i]))
		}
	}
	timed := f.rounds[len(cells)+1:]
	if len(timed) != 3 {
		t.Fatalf("%d timed rounds, want 3", len(timed))
	}
	order := func(runs []bundle.TestRun) (out []string) {
		for _, r := range runs {
			out = append(out, r.Handle+r.Frame.From.String())
		}
		return out
	}
	if slices.Equal(order(timed[0]), order(timed[1])) && slices.Equal(order(timed[1]), order(timed[2])) {
		t.Error("all rounds have one order")
	}
	for _, c := range cells {
		if want := 10 + float64(c.Policies); c.Status != record.StatusOK || len(c.NS) != 3 || c.NS[0] != want || c.NS[2] != want {
			t.Errorf("%s: %s %v, want three times %v", titleOf(c), c.Status, c.NS, want)
		}
		if c.Match == matchNone && c.Program == "xdp-hash" && c.want != xdpDrop || c.Match != matchNone && c.want != xdpPass {
			t.Errorf("%s wants return code %d", titleOf(c), c.want)
		}
		if c.repeat != uint32(callNS/(10+float64(c.Policies))) {
			t.Errorf("%s is run %d times a call", titleOf(c), c.repeat)
		}
	}
}

func TestMeasureIsSeeded(t *testing.T) {
	orders := func(seed uint64) (out []string) {
		f := &fake{t: t, cost: linear}
		_, err := Measure(t.Context(), Config{Lab: f, Subjects: pick(t, "xdp-hash", "xdp-lpm"), Policies: []int{5}, Rounds: 4, Seed: seed,
			Sample: func(s Sample) error { out = append(out, fmt.Sprint(s.Round, s.Order, titleOf(s.Cell))); return nil }})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	a, b, c := orders(1), orders(1), orders(2)
	if !slices.Equal(a, b) || slices.Equal(a, c) || len(a) != 4*8 {
		t.Errorf("%d samples; the same seed gives the same order: %v, another another: %v", len(a), slices.Equal(a, b), !slices.Equal(a, c))
	}
}

// TestMeasureBlames: whose fault an error is decides what becomes of the cells.
func TestMeasureBlames(t *testing.T) {
	for _, tc := range []struct {
		name, status string
		fail         func(bundle.Step) error
		rig          bool
	}{
		{name: "wrong verdict", status: record.StatusFailed, fail: func(st bundle.Step) error {
			if do, ok := st.Do.(bundle.TestRuns); ok && do.Runs[0].Want == xdpDrop {
				return fault(bundle.FaultSubject, "returned 2, want 1")
			}
			return nil
		}},
		{name: "no such map type", status: record.StatusUnsupported, fail: onKind("load-bpf", fault(bundle.FaultUnsupported, "not supported"))},
		{name: "JIT off", status: record.StatusVoid, fail: onKind("guard", fault(bundle.FaultVoid, "BPF JIT is 0"))},
		{name: "helper gone", rig: true, fail: onKind("fill-map", fault(bundle.FaultRig, "gone"))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{t: t, cost: linear, fail: tc.fail}
			cells, err := Measure(t.Context(), Config{Lab: f, Subjects: pick(t, "xdp-hash"), Policies: []int{3}, Rounds: 1})
			if (err != nil) != tc.rig {
				t.Fatalf("error %v, want one: %v", err, tc.rig)
			}
			if tc.rig {
				return
			}
			last := cells[len(cells)-1] // no policy is met
			if last.Status != tc.status || last.Reason == "" || len(last.NS) > 0 {
				t.Errorf("%s is %q (%s) with %d numbers, want %q and no number", titleOf(last), last.Status, last.Reason, len(last.NS), tc.status)
			}
			if tc.name == "wrong verdict" && (cells[0].Status != record.StatusOK || len(cells[0].NS) != 1) {
				t.Errorf("%s is %s: the other frames are measured all the same", titleOf(cells[0]), cells[0].Status)
			}
		})
	}
}

func onKind(kind string, err error) func(bundle.Step) error {
	return func(st bundle.Step) error {
		if st.Do.Kind() == kind {
			return err
		}
		return nil
	}
}

// TestExternalPrograms: what is not there is unsupported, and so is what is there and
// refuses to load a policy set.
func TestExternalPrograms(t *testing.T) {
	f := &fake{t: t, cost: linear, fail: onKind("tool", fault(bundle.FaultSubject, "rule too long"))}
	for env, want := range map[Environment]string{{NoExternal: "no network"}: "no network", {}: "rule too long"} {
		cells, err := Measure(t.Context(), Config{Lab: f, Subjects: pick(t, "xdp-filter", "bpfilter-set"), Policies: []int{2}, Rounds: 1, External: env})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cells {
			if c.Status != record.StatusUnsupported || !strings.Contains(c.Reason, want) {
				t.Errorf("%s: %s (%s), want unsupported because of %q", titleOf(c), c.Status, c.Reason, want)
			}
		}
	}
	big, err := Measure(t.Context(), Config{Lab: f, Subjects: pick(t, "xdp-filter"), Policies: []int{10_001}, Rounds: 1})
	if err != nil || big[0].Status != record.StatusUnsupported || !strings.Contains(big[0].Reason, "room for 10000") {
		t.Errorf("%+v, %v; want more addresses than there is room for to be unsupported", big[0], err)
	}
}

// TestExternalProgramsAreEnded: what loaded an external program is ended once the
// program is held, or could not be loaded, so that the next finds the link free.
func TestExternalProgramsAreEnded(t *testing.T) {
	for _, name := range []string{"xdp-filter", "bpfilter-set", "bpfilter-linear-xdp"} {
		s := pick(t, name)[0]
		i, err := s.render(s, 3, Environment{})
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, st := range slices.Concat(i.bundle.Steps, i.ends) {
			kinds = append(kinds, st.Do.Kind())
		}
		want := map[string]string{
			"xdp-filter":          "tool adopt-bpf fill-map veth attach-bpf tool",
			"bpfilter-set":        "daemon tool adopt-bpf tool stop",
			"bpfilter-linear-xdp": "daemon tool adopt-bpf veth attach-bpf tool stop",
		}[name]
		if got := strings.Join(kinds, " "); got != want {
			t.Errorf("%s: steps %s, want %s", name, got, want)
		}
	}
	f := &fake{t: t, cost: linear, fail: onKind("adopt-bpf", fault(bundle.FaultSubject, "no such program"))}
	if _, err := Measure(t.Context(), Config{Lab: f, Subjects: pick(t, "bpfilter-set"), Policies: []int{2}, Rounds: 1}); err != nil {
		t.Fatal(err)
	}
	if last := f.steps[len(f.steps)-1].Do.Kind(); last != "stop" {
		t.Errorf("the last step is %s, want the daemon stopped", last)
	}
}

// TestEverySubject: all of hookbed's render at every N, name as many sources as they
// have policies, and have handles and links of their own.
func TestEverySubject(t *testing.T) {
	handles, links := map[string]bool{}, map[string]bool{}
	for _, s := range allSubjects() {
		for _, n := range levelsOf(s, []int{1, 10, 10_000}) {
			i, err := s.render(s, n, Environment{})
			if err != nil {
				t.Errorf("%s with %d policies: %v", s.Name, n, err)
				continue
			}
			if len(i.named) != n || handles[i.handle] || i.program == "" {
				t.Errorf("%s names %d sources of %d, handle %q", s.Name, len(i.named), n, i.handle)
			}
			handles[i.handle] = true
			for _, st := range i.bundle.Steps {
				if v, ok := st.Do.(bundle.Veth); ok && (links[v.Link] || len(v.Peer) > 15) {
					t.Errorf("%s: link %s is taken or too long", i.handle, v.Link)
				} else if ok {
					links[v.Link] = true
				}
			}
		}
	}
	if len(handles) < 40 {
		t.Errorf("only %d instances", len(handles))
	}
}

func TestSender(t *testing.T) {
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	i := instance{named: []netip.Addr{a("198.19.0.1"), a("198.19.0.2"), a("198.19.0.3"), a("198.19.0.4")}, unnamed: a("198.19.0.9"), to: a("198.18.11.20")}
	for match, want := range map[string]string{matchFirst: "198.19.0.1", matchMiddle: "198.19.0.2", matchLast: "198.19.0.4", matchNone: "198.19.0.9"} {
		if got := i.frame(match, 0).From.String(); got != want {
			t.Errorf("the frame that meets the %s policy comes from %s, want %s", match, got, want)
		}
	}
}

// synthetic are cells of a made-up run.
func synthetic() []*Cell {
	series := func(base float64) (out []float64) {
		for i := range 32 {
			out = append(out, base*(1+0.01*math.Abs(math.Sin(float64(i)))))
		}
		return out
	}
	var out []*Cell
	for _, p := range []struct {
		name, hook, project string
		at                  func(n float64) float64
	}{
		{"tc-linear", HookTC, "hookbed", func(n float64) float64 { return 90 + 1.4*n }},
		{"tc-hash", HookTC, "hookbed", func(float64) float64 { return 130 }},
		{"xdp-hash", HookXDP, "hookbed", func(float64) float64 { return 52.25 }},
		{"xdp-filter", HookXDP, "xdp-filter", func(float64) float64 { return 104.5 }},
	} {
		for _, n := range []int{1, 100, 10000} {
			for _, match := range matches() {
				out = append(out, &Cell{Program: p.name, Hook: p.hook, Project: p.project, Policies: n, Match: match, Status: record.StatusOK, NS: series(p.at(float64(n))), LoadSeconds: 0.01})
			}
		}
	}
	out[3].NS, out[3].Status, out[3].Reason = nil, record.StatusFailed, "prove the verdict: returned 0, want 2\nof run 1"
	for _, match := range matches() {
		out = append(out, &Cell{Program: "bpfilter-set", Hook: HookTC, Project: "bpfilter", Policies: 1, Match: match, Status: record.StatusUnsupported, Reason: "not installed"})
	}
	return out
}

func TestCellGoldens(t *testing.T) {
	var csv, md, text bytes.Buffer
	if err := writeCSV(&csv, synthetic()); err != nil {
		t.Fatal(err)
	}
	for _, table := range Tables(synthetic(), 32, Machine{"a processor", "6.18", "Mitigation: Retpolines"}) {
		table.Markdown(&md)
		table.Text(&text)
	}
	checkGolden(t, "cost.csv", csv.Bytes())
	checkGolden(t, "cost.md", md.Bytes())
	checkGolden(t, "cost.txt", text.Bytes())
}

// checkGolden compares with a file under testdata.
func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s differs (%v); got:\n%s", path, err, got)
	}
}

// TestRatios: ratios need no unit, so that each is known of the synthetic run.
func TestRatios(t *testing.T) {
	want := map[string]float64{
		"tc-linear: 10000 policies over 1":           (90 + 14000) / 91.4,
		"tc-hash: 10000 policies over 1":             1,
		"xdp-hash over xdp-filter at 10000 policies": 0.5,
	}
	for _, r := range Ratios(synthetic()) {
		w, ok := want[r.What]
		delete(want, r.What)
		if ok && (math.Abs(r.Ratio.Estimate/w-1) > 1e-9 || r.Ratio.Low > r.Ratio.Estimate || r.Ratio.High < r.Ratio.Estimate) {
			t.Errorf("%s is %+v, want %v", r.What, r.Ratio, w)
		}
	}
	if len(want) > 0 {
		t.Errorf("no ratios %v", want)
	}
}

func TestFigure(t *testing.T) {
	svg := string(drawCells(synthetic()))
	for _, text := range []string{"<svg", "tc-linear: 91.72 at N = 1, 1.414e+04 at N = 10000", "xdp-filter", "nanoseconds per packet"} {
		if !strings.Contains(svg, text) {
			t.Errorf("the figure lacks %q", text)
		}
	}
	if drawCells(nil) != nil {
		t.Error("a figure of nothing")
	}
}
