package campaign

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
	"hookbed/driver/workload"
	"hookbed/images"
)

// The faults tested here are hard to cause with the real helper, so this test
// binary is also a fake guest helper: it answers the session protocol, and
// misbehaves as the environment says.
const (
	fakeEnv  = "HOOKBED_TEST_FAKE_GUEST" // the way to misbehave
	countEnv = "HOOKBED_TEST_COUNT"      // file that counts misbehaviours, across helpers
)

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeEnv); how != "" && len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			fakeGuest(how)
			return
		case "sweep":
			return // it left nothing
		}
	}
	os.Exit(m.Run())
}

func fakeGuest(how string) {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<24)
	marks := 0
	for in.Scan() {
		var req bundle.Request
		if err := json.Unmarshal(in.Bytes(), &req); err != nil {
			panic(err)
		}
		var reply bundle.Reply
		switch {
		case req.Mark:
			marks++
			reply.Mark = marks
		case req.Facts:
			reply.Facts = map[string]string{"tool.iptables-legacy": "v1"}
		case req.Clock:
			reply.Clock = fakeClock(how)
		case req.Exec != nil:
			reply = fakeExec(how, req.Exec)
		case req.UndoTo != nil && *req.UndoTo == 0:
			reply = fakeUndo(how)
		}
		reply.Seq = req.Seq
		line, err := json.Marshal(reply)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}

// fakeUndo is the end of a setup.
func fakeUndo(how string) bundle.Reply {
	switch how {
	case "dies-in-undo":
		os.Exit(9)
	case "undo-fails":
		return bundle.Reply{Error: "undo: fake remove: exit status 3", Fault: bundle.FaultSubject}
	}
	return bundle.Reply{}
}

// times counts how often it was called with this test, over all helpers.
func times() int {
	path := os.Getenv(countEnv)
	data, _ := os.ReadFile(path)
	if err := os.WriteFile(path, append(data, 'x'), 0o600); err != nil {
		panic(err)
	}
	return len(data) + 1
}

func fakeExec(how string, s *bundle.Steps) bundle.Reply {
	reply := bundle.Reply{Raw: map[string]string{}}
	for _, step := range s.Steps {
		result := bundle.StepResult{Kind: step.Do.Kind(), Values: map[string]float64{}}
		switch do := step.Do.(type) {
		case bundle.Read:
			if do.Name == runAfter && how != "bypass" {
				result.Values[bundle.CountPackets], result.Values[bundle.CountBytes] = 1e12, 1e15
			}
		case bundle.Snapshot:
			at := 1e9
			if strings.Contains(do.Out, "after") {
				at = 2e9
			}
			cpu := "{}"
			if how == "steal" { // of the second between the snapshots a tenth
				cpu = fmt.Sprintf(`{"idle": %.1f, "steal": %.1f}`, at/1e9*0.9, at/1e9*0.1)
			}
			waited := 5.0
			if at > 1e9 && how == "preempted" { // half of the second between the snapshots
				waited = 5.5
			}
			reply.Raw[do.Out] = fmt.Sprintf(`{"unix_nano": %.0f, "cpu_seconds": %s, "softirqs": {}, "tcp": {}, "cpu_waited_seconds": %g}`, at, cpu, waited)
		case bundle.Exec:
			if strings.HasPrefix(how, "clock-") { // long enough to detect a wrong clock
				time.Sleep(20 * time.Millisecond)
			}
			reply.Raw[do.Out] = fakeResult(how)
		}
		if fault := misbehave(how, step); fault != "" {
			reply.Error, reply.Fault = "fake "+fault, fault
			if how == "filter-varies" {
				reply.Error += strings.Repeat("!", times())
			}
			return reply
		}
		reply.Results = append(reply.Results, result)
	}
	return reply
}

