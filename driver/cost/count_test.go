package cost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"hookbed/analysis/record"
	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/lab"
)

// period is what the fake guests' clock has between two ticks.
const period = 4_000_000

// ticksOf is what calls take if one run takes so many instructions.
func ticksOf(run float64) map[string]float64 {
	out := map[string]float64{bundle.CountPeriod: period}
	for _, r := range repeats() {
		out[fmt.Sprint(bundle.CountTicks, r)] = 30_000 + run*lab.TicksPerInstruction*float64(r)
	}
	return out
}

func TestPerRunIsExact(t *testing.T) {
	at := func(r int) string { return fmt.Sprint(bundle.CountTicks, r) }
	for name, c := range map[string]struct {
		change func(ticks map[string]float64)
		run    float64
		want   int64
		err    string
	}{
		"every call agrees":            {run: 91, want: 91},
		"the longest calls do not fit": {run: 30_000, want: 30_000},
		"calls that do not fit are not looked at": {run: 30_000, want: 30_000,
			change: func(m map[string]float64) { m[at(32)] += 777 }},
		"one call was disturbed": {run: 91, err: "2 runs take 31456 ticks, 3 take 32184, 64 take",
			change: func(m map[string]float64) { m[at(64)] += 8 }},
		"three runs do not fit":   {run: 150_000, err: "only 2 calls of [2 3 4] runs fit between two ticks of the guest's clock, which are 500000 instructions apart"},
		"no whole number":         {run: 91.5, err: "a run takes 732 ticks"},
		"the first two disturbed": {run: 91, err: "runs do not take equal numbers", change: func(m map[string]float64) { m[at(2)] += 8 }},
		"nothing was returned":    {run: 91, err: "only 0 calls", change: func(m map[string]float64) { clear(m) }},
	} {
		ticks := ticksOf(c.run)
		if c.change != nil {
			c.change(ticks)
		}
		got, err := perRun(ticks)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %d, %v, want %d, %q", name, got, err, c.want, c.err)
		}
	}
}

// guests stands in for sealed guests: each setup and trial answers as the functions say.
type guests struct {
	mu     sync.Mutex
	blocks []lab.SealedBlock
	// run is the instructions of one run.
	run func(handle, match string) float64
	// fail is the reply to a chunk, "" for success.
	fail func(handle, phase string, chunk int, match string) (fault string)
}

func (g *guests) boot(_ context.Context, b lab.SealedBlock, _ func(bundle.SealedReply)) ([]byte, error) {
	g.mu.Lock()
	g.blocks = append(g.blocks, b)
	g.mu.Unlock()
	var out bytes.Buffer
	say := func(r bundle.SealedReply) {
		data, _ := json.Marshal(r)
		out.Write(append(data, '\n'))
	}
	say(bundle.SealedReply{Trial: -1, Phase: bundle.SealedFacts})
	for i, s := range b.Block.Setups {
		reply := func(trial int, phase string, chunk int, match string, values map[string]float64) bool {
			r := bundle.SealedReply{Setup: i, Trial: trial, Phase: phase, Chunk: chunk, Reply: bundle.Reply{Results: []bundle.StepResult{{Values: values}}}}
			if g.fail != nil {
				if f := g.fail(s.Name, phase, chunk, match); f != "" {
					r.Reply = bundle.Reply{Error: "it failed", Fault: f}
				}
			}
			say(r)
			return r.Reply.Error == ""
		}
		ok := true
		for k := 0; ok && k < len(s.Apply); k++ {
			ok = reply(-1, string(bundle.Apply), k, "", nil)
		}
		for k := 0; ok && k < len(s.Trials); k++ {
			match := s.Trials[k].Name
			if reply(k, string(bundle.Prove), 0, match, nil) {
				reply(k, string(bundle.Run), 0, match, ticksOf(g.run(s.Name, match)))
			}
			reply(k, bundle.SealedUndo, 0, match, nil)
		}
		reply(-1, bundle.SealedClose, 0, "", nil)
	}
	say(bundle.SealedReply{Setup: len(b.Block.Setups), Trial: -1, Phase: bundle.SealedEnd})
	return out.Bytes(), nil
}

// byPolicies is 100 instructions and three for each policy, and 40 of an empty program.
func byPolicies(handle, match string) float64 {
	name, n, _ := strings.Cut(handle, "/")
	if strings.HasSuffix(name, "-empty") {
		return 40
	}
	if spin, ok := strings.CutPrefix(name, "control-"); ok {
		var n int
		_, _ = fmt.Sscan(spin, &n)
		return 45 + bpf.ControlInstructions(n)
	}
	var policies int
	_, _ = fmt.Sscan(n, &policies)
	if match == matchNone {
		return 90
	}
	return 100 + 3*float64(policies)
}

