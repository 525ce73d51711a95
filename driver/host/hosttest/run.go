package hosttest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hookbed/driver/host"
)

// soon ends a test that hangs: what should happen at once may take long on a
// busy machine. Commands that must be ended would run longer.
const soon = 2 * time.Minute

func runContract() []contract {
	return []contract{
		{"arguments arrive unchanged", argumentsArrive},
		{"impossible arguments are refused", argumentsRefused},
		{"input and output stream interleaved", streamInterleaved},
		{"megabytes pass both ways", streamMuch},
		{"no input is an empty input", inputEmpty},
		{"a silent input does not hold up the end", inputSilent},
		{"input that the command leaves is no error", inputLeft},
		{"exit statuses arrive", exitStatuses},
		{"a missing program is status 127", programMissing},
		{"stderr arrives whole and its tail is kept", stderrTail},
		{"a signal is told", signalTold},
		{"cancelling ends the command and its children", cancelEnds},
		{"cancelling ends a command that ignores SIGTERM", cancelStubborn},
		{"a command may clean up on SIGTERM", cancelGentle},
		{"a deadline ends the command", deadlineEnds},
		{"a context that has ended runs nothing", endedContext},
		{"a failing writer ends the command", writerFails},
		{"commands run at once", runsAtOnce},
	}
}

func argumentsArrive(t *testing.T, h host.Host) {
	var all []byte
	for b := 1; b < 256; b++ {
		all = append(all, byte(b))
	}
	args := []string{
		"", " ", "a b", `"`, "'", "''", "\n", "a\nb\n", "$HOME", "${x}", "$(id)", "`id`", "*", "?[a]", "~", "\\", `\'`, "a;b", "a&b|c>d<e",
		"#", "!", "{a,b}", "--", "-n", "héllo ✓ 你好", "\xff\xfe\x81", "\t\r\v", string(all), strings.Repeat("long ", 2000), "",
	}
	want := strings.Join(args, "\x00") + "\x00"
	got := output(t, h, append([]string{"printf", `%s\0`}, args...)...)
	if got != want {
		t.Errorf("arguments arrived as %q, want %q", strings.Split(got, "\x00"), args)
	}
}

func argumentsRefused(t *testing.T, h host.Host) {
	for _, argv := range [][]string{nil, {""}, {"echo", "a\x00b"}, {"-x"}} {
		err := h.Run(t.Context(), host.Cmd{Argv: argv})
		if err == nil || errors.Is(err, host.ErrUnreachable) {
			t.Errorf("run %q: got error %v, want a refusal", argv, err)
		}
	}
}

func streamInterleaved(t *testing.T, h host.Host) {
	in, say := io.Pipe()
	r, result := running(t.Context(), t, h, in, "cat")
	lines := bufio.NewReader(r)
	for i := range 50 {
		want := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(say, want); err != nil {
			t.Fatal(err)
		}
		if got, err := lines.ReadString('\n'); got != want {
			t.Fatalf("answer %d is %q (%v), want %q", i, got, err, want)
		}
	}
	_ = say.Close()
	wantSoon(t, result, nil)
}

func streamMuch(t *testing.T, h host.Host) {
	data := pattern(5 << 20)
	var out bytes.Buffer
	err := h.Run(t.Context(), host.Cmd{Argv: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: &out})
	if err != nil || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%d B went in, %d B came out (%v), not the same", len(data), out.Len(), err)
	}
}

func inputEmpty(t *testing.T, h host.Host) {
	if got := output(t, h, "cat"); got != "" {
		t.Errorf("an empty input holds %q", got)
	}
}

func inputSilent(t *testing.T, h host.Host) {
	in, say := io.Pipe()
	defer say.Close()
	_, result := running(t.Context(), t, h, in, "true")
	wantSoon(t, result, nil)
}

func inputLeft(t *testing.T, h host.Host) {
	err := h.Run(t.Context(), host.Cmd{Argv: []string{"true"}, Stdin: bytes.NewReader(pattern(1 << 20))})
	if err != nil {
		t.Errorf("got error %v", err)
	}
}

func exitStatuses(t *testing.T, h host.Host) {
	for _, status := range []int{1, 2, 42, 126, 255} {
		argv := []string{"sh", "-c", "exit " + strconv.Itoa(status)}
		exit := wantExit(t, h.Run(t.Context(), host.Cmd{Argv: argv}), status)
		if strings.Join(exit.Argv, " ") != strings.Join(argv, " ") || exit.Signal != "" {
			t.Errorf("got %+v for %q", exit, argv)
		}
	}
}

func programMissing(t *testing.T, h host.Host) {
	for _, name := range []string{"hookbed-no-such-program", "/hookbed/no/such/program"} {
		exit := wantExit(t, h.Run(t.Context(), host.Cmd{Argv: []string{name}}), 127)
		if !strings.Contains(exit.Error(), name) || strings.TrimSpace(exit.Stderr) == "" {
			t.Errorf("error does not tell what is missing: %v", exit)
		}
	}
}

