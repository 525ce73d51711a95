package lab

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/host"
)

// helperOf is a session with a shell script in place of a helper.
func helperOf(t *testing.T, script string) *session {
	t.Helper()
	here := host.NewLocal()
	t.Cleanup(func() { here.Close() })
	s := startSession(t.Context(), "a test", here, []string{"sh", "-c", script}, nil)
	s.grace = 50 * time.Millisecond
	return s
}

// obeys answers a line of a request, as a helper whose steps measure nothing.
const obeys = `kinds=$(echo "$line" | grep -o '"kind":"[^"]*"' | sed 's/.*/{&}/' | paste -sd,)
echo "{\"seq\":$(echo "$line" | sed 's/.*"seq":\([0-9]*\).*/\1/'),\"results\":[$kinds]}"`

// TestHelperThatHangs: one that is stopped for good does not answer, and ends by SIGKILL only.
func TestHelperThatHangs(t *testing.T) {
	t.Parallel()
	s := helperOf(t, "kill -STOP $$")
	_, err := s.converse(t.Context(), []byte("{}\n"), 200*time.Millisecond)
	var f *Fault
	if !errors.As(err, &f) || f.Kind != bundle.FaultRig || !strings.Contains(err.Error(), "it hangs") {
		t.Errorf("it does not answer: %v", err)
	}
	if _, err := s.call(t.Context(), bundle.Request{Mark: true}); !errors.As(err, &f) || !strings.Contains(err.Error(), "earlier request") {
		t.Errorf("the next request: %v", err)
	}
	start := time.Now()
	if err := s.close(t.Context()); err == nil || errors.Is(err, ErrStillRuns) || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("its end: %v", err)
	}
	if took := time.Since(start); took > killLimit {
		t.Errorf("it took %s to end", took)
	}
}