// fakeResult is what the fake client prints.
func fakeResult(how string) string {
	switch how {
	case "nan": // as netperf prints it, now and then
		return "THROUGHPUT=nan\nMEAN_LATENCY=10\nP50_LATENCY=1\nP90_LATENCY=1\nP99_LATENCY=1\n"
	case "stopped", "preempted": // for half of its second
		return "THROUGHPUT=50000\nMEAN_LATENCY=19.9\nP50_LATENCY=9\nP90_LATENCY=10\nP99_LATENCY=15\nMAX_LATENCY=502423\nELAPSED_TIME=1.00\n"
	}
	return "THROUGHPUT=1000\nMEAN_LATENCY=10\nP50_LATENCY=10\nP90_LATENCY=10\nP99_LATENCY=10\n"
}

func misbehave(how string, step bundle.Step) string {
	_, exec := step.Do.(bundle.Exec)
	_, probes := step.Do.(bundle.Probes)
	_, load := step.Do.(bundle.LoadBPF)
	switch {
	case how == "rig-always" && exec:
		return bundle.FaultRig
	case (how == "filter-rig" || how == "filter-varies") && load: // the reference has none
		return bundle.FaultRig
	case how == "rig-once" && exec && times() == 1:
		return bundle.FaultRig
	case how == "die-once" && exec && times() == 1:
		os.Exit(9)
	case how == "not-enforced" && probes, how == "clock-fast-fails" && exec:
		return bundle.FaultSubject
	case how == "unsupported" && load:
		return bundle.FaultUnsupported
	case how == "guard-trips" && step.Phase == bundle.Collect:
		return bundle.FaultVoid
	}
	return ""
}

type quiet struct {
	statuses []string
	passed   int
}

func (q *quiet) Passed(trials int) { q.passed += trials }

func (q *quiet) Phase(string) {}
func (q *quiet) Trial(_ plan.Trial, _ plan.Cell, status string) {
	q.statuses = append(q.statuses, status)
}

const experiment = `schema = 1
name = "fake"
[lab]
provider = "local"
endpoint = "netns"
[measure]
blocks = 1
trials = 2
duration = "1s"
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [1, 2]
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
`

// planOf expands an experiment with everything that it may choose from.
func planOf(t *testing.T, text string) *plan.Plan {
	t.Helper()
	catalog := plan.Catalog{Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: images.Kernels()}
	spec, err := plan.Parse("test.toml", []byte(text), catalog)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(spec, catalog)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// campaignOf runs the experiment against a helper that misbehaves, and returns
// the statuses of its rows in order.
func campaignOf(t *testing.T, how string) (Result, []record.Row, error) {
	t.Helper()
	r := runnerOf(t, how, experiment)
	result, err := r.run(t.Context())
	return result, rowsOf(t, r.Dir), err
}

// runnerOf prepares a run of an experiment against a helper that misbehaves.
func runnerOf(t *testing.T, how, experiment string) *runner {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the local provider makes network namespaces: run this test as root")
	}
	t.Setenv(fakeEnv, how)
	t.Setenv(countEnv, filepath.Join(t.TempDir(), "count"))
	p := planOf(t, experiment)
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return newRunner(Config{
		Plan: p, Dir: dir, Trials: dir.Pending(), Progress: &quiet{}, Log: slog.New(slog.DiscardHandler),
		Environment: func(l *lab.Lab) map[string]any { return l.Environment().Entries() },
		Up: func(ctx context.Context, _ int) (*lab.Lab, error) {
			return lab.Up(ctx, lab.Config{Name: "fake", Lab: p.Spec.Lab, Nodes: 1, Store: store, GuestPath: self,
				StateDir: filepath.Join(t.TempDir(), "state")})
		},
	})
}

