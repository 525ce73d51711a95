package hosttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hookbed/driver/host"
)

func pushContract() []contract {
	return []contract{
		{"contents and modes arrive", pushArrives},
		{"a file is replaced", pushReplaces},
		{"content already there is not sent again", pushOnce},
		{"other content of the same size is replaced", pushSameSize},
		{"missing directories are made", pushDirectories},
		{"awkward names work", pushNames},
		{"a symbolic link is replaced by the file", pushLink},
		{"a directory in the way is an error", pushDirectoryInTheWay},
		{"a relative path is refused", pushRelative},
		{"files are pushed at once", pushAtOnce},
		{"a context that has ended pushes nothing", pushEnded},
	}
}

func pullContract() []contract {
	return []contract{
		{"contents arrive", pullArrives},
		{"a file without a size is read", pullUnsized},
		{"a missing file is fs.ErrNotExist", pullMissing},
		{"a context that has ended pulls nothing", pullEnded},
	}
}

func pushArrives(t *testing.T, h host.Host) {
	dir := t.TempDir()
	for i, size := range []int{0, 1, 32 << 10, 5 << 20} {
		mode := []uint32{0o644, 0o600, 0o755, 0o400}[i]
		path := filepath.Join(dir, "file")
		push(t, h, path, pattern(size), mode)
		wantFile(t, path, pattern(size), fs.FileMode(mode))
		wantOnly(t, dir, "file")
	}
}

func pushReplaces(t *testing.T, h host.Host) {
	path := filepath.Join(t.TempDir(), "file")
	push(t, h, path, []byte("a longer content than the next"), 0o600)
	push(t, h, path, []byte("short"), 0o644)
	wantFile(t, path, []byte("short"), 0o644)
}

func pushOnce(t *testing.T, h host.Host) {
	path := filepath.Join(t.TempDir(), "file")
	data := pattern(100_000)
	push(t, h, path, data, 0o644)
	old := time.Unix(1_000_000_000, 0)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	before := inode(t, path)
	push(t, h, path, data, 0o755)
	wantFile(t, path, data, 0o755)
	info, err := os.Stat(path)
	if err != nil || !info.ModTime().Equal(old) || inode(t, path) != before {
		t.Errorf("the file was sent again: inode %d, was %d, modified %v (%v)", inode(t, path), before, info.ModTime(), err)
	}
}

func pushSameSize(t *testing.T, h host.Host) {
	path := filepath.Join(t.TempDir(), "file")
	push(t, h, path, []byte("one"), 0o644)
	if err := os.WriteFile(path, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	push(t, h, path, []byte("one"), 0o644)
	wantFile(t, path, []byte("one"), 0o644)
}

func pushDirectories(t *testing.T, h host.Host) {
	path := filepath.Join(t.TempDir(), "a", "b c", "d", "file")
	push(t, h, path, []byte("deep"), 0o600)
	wantFile(t, path, []byte("deep"), 0o600)
}

func pushNames(t *testing.T, h host.Host) {
	dir := t.TempDir()
	for _, name := range []string{"a b", "it's", "new\nline", "back\\slash", "$HOME", "*", "-rf", "ünï✓", strings.Repeat("x", 255)} {
		path := filepath.Join(dir, name)
		for range 2 { // the second time only its digest is read
			push(t, h, path, []byte(name), 0o644)
			wantFile(t, path, []byte(name), 0o644)
		}
	}
}

func pushLink(t *testing.T, h host.Host) {
	dir := t.TempDir()
	other, path := filepath.Join(dir, "other"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(other, []byte("other"), 0o644), os.Symlink(other, path)); err != nil {
		t.Fatal(err)
	}
	push(t, h, path, []byte("new content"), 0o644)
	wantFile(t, path, []byte("new content"), 0o644)
	wantFile(t, other, []byte("other"), 0o644)
}

func pushDirectoryInTheWay(t *testing.T, h host.Host) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	err := h.Push(t.Context(), []byte("x"), path, 0o644)
	if err == nil || !strings.Contains(err.Error(), path) || errors.Is(err, host.ErrUnreachable) {
		t.Errorf("got error %v, want one about %s", err, path)
	}
	wantOnly(t, dir, "sub")
}

func pushRelative(t *testing.T, h host.Host) {
	if err := h.Push(t.Context(), nil, "hookbed-relative", 0o644); err == nil {
		t.Error("a relative path was taken")
	}
}

func pushAtOnce(t *testing.T, h host.Host) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := h.Push(t.Context(), pattern(i*1000), filepath.Join(dir, fmt.Sprintf("%02d", i%10)), 0o644); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 10 {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%02d", i)))
		if err != nil || !bytes.Equal(data, pattern(i*1000)) && !bytes.Equal(data, pattern((i+10)*1000)) {
			t.Errorf("file %d holds %d B, neither of the two contents (%v)", i, len(data), err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 10 {
		t.Errorf("%d files are there, want 10 (%v)", len(entries), err)
	}
}

func pushEnded(t *testing.T, h host.Host) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Push(ctx, pattern(1<<20), filepath.Join(dir, "file"), 0o644); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want context.Canceled", err)
	}
	wantOnly(t, dir)
}

func pullArrives(t *testing.T, h host.Host) {
	path := filepath.Join(t.TempDir(), "a file")
	for _, size := range []int{0, 1, 5 << 20} {
		if err := os.WriteFile(path, pattern(size), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := h.Pull(t.Context(), path); err != nil || !bytes.Equal(got, pattern(size)) {
			t.Errorf("pulled %d B of %d B (%v), not the same", len(got), size, err)
		}
	}
}

func pullUnsized(t *testing.T, h host.Host) {
	const path = "/proc/sys/kernel/osrelease"
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := h.Pull(t.Context(), path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func pullMissing(t *testing.T, h host.Host) {
	path := filepath.Join(t.TempDir(), "nothing")
	_, err := h.Pull(t.Context(), path)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v, want fs.ErrNotExist with %s", err, path)
	}
}

func pullEnded(t *testing.T, h host.Host) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Pull(ctx, "/etc/passwd"); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want context.Canceled", err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
