package step

import (
	"encoding/json"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/proc"
)

// TestTellClock: both clocks are told as they are between question and answer.
func TestTellClock(t *testing.T) {
	read := func() (mono, realtime int64) {
		mono, err := proc.Nanoseconds(unix.CLOCK_MONOTONIC)
		if err != nil {
			t.Fatal(err)
		}
		return mono, time.Now().UnixNano()
	}
	monoBefore, realBefore := read()
	s := &session{open: true}
	line, err := json.Marshal(bundle.Request{Clock: true})
	if err != nil {
		t.Fatal(err)
	}
	reply := s.answer(t.Context(), line)
	monoAfter, realAfter := read()
	c := reply.Clock
	if reply.Error != "" || c == nil || c.Mono < monoBefore || c.Mono > monoAfter || c.Real < realBefore || c.Real > realAfter {
		t.Errorf("reply %+v, clock %+v, want one between %d and %d, and %d and %d", reply, c, monoBefore, monoAfter, realBefore, realAfter)
	}
}

// TestSnapshotTellsBothClocks, but in a sealed guest, whose snapshots stay as they were.
func TestSnapshotTellsBothClocks(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		r := newRig(t)
		r.x.quiet = quiet
		c := &call{x: r.x, raw: map[string]string{}}
		if err := doSnapshot(c, bundle.Snapshot{Out: "s"}); err != nil {
			t.Fatal(err)
		}
		var keys map[string]any
		if err := json.Unmarshal([]byte(c.raw["s"]), &keys); err != nil {
			t.Fatal(err)
		}
		if _, told := keys["mono_nano"]; told == quiet || len(keys) != 5 && quiet {
			t.Errorf("quiet %v: snapshot has %v", quiet, keys)
		}
	}
}
