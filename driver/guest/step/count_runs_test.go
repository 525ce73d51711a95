package step

import (
	"strconv"
	"testing"

	"hookbed/driver/bundle"
)

// TestCountRuns: programs are run as often as the values say, and a verdict that is not the wanted
// one is the subject's fault. What the ticks are worth is shown in a sealed guest.
func TestCountRuns(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count"}, Vars: map[string]string{"verdict": "01000000", "drop": "01"}})
	count := bundle.CountRuns{Handle: "o", Program: "tc_count", Frame: badFrame(), Want: 2, Repeats: []uint32{10, 1000}, Tries: 2}
	values := r.must("", count).Values
	runs := 0.0
	for _, name := range []string{"10", "1000"} {
		ticks, made := values[bundle.CountTicks+name]
		if made && ticks <= 0 {
			t.Errorf("%s runs took %v ticks", name, ticks)
		}
		if made {
			n, _ := strconv.ParseFloat(name, 64)
			runs += 2 * n
		}
	}
	if values[bundle.CountPeriod] <= 0 || runs < 20 {
		t.Errorf("values %v, want a period, and the shorter calls at least", values)
	}
	counter := bundle.Counter{BPF: &bundle.BPFCounter{Handle: "o", Stats: "stats"}}
	if seen := r.must("", bundle.Read{Name: "after", From: counter}).Values["packets"]; seen != runs {
		t.Errorf("the program counted %v packets, want two calls of each length, which are %v", seen, runs)
	}
	count.Want = 0
	r.fails("", bundle.FaultSubject, count, "count 10 runs of tc_count: it returned 2, want 0")
	count.Program = "nosuch"
	r.fails("", bundle.FaultRig, count, `no loaded program "nosuch"`)
}

// TestEmptyBPF: the empty program of a hook lets a packet pass, and its undo unloads it.
func TestEmptyBPF(t *testing.T) {
	for hook, want := range map[string]uint32{bundle.HookTCIngress: tcActOK, bundle.HookXDPNative: xdpPass} {
		r := newRig(t)
		r.x.undo.mark()
		r.must("", bundle.EmptyBPF{Handle: "e", Hook: hook})
		run := bundle.TestRun{Name: "once", Handle: "e", Program: bundle.EmptyProgram, Frame: badFrame(), Want: want, Repeat: 1}
		r.must("", bundle.TestRuns{Runs: []bundle.TestRun{run}})
		r.fails("", bundle.FaultRig, bundle.EmptyBPF{Handle: "e", Hook: hook}, `object handle "e" is taken`)
		r.undo(1)
		r.fails("", bundle.FaultRig, bundle.TestRuns{Runs: []bundle.TestRun{run}}, `no BPF object "e"`)
	}
	newRig(t).fails("", bundle.FaultRig, bundle.EmptyBPF{Handle: "e", Hook: "socket"}, `no empty program for hook "socket"`)
}
