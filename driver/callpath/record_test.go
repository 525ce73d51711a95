package callpath

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/trace"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// workloadSteps are the run phase of a trial, as package workload renders it, shortened.
func workloadSteps() []bundle.Step {
	step := func(node, in string, do bundle.Action) bundle.Step {
		return bundle.Step{Node: node, Phase: bundle.Run, In: in, Do: do}
	}
	return []bundle.Step{
		step("node2", "server", bundle.Start{Handle: "workload-server", Argv: []string{"netserver"}}),
		step("node1", "client", bundle.Exec{Argv: []string{"netperf"}, Timeout: 1}), // a warm-up
		step("node1", "client", bundle.Exec{Argv: []string{"netperf"}, Timeout: 1, Out: "result.txt"}),
		step("node2", "server", bundle.Stop{Handle: "workload-server"}),
	}
}

func runnerOf(provider string) *runner {
	return &runner{Config: Config{Plan: &plan.Plan{Spec: plan.Spec{Lab: plan.Lab{Provider: provider}}}}}
}

func TestClientIsRecordedBetweenItsNodes(t *testing.T) {
	r := runnerOf(plan.ProviderLibvirt)
	got := recorded(around(workloadSteps(), client, []string{"node1", "node2"}, func(node string) bundle.Action {
		return bundle.RecordCalls{Handle: handle, Servers: r.servers(workloadSteps(), node)}
	}))
	var kinds []string
	for _, s := range got {
		kinds = append(kinds, s.Node+" "+s.Do.Kind())
		if s.Phase != bundle.Run {
			t.Errorf("%s is in phase %s", s.Do.Kind(), s.Phase)
		}
	}
	want := []string{"node2 start", "node1 exec", "node1 record-calls", "node2 record-calls", "node1 exec", "node1 end-record", "node2 end-record", "node2 stop"}
	if !reflect.DeepEqual(kinds, want) {
		t.Errorf("steps %v, want %v", kinds, want)
	}
	for i, servers := range map[int][]string{2: nil, 3: {"workload-server"}} {
		if do, ok := got[i].Do.(bundle.RecordCalls); !ok || !reflect.DeepEqual(do.Servers, servers) {
			t.Errorf("step %d is %+v, want one with servers %v", i, got[i].Do, servers)
		}
	}
	for i, recorded := range map[int]string{1: "", 4: handle} {
		if do, ok := got[i].Do.(bundle.Exec); !ok || do.Recorded != recorded {
			t.Errorf("step %d is %+v, want recorded %q", i, got[i].Do, recorded)
		}
	}
	if all := runnerOf(plan.ProviderLocal).servers(workloadSteps(), "node1"); !reflect.DeepEqual(all, []string{"workload-server"}) {
		t.Errorf("where nodes share a kernel, node1 records the servers %v", all)
	}
}

func TestBothEndsTakeTurns(t *testing.T) {
	before := workloadSteps()
	for i, s := range inTurns(before) {
		switch do := s.Do.(type) {
		case bundle.Exec:
			if do.Sched != bundle.SchedRR {
				t.Errorf("step %d runs under %q", i, do.Sched)
			}
		case bundle.Start:
			if do.Sched != bundle.SchedRR {
				t.Errorf("step %d runs under %q", i, do.Sched)
			}
		}
	}
	if !reflect.DeepEqual(before, workloadSteps()) {
		t.Error("the steps of the trial were changed")
	}
}

