package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// command is one call of an outside tool.
type command struct {
	argv []string
	env  []string // added to this process's environment
	dir  string
	// private gives the tool a mount namespace of its own, so that what it
	// mounts vanishes with it. Needs root.
	private bool
}

// toolError is a tool that failed; Output holds what it printed.
type toolError struct {
	Tool   string
	Err    error
	Output string
}

func (e *toolError) Error() string {
	lines := strings.Split(strings.TrimSpace(e.Output), "\n")
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	for i, line := range lines {
		lines[i] = line[:min(len(line), 300)]
	}
	return fmt.Sprintf("run %s: %v: %s", e.Tool, e.Err, strings.Join(lines, "; "))
}

func (e *toolError) Unwrap() error { return e.Err }

// run executes the tool and returns its standard output. The tool dies with
// this process. A failure is *toolError; the error for a missing tool names the way
// to get it.
func (c command) run(ctx context.Context) (string, error) {
	// The kernel sends the parent-death signal when the thread ends, so the
	// thread must stay for as long as the tool runs.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &stdout, &stderr, c.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	cmd.Env = append(cmd.Env, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if c.private {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.String(), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("run %s: not found: install it with \"make deps\"", c.argv[0])
	case ctx.Err() != nil:
		return "", fmt.Errorf("run %s: %w", c.argv[0], ctx.Err())
	}
	return stdout.String(), &toolError{Tool: c.argv[0], Err: err, Output: stdout.String() + stderr.String()}
}
