package step

import (
	"encoding/json"
	"math"
	"net/netip"
	"testing"
	"time"

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

// arrived is what the server's TCP has discarded since before, once that is as much
// as was sent, or does not grow any more: a busy machine takes it in later.
func (r *rig) arrived(before, sent uint64) uint64 {
	r.t.Helper()
	last, since := r.discarded()-before, time.Now()
	for last < sent && time.Since(since) < still {
		time.Sleep(10 * time.Millisecond)
		if now := r.discarded() - before; now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

// still is how long a counter does not grow that will not grow any more.
const still = 10 * time.Second

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
	if got := r.arrived(before, frames); got != frames {
		t.Errorf("%d of %d frames arrived", got, frames)
	}
	timed := r.must("client", bundle.Generate{Link: "eth0", Frame: badFrame(), Seconds: 0.1})
	sum := frames + uint64(timed.Values["sent"])
	if got := r.arrived(before, sum); got != sum || timed.Values["seconds"] < 0.1 {
		t.Errorf("%d frames arrived in all, of %d and %v", got, frames, timed.Values)
	}
}

// TestGenerateInFlow: the frame takes the port of an open connection.
func TestGenerateInFlow(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("server", bundle.Listen{Handle: "service", Port: 5001})
	r.must("client", bundle.Flow{Handle: "f", Op: bundle.FlowOpen, Link: "eth0", From: "198.18.1.2", To: "198.18.1.3", Port: 5001, Timeout: heard})
	r.must("", bundle.Offload{Link: "c0", Features: map[string]bool{"rx-gro": true}})
	before := r.discarded()
	r.must("client", bundle.Generate{Link: "eth0", Frame: badFrame(), Frames: 1000, Flow: "f"})
	if got := r.arrived(before, 1000); got != 1000 {
		t.Errorf("%d of 1000 frames arrived", got)
	}
	r.must("client", bundle.Flow{Handle: "f", Op: bundle.FlowCheck, Timeout: heard})
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
	// Of a busy machine's times only the least are the program's own.
	least := map[string]float64{"drop": math.Inf(1), "once": math.Inf(1)}
	rounds := 0
	for ; rounds == 0 || rounds < 1000 && least["drop"] >= least["once"]; rounds++ {
		for name, ns := range r.must("", bundle.TestRuns{Runs: []bundle.TestRun{run, once}}).Values {
			least[name] = min(least[name], ns)
		}
	}
	if least["drop"] <= 0 || least["once"] <= 0 || least["drop"] >= least["once"] {
		t.Errorf("times %v, want a run among 1000 to cost less than one with its system call", least)
	}
	if seen := r.must("", bundle.Read{Name: "after", From: counter}); seen.Values["packets"] != float64(1001*rounds) {
		t.Errorf("the program counted %v packets, want %d", seen.Values["packets"], 1001*rounds)
	}
	run.Want = 0
	r.fails("", bundle.FaultSubject, bundle.TestRuns{Runs: []bundle.TestRun{run}}, "returned 2, want 0")
}
