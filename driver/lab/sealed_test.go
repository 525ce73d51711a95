package lab

import (
	"context"
	"errors"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
)

func TestAnInstructionTakesAsLongAsThePlanSays(t *testing.T) {
	if 1<<vm.ICountShift != plan.InstructionNanoseconds {
		t.Errorf("an instruction takes %d ns in the machine and %d in the plan", 1<<vm.ICountShift, plan.InstructionNanoseconds)
	}
}

func TestSeedsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for experiment := range uint64(3) {
		for seed := range 3 {
			s := Seed(experiment, seed)
			if seen[s] || len(s) != 36 || s[14] != '4' {
				t.Errorf("seed %d of experiment %d is %q: there twice, or no version 4 UUID", seed, experiment, s)
			}
			seen[s] = true
		}
	}
	if got := Seed(1, 2); !seen[got] {
		t.Errorf("one seed has two UUIDs, one of them %s", got)
	}
}

func TestJobsKeepToMemory(t *testing.T) {
	if n := Jobs(1 << 30); n != 1 {
		t.Errorf("%d guests of 1 PiB at once, want 1", n)
	}
	if n := Jobs(1); n < 1 {
		t.Errorf("%d guests at once, want at least 1", n)
	}
}

// replayed is a lab that answers from results of one setup with one trial.
func replayed(t *testing.T, replies ...bundle.SealedReply) (*Lab, datapath.Setup) {
	t.Helper()
	setup := datapath.Setup{Apply: []bundle.Step{{Node: "node1", Phase: bundle.Apply, Do: bundle.Bridge{Link: "br0"}}},
		Topology: datapath.Topology{Nodes: []datapath.Node{datapath.NodeAt(1)}}}
	name, err := SetupName(setup)
	if err != nil {
		t.Fatal(err)
	}
	facts := bundle.SealedReply{Trial: -1, Phase: bundle.SealedFacts, Reply: bundle.Reply{Facts: map[string]string{"a": "b"}}}
	l, err := Replay(bundle.Sealed{Setups: []bundle.SealedSetup{{Name: name}}}, append([]bundle.SealedReply{facts}, replies...))
	if err != nil {
		t.Fatal(err)
	}
	return l, setup
}

func replyAt(trial int, phase string, r bundle.Reply) bundle.SealedReply {
	return bundle.SealedReply{Trial: trial, Phase: phase, Reply: r}
}

func TestReplayAnswersInOrder(t *testing.T) {
	ctx := t.Context()
	l, setup := replayed(t,
		replyAt(-1, "apply", bundle.Reply{}), // the nodes
		replyAt(-1, "apply", bundle.Reply{Results: []bundle.StepResult{{Kind: "bridge", Seconds: 0.5}}}),
		replyAt(0, "prove", bundle.Reply{Error: "was allowed", Fault: bundle.FaultSubject}),
		replyAt(0, "undo", bundle.Reply{}),
		replyAt(-1, "close", bundle.Reply{}),
	)
	if l.Facts("node2")["a"] != "b" {
		t.Error("the guest's facts are not those of its nodes")
	}
	if err := l.Begin(ctx, setup); err != nil {
		t.Fatal(err)
	}
	b := &bundle.Bundle{Steps: append(setup.Apply, bundle.Step{Node: "node1", Phase: bundle.Prove, Do: bundle.Bridge{}})}
	ex, err := l.Exec(ctx, b, bundle.Apply)
	if err != nil || ex.Seconds() != 0.5 {
		t.Errorf("apply took %g s of the guest's time, error %v; want 0.5", ex.Seconds(), err)
	}
	marks, err := l.Mark(ctx, setup.Topology)
	if err != nil {
		t.Fatal(err)
	}
	var fault *Fault
	if _, err := l.Exec(ctx, b, bundle.Prove); !errors.As(err, &fault) || fault.Kind != bundle.FaultSubject {
		t.Errorf("error %v, want the guest's fault", err)
	}
	if err := errors.Join(l.UndoTo(ctx, marks), l.End(ctx, setup)); err != nil {
		t.Error(err)
	}
	if err := l.Begin(ctx, setup); err == nil {
		t.Error("a setup was replayed twice")
	}
}

// TestReplayNoticesOtherQuestions: results of another block, or cut short, must
// not become rows.
func TestReplayNoticesOtherQuestions(t *testing.T) {
	ctx := context.Background()
	l, setup := replayed(t, replyAt(-1, "apply", bundle.Reply{}), replyAt(0, "undo", bundle.Reply{}))
	if err := l.Begin(ctx, setup); err != nil {
		t.Fatal(err)
	}
	b := &bundle.Bundle{Steps: setup.Apply}
	if _, err := l.Exec(ctx, b, bundle.Apply); err == nil || !strings.Contains(err.Error(), "results end") {
		t.Errorf("error %v, want one that says where the results end", err)
	}
	if _, err := l.Mark(ctx, setup.Topology); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Exec(ctx, b, bundle.Apply); err == nil || !strings.Contains(err.Error(), "undo") {
		t.Errorf("error %v, want one that says where the guest was", err)
	}
	setup.Apply = nil
	if err := l.Begin(ctx, setup); err == nil {
		t.Error("a setup that the block lacks was replayed")
	}
	if _, err := Replay(bundle.Sealed{}, nil); err == nil {
		t.Error("results without facts were taken")
	}
	if _, err := DecodeReplies([]byte("{}\n{half")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want one that names line 2", err)
	}
}
