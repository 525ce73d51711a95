package campaign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

const virtualExperiment = `schema = 1
name = "sealed"
seed = 3
[lab]
clock = "virtual"
[measure]
seeds = 2
[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_RR", "TCP_CRR"]
policies = [0, 2]
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
[[arm]]
name = "iptables"
datapath = "iptables"
`

// pretend executes a block as a sealed guest does, with the fake helper's
// answers. how is the way to misbehave, by setup.
func pretend(b lab.SealedBlock, how func(setup int) string) []byte {
	var out bytes.Buffer
	at := bundle.SealedReply{Trial: -1}
	say := func(phase string, chunk int, r bundle.Reply) {
		line := at
		line.Phase, line.Chunk, line.Reply = phase, chunk, r
		data, err := json.Marshal(line)
		if err != nil {
			panic(err)
		}
		out.Write(append(data, '\n'))
	}
	chunks := func(how, phase string, steps []bundle.Steps) bool {
		for i, s := range steps {
			r := fakeExec(how, &s)
			for j := range r.Results {
				r.Results[j].Seconds = 0.25
			}
			if say(phase, i, r); r.Error != "" {
				return false
			}
		}
		return true
	}
	say(bundle.SealedFacts, 0, bundle.Reply{Facts: map[string]string{"tool.iptables-legacy": "v1"}})
	for i, s := range b.Block.Setups {
		at = bundle.SealedReply{Setup: i, Trial: -1}
		ok := chunks(how(i), string(bundle.Apply), s.Apply)
		for j := 0; ok && j < len(s.Trials); j++ {
			at.Trial = j
			if chunks(how(i), string(bundle.Prove), s.Trials[j].Prove) {
				chunks(how(i), string(bundle.Run), s.Trials[j].Run)
			}
			say(bundle.SealedUndo, 0, bundle.Reply{})
		}
		at.Trial = -1
		say(bundle.SealedClose, 0, bundle.Reply{})
	}
	say(bundle.SealedEnd, 0, bundle.Reply{})
	return out.Bytes()
}

func behaves(int) string { return "behaves" }