func countAll(t *testing.T, g *guests, policies []int, names ...string) ([]*Count, error) {
	t.Helper()
	return CountInstructions(t.Context(), CountConfig{Subjects: pick(t, names...), Policies: policies, Seed: 1, Kernel: "6.12", Jobs: 3, Boot: g.boot})
}

func TestCountSubtractsTheEmptyProgram(t *testing.T) {
	g := &guests{run: byPolicies}
	counts, err := countAll(t, g, []int{1, 10, 100}, "tc-pass", "xdp-linear")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range counts {
		got = append(got, fmt.Sprintf("%s/%d/%s %d %d %s", c.Program, c.Policies, c.Match, c.Run, c.Instructions, c.Status))
	}
	want := []string{"tc-empty/0/none 40 0 ok", "control-100/0/none 347 307 ok", "control-1000/0/none 3047 3007 ok", "control-10000/0/none 30047 30007 ok", "xdp-empty/0/none 40 0 ok", "tc-pass/0/none 90 50 ok"}
	for _, n := range []int{1, 10, 100} {
		for _, match := range []string{"first", "middle", "last"} {
			want = append(want, fmt.Sprintf("xdp-linear/%d/%s %d %d ok", n, match, 100+3*n, 60+3*n))
		}
		want = append(want, fmt.Sprintf("xdp-linear/%d/none 90 50 ok", n))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("counts\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var text bytes.Buffer
	for _, table := range CountTables(counts, "6.12") {
		table.Text(&text)
	}
	for _, want := range []string{"0 (40 in all)", "40 at tc, 40 at xdp", "60 + 3 N", "kernel 6.12"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the tables have no %q:\n%s", want, text.String())
		}
	}
	var csv bytes.Buffer
	if err := writeCountsCSV(&csv, counts); err != nil || !strings.Contains(csv.String(), "\nxdp-linear,xdp,hookbed,10,last,ok,,130,90\n") {
		t.Errorf("CSV (%v)\n%s", err, csv.String())
	}
}

// TestCountGuests: a guest has one program, loaded once for each N, proven before it is counted;
// what a guest gets does not depend on the other programs.
func TestCountGuests(t *testing.T) {
	blocks := map[string]string{}
	for _, names := range [][]string{{"tc-hash"}, {"tc-linear", "xdp-hash", "tc-hash"}} {
		g := &guests{run: byPolicies}
		if _, err := countAll(t, g, []int{1, 5}, names...); err != nil {
			t.Fatal(err)
		}
		for _, b := range g.blocks {
			var setups []string
			for _, s := range b.Block.Setups {
				setups = append(setups, s.Name)
				for _, trial := range s.Trials {
					if trial.Prove[0].Steps[0].Do.Kind() != "test-runs" || trial.Run[0].Steps[0].Do.Kind() != "count-runs" {
						t.Errorf("%s: trial %+v", s.Name, trial)
					}
				}
				for _, chunk := range s.Apply {
					for _, f := range chunk.Files {
						if _, ok := b.Files[f.SHA256]; !ok {
							t.Errorf("%s: a file of a chunk is not in the block", s.Name)
						}
					}
				}
			}
			data, err := json.Marshal(b.Block)
			if err != nil {
				t.Fatal(err)
			}
			key := strings.Join(setups, " ")
			if before, ok := blocks[key]; ok && before != string(data) {
				t.Errorf("the guest of %s depends on the other programs", key)
			}
			blocks[key] = string(data)
		}
	}
	for _, want := range []string{"tc-empty/0 control-100/0 control-1000/0 control-10000/0", "xdp-empty/0", "tc-hash/1 tc-hash/5", "tc-linear/1 tc-linear/5", "xdp-hash/1 xdp-hash/5"} {
		if blocks[want] == "" {
			t.Errorf("no guest has the setups %s", want)
		}
	}
}

func TestCountBlames(t *testing.T) {
	g := &guests{run: byPolicies, fail: func(handle, phase string, chunk int, match string) string {
		switch {
		case handle == "tc-hash/1" && phase == string(bundle.Prove) && match == matchFirst:
			return bundle.FaultSubject
		case handle == "tc-hash/5" && phase == string(bundle.Apply) && chunk == chunkGuard:
			return bundle.FaultVoid
		case handle == "bpfilter-set/5" && phase == string(bundle.Apply) && chunk == chunkLoad:
			return bundle.FaultSubject
		}
		return ""
	}}
	counts, err := countAll(t, g, []int{1, 5}, "tc-hash", "bpfilter-set", "xdp-filter")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		want := record.StatusOK
		switch at := fmt.Sprintf("%s/%d", c.Program, c.Policies); {
		case at == "tc-hash/1" && c.Match == matchFirst:
			want = record.StatusFailed
		case at == "tc-hash/5":
			want = record.StatusVoid
		case at == "bpfilter-set/5":
			want = record.StatusUnsupported
		}
		if c.Status != want || (c.Reason == "") != (want == record.StatusOK) || (c.Run > 0) != (want == record.StatusOK) {
			t.Errorf("%+v, want %s", c, want)
		}
	}
	g.fail = func(handle, phase string, _ int, _ string) string {
		if handle == "tc-hash/5" && phase == string(bundle.Run) {
			return bundle.FaultRig
		}
		return ""
	}
	if _, err := countAll(t, g, []int{1, 5}, "tc-hash"); err == nil || !strings.Contains(err.Error(), "count tc-hash: sealed guest: it failed") {
		t.Errorf("a rig fault gives %v", err)
	}
}

