package main

import (
	"encoding/json"
	"net/netip"
	"testing"

	"hookbed/driver/bundle"
)

// badFrame is a segment from client to server that the server's TCP drops.
func badFrame() bundle.Frame {
	return bundle.Frame{From: netip.MustParseAddr("198.18.1.2"), To: netip.MustParseAddr("198.18.1.3"), FromPort: 40000, ToPort: 5001, BadSum: true}
}

// discarded is what the server's TCP has received with a wrong checksum.
func (r *rig) discarded() uint64 {
	r.t.Helper()
	r.must("server", bundle.Snapshot{Out: "activity"})
	var act bundle.Activity
	if err := json.Unmarshal([]byte(r.raw["activity"]), &act); err != nil {
		r.t.Fatal(err)
	}
	return act.TCP["InCsumErrors"]
}

// TestGenerateDelivers: every frame that the generator says it sent arrives in
// the far endpoint's TCP, which answers none.
func TestGenerateDelivers(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Listen{Handle: "service", Port: 5001})
	r.must("client", bundle.Probes{Link: "eth0", Timeout: 0.2, Tries: []bundle.Probe{{What: "client", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Want: bundle.Allow}}})
	r.must("", bundle.Offload{Link: "c0", Features: map[string]bool{"rx-gro": true}})
	before := r.discarded()
	const frames = 50_000
	sent := r.must("client", bundle.Generate{Link: "eth0", Frame: badFrame(), Frames: frames})
	if sent.Values["sent"] != frames || sent.Values["seconds"] <= 0 || sent.Values["thread_seconds"] <= 0 {
		t.Errorf("generate says %v, want %d frames and the time they took", sent.Values, frames)
	}
	if got := r.discarded() - before; got != frames {
		t.Errorf("%d of %d frames arrived", got, frames)
	}
	timed := r.must("client", bundle.Generate{Link: "eth0", Frame: badFrame(), Seconds: 0.1})
	if got := float64(r.discarded()-before) - frames; got != timed.Values["sent"] || timed.Values["seconds"] < 0.1 {
		t.Errorf("%v frames arrived of %v", got, timed.Values)
	}
}

// TestGenerateInFlow: the frame takes the port of an open connection.
func TestGenerateInFlow(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Listen{Handle: "service", Port: 5001})
	r.must("client", bundle.Flow{Handle: "f", Op: bundle.FlowOpen, Link: "eth0", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Timeout: 1})
	r.must("", bundle.Offload{Link: "c0", Features: map[string]bool{"rx-gro": true}})
	before := r.discarded()
	r.must("client", bundle.Generate{Link: "eth0", Frame: badFrame(), Frames: 1000, Flow: "f"})
	if got := r.discarded() - before; got != 1000 {
		t.Errorf("%d of 1000 frames arrived", got)
	}
	r.must("client", bundle.Flow{Handle: "f", Op: bundle.FlowCheck, Timeout: 1})
	r.fails("client", bundle.FaultRig, bundle.Generate{Link: "eth0", Frame: badFrame(), Frames: 1, Flow: "g"}, "no flow")
}

func TestGenerateFails(t *testing.T) {
	r := newRig(t)
	r.pair()
	stranger := badFrame()
	stranger.To = netip.MustParseAddr("198.18.1.99")
	r.fails("client", bundle.FaultRig, bundle.Generate{Link: "eth0", Frame: stranger, Seconds: 0.1}, "198.18.1.99", "not known")
	known := badFrame()
	known.ToMAC = "02:00:00:00:00:09"
	r.fails("client", bundle.FaultRig, bundle.Generate{Link: "eth0", Frame: known, CPU: -1, Seconds: 0.1}, "no CPU -1")
	r.fails("client", bundle.FaultRig, bundle.Generate{Link: "eth7", Frame: known, Seconds: 0.1}, "eth7")
}

// TestTestRuns: programs are run as often as asked, and a verdict that is not
// the wanted one is the subject's fault.
func TestTestRuns(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.must("", bundle.LoadBPF{Handle: "o", Object: "counting", Programs: []string{"tc_count"}, Vars: map[string]string{"verdict": "01000000", "drop": "01"}})
	counter := bundle.Counter{BPF: &bundle.BPFCounter{Handle: "o", Stats: "stats"}}
	run := bundle.TestRun{Name: "drop", Handle: "o", Program: "tc_count", Frame: badFrame(), Want: 2, Repeat: 1000}
	once := run
	once.Name, once.Repeat = "once", 1
	got := r.must("", bundle.TestRuns{Runs: []bundle.TestRun{run, once}})
	if got.Values["drop"] <= 0 || got.Values["once"] <= 0 || got.Values["drop"] >= got.Values["once"] {
		t.Errorf("times %v, want a run among 1000 to cost less than one with its system call", got.Values)
	}
	if seen := r.must("", bundle.Read{Name: "after", From: counter}); seen.Values["packets"] != 1001 {
		t.Errorf("the program counted %v packets, want 1001", seen.Values["packets"])
	}
	run.Want = 0
	r.fails("", bundle.FaultSubject, bundle.TestRuns{Runs: []bundle.TestRun{run}}, "returned 2, want 0")
}