func TestDue(t *testing.T) {
	cell := func(id, setup, workload string) plan.Cell {
		return plan.Cell{ID: id, Setup: setup, Factors: map[string]string{plan.FactorWorkload: workload, plan.FactorArm: setup}}
	}
	p := &plan.Plan{Cells: []plan.Cell{cell("a", "s1", "TCP_STREAM"), cell("b", "s1", "TCP_RR"), cell("c", "s2", "TCP_CRR"), cell("d", "s3", "TCP_STREAM")}}
	for _, block := range []int{1, 2} {
		for _, id := range []string{"a", "b", "c", "d"} {
			p.Trials = append(p.Trials, plan.Trial{Block: block, Cell: id})
		}
	}
	ids := func(c Config) (out []string) {
		cells, blocks := c.Due()
		for i, cell := range cells {
			if blocks[i] != 1 {
				t.Errorf("%s is recorded in block %d, want the first that has it", cell.ID, blocks[i])
			}
			out = append(out, cell.ID)
		}
		return out
	}
	notS2 := func(c plan.Cell) bool { return c.Setup != "s2" }
	for _, c := range []struct {
		cfg  Config
		want []string
	}{
		{Config{Plan: p}, []string{"b", "c"}},
		{Config{Plan: p, Match: notS2}, []string{"b"}},
		{Config{Plan: p, Drops: true}, []string{"a", "c", "d"}}, // one of each setup, whatever its workload
		{Config{Plan: p, Drops: true, Match: notS2}, []string{"a", "d"}},
	} {
		if got := ids(c.cfg); !reflect.DeepEqual(got, c.want) {
			t.Errorf("drops %t: %v, want %v", c.cfg.Drops, got, c.want)
		}
		if got := strings.Join(c.cfg.LeftOut(), " "); got != "TCP_STREAM" && !c.cfg.Drops || got != "" && c.cfg.Drops {
			t.Errorf("drops %t: %q is left out", c.cfg.Drops, got)
		}
	}
}

// A recorded cell has a count in place of a duration, and the plan's cell stays as it is.
func TestCounted(t *testing.T) {
	cell := plan.Cell{Factors: map[string]string{plan.FactorDuration: "1s", plan.FactorWarmup: "1s", plan.FactorWorkload: "TCP_RR"}}
	got := counted(cell, 20)
	if want := map[string]string{plan.FactorCount: "20", plan.FactorWorkload: "TCP_RR"}; !reflect.DeepEqual(got.Factors, want) {
		t.Errorf("factors %v, want %v", got.Factors, want)
	}
	if cell.Get(plan.FactorDuration) != "1s" {
		t.Error("the plan's cell was changed")
	}
}

// Only a fault of the rig ends the recording of other cells.
func TestFaultsBecomeStatus(t *testing.T) {
	for kind, status := range map[string]string{bundle.FaultSubject: record.StatusFailed, bundle.FaultUnsupported: record.StatusUnsupported, bundle.FaultVoid: record.StatusVoid} {
		var rec Recording
		if err := rec.judge(&lab.Fault{Kind: kind, Err: errors.New("why")}); err != nil || rec.Status != status || rec.Reason != "why" {
			t.Errorf("%s: %v, status %q, reason %q", kind, err, rec.Status, rec.Reason)
		}
	}
	for _, err := range []error{&lab.Fault{Kind: bundle.FaultRig, Err: errors.New("why")}, errors.New("why")} {
		var rec Recording
		if got := rec.judge(err); got == nil || rec.Status != "" {
			t.Errorf("%v became %v, status %q", err, got, rec.Status)
		}
	}
}

// What programs do once, however many transactions they make, is not counted; a connection has no
// fixed number of packets.
func TestInstructionsOf(t *testing.T) {
	const once, each = 1_000_000, 30_000
	few, many := once+each*float64(countedFew), once+each*float64(countedMany)
	if got := *instructionsOf(few, many, trace.UnitTransaction); got != (Instructions{Clock: plan.ClockWall, PerTransaction: each, PerPacket: each / 2}) {
		t.Errorf("a transaction: %+v", got)
	}
	if got := *instructionsOf(few, many, trace.UnitConnection); got != (Instructions{Clock: plan.ClockWall, PerTransaction: each}) {
		t.Errorf("a connection: %+v", got)
	}
}

// Where the first cell found no counter, the next does not run the workload to find out.
func TestNotCountedOnce(t *testing.T) {
	r, rec := runner{notCounted: "there is no counter"}, Recording{}
	if err := r.count(t.Context(), plan.Cell{}, datapath.Setup{}, &rec); err != nil || rec.WhyNot != r.notCounted || rec.Instructions != nil {
		t.Errorf("%v, %+v", err, rec)
	}
}