// TestCountProvesItself: programs whose difference is known must be counted right.
func TestCountProvesItself(t *testing.T) {
	g := &guests{run: func(handle, match string) float64 {
		run := byPolicies(handle, match)
		if handle == "control-1000/0" {
			run++
		}
		return run
	}}
	if _, err := countAll(t, g, []int{1}, "tc-hash"); err == nil || !strings.Contains(err.Error(), "control-1000 was counted with 2701 instructions more than control-100, and has 2700 more") {
		t.Errorf("got %v", err)
	}
	g = &guests{run: byPolicies, fail: func(handle, phase string, _ int, _ string) string {
		if handle == "control-10000/0" && phase == string(bundle.Prove) {
			return bundle.FaultSubject
		}
		return ""
	}}
	if _, err := countAll(t, g, []int{1}, "tc-hash"); err == nil || !strings.Contains(err.Error(), "whose cost is known: it failed") {
		t.Errorf("got %v", err)
	}
}

// TestCountNeedsEveryCount: results that end early are an error, not a zero.
func TestCountNeedsEveryCount(t *testing.T) {
	boot := func(context.Context, lab.SealedBlock, func(bundle.SealedReply)) ([]byte, error) { return nil, nil }
	_, err := CountInstructions(t.Context(), CountConfig{Subjects: pick(t, "tc-hash"), Policies: []int{3}, Boot: boot})
	if err == nil || !strings.Contains(err.Error(), "no count of N = ") {
		t.Errorf("got %v", err)
	}
	broken := errors.New("no such guest")
	boot = func(context.Context, lab.SealedBlock, func(bundle.SealedReply)) ([]byte, error) { return nil, broken }
	if _, err := CountInstructions(t.Context(), CountConfig{Subjects: pick(t, "tc-hash"), Policies: []int{3}, Boot: boot}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// TestCountWithoutTheImage: programs of other projects that are not there are unsupported.
func TestCountWithoutTheImage(t *testing.T) {
	g := &guests{run: byPolicies}
	counts, err := CountInstructions(t.Context(), CountConfig{Subjects: pick(t, "xdp-filter"), Policies: []int{3},
		External: Environment{NoExternal: "no image"}, Boot: g.boot})
	if err != nil || len(g.blocks) != 2 {
		t.Fatalf("%v, %d guests", err, len(g.blocks))
	}
	if last := counts[len(counts)-1]; last.Program != "xdp-filter" || last.Status != record.StatusUnsupported || !strings.Contains(last.Reason, "no image") {
		t.Errorf("%+v", last)
	}
}

func TestGrowth(t *testing.T) {
	for want, values := range map[string][]int64{
		"70": {70, 70, 70}, "60 + 3 N": {63, 90, 360}, "about 61 + 2.99 N": {64, 90, 360}, "63 to 400": {63, 300, 400}, "63 to 90": {63, 90}, "449 to 454": {454, 449, 449}, "": {63},
	} {
		var counts []*Count
		for i, v := range values {
			counts = append(counts, &Count{Program: "p", Policies: []int{1, 10, 100}[i], Match: matchLast, Status: record.StatusOK, Instructions: v})
		}
		if got := growth(counts, "p", matchLast); got != want {
			t.Errorf("%v grow as %q, want %q", values, got, want)
		}
	}
}

func TestBothTable(t *testing.T) {
	cells := []*Cell{
		{Program: "p", Policies: 1, Match: matchLast, Status: record.StatusOK, NS: []float64{20}},
		{Program: "q", Policies: 1, Match: matchLast, Status: record.StatusOK, NS: []float64{20}},
	}
	counts := []*Count{{Program: "p", Policies: 1, Match: matchLast, Status: record.StatusOK, Run: 80, Instructions: 40}}
	table := BothTable(cells, counts, Machine{})
	if len(table.Rows) != 1 || strings.Join(table.Rows[0], " ") != "p 1 last 20.0 80 25" {
		t.Errorf("rows %v", table.Rows)
	}
}