func stderrTail(t *testing.T, h host.Host) {
	const script = `i=0; while [ $i -lt 500 ]; do echo "complaint $i" >&2; i=$((i+1)); done; exit 3`
	var want strings.Builder
	for i := range 500 {
		fmt.Fprintf(&want, "complaint %d\n", i)
	}
	var errs bytes.Buffer
	exit := wantExit(t, h.Run(t.Context(), host.Cmd{Argv: []string{"sh", "-c", script}, Stderr: &errs}), 3)
	if errs.String() != want.String() {
		t.Errorf("%d B of stderr arrived, want %d B; it begins with %.60q", errs.Len(), want.Len(), errs.String())
	}
	if len(exit.Stderr) != 2048 || !strings.HasSuffix(want.String(), exit.Stderr) {
		t.Errorf("%d B of stderr are kept, want the last 2048 B", len(exit.Stderr))
	}
}

func signalTold(t *testing.T, h host.Host) {
	for _, name := range []string{"KILL", "TERM", "USR1"} {
		err := h.Run(t.Context(), host.Cmd{Argv: []string{"sh", "-c", "kill -" + name + " $$"}})
		exit := wantExit(t, err, -1)
		if exit.Signal != name || !strings.Contains(err.Error(), name) {
			t.Errorf("got signal %q (%v), want %s", exit.Signal, err, name)
		}
	}
}

func cancelEnds(t *testing.T, h host.Host) {
	ctx, cancel := context.WithCancel(t.Context())
	r, result := running(ctx, t, h, nil, "sh", "-c", "sleep 1000 & echo $$ $!; wait")
	pids := readPIDs(t, r)
	cancel()
	wantSoon(t, result, context.Canceled)
	wantGone(t, pids)
}

func cancelStubborn(t *testing.T, h host.Host) {
	ctx, cancel := context.WithCancel(t.Context())
	r, result := running(ctx, t, h, nil, "sh", "-c", `trap "" TERM; echo $$; while :; do sleep 1; done`)
	pids := readPIDs(t, r)
	cancel()
	wantSoon(t, result, context.Canceled)
	wantGone(t, pids)
}

func cancelGentle(t *testing.T, h host.Host) {
	mark := t.TempDir() + "/cleaned"
	ctx, cancel := context.WithCancel(t.Context())
	r, result := running(ctx, t, h, nil, "sh", "-c", `trap 'sleep 0.3; echo yes > "$1"; exit 0' TERM; echo $$; while :; do sleep 0.05; done`, "sh", mark)
	pids := readPIDs(t, r)
	cancel()
	wantSoon(t, result, context.Canceled)
	wantGone(t, pids)
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the command could not clean up: %v", err)
	}
}

func deadlineEnds(t *testing.T, h host.Host) {
	// A busy machine needs longer to start the command.
	for limit := 500 * time.Millisecond; ; limit *= 4 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		r, result := running(ctx, t, h, nil, "sh", "-c", "echo $$; exec sleep 1000")
		line, err := bufio.NewReader(r).ReadString('\n')
		wantSoon(t, result, context.DeadlineExceeded)
		if err == nil {
			wantGone(t, parsePIDs(t, line))
			return
		}
		if limit > soon {
			t.Fatalf("read process IDs: %v", err)
		}
	}
}

func endedContext(t *testing.T, h host.Host) {
	mark := t.TempDir() + "/ran"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Run(ctx, host.Cmd{Argv: []string{"touch", mark}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want context.Canceled", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the command ran")
	}
}

var errWriter = errors.New("nobody reads this")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errWriter }

func writerFails(t *testing.T, h host.Host) {
	result := make(chan error, 1)
	go func() { result <- h.Run(t.Context(), host.Cmd{Argv: []string{"yes"}, Stdout: failingWriter{}}) }()
	wantSoon(t, result, errWriter)
}

func runsAtOnce(t *testing.T, h host.Host) {
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			want := fmt.Sprintf("command %d\n", i)
			var out bytes.Buffer
			err := h.Run(t.Context(), host.Cmd{Argv: []string{"sh", "-c", `sleep 0.05; cat; exit "$1"`, "sh", strconv.Itoa(i)}, Stdin: strings.NewReader(want), Stdout: &out})
			status := 0
			if exit := new(host.ExitError); errors.As(err, &exit) {
				status = exit.Status
			}
			if out.String() != want || status != i {
				t.Errorf("command %d said %q and ended with %v", i, out.String(), err)
			}
		})
	}
	all.Wait()
}

// wantSoon waits for a result that is, or wraps, want.
func wantSoon(t *testing.T, result <-chan error, want error) {
	t.Helper()
	select {
	case err := <-result:
		if !errors.Is(err, want) {
			t.Errorf("got error %v, want %v", err, want)
		}
	case <-time.After(soon):
		t.Fatalf("nothing after %s, want error %v", soon, want)
	}
}

// readPIDs reads a line of process IDs.
func readPIDs(t *testing.T, r io.Reader) []int {
	t.Helper()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("read process IDs: %v", err)
	}
	return parsePIDs(t, line)
}

func parsePIDs(t *testing.T, line string) []int {
	t.Helper()
	var pids []int
	for _, word := range strings.Fields(line) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("process IDs %q: %v", line, err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// wantGone checks that processes end or are zombies, which the process that inherited them
// has yet to reap.
func wantGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		for limit := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || bytes.Contains(stat, []byte(") Z ")) {
				break
			}
			if time.Now().After(limit) {
				t.Errorf("process is still there: %s", stat)
				break
			}
		}
	}
}
