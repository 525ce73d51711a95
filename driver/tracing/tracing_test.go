package tracing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/trace"
	"hookbed/analysis/trace/tracetest"
	"hookbed/driver/bundle"
	"hookbed/driver/campaign"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
	"hookbed/driver/watch"
	"hookbed/driver/workload"
)

const experiment = `schema = 1
name = "traced"
[lab]
clock = "virtual"
[measure]
count = { TCP_RR = 60 }
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [0, 2]
[[arm]]
name = "docker"
datapath = "docker"
[[arm]]
name = "iptables"
datapath = "iptables"
`

// tracedPlan has three cells: docker at N = 0, iptables at N = 0 and 2.
func tracedPlan(t *testing.T, c plan.Choice) *plan.Plan {
	t.Helper()
	words := plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: []string{"6.12"}}
	s, err := plan.Parse("t.toml", []byte(experiment), words)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := plan.Expand(s, words)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Trace(whole, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newDir(t *testing.T) *rundir.Dir {
	t.Helper()
	return newDirOf(t, plan.Choice{})
}

func newDirOf(t *testing.T, c plan.Choice) *rundir.Dir {
	t.Helper()
	d, err := rundir.Create(filepath.Join(t.TempDir(), "run"), tracedPlan(t, c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// recordAll records a good row of each trial, and what its guest wrote.
func recordAll(t *testing.T, d *rundir.Dir) {
	t.Helper()
	for _, tr := range d.Plan().Trials {
		cell, _ := d.Plan().CellByID(tr.Cell)
		factors := map[string]string{plan.FactorSeed: "1"}
		for k, v := range cell.Factors {
			factors[k] = v
		}
		row := record.Row{Run: d.Name(), Cell: tr.Cell, Block: tr.Block, Trial: tr.Trial, Order: tr.Order, Status: record.StatusOK,
			Metric: "instructions_per_transaction", Unit: "1", Value: 40_000, Factors: factors}
		if err := errors.Join(d.AppendRows([]record.Row{row}), d.SaveBlock(tr.Block, written(tr.Block))); err != nil {
			t.Fatal(err)
		}
	}
}

func written(block int) []byte { return []byte{'0' + byte(block), '\n'} }

// stream is what a plugin writes of two setups.
func stream(t *testing.T, marks ...watch.MarkID) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := watch.NewWriter(&out)
	w.Symbols([]byte("symbols"))
	id := uint32(0)
	for setup := range 2 {
		for _, m := range marks {
			w.Mark(m, int64(setup), 0, 8)
			if m == watch.MarkBegin {
				b := &watch.Block{ID: id, PC: 1 << 63, Size: []uint8{1, 2}, Kind: watch.ReadClock}
				w.Define(b)
				w.Ran(b, 2, nil)
				w.Clock(24)
				id++
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// seen counts what an observer is called with, and makes the trace that it is given.
type seen struct {
	defined, ran, clocks, marks, symbols int
	make                                 func() (*trace.Trace, error)
}

func (s *seen) Define(*watch.Block)                        { s.defined++ }
func (s *seen) Ran(*watch.Block, int, []watch.StackAccess) { s.ran++ }
func (s *seen) Clock(uint64)                               { s.clocks++ }
func (s *seen) Mark(watch.MarkID, int64, int64, uint64)    { s.marks++ }
func (s *seen) Symbols([]byte)                             { s.symbols++ }
func (s *seen) Result() (*trace.Trace, error)              { return s.make() }
func exact(arm string, n int) func() (*trace.Trace, error) {
	return func() (*trace.Trace, error) { tr := tracetest.New("", arm, "TCP_RR", n); return &tr, nil }
}

// fake runs a plan of traces without a guest. Rows are recorded already.
type fake struct {
	dir    *rundir.Dir
	marks  []watch.MarkID
	write  func(block int) []byte
	make   func(c plan.Cell) func() (*trace.Trace, error)
	refuse func(c plan.Cell) (*trace.Trace, error) // makes the trace of refused attempts
	mu     sync.Mutex
	booted []int
	last   *seen
}

func newFake(d *rundir.Dir) *fake {
	return &fake{dir: d, marks: []watch.MarkID{watch.MarkBegin, watch.MarkEnd}, write: written,
		make: func(c plan.Cell) func() (*trace.Trace, error) {
			return exact(c.Get(plan.FactorArm), c.Int(plan.FactorPolicies))
		}}
}

type silent struct{}

func (silent) Phase(string)                        {}
func (silent) Trial(plan.Trial, plan.Cell, string) {}

func (f *fake) run(t *testing.T) (Result, error) {
	t.Helper()
	return Run(t.Context(), Config{
		SealedConfig: campaign.SealedConfig{
			Config: campaign.Config{Plan: f.dir.Plan(), Dir: f.dir, Trials: f.dir.Pending(), Progress: silent{}, Log: slog.New(slog.DiscardHandler)},
			Jobs:   2, Facts: map[string]any{},
		},
		Plugin: "plugin.so",
		Guest: func(_ context.Context, b lab.SealedBlock, _ func(bundle.SealedReply)) ([]byte, error) {
			if b.Plugin == nil || b.Plugin.Path != "plugin.so" || !b.Block.Symbols {
				return nil, errors.New("the guest is not observed")
			}
			f.mu.Lock()
			f.booted = append(f.booted, b.Number)
			f.mu.Unlock()
			return f.write(b.Number), b.Watch(stream(t, f.marks...))
		},
		Observe: func(c plan.Cell) (Observer, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.last = &seen{make: f.make(c)}
			return f.last, nil
		},
		ObserveRefusals: func(c plan.Cell) (Observer, error) {
			return &seen{make: func() (*trace.Trace, error) { return f.refuse(c) }}, nil
		},
	})
}

func (f *fake) expectTraced(t *testing.T, want int) {
	t.Helper()
	all, err := trace.Read(f.dir.Path())
	if err != nil || len(all) != want {
		t.Fatalf("%d traces, %v, want %d", len(all), err, want)
	}
	for _, tr := range all {
		c, ok := f.dir.Plan().CellByID(tr.Cell)
		if !ok || tr.Seed != 1 || tr.Factors[plan.FactorArm] != c.Get(plan.FactorArm) {
			t.Errorf("a trace is of cell %s, seed %d, %v", tr.Cell, tr.Seed, tr.Factors)
		}
	}
}

// A trace that is missing is made by booting the block once more; the next time nothing is left.
func TestWhatIsMissingIsTraced(t *testing.T) {
	f := newFake(newDir(t))
	recordAll(t, f.dir)
	result, err := f.run(t)
	if err != nil || len(result.Refused) > 0 {
		t.Fatalf("refused %v, %v", result.Refused, err)
	}
	f.expectTraced(t, 3)
	if f.last.defined != 1 || f.last.ran != 1 || f.last.clocks != 1 || f.last.marks != 2 || f.last.symbols != 1 {
		t.Errorf("the observer saw %+v, want the window of the measured trial alone", f.last)
	}
	if slices.Sort(f.booted); !slices.Equal(f.booted, []int{1, 2, 3}) {
		t.Errorf("booted %v", f.booted)
	}
	if err := f.dir.DropTrace(f.dir.Plan().Cells[1].ID); err != nil {
		t.Fatal(err)
	}
	f.booted = nil
	if _, err := f.run(t); err != nil || !slices.Equal(f.booted, []int{2}) {
		t.Errorf("booted %v, %v, want the one without a trace", f.booted, err)
	}
	f.expectTraced(t, 3)
}

// A trace that is not exact, or is not of the guest that made the rows, is not there, nor is an
// older one of the cell.
func TestRefusedTraces(t *testing.T) {
	spoiled := func(spoil func(*trace.Trace)) func(plan.Cell) func() (*trace.Trace, error) {
		return func(c plan.Cell) func() (*trace.Trace, error) {
			return func() (*trace.Trace, error) {
				tr, err := exact(c.Get(plan.FactorArm), c.Int(plan.FactorPolicies))()
				if c.Get(plan.FactorArm) == "docker" {
					spoil(tr)
				}
				return tr, err
			}
		}
	}
	for want, how := range map[string]func(f *fake){
		"its account is broken": func(f *fake) {
			f.make = func(plan.Cell) func() (*trace.Trace, error) {
				return func() (*trace.Trace, error) { return nil, errors.New("its account is broken") }
			}
		},
		"8 ns less":    func(f *fake) { f.make = spoiled(func(tr *trace.Trace) { tr.Window.ClockNS += 8 }) },
		"between 1 of": func(f *fake) { f.make = spoiled(func(tr *trace.Trace) { tr.Window.ClocksOff = 1 }) },
		"more than 0.1 %, have a stack that does not begin where the kernel is entered; the largest begin with do_wait (unknown) 7": func(f *fake) {
			f.make = spoiled(func(tr *trace.Trace) {
				tr.Window.Misrooted = tr.Window.Instructions / 900
				tr.Window.Roots = []trace.Root{{Role: "unknown", Name: "do_wait", Instructions: 7}}
			})
		},
		"no whole unit":          func(f *fake) { f.make = spoiled(func(tr *trace.Trace) { tr.Units = 0 }) },
		"no instruction":         func(f *fake) { f.make = spoiled(func(tr *trace.Trace) { tr.Window.Instructions = 0 }) },
		"no mark where the work": func(f *fake) { f.marks = nil },
		"did not write what":     func(f *fake) { f.write = func(int) []byte { return []byte("other\n") } },
	} {
		f := newFake(newDir(t))
		recordAll(t, f.dir)
		how(f)
		result, err := f.run(t)
		if err != nil || len(result.Refused) == 0 || !strings.Contains(result.Refused[0].Reason, want) || result.Refused[0].Cell.Get(plan.FactorArm) != "docker" {
			t.Errorf("refused %+v, %v, want %q", result.Refused, err, want)
			continue
		}
		f.expectTraced(t, 3-len(result.Refused))
		var said bytes.Buffer
		if result.PrintRefused(&said); !strings.Contains(said.String(), want) || !strings.Contains(result.Document()[0]["reason"], want) {
			t.Errorf("said %q and %v, want %q", said.String(), result.Document(), want)
		}
	}
}

// failing is what a guest writes in which every setup fails.
func failing(t *testing.T, setups int) []byte {
	t.Helper()
	var out bytes.Buffer
	say := func(r bundle.SealedReply) {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(data, '\n'))
	}
	say(bundle.SealedReply{Trial: -1, Phase: bundle.SealedFacts, Reply: bundle.Reply{Facts: map[string]string{"tool": "v1"}}})
	for i := range setups {
		say(bundle.SealedReply{Setup: i, Trial: -1, Phase: string(bundle.Apply), Reply: bundle.Reply{Error: "broken", Fault: bundle.FaultSubject}})
		say(bundle.SealedReply{Setup: i, Trial: -1, Phase: bundle.SealedClose})
	}
	say(bundle.SealedReply{Setup: setups, Trial: -1, Phase: bundle.SealedEnd})
	return out.Bytes()
}

// A trial without a number has no trace, whatever was observed of it; nor has it one the next time.
func TestTrialsWithoutANumberHaveNoTrace(t *testing.T) {
	f := newFake(newDir(t))
	f.write = func(int) []byte { return failing(t, 2) }
	for range 2 {
		result, err := f.run(t)
		if err != nil || len(result.Refused) != 3 || !strings.HasPrefix(result.Refused[0].Reason, "its trial is ") {
			t.Fatalf("refused %+v, %v", result.Refused, err)
		}
		f.expectTraced(t, 0)
	}
	if slices.Sort(f.booted); !slices.Equal(f.booted, []int{1, 2, 3}) {
		t.Errorf("booted %v, want each block once: the same guest does the same again", f.booted)
	}
}

// Every arm is compared with the one that enforces nothing, and the lines say what trace, clock and
// row say.
func TestCompareAndSummarise(t *testing.T) {
	f := newFake(newDir(t))
	if err := Compare(f.dir); err != nil {
		t.Fatalf("without traces: %v", err)
	}
	recordAll(t, f.dir)
	if _, err := f.run(t); err != nil {
		t.Fatal(err)
	}
	if err := Compare(f.dir); err != nil {
		t.Fatal(err)
	}
	diffs, err := filepath.Glob(filepath.Join(f.dir.Path(), trace.Dir, "diff", "localhost-TCP_RR-6.12", "iptables-n[02]--docker-n0.csv"))
	if err != nil || len(diffs) != 2 {
		t.Errorf("differences %v, %v, want those of iptables at N = 0 and 2", diffs, err)
	}
	for _, name := range []string{"layers.csv", trace.LayersFigure} {
		if _, err := os.Stat(filepath.Join(f.dir.Path(), trace.Dir, name)); err != nil {
			t.Error(err)
		}
	}
	lines, err := Summarise(f.dir)
	if err != nil || len(lines) != 3 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, l := range lines {
		if l.Counted == 0 || l.Counted != l.Clock || l.PerUnit <= 0 || l.Row == nil || *l.Row != 40_000 || l.Unit != trace.UnitTransaction {
			t.Errorf("line %+v", l)
		}
	}
	var said bytes.Buffer
	Print(&said, lines)
	for _, want := range []string{"localhost, TCP_RR: instructions a transaction\n", "  iptables  2  ", lines[0].Dir} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not in\n%s", want, said.String())
		}
	}
}
