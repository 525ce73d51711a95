package probe

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestSilenceIsCountedFromTheWitness: arithmetic of the time that denies.
func TestSilenceIsCountedFromTheWitness(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	w := Waits{Answer: time.Minute, Silence: 400 * time.Millisecond}
	denied := attempt{sent: start}
	pending := attempt{must: true, sent: at(time.Millisecond)}
	answered := func(after time.Duration) attempt {
		return attempt{must: true, sent: at(time.Millisecond), decided: true, at: at(time.Millisecond + after), got: Outcome{Established: true}}
	}
	if _, told := w.silentUntil([]attempt{denied, pending, answered(time.Millisecond)}); told {
		t.Error("silence is told while a witness is on its way")
	}
	for name, tc := range map[string]struct {
		tries []attempt
		want  time.Duration
	}{
		"no witness":   {[]attempt{denied}, 400 * time.Millisecond},
		"a quick one":  {[]attempt{denied, answered(time.Millisecond)}, 402 * time.Millisecond},
		"a slow one":   {[]attempt{denied, answered(time.Second), answered(time.Millisecond)}, time.Millisecond + time.Second + graceTrips*time.Second},
		"a silent one": {[]attempt{denied, {must: true, sent: start, decided: true, at: at(time.Minute), got: Outcome{Denied: true}}}, time.Minute + 400*time.Millisecond},
	} {
		if until, told := w.silentUntil(tc.tries); !told || until.Sub(start) != tc.want {
			t.Errorf("%s: denied after %v (%v), want %v", name, until.Sub(start), told, tc.want)
		}
	}
}

// slowTalker is a connection that says two things, and notes its deadlines.
type slowTalker struct {
	net.Conn
	says      []string
	deadlines []time.Time
}

func (s *slowTalker) SetReadDeadline(at time.Time) error {
	s.deadlines = append(s.deadlines, at)
	return nil
}

func (s *slowTalker) Read(p []byte) (int, error) {
	if len(s.says) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.says[0])
	s.says = s.says[1:]
	return n, nil
}

func (s *slowTalker) Write(p []byte) (int, error) { return len(p), nil }

// TestOnlyTheFirstBytesAreDue: a connection that has spoken may be silent.
func TestOnlyTheFirstBytesAreDue(t *testing.T) {
	conn := &slowTalker{says: []string{"early", "late"}}
	before := time.Now()
	echoBytes(conn, time.Hour)
	if d := conn.deadlines; len(d) != 3 || d[0].Before(before.Add(time.Hour)) || !d[1].IsZero() || !d[2].IsZero() {
		t.Errorf("deadlines are %v, want one for the first bytes and none after", d)
	}
}
