package durable

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the second process of some tests: it does what ROLE says to FILE.
func TestMain(m *testing.M) {
	file := os.Getenv("FILE")
	switch os.Getenv("ROLE") {
	case "":
		os.Exit(m.Run())
	case "write":
		err := Write(file, 0o600, func(f *os.File) error {
			_, err := f.WriteString("new, but not who")
			fmt.Println("written", err)
			// Until it is killed. Go ends a program that waits for nothing.
			_, _ = io.Copy(io.Discard, os.Stdin)
			return err
		})
		fmt.Println(err)
	case "lock":
		l, err := TryLock(file, 0o600)
		if err == nil {
			err = l.Sign()
		}
		fmt.Println("locked", err)
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test closes it
	}
}

// second starts a second process and returns it with its first line of output.
func second(t *testing.T, role, file string) (cmd *exec.Cmd, line string) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ROLE="+role, "FILE="+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, strings.TrimSpace(line)
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestAKilledWriterLeavesTheOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd, line := second(t, "write", path)
	if line != "written <nil>" {
		t.Fatalf("the writer says %q", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := content(t, path); got != "old" {
		t.Errorf("the file holds %q, want what it held before", got)
	}
	var left string
	for _, name := range names(t, filepath.Dir(path)) {
		if name != "state.json" {
			left = name
		}
	}
	if !IsTemp(left) || !IsTempOf(left, "state.json") || IsTempOf(left, "state") || IsTempOf(left, "other.json") {
		t.Errorf("the writer left %q, which a sweep must know as a part of state.json", left)
	}
	if err := WriteFile(path, []byte("newer"), 0o644); err != nil || content(t, path) != "newer" {
		t.Errorf("the next write: %v, the file holds %q", err, content(t, path))
	}
}

func TestPermissionsDoNotHangOnTheUmask(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for _, perm := range []fs.FileMode{0o600, 0o644, 0o755, 0o666} {
		path := filepath.Join(dir, fmt.Sprint(perm))
		for range 2 { // made, then replaced
			if err := WriteFile(path, nil, perm); err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(path); err != nil || st.Mode() != perm {
				t.Errorf("%s has mode %v, %v", path, st.Mode(), err)
			}
		}
	}
}

func TestAFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := errors.New("no more of it")
	if err := Write(path, 0o600, func(*os.File) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("error %v, want that of fill", err)
	}
	if got := names(t, dir); len(got) != 1 || content(t, path) != "old" {
		t.Errorf("there are %q, and the file holds %q", got, content(t, path))
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "taken"), nil, 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("a failed rename left %q", got)
	}
}

func TestAnyNameCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{strings.Repeat("x", 255), "a*b*c", " ", "\n", "-"} {
		err := Write(filepath.Join(dir, name), 0o600, func(f *os.File) error {
			if temp := filepath.Base(f.Name()); !IsTempOf(temp, name) {
				t.Errorf("the temporary name of %q is %q", name, temp)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if got := names(t, dir); len(got) != 5 {
		t.Errorf("there are %q", got)
	}
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	temp, err := TempDir(filepath.Join(dir, "whole"))
	if err != nil || !IsTempOf(filepath.Base(temp), "whole") {
		t.Fatalf("temporary directory %s, %v", temp, err)
	}
	if err := os.WriteFile(filepath.Join(temp, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Rename(temp, filepath.Join(dir, "whole")); err != nil {
		t.Fatal(err)
	}
	if err := Rename(filepath.Join(dir, "whole", "file"), filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names(t, dir)); got != "[file whole]" {
		t.Errorf("there are %s", got)
	}
	if err := Rename(filepath.Join(dir, "none"), filepath.Join(dir, "file")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestALockOfAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd, line := second(t, "lock", path)
	if line != "locked <nil>" {
		t.Fatalf("the other process says %q", line)
	}
	_, err := TryLock(path, 0o600)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != cmd.Process.Pid || !errors.Is(err, ErrHeld) ||
		err.Error() != fmt.Sprintf("lock %s: lock is held by PID %d", path, cmd.Process.Pid) {
		t.Errorf("error %v, want *HeldError that names PID %d", err, cmd.Process.Pid)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	waits := 0
	if _, err := AwaitLock(ctx, path, 0o600, func() { waits++ }); !errors.Is(err, context.DeadlineExceeded) || waits != 1 {
		t.Errorf("the wait ended with %v, announced %d times", err, waits)
	}
	had := make(chan error)
	go func() {
		l, err := AwaitLock(t.Context(), path, 0o600, nil)
		if err == nil {
			err = l.Unlock()
		}
		had <- err
	}()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-had; err != nil {
		t.Errorf("the lock of a killed process: %v", err)
	}
}

func TestLocksOfOneProcess(t *testing.T) {
	dir := t.TempDir()
	if _, err := TryLock(filepath.Join(dir, "none"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that must be there already: %v", err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "lock")} {
		l, err := TryLock(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		var held *HeldError
		if _, err := TryLock(path, 0); !errors.As(err, &held) || held.PID != 0 || !strings.HasSuffix(err.Error(), "by another process") {
			t.Errorf("%s again: %v, want it held by an unnamed process", path, err)
		}
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
		if l, err = TryLock(path, 0); err != nil {
			t.Fatal(err)
		}
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
	}
}

// TestALockFollowsItsName: a holder may remove the file before it unlocks. One that waits
// must not get the lock on the removed file while another gets it on a new one.
func TestALockFollowsItsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := TryLock(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := TryLock(path, 0o600)
	if err != nil {
		t.Fatalf("a name without a file: %v", err)
	}
	if current(first.file, path) || !current(second.file, path) {
		t.Error("the removed file passes for the one that has the name")
	}
	if err := errors.Join(first.Unlock(), second.Unlock()); err != nil {
		t.Error(err)
	}
}

// TestWhatKilledProcessesLeft: temporary files and directories without a lock are removed, those of a
// process at work and those of others' names are not.
func TestWhatKilledProcessesLeft(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	path := filepath.Join(dir, "pack")
	cmd, line := second(t, "write", path)
	if line != "written <nil>" {
		t.Fatalf("the writer says %q", line)
	}
	mine, remove, err := Scratch("test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hookbed-test-left", "hookbed-other-left", ".tmp-pack-left", ".tmp-other-left"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "deep"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(mine, filepath.Join(dir, "hookbed-test-link")); err != nil {
		t.Fatal(err)
	}
	SweepTemps(path)
	another, removeAnother, err := Scratch("test")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 6 || !slices.Contains(got, filepath.Base(mine)) || !slices.Contains(got, filepath.Base(another)) ||
		!slices.Contains(got, "hookbed-other-left") || !slices.Contains(got, ".tmp-other-left") || !slices.Contains(got, "hookbed-test-link") {
		t.Errorf("there are %q, want both at work, the writer's, and what has other names", got)
	}
	if err := errors.Join(remove(), removeAnother(), cmd.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	SweepTemps(path)
	if got := fmt.Sprint(names(t, dir)); got != "[.tmp-other-left hookbed-other-left hookbed-test-link]" {
		t.Errorf("there are %s", got)
	}
}

func TestOnlyOurs(t *testing.T) {
	dir := t.TempDir()
	for mode, ok := range map[os.FileMode]bool{0o700: true, 0o755: true, 0o775: true, 0o757: false, 0o777 | os.ModeSticky: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := OnlyOurs(dir); (err == nil) != ok {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if err := OnlyOurs(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestOverwriteNeedsNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := Overwrite(path, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := WriteFile(path, []byte("it was longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Overwrite(path, []byte("new")); err != nil || content(t, path) != "new" {
		t.Errorf("the file holds %q (%v)", content(t, path), err)
	}
	if err := Overwrite(path, make([]byte, 1<<20)); !NoRoom(err) || content(t, path) != "new" {
		t.Errorf("more than it has room for: %v, and it holds %d bytes", err, len(content(t, path)))
	}
	if NoRoom(fs.ErrExist) || !NoRoom(fmt.Errorf("write: %w", syscall.EDQUOT)) {
		t.Error("a quota that is used up is like a full disk, and nothing else is")
	}
}
