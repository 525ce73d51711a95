// Package hosttest is the conformance suite of the Host contract, which every
// implementation passes. It has no tests of its own.
package hosttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hookbed/driver/host"
)

// Conform checks a Host against its contract. The hosts that open returns must
// be this computer, over any link: the suite examines files, processes and
// sockets directly, and needs coreutils and a POSIX shell. open registers the
// closing of its host with t.Cleanup.
func Conform(t *testing.T, open func(t *testing.T) host.Host) {
	t.Helper()
	groups := []struct {
		name  string
		tests []contract
	}{
		{"Run", runContract()},
		{"Push", pushContract()},
		{"Pull", pullContract()},
		{"Forward", forwardContract()},
		{"Close", closeContract()},
	}
	for _, g := range groups {
		for _, c := range g.tests {
			t.Run(g.name+"/"+c.name, func(t *testing.T) { c.check(t, open(t)) })
		}
	}
}

// contract is one promise of the contract with its test.
type contract struct {
	name  string
	check func(t *testing.T, h host.Host)
}

// FullDisk checks what Push does in dir, a directory on a file system of less
// than 4 MiB with less than 64 KiB used.
func FullDisk(t *testing.T, h host.Host, dir string) {
	t.Helper()
	path := filepath.Join(dir, "big")
	keep := []byte("was here before")
	push(t, h, path, keep, 0o644)
	err := h.Push(t.Context(), pattern(8<<20), path, 0o644)
	switch {
	case err == nil:
		t.Fatal("8 MiB were pushed to a disk of less than 4 MiB")
	case !errors.Is(err, syscall.ENOSPC):
		t.Errorf("error does not say that the disk is full: %v", err)
	case !strings.Contains(err.Error(), path):
		t.Errorf("error does not name %s: %v", path, err)
	}
	if errors.Is(err, host.ErrUnreachable) {
		t.Errorf("a full disk is taken for a lost link: %v", err)
	}
	wantFile(t, path, keep, 0o644)
	wantOnly(t, dir, "big")
	push(t, h, path, pattern(1<<20), 0o600)
	wantFile(t, path, pattern(1<<20), 0o600)
}

// pattern is n bytes without a short period.
func pattern(n int) []byte {
	out := make([]byte, n)
	x := uint32(n) + 1
	for i := range out {
		x = x*1664525 + 1013904223
		out[i] = byte(x >> 24)
	}
	return out
}

// output runs a command that must succeed and returns its standard output.
func output(t *testing.T, h host.Host, argv ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if err := h.Run(t.Context(), host.Cmd{Argv: argv, Stdout: &out, Stderr: &errs}); err != nil {
		t.Fatalf("run %q: %v", argv, err)
	}
	if errs.Len() > 0 {
		t.Errorf("run %q: unexpected on stderr: %q", argv, errs.String())
	}
	return out.String()
}

func push(t *testing.T, h host.Host, path string, data []byte, mode uint32) {
	t.Helper()
	if err := h.Push(t.Context(), data, path, mode); err != nil {
		t.Fatalf("push %d B to %s: %v", len(data), path, err)
	}
}

func wantFile(t *testing.T, path string, data []byte, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%s holds %d B, not the %d B wanted", path, len(got), len(data))
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		t.Errorf("mode of %s is %v (%v), want %v", path, info.Mode(), err, mode)
	}
}

// wantOnly checks that a directory contains only the named files.
func wantOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, "|") != strings.Join(names, "|") {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

// wantExit checks that err is an ExitError and returns it.
func wantExit(t *testing.T, err error, status int) *host.ExitError {
	t.Helper()
	var exit *host.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("got error %v, want an ExitError with status %d", err, status)
	}
	if exit.Status != status {
		t.Errorf("exit status is %d (%v), want %d", exit.Status, err, status)
	}
	if errors.Is(err, host.ErrUnreachable) {
		t.Errorf("a command's own failure is taken for a lost link: %v", err)
	}
	return exit
}

// running starts a command in the background and returns its output and where
// its error will come. The end of the test waits for the command.
func running(ctx context.Context, t *testing.T, h host.Host, stdin io.Reader, argv ...string) (io.Reader, <-chan error) {
	t.Helper()
	r, w := io.Pipe()
	result := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := h.Run(ctx, host.Cmd{Argv: argv, Stdin: stdin, Stdout: w})
		_ = w.Close()
		result <- err
	}()
	t.Cleanup(func() {
		_ = r.Close()
		<-ended
	})
	return r, result
}
