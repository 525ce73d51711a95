package campaign

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/bundle"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// fakeClock is what the fake helper reports of its clocks: the truth, or a clock that
// runs 31 times too fast (always, or for the first trial only), or one that was set
// between two readings. A slow one reports the truth late.
func fakeClock(how string) *bundle.Clock {
	now := time.Now().UnixNano()
	c := &bundle.Clock{Mono: now % 1e15, Real: now}
	switch {
	case how == "clock-fast", how == "clock-fast-once" && times() <= 2, how == "clock-fast-fails":
		c.Mono, c.Real = 31*c.Mono, c.Real+30*c.Mono
	case how == "clock-set" && times()%2 == 0:
		c.Real += int64(time.Hour)
	case how == "clock-set-back" && times()%2 == 0:
		c.Real -= int64(30 * time.Minute)
	case how == "clock-slow":
		time.Sleep(200 * time.Millisecond)
		now = time.Now().UnixNano()
		c = &bundle.Clock{Mono: now % 1e15, Real: now}
		time.Sleep(200 * time.Millisecond)
	}
	return c
}

func TestClockWrong(t *testing.T) {
	at := func(before, after, mono, realtime float64) lab.Reading {
		d := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
		return lab.Reading{Before: d(before), After: d(after), Clock: bundle.Clock{Mono: int64(d(mono)), Real: int64(d(realtime))}}
	}
	first := at(1, 1.002, 50.001, 1e9)
	for _, tc := range []struct {
		what string
		then lab.Reading
		want string
	}{
		{"honest", at(3, 3.002, 52.001, 1e9+2), ""},
		{"honest, slewed by NTP", at(101, 101.002, 150.001+.05, 1e9+100+.05), ""},
		{"honest, asked late", at(3, 5, 53.9, 1e9+3.9), ""},
		{"honest, asked late, told early", at(3, 5, 52.1, 1e9+2.1), ""},
		{"31 times as fast", at(3, 3.002, 50.001+62, 1e9+62), "went on by 62.000 s while 1.998 to 2.002 s passed"},
		{"a third slower", at(3, 3.002, 50.001+1.33, 1e9+1.33), "went on by 1.330 s"},
		{"5 % too fast", at(3, 3.002, 50.001+2.1, 1e9+2.1), "went on by 2.100 s"},
		{"set an hour ahead", at(3, 3.002, 52.001, 1e9+2+3600), "was set by +3600.000 s during the trial"},
		{"set half an hour back", at(3, 3.002, 52.001, 1e9+2-1800), "was set by -1800.000 s during the trial"},
		{"set by a tenth of a second", at(3, 3.002, 52.001, 1e9+2.1), "was set by +0.100 s"},
		{"stood still", at(3, 3.002, 50.001, 1e9), "went on by 0.000 s"},
	} {
		if got := clockWrong(first, tc.then); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
		}
	}
}

// onMachines makes the run treat its lab as virtual machines, which can be booted
// again; the lab is still that of the fake helper.
func onMachines(r *runner) (ups *int) {
	p := *r.Plan
	p.Spec.Lab.Provider = plan.ProviderLibvirt
	r.Plan = &p
	up, n := r.Up, 0
	r.Up = func(ctx context.Context, block int) (*lab.Lab, error) {
		n++
		return up(ctx, block)
	}
	return &n
}

// TestWrongClockIsBootedAgain: the trial is done again after one more boot, and
// nothing of the first is kept.
func TestWrongClockIsBootedAgain(t *testing.T) {
	r := runnerOf(t, "clock-fast-once", experiment)
	ups := onMachines(r)
	if _, err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rowsOf(t, r.Dir), 4, record.StatusOK)
	if *ups != 2 {
		t.Errorf("the lab came up %d times, want once more than without the fault", *ups)
	}
}

// TestClockThatStaysWrongIsARigFault: also where it made the workload fail.
func TestClockThatStaysWrongIsARigFault(t *testing.T) {
	for _, how := range []string{"clock-fast", "clock-set", "clock-fast-fails"} {
		r := runnerOf(t, how, experiment)
		onMachines(r)
		if _, err := r.run(t.Context()); !errors.Is(err, ErrRig) {
			t.Fatalf("%s: error %v, want one wrapping ErrRig", how, err)
		}
		rows := rowsOf(t, r.Dir)
		expectTrials(t, rows, min(maxBroken, setupsIn(r.Plan, r.Trials)), record.StatusRig)
		if !strings.Contains(rows[0].Reason, "the clock of node1") {
			t.Errorf("%s: reason %q", how, rows[0].Reason)
		}
	}
}

// TestWrongClockOfOthersMachinesIsVoid: the run cannot boot machines that it did not
// make.
func TestWrongClockOfOthersMachinesIsVoid(t *testing.T) {
	for how, want := range map[string]string{
		"clock-fast": "the clock of node1 went on by", "clock-set": "was set by +3600.0", "clock-set-back": "was set by -1800.0",
		"clock-fast-fails": "fake subject",
	} {
		_, rows, err := campaignOf(t, how)
		if err != nil {
			t.Fatal(err)
		}
		expectTrials(t, rows, 4, record.StatusVoid)
		if !strings.Contains(rows[0].Reason, want) || !strings.Contains(rows[0].Reason, "the clock of node1") {
			t.Errorf("%s: reason %q", how, rows[0].Reason)
		}
	}
}

// TestClockThatIsToldLateIsHonest: a late answer is not a fault of the clock.
func TestClockThatIsToldLateIsHonest(t *testing.T) {
	_, rows, err := campaignOf(t, "clock-slow")
	if err != nil {
		t.Fatal(err)
	}
	expectTrials(t, rows, 4, record.StatusOK)
}
