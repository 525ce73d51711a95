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

// TestPeer holds a program that a script attached, with its maps, after the
// script and all that it mounted are gone.
func TestPeer(t *testing.T) {
	r := newRig(t)
	r.file("counting", counting(t))
	r.file("attach", `test "$(cat greeting)" = hello
sleep 1000 &
ip link set v0 xdpgeneric obj counting section xdp >&2
echo ready
read line
`)
	r.file("greeting", "hello")
	r.must("", bundle.Netns{Name: "other"}, bundle.Veth{Link: "v0", Peer: "v1", PeerIn: "other"})
	peer := bundle.Peer{Handle: "p", Script: "attach", Files: []string{"counting", "greeting"}, Link: "v0", Hook: bundle.HookXDPGeneric, Timeout: 10}
	got := r.must("", peer)
	if got.Values["load_seconds"] <= 0 {
		t.Errorf("values %v, want the time to load", got.Values)
	}
	r.must("", bundle.TestRuns{Runs: []bundle.TestRun{{Name: "x", Handle: "p", Program: bundle.PeerProgram, Frame: badFrame(), Want: 2, Repeat: 10}}})
	r.fails("", bundle.FaultRig, peer, "taken")
	r.file("attach", "echo no such thing >&2; exit 3\n")
	peer.Handle = "q"
	r.fails("", bundle.FaultSubject, peer, "ended before it was ready", "no such thing")
	r.file("attach", "sleep 1000\n")
	peer.Timeout = 0.2
	r.fails("", bundle.FaultSubject, peer, "not ready")
}
