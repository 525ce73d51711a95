package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrHeld is wrapped when a lock is held by another process, or by another Lock of this one.
var ErrHeld = errors.New("lock is held")

// HeldError is a lock that could not be had. errors.Is finds ErrHeld.
type HeldError struct {
	Path string
	PID  int // of the process that holds it, if it signed; otherwise 0
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock %s: %v by another process", e.Path, ErrHeld)
	}
	return fmt.Sprintf("lock %s: %v by PID %d", e.Path, ErrHeld, e.PID)
}

func (e *HeldError) Unwrap() error { return ErrHeld }

// poll is how often a lock is tried that another process holds.
const poll = 20 * time.Millisecond

// Lock is an exclusive lock on a file or directory (flock(2)). The kernel ends it with the
// process, however that ends.
type Lock struct{ file *os.File }

// TryLock takes a lock, or returns *HeldError at once. A perm other than 0 makes the file
// where it is missing, with this mode under the umask. A path whose file was removed or
// replaced by the last holder is opened again, so that two cannot hold one name.
func TryLock(path string, perm fs.FileMode) (*Lock, error) {
	for {
		f, err := open(path, perm)
		if err != nil {
			return nil, err
		}
		err = flock(f)
		if err == nil && current(f, path) {
			return &Lock{file: f}, nil
		}
		if err != nil {
			return nil, errors.Join(explain(err, f), f.Close())
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// AwaitLock takes a lock as TryLock does, and waits for it until ctx ends; the error then
// wraps the context's. waiting, if not nil, is called once, before the wait.
func AwaitLock(ctx context.Context, path string, perm fs.FileMode, waiting func()) (*Lock, error) {
	for {
		l, err := TryLock(path, perm)
		if !errors.Is(err, ErrHeld) {
			return l, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", path, context.Cause(ctx))
		case <-time.After(poll):
		}
	}
}

// Sign writes this process's ID into the locked file, for the error that another one gets.
func (l *Lock) Sign() error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err := l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// Unlock ends the lock. The file stays, unless the caller removes it before.
func (l *Lock) Unlock() error { return l.file.Close() }

// open opens a file to be locked: for writing, as file systems on a network want it, but a
// directory for reading.
func open(path string, perm fs.FileMode) (*os.File, error) {
	flags := os.O_RDWR
	if perm != 0 {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, perm)
	if errors.Is(err, syscall.EISDIR) {
		return os.Open(path)
	}
	return f, err
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// current says whether an open file still has its name.
func current(f *os.File, path string) bool {
	a, err := f.Stat()
	b, err2 := os.Stat(path)
	return err == nil && err2 == nil && os.SameFile(a, b)
}

func explain(err error, f *os.File) error {
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	held := &HeldError{Path: f.Name()}
	// A directory, or a file without a signature, names no process.
	if data, err := io.ReadAll(io.LimitReader(f, 32)); err == nil {
		held.PID, _ = strconv.Atoi(strings.TrimSpace(string(data)))
	}
	return held
}
