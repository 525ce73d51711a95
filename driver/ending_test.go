package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"hookbed/driver/lab"
)

// TestSecondSignal: the first one cancels the work, others of the same event are no second one. Its
// clock goes on only while all wait, so a busy computer does not move the event apart.
func TestSecondSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const apart = 300 * time.Millisecond
		signals, second := make(chan os.Signal, 8), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			awaitSecond(signals, cancel, apart)
			close(second)
		}()
		signals <- syscall.SIGTERM
		<-ctx.Done()
		signals <- syscall.SIGTERM
		time.Sleep(apart)
		signals <- syscall.SIGHUP
		synctest.Wait()
		select {
		case <-second:
			t.Fatal("signals of one event count as two")
		default:
		}
		time.Sleep(time.Millisecond)
		signals <- syscall.SIGINT
		<-second
	})
}

// TestWhatStillRunsIsSaid: a command that could not end something does not say that nothing is left
// running.
func TestWhatStillRunsIsSaid(t *testing.T) {
	lives := fmt.Errorf("take the lab down: %w: the agent on node1", lab.ErrStillRuns)
	for _, tt := range []struct {
		err        error
		hint, want string
	}{
		{context.Canceled, "nothing is left running; go on", "nothing is left running; go on"},
		{errors.Join(context.Canceled, lives), "nothing is left running; go on", lives.Error() + "; go on"},
		{errors.Join(context.Canceled, lives), "nothing is left running", lives.Error()},
	} {
		if got := whenInterrupted(tt.err, tt.hint); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
		if exitCode(tt.err) != exitInterrupted {
			t.Errorf("%v has exit code %d", tt.err, exitCode(tt.err))
		}
	}
}

// TestEndChildren: a process that is stopped and ignores signals ends, and is not named.
func TestEndChildren(t *testing.T) {
	if os.Getenv("HOOKBED_TEST_ENDING") != "" {
		child := exec.Command("sh", "-c", "trap '' TERM INT HUP; kill -STOP $$")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		for !stopped(child.Process.Pid) {
			time.Sleep(time.Millisecond)
		}
		endChildren(os.Stdout)
		fmt.Println("ended:", child.Wait())
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestEndChildren$")
	cmd.Env = append(os.Environ(), "HOOKBED_TEST_ENDING=1", binariesEnv+"="+binaries)
	out, err := cmd.CombinedOutput()
	if text := string(out); err != nil || !strings.Contains(text, "ended at once by a second signal: nothing was undone") || !strings.Contains(text, "ended: signal: killed") {
		t.Errorf("%v: %s", err, text)
	}
}