// TestHelperThatDoesNotUndo: one that goes on when its input has ended is killed, and one that ends
// is not; an agent is not killed by a hanging request.
func TestHelperThatDoesNotUndo(t *testing.T) {
	t.Parallel()
	if err := helperOf(t, "trap '' TERM; exec sleep 100").close(t.Context()); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("one that does not end: %v", err)
	}
	s := helperOf(t, "cat >/dev/null; sleep 0.3")
	s.grace = time.Minute
	if err := s.close(t.Context()); err != nil {
		t.Errorf("one that ends late: %v", err)
	}
	s = helperOf(t, "cat >/dev/null; sleep 0.3")
	s.attended, s.grace = true, time.Minute
	if _, err := s.converse(t.Context(), []byte("{}\n"), 10*time.Millisecond); err == nil {
		t.Error("an agent that does not answer did")
	}
	if err := s.close(t.Context()); err != nil {
		t.Errorf("an agent's end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s = helperOf(t, "trap '' TERM; sleep 100")
	s.attended, s.grace = true, time.Minute
	if err := s.close(ctx); !errors.Is(err, ErrStillRuns) {
		t.Errorf("an agent that does not end: %v", err)
	}
}

// TestHelperThatRecords: one that may have the machine's tracer to put back gets the time for it, until
// the recording has ended.
func TestHelperThatRecords(t *testing.T) {
	t.Parallel()
	s := helperOf(t, "while read -r line; do case $line in *refuse*) echo '{\"error\":\"refused\"}';; *) "+obeys+"; esac; done; sleep 0.3")
	begin, end := bundle.Step{Do: bundle.RecordCalls{Handle: "calls"}}, bundle.Step{Do: bundle.EndRecord{Handle: "calls"}}
	for _, do := range []struct {
		name  string
		steps []bundle.Step
		want  time.Duration
	}{
		{"nothing", []bundle.Step{end}, 0},
		{"begin", []bundle.Step{begin}, bundle.TracerLimit},
		{"refuse", []bundle.Step{end}, bundle.TracerLimit},
		{"end", []bundle.Step{end}, 0},
		{"both", []bundle.Step{begin, end}, 0},
		{"refuse", []bundle.Step{begin, end}, bundle.TracerLimit},
	} {
		if _, err := s.Exec(t.Context(), do.name, nil, do.steps); (err != nil) != (do.name == "refuse") || s.tracing() != do.want {
			t.Errorf("%s: %v, it may take %s longer, want %s", do.name, err, s.tracing(), do.want)
		}
	}
	if err := s.close(t.Context()); err != nil { // later than s.grace
		t.Errorf("one that puts a tracer back: %v", err)
	}
}

// TestReplyWithoutEnd: what a helper answers is read up to a limit.
func TestReplyWithoutEnd(t *testing.T) {
	for text, want := range map[string]string{"ab\ncd": "ab\n", strings.Repeat("x", 99) + "\n": strings.Repeat("x", 99) + "\n"} {
		if line, err := readLine(bufio.NewReaderSize(strings.NewReader(text), 16), 100); err != nil || string(line) != want {
			t.Errorf("%q is %q, %v", text, line, err)
		}
	}
	if line, err := readLine(bufio.NewReaderSize(strings.NewReader(strings.Repeat("x", 1000)), 16), 100); err == nil || len(line) > 0 || len(err.Error()) > 200 {
		t.Errorf("an endless line is %d bytes, %v", len(line), err)
	}
}

// TestHelperThatIsSilent: one that says that it lives is waited for, and one that was stopped in the
// middle of its work is not, long before its steps' limit.
func TestHelperThatIsSilent(t *testing.T) {
	t.Parallel()
	s := helperOf(t, `read line; printf '\n\n\n{"seq":1,"mark":7}\n'`)
	s.beats = true
	if reply, err := s.call(t.Context(), bundle.Request{Mark: true}); err != nil || reply.Mark != 7 {
		t.Errorf("one that lives answers %+v, %v", reply, err)
	}
	s = helperOf(t, `read line; echo; kill -STOP $$`)
	s.beats, s.silence = true, 100*time.Millisecond
	var f *Fault
	if _, err := s.call(t.Context(), bundle.Request{Mark: true}); !errors.As(err, &f) || f.Kind != bundle.FaultRig || !strings.Contains(err.Error(), "also not that it lives") {
		t.Errorf("one that is stopped: %v", err)
	}
	if err := s.close(t.Context()); err == nil || errors.Is(err, ErrStillRuns) {
		t.Errorf("its end: %v", err)
	}
}

// TestHostileReplies: a reply that is not to the request, or not of its steps, is the rig's fault, and
// the conversation is over. What a reply says is bounded.
func TestHostileReplies(t *testing.T) {
	t.Parallel()
	steps := []bundle.Step{{Do: bundle.Bridge{Link: "br0"}}, {Do: bundle.Bridge{Link: "br1"}}}
	for _, tt := range []struct{ name, says, kind, want string }{
		{"as it should", obeys, "", ""},
		{"another's", `echo '{"seq":7}'`, bundle.FaultRig, "answered request 7, and this is request 1"},
		{"another's error", `echo '{"seq":7,"error":"no","fault":"subject"}'`, bundle.FaultRig, "answered request 7"},
		{"one twice", obeys + "\n" + obeys, bundle.FaultRig, "answered request 1, and this is request 2"},
		{"no number", `echo '{}'`, bundle.FaultRig, "answered request 0"},
		{"an agent's error", `echo '{"error":"it is gone","fault":"rig"}'`, bundle.FaultRig, "a test: it is gone"},
		{"no results", `echo '{"seq":1}'`, bundle.FaultRig, "it has results of 0 steps, and was given 2"},
		{"a step too many", strings.Replace(obeys, `[$kinds`, `[{},$kinds`, 1), bundle.FaultRig, "it has results of 3 steps, and was given 2"},
		{"other steps", strings.Replace(obeys, `[$kinds`, `[{\"kind\":\"exec\"},{\"kind\":\"exec\"}`, 1), bundle.FaultRig, `result 1 is of a step of kind "exec"`},
		{"an unheard of fault", `echo '{"seq":1,"error":"no","fault":"unheard of"}'`, bundle.FaultRig, "a test: no"},
		{"a long error", `printf '{"seq":1,"fault":"subject","error":"%2000000d"}\n' 7`, bundle.FaultSubject, "... (2000000 bytes)"},
		{"what rings", `printf '%s\n' '{"seq":1,"error":"\u001b[31m\u0007no\n","fault":"subject"}'`, bundle.FaultSubject, "a test:  [31m no"},
		{"a number out of range", `echo '{"seq":1,"mark":99999999999999999999}'`, bundle.FaultRig, "cannot unmarshal"},
		{"null", `echo null`, bundle.FaultRig, "answered request 0"},
		{"garbage", `echo garbage`, bundle.FaultRig, `answered "garbage\n"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := helperOf(t, "while read -r line; do "+tt.says+"\ndone")
			var f *Fault
			_, err := s.Exec(t.Context(), "x", nil, steps)
			if tt.name == "one twice" && err == nil {
				_, err = s.Mark(t.Context())
			}
			if got := errors.As(err, &f); got != (tt.want != "") || got && (f.Kind != tt.kind || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\x1b\x07") || len(err.Error()) > 2*longestError) {
				t.Errorf("%.200v, want %s's fault %q", err, tt.kind, tt.want)
			}
			if _, again := s.Mark(t.Context()); strings.Contains(tt.want, "it has") && again == nil {
				t.Error("the conversation goes on")
			}
			_ = s.close(t.Context()) // how it ends is no matter
		})
	}
}