func rowsOf(t *testing.T, dir *rundir.Dir) []record.Row {
	t.Helper()
	f, err := os.Open(filepath.Join(dir.Path(), "rows.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := record.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// failed is the number of trials that ended without a valid number, but not by the
// rig's fault.
func failed(r Result) int { return r.Status[record.StatusFailed] + r.Status[record.StatusVoid] }

// trials maps each trial in the rows to its status.
func trials(rows []record.Row) map[int]string {
	out := map[int]string{}
	for _, r := range rows {
		out[r.Order] = r.Status
	}
	return out
}

func expectTrials(t *testing.T, rows []record.Row, want int, status string) {
	t.Helper()
	got := trials(rows)
	if len(got) != want {
		t.Errorf("%d trials have rows, want %d", len(got), want)
	}
	for order, s := range got {
		if s != status {
			t.Errorf("trial %d is %s, want %s", order, s, status)
		}
	}
}

func TestEveryTrialIsARow(t *testing.T) {
	result, rows, err := campaignOf(t, "behaves")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusOK)
	if result.Status[record.StatusOK] != 4 || failed(result) != 0 {
		t.Errorf("result %+v, want 4 ok", result)
	}
}

func TestRigFaultIsTriedAgain(t *testing.T) {
	for _, how := range []string{"rig-once", "die-once"} {
		t.Run(how, func(t *testing.T) {
			_, rows, err := campaignOf(t, how)
			if err != nil {
				t.Fatal(err)
			}
			expectTrials(t, rows, 4, record.StatusOK)
		})
	}
}

// manySetups is an experiment with more setups than a broken lab may fail.
func manySetups() string { return strings.Replace(experiment, "[1, 2]", "[1, 2, 3, 4, 5]", 1) }

func TestBrokenRigStopsTheRun(t *testing.T) {
	r := runnerOf(t, "rig-always", manySetups())
	_, err := r.run(t.Context())
	if !errors.Is(err, ErrRig) || !strings.Contains(err.Error(), "3 setups in a row") {
		t.Fatalf("error %v, want one wrapping ErrRig", err)
	}
	expectTrials(t, rowsOf(t, r.Dir), maxBroken, record.StatusRig)
}

// With fewer setups than maxBroken, all of them are enough.
func TestBrokenRigWithFewSetups(t *testing.T) {
	_, rows, err := campaignOf(t, "rig-always")
	if !errors.Is(err, ErrRig) {
		t.Fatalf("error %v, want one wrapping ErrRig", err)
	}
	if n := len(trials(rows)); n < 2 || n > 3 { // of 2 setups one may come twice
		t.Errorf("%d trials have rows", n)
	}
}

// A setup that fails each time while the lab works has failed by its own fault,
// however many of its trials fail in a row, and only its first trial is tried twice.
func TestSetupThatAlwaysFails(t *testing.T) {
	r := runnerOf(t, "filter-rig", manySetups())
	ups, up := 0, r.Up
	r.Up = func(ctx context.Context, block int) (*lab.Lab, error) {
		ups++
		return up(ctx, block)
	}
	result, err := r.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rows := rowsOf(t, r.Dir)
	expectTrials(t, rows, 10, record.StatusFailed)
	if failed(result) != 10 || !strings.Contains(rows[0].Reason, "fake rig (twice") || !strings.Contains(rows[9].Reason, "fake rig (as before") {
		t.Errorf("result %+v, reasons %q and %q", result, rows[0].Reason, rows[9].Reason)
	}
	// The first time a setup fails takes a lab, a fresh one and the reference's, in
	// which the next begins; later it takes one.
	if want := 1 + 5*2 + 4; ups != want {
		t.Errorf("%d labs came up, want %d", ups, want)
	}
}

// Faults that differ are chance: neither the setup nor the lab is blamed while the
// lab works.
func TestFaultsThatVary(t *testing.T) {
	r := runnerOf(t, "filter-varies", manySetups())
	result, err := r.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rowsOf(t, r.Dir), 10, record.StatusRig)
	if failed(result) != 0 {
		t.Errorf("result %+v", result)
	}
}

// A setup that cannot be removed keeps its rows, and the run continues.
func TestFaultInTeardown(t *testing.T) {
	for how, status := range map[string]string{"undo-fails": record.StatusFailed, "dies-in-undo": record.StatusRig} {
		t.Run(how, func(t *testing.T) {
			result, rows, err := campaignOf(t, how)
			if err != nil {
				t.Fatal(err)
			}
			expectTrials(t, rows, 4, record.StatusOK)
			if len(result.Teardown) != 4 || result.Teardown[0].Status != status {
				t.Errorf("teardown %+v, want 4 setups with status %s", result.Teardown, status)
			}
		})
	}
}

func TestUnprovenEnforcementGivesNoNumber(t *testing.T) {
	result, rows, err := campaignOf(t, "not-enforced")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusFailed)
	for _, r := range rows {
		if r.Metric != "" || !strings.Contains(r.Reason, "prove enforcement") {
			t.Errorf("row %+v, want no metric and the proof as reason", r)
		}
	}
	if failed(result) != 4 {
		t.Errorf("%d failed, want 4", failed(result))
	}
}

