package main

import (
	"strings"
	"testing"
	"time"

	"hookbed/driver/plan"
)

// TestTimeLeft: it is the plan's from the first second, and that of the trials' own pace when many of
// them have ended.
func TestTimeLeft(t *testing.T) {
	start := time.Now()
	r := &remaining{total: 100, perTrial: float64(time.Second), start: start}
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	if got := r.now(at(0)); got != 100*time.Second {
		t.Errorf("before anything %s, want the plan's 100 s", got)
	}
	if got := r.now(at(30)); got != 70*time.Second {
		t.Errorf("after 30 s of bringing up %s, want 70 s", got)
	}
	if got := r.now(at(300)); got != 0 {
		t.Errorf("later than the plan %s, want 0", got)
	}
	r.began(at(30))
	r.ended()
	if got := r.now(at(34)); got < 99*time.Second || got > 4*99*time.Second {
		t.Errorf("after one slow trial %s, want between the plan and its pace", got)
	}
	r.began(at(34)) // a later block
	for range 49 {
		r.ended()
	}
	if got := r.now(at(30 + 50*4)); got < 180*time.Second || got > 200*time.Second {
		t.Errorf("after half of them at 4 s each %s, want nearly 200 s", got)
	}
	if total := r.passed(40); total != 60 || r.now(at(230)) > 40*time.Second {
		t.Errorf("with 40 fewer %s left of %d", r.now(at(230)), total)
	}
}

// TestFirstLineHasTheTimeLeft: lines say it before the first trial has ended.
func TestFirstLineHasTheTimeLeft(t *testing.T) {
	var talk strings.Builder
	a := &app{talk: &talk}
	p, stop := a.newProgress(10, time.Hour)
	defer stop()
	p.Phase("bring up the lab for block 1")
	if !strings.Contains(talk.String(), "bring up the lab for block 1  about 1h0m0s left") {
		t.Errorf("it says %q", talk.String())
	}
	p.Trial(plan.Trial{Block: 1, Trial: 1}, plan.Cell{}, "ok")
	if !strings.Contains(talk.String(), "  1/10  ok ") {
		t.Errorf("it says %q", talk.String())
	}
}
