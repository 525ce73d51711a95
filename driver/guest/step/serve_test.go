package step

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"hookbed/driver/bundle"
)

// TestQuietHelperCollectsAtMarks: a quiet helper collects garbage when a mark is
// set, and at no other time; another one leaves that to the runtime.
func TestQuietHelperCollectsAtMarks(t *testing.T) {
	collections := func() (all, forced uint32) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumGC, m.NumForcedGC
	}
	for _, quiet := range []bool{true, false} {
		answers, questions := io.Pipe()
		replies, out := io.Pipe()
		before := debug.SetGCPercent(100)
		done := make(chan error)
		go func() {
			done <- Serve(t.Context(), answers, out, slog.New(slog.DiscardHandler), ServeOptions{Quiet: quiet})
		}()
		r := bufio.NewReader(replies)
		ask := func(line string) {
			t.Helper()
			if _, err := io.WriteString(questions, line+"\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := r.ReadString('\n'); err != nil || strings.Contains(line, "error") {
				t.Fatalf("reply %q, %v", line, err)
			}
		}
		ask(fmt.Sprintf(`{"hello": {"schema": %d}}`, bundle.Schema))
		all, _ := collections()
		for range 200 {
			garbage = make([]byte, 1<<20)
		}
		after, forced := collections()
		if got := after == all; got != quiet {
			t.Errorf("quiet %v: %d collections while it worked", quiet, after-all)
		}
		ask(`{"mark": true}`)
		if _, now := collections(); (now > forced) != quiet {
			t.Errorf("quiet %v: %d collections at a mark", quiet, now-forced)
		}
		questions.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if now := debug.SetGCPercent(before); now != 100 {
			t.Errorf("quiet %v: it left the collector at %d", quiet, now)
		}
	}
}

var garbage []byte

// TestBeat: a helper that was told to says that it lives, until it has the reply, and another does not.
func TestBeat(t *testing.T) {
	lines, out := io.Pipe()
	s := &session{beats: true, every: time.Millisecond}
	rest := s.beat(out)
	r := bufio.NewReader(lines)
	for range 3 {
		if line, err := r.ReadString('\n'); line != "\n" || err != nil {
			t.Fatalf("it says %q, %v", line, err)
		}
	}
	ended := make(chan struct{})
	go func() {
		rest()
		close(ended)
		_ = out.Close()
	}()
	if left, err := io.ReadAll(r); strings.Trim(string(left), "\n") != "" || err != nil {
		t.Errorf("at rest it says %q, %v", left, err)
	}
	<-ended
	var said strings.Builder
	s.beats = false
	s.beat(&said)()
	if said.Len() > 0 {
		t.Errorf("one that was not told to says %q", said.String())
	}
}