func TestUnsupportedIsARowNotAnError(t *testing.T) {
	result, rows, err := campaignOf(t, "unsupported")
	if err != nil || failed(result) != 0 {
		t.Fatalf("result %+v, error %v, want neither failure nor error", result, err)
	}
	expectTrials(t, rows, 4, record.StatusUnsupported)
}

func TestTrafficPastTheFilterIsVoid(t *testing.T) {
	_, rows, err := campaignOf(t, "bypass")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusVoid)
	if !strings.Contains(rows[0].Reason, "went past it") {
		t.Errorf("reason %q", rows[0].Reason)
	}
}

func TestGuardThatTripsIsVoid(t *testing.T) {
	_, rows, err := campaignOf(t, "guard-trips")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusVoid)
	if !strings.Contains(rows[0].Reason, "fake void") {
		t.Errorf("reason %q", rows[0].Reason)
	}
}

// TestNoNumberIsAFailedTrial: a trial with the number nan does not stop the run, and
// is not tried again.
func TestNoNumberIsAFailedTrial(t *testing.T) {
	result, rows, err := campaignOf(t, "nan")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusFailed)
	if failed(result) != 4 {
		t.Errorf("%d failed, want 4", failed(result))
	}
	for _, r := range rows {
		if r.Metric != "" || !strings.Contains(r.Reason, `THROUGHPUT is "nan"`) || r.Raw == "" {
			t.Errorf("row %+v, want no metric, the key with its text, and the raw file", r)
		}
	}
}

// TestNotFiniteIsNoRow checks this for a metric of the driver, too.
func TestNotFiniteIsNoRow(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		got := notFinite([]workload.Metric{{Name: "rate", Value: 1}, {Name: "cpu.client_node", Value: v}})
		if !strings.Contains(got, "cpu.client_node") {
			t.Errorf("of %v: %q, want the metric's name", v, got)
		}
	}
	if got := notFinite([]workload.Metric{{Name: "rate", Value: 1e300}}); got != "" {
		t.Errorf("of 1e300: %q", got)
	}
}

// TestHoleOfOtherProgramsIsNot: if other programs made a client wait for its CPU, the
// limits of load and steal judge the trial.
func TestHoleOfOtherProgramsIsNot(t *testing.T) {
	_, rows, err := campaignOf(t, "preempted")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusOK)
}

func TestHoleIsVoid(t *testing.T) {
	_, rows, err := campaignOf(t, "stopped")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusVoid)
	if !strings.Contains(rows[0].Reason, "one transaction took 0.502 s of the measured 1 s") {
		t.Errorf("reason %q", rows[0].Reason)
	}
}

const measureLines = "blocks = 1\ntrials = 2\n"

// The fake helper always measures the same, so each cell ends once the
// interval of its median exists, which takes six trials.
func TestStoppingRuleEndsCells(t *testing.T) {
	r := runnerOf(t, "behaves", strings.Replace(experiment, measureLines, "blocks = 1\nstop = { ci = 0.02, min = 5, max = 9 }\n", 1))
	if _, err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rowsOf(t, r.Dir), 2*6, record.StatusOK)
	if n := len(r.Dir.Pending()); n != 0 {
		t.Errorf("%d trials pending after a run that ended by its rule", n)
	}
	if q := r.Progress.(*quiet); q.passed != 2*3 || len(q.statuses) != 2*6 {
		t.Errorf("told of %d trials passed over and %d run, want 6 and 12", q.passed, len(q.statuses))
	}
}

