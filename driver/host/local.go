package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
	"hookbed/driver/tail"
)

// Local is this computer. Its commands have their own process groups and get
// SIGTERM when this process dies. Safe for concurrent use.
type Local struct {
	ctx  context.Context // ends with Close
	stop context.CancelCauseFunc
}

var _ Host = (*Local)(nil)

// NewLocal is this computer as a host.
func NewLocal() *Local {
	ctx, stop := context.WithCancelCause(context.Background())
	return &Local{ctx: ctx, stop: stop}
}

// Close ends the commands that still run; using the host later is ErrUnreachable.
func (l *Local) Close() error {
	l.stop(fmt.Errorf("this computer: %w: %w", ErrUnreachable, errClosed))
	return nil
}

// usable is an error if the host is closed or ctx has ended.
func (l *Local) usable(ctx context.Context) error {
	if err := context.Cause(l.ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// Run runs a command as a child of this process.
func (l *Local) Run(ctx context.Context, cmd Cmd) error {
	if err := checkArgv(cmd.Argv); err != nil {
		return err
	}
	if err := l.usable(ctx); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(l.ctx, func() { stop(context.Cause(l.ctx)) })()
	// The death signal is sent when the thread that started the child ends, so that
	// thread must live as long as the child (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	kept := tail.NewBuffer(tailSize)
	child, err := start(cmd, kept, stop)
	if err != nil {
		return startError(cmd, err)
	}
	group := newGroup(child.Process.Pid)
	defer group.close()
	var waitErr error // written before done is closed
	done := make(chan struct{})
	go func() {
		defer close(done)
		waitErr = child.Wait()
	}()
	select {
	case <-done:
		return outcome(ctx, cmd, kept, waitErr)
	case <-ctx.Done():
	}
	group.end()
	select { // so that nothing is written to Stdout and Stderr after Run
	case <-done:
	case <-time.After(drainGrace): // a process that left the group keeps them open
	}
	err = fmt.Errorf("run %s: %w", cmd.Argv[0], context.Cause(ctx))
	if group.runs() {
		err = fmt.Errorf("%w: process %d (%s) was killed and does not end: %w", ErrStillRuns, child.Process.Pid, cmd.Argv[0], err)
	}
	return err
}

// start starts a child in a process group of its own. A failing Stdout or
// Stderr calls stop.
func start(cmd Cmd, kept *tail.Buffer, stop context.CancelCauseFunc) (*exec.Cmd, error) {
	child := exec.Command(cmd.Argv[0], cmd.Argv[1:]...)
	child.Stdout = &guardedWriter{cmd.Stdout, stop}
	child.Stderr = &guardedWriter{tee(kept, cmd.Stderr), stop}
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if cmd.Stdin == nil {
		return child, child.Start()
	}
	// Not child.Stdin: Wait would then wait for a reader that blocks.
	in, err := child.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open standard input: %w", err)
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(in, cmd.Stdin) // a command may leave input unread
		_ = in.Close()
	}()
	return child, nil
}

// startError gives a command that cannot be executed the status of a shell.
func startError(cmd Cmd, err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return &ExitError{Argv: cmd.Argv, Status: 127, Stderr: err.Error()}
	case errors.Is(err, fs.ErrPermission):
		return &ExitError{Argv: cmd.Argv, Status: 126, Stderr: err.Error()}
	}
	return fmt.Errorf("run %s: %w", cmd.Argv[0], err)
}

// outcome turns what Wait said into Run's error.
func outcome(ctx context.Context, cmd Cmd, kept *tail.Buffer, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // a failed write to Stdout or Stderr
		return fmt.Errorf("run %s: %w", cmd.Argv[0], context.Cause(ctx))
	case !errors.As(err, &exit):
		return fmt.Errorf("run %s: %w", cmd.Argv[0], err)
	}
	out := &ExitError{Argv: cmd.Argv, Status: exit.ExitCode(), Stderr: kept.String()}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		out.Signal = strings.TrimPrefix(unix.SignalName(ws.Signal()), "SIG")
	}
	return out
}

// Push writes a file; see Host.
func (l *Local) Push(ctx context.Context, data []byte, path string, mode uint32) error {
	if err := l.usable(ctx); err != nil {
		return err
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("push %q: the path is not absolute", path)
	}
	perm := fs.FileMode(mode) & fs.ModePerm
	if alreadyThere(path, data) {
		// An equal mode is not set again, since a change of it is visible to others.
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == perm {
			return nil
		}
		return os.Chmod(path, perm)
	}
	if err := writeWhole(path, data, perm); err != nil {
		return fmt.Errorf("push %d B to %s on this computer: %w", len(data), path, err)
	}
	return nil
}

// alreadyThere reports whether a regular file has this content. One that cannot be
// read does not count; writing it then reports why.
func alreadyThere(path string, data []byte) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(data)) {
		return false
	}
	same, err := sameContent(path, data)
	return err == nil && same
}

func sameContent(path string, data []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // was only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, err
	}
	want := sha256.Sum256(data)
	return bytes.Equal(h.Sum(nil), want[:]), nil
}

// writeWhole writes a file by way of a temporary one in its directory.
func writeWhole(path string, data []byte, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.Write(path, perm, func(f *os.File) error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		if same, err := sameContent(f.Name(), data); err != nil || !same {
			return errors.Join(errors.New("its SHA-256 differs after writing"), err)
		}
		return nil
	})
}

// Pull reads a whole file.
func (l *Local) Pull(ctx context.Context, path string) ([]byte, error) {
	if err := l.usable(ctx); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// Forward dials from this process.
func (l *Local) Forward(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := l.usable(ctx); err != nil {
		return nil, err
	}
	if network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("forward to %s: unknown network %q, want unix or tcp", addr, network)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}