// pretender is a boot whose guests do as how says; the higher a block's number,
// the sooner it is ready.
func pretender(how func(setup int) string) Boot {
	return func(ctx context.Context, b lab.SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error) {
		select {
		case <-time.After(time.Duration(5-b.Number) * 20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		data := pretend(b, how)
		replies, err := lab.DecodeReplies(data)
		for _, r := range replies {
			onReply(r)
		}
		return data, err
	}
}

// sealedIn runs what is pending in a directory, and returns the error of it.
func sealedIn(t *testing.T, ctx context.Context, dir *rundir.Dir, jobs int, progress Progress, do Boot) (Result, error) {
	t.Helper()
	return RunSealed(ctx, SealedConfig{
		Config: Config{Plan: dir.Plan(), Dir: dir, Trials: dir.Pending(), Progress: progress, Log: slog.New(slog.DiscardHandler)},
		Jobs:   jobs, Boot: do, Facts: map[string]any{},
	})
}

func newSealedDir(t *testing.T) *rundir.Dir {
	t.Helper()
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"), planOf(t, virtualExperiment))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func rowsFile(t *testing.T, dir *rundir.Dir) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir.Path(), "rows.csv"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSealedRowsDoNotDependOnJobs(t *testing.T) {
	want := ""
	for _, jobs := range []int{1, 3, 10} {
		dir, progress := newSealedDir(t), &quiet{}
		result, err := sealedIn(t, t.Context(), dir, jobs, progress, pretender(behaves))
		if err != nil {
			t.Fatal(err)
		}
		if parts := slices.Sorted(maps.Keys(result.Seconds)); !slices.Equal(parts, []string{"guests", "record"}) || result.Seconds["guests"] == 0 {
			t.Errorf("%d jobs: the time went into %v", jobs, result.Seconds)
		}
		planned := len(dir.Plan().Trials)
		expectTrials(t, rowsOf(t, dir), planned, record.StatusOK)
		if result.Status[record.StatusOK] != planned || len(progress.statuses) != planned {
			t.Errorf("%d jobs: %d ok, %d told, want %d of both", jobs, result.Status[record.StatusOK], len(progress.statuses), planned)
		}
		got := rowsFile(t, dir)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("rows.csv of %d jobs differs from that of 1", jobs)
		}
	}
	if strings.Contains(want, "overhead_seconds") || strings.Contains(want, "endpoints_seconds") {
		t.Error("rows of virtual time hold the driver's own time")
	}
}

func TestSealedRowsCarrySeedAndClock(t *testing.T) {
	dir := newSealedDir(t)
	if _, err := sealedIn(t, t.Context(), dir, 2, &quiet{}, pretender(behaves)); err != nil {
		t.Fatal(err)
	}
	for _, r := range rowsOf(t, dir) {
		b, _ := dir.Plan().BlockByNumber(r.Block)
		if r.Factors[plan.FactorClock] != plan.ClockVirtual || r.Factors[plan.FactorScenario] != b.Scenario || r.Factors[plan.FactorSeed] != []string{"1", "2"}[b.Seed-1] {
			t.Fatalf("row of block %+v has factors %v", b, r.Factors)
		}
		if r.Metric == "apply_seconds" && r.Value < 0.25 {
			t.Fatalf("apply took %g s, want the guest's own seconds", r.Value)
		}
	}
}

// TestSealedResume kills a run after its first block is recorded, and again in
// the middle of recording.
func TestSealedResume(t *testing.T) {
	whole := newSealedDir(t)
	if _, err := sealedIn(t, t.Context(), whole, 1, &quiet{}, pretender(behaves)); err != nil {
		t.Fatal(err)
	}
	dir := newSealedDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	do := pretender(behaves)
	_, err := sealedIn(t, ctx, dir, 1, &quiet{}, func(ctx context.Context, b lab.SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error) {
		if b.Number == 3 {
			cancel()
		}
		return do(ctx, b, onReply)
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the cancelled context's", err)
	}
	// What a kill in the middle of recording block 2 leaves.
	path := filepath.Join(dir.Path(), "rows.csv")
	text := rowsFile(t, dir)
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text[:len(text)*3/4]), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := rundir.Open(dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var mu sync.Mutex
	var booted []int
	_, err = sealedIn(t, t.Context(), again, 2, &quiet{}, func(ctx context.Context, b lab.SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error) {
		mu.Lock()
		booted = append(booted, b.Number)
		mu.Unlock()
		return do(ctx, b, onReply)
	})
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(booted); !slices.Equal(booted, []int{3}) {
		t.Errorf("blocks %v were booted again, want 3, the last that is handed out: the others were kept", booted)
	}
	if rowsFile(t, again) != rowsFile(t, whole) {
		t.Error("rows.csv of the resumed run differs from that of the whole one")
	}
}

// What follows a block's rows is done once they are recorded, block by block in the plan's order.
func TestSealedBlocksAreFollowedInOrder(t *testing.T) {
	dir := newSealedDir(t)
	var seen []int
	stop := errors.New("stop")
	cfg := SealedConfig{
		Config: Config{Plan: dir.Plan(), Dir: dir, Trials: dir.Pending(), Progress: &quiet{}, Log: slog.New(slog.DiscardHandler)},
		Jobs:   3, Boot: pretender(behaves), Facts: map[string]any{},
		Recorded: func(block int) error {
			for _, tr := range dir.Plan().Trials {
				if _, _, ok := dir.Outcome(tr); ok != (tr.Block <= block) {
					t.Errorf("at block %d the trial of block %d is recorded: %v", block, tr.Block, ok)
				}
			}
			if seen = append(seen, block); block == 3 {
				return stop
			}
			return nil
		},
	}
	if _, err := RunSealed(t.Context(), cfg); !errors.Is(err, stop) {
		t.Errorf("error %v, want that of Recorded", err)
	}
	if !slices.Equal(seen, []int{1, 2, 3}) {
		t.Errorf("blocks %v, want 1, 2 and 3", seen)
	}
}

func TestSealedFaultsAreRows(t *testing.T) {
	for how, status := range map[string]string{
		"not-enforced": record.StatusFailed, "unsupported": record.StatusUnsupported, "bypass": record.StatusVoid, "guard-trips": record.StatusVoid,
		"rig-always": record.StatusFailed, // another setup of the same guest works
	} {
		dir := newSealedDir(t)
		_, err := sealedIn(t, t.Context(), dir, 2, &quiet{}, pretender(func(setup int) string {
			if setup == 2 { // a setup without faults
				return "behaves"
			}
			return how
		}))
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		count := map[string]int{}
		for _, s := range trials(rowsOf(t, dir)) {
			count[s]++
		}
		if count[record.StatusOK]+count[status] != len(dir.Plan().Trials) || count[status] == 0 || count[record.StatusOK] == 0 {
			t.Errorf("%s: statuses %v, want the rest %s", how, count, status)
		}
	}
}

func TestSealedGuestInWhichNothingWorks(t *testing.T) {
	dir := newSealedDir(t)
	_, err := sealedIn(t, t.Context(), dir, 2, &quiet{}, pretender(func(int) string { return "rig-always" }))
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rowsOf(t, dir), len(dir.Plan().Trials), record.StatusRig)
}

func TestSealedGuestThatEndsEarlyIsTriedOnceMore(t *testing.T) {
	for failures, want := range map[int]error{1: nil, 2: ErrRig} {
		dir := newSealedDir(t)
		do, failed := pretender(behaves), 0
		_, err := sealedIn(t, t.Context(), dir, 1, &quiet{}, func(ctx context.Context, b lab.SealedBlock, onReply func(bundle.SealedReply)) ([]byte, error) {
			if b.Number == 2 && failed < failures {
				failed++
				return nil, errors.New("it ended before its last result")
			}
			return do(ctx, b, onReply)
		})
		if !errors.Is(err, want) {
			t.Errorf("%d failures: error %v, want %v", failures, err, want)
		}
	}
}

func TestComposeDependsOnThePlanAlone(t *testing.T) {
	p := planOf(t, virtualExperiment)
	for _, b := range p.Blocks {
		one, err := Compose(p, b.Number)
		if err != nil {
			t.Fatal(err)
		}
		two, err := Compose(planOf(t, virtualExperiment), b.Number)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(one, two) {
			t.Errorf("block %d: two compositions differ", b.Number)
		}
		if len(one.Block.Setups[0].Trials) != 1 || one.Block.Setups[0].Name != warmUp {
			t.Errorf("block %d does not begin with one trial to warm up", b.Number)
		}
		for _, other := range p.Blocks {
			o, _ := Compose(p, other.Number)
			if (o.Seed == one.Seed) != (other.Seed == b.Seed) {
				t.Errorf("blocks %+v and %+v have seeds %s and %s", b, other, one.Seed, o.Seed)
			}
		}
	}
	if _, err := Compose(p, len(p.Blocks)+1); err == nil {
		t.Error("a block that the plan lacks was composed")
	}
}

// TestLongestBlocksFirst: with two workers and two blocks of each scenario, each
// worker has one of either.
func TestLongestBlocksFirst(t *testing.T) {
	p := planOf(t, virtualExperiment)
	var order []string
	for _, number := range longestFirst(p, []int{1, 2, 3, 4}) {
		b, _ := p.BlockByNumber(number)
		order = append(order, b.Scenario)
	}
	if want := []string{"multi-host", "multi-host", "localhost", "localhost"}; !slices.Equal(order, want) {
		t.Errorf("handed out as %v, want %v", order, want)
	}
}

// A plan of traces has blocks of one cell, whose guests show their symbols; others do not, and are
// encoded as before.
func TestComposeOfTraces(t *testing.T) {
	whole := planOf(t, virtualExperiment)
	p, err := plan.Trace(whole, plan.Choice{Only: "scenario=localhost"})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range p.Blocks {
		s, err := Compose(p, b.Number)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(s.Block.Setups); n != 2 || !s.Block.Symbols || len(s.Block.Setups[1].Trials) != 1 || s.Block.Setups[1].Trials[0].Name != b.Cell {
			t.Errorf("block %+v has %d setups, symbols %v", b, n, s.Block.Symbols)
		}
	}
	ordinary, err := Compose(whole, 1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(ordinary.Block)
	if err != nil || bytes.Contains(data, []byte("symbols")) {
		t.Errorf("an ordinary block says whether symbols are shown, or %v", err)
	}
}