func TestStolenTimeIsVoid(t *testing.T) {
	for limit, want := range map[string]string{"0.05": record.StatusVoid, "0.2": record.StatusOK} {
		r := runnerOf(t, "steal", strings.Replace(experiment, measureLines, measureLines+"steal_limit = "+limit+"\n", 1))
		if _, err := r.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows := rowsOf(t, r.Dir)
		expectTrials(t, rows, 4, want)
		if want == record.StatusVoid && !strings.Contains(rows[0].Reason, "10 % of the CPUs' time was stolen") {
			t.Errorf("reason %q", rows[0].Reason)
		}
	}
}

func TestLoadGateWaits(t *testing.T) {
	loads := []float64{9, 8, 1, 1}
	r := runnerOf(t, "behaves", strings.Replace(experiment, measureLines, measureLines+"load_limit = 2\n", 1))
	asked := 0
	r.loadPoll = 0
	r.load = func() (float64, error) {
		asked++
		return loads[min(asked, len(loads))-1], nil
	}
	if _, err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rowsOf(t, r.Dir), 4, record.StatusOK)
	if asked != 4+2 {
		t.Errorf("asked for the load %d times, want once for each of 4 setups and twice more for the first", asked)
	}
}

func TestLoadPastTheBoundIsVoid(t *testing.T) {
	r := runnerOf(t, "behaves", strings.Replace(experiment, measureLines, measureLines+"load_limit = 2\n", 1))
	r.loadWait = 0
	r.load = func() (float64, error) { return 9, nil }
	if _, err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := rowsOf(t, r.Dir)
	expectTrials(t, rows, 4, record.StatusVoid)
	if !strings.Contains(rows[0].Reason, "load average was 9.00") {
		t.Errorf("reason %q", rows[0].Reason)
	}
}

func TestLoadGateEndsWithTheRun(t *testing.T) {
	r := runnerOf(t, "behaves", strings.Replace(experiment, measureLines, measureLines+"load_limit = 2\n", 1))
	ctx, cancel := context.WithCancel(t.Context())
	r.load = func() (float64, error) {
		cancel()
		return 9, nil
	}
	if _, err := r.run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
	if n := len(rowsOf(t, r.Dir)); n != 0 {
		t.Errorf("%d rows of trials that were held back", n)
	}
}

// TestTunnelGuard: traffic that took another path than the overlay, in one direction
// or both, or that was fragmented, gives no number.
func TestTunnelGuard(t *testing.T) {
	enough := tunnel{in: workload.Traffic{Packets: 100, Bytes: 5000}, out: 100}
	for _, tc := range []struct {
		what  string
		least workload.Traffic
		t     tunnel
		want  string
	}{
		{"transactions", workload.Traffic{Packets: 100}, enough, ""},
		{"bulk data", workload.Traffic{Bytes: 5000}, enough, ""},
		{"direct", workload.Traffic{Packets: 100}, tunnel{}, "took another path"},
		{"one transaction direct", workload.Traffic{Packets: 101}, enough, "took another path"},
		{"bulk data direct", workload.Traffic{Bytes: 5001}, enough, "took another path"},
		{"answers direct", workload.Traffic{Packets: 100}, tunnel{in: enough.in, out: 99}, "answers took another path"},
		{"acknowledgements direct", workload.Traffic{Bytes: 5000}, tunnel{in: enough.in}, "answers took another path"},
		{"fragments", workload.Traffic{Packets: 100}, tunnel{in: enough.in, out: 100, fragments: 1}, "fragments"},
	} {
		if got := tunnelGuard(tc.least, tc.t); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
		}
	}
}
