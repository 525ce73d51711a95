package helper

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestInstall: the file in the cache is the program, executable, and is written again when
// something changed it.
func TestInstall(t *testing.T) {
	root := t.TempDir()
	program := []byte("#!/bin/sh\necho helper\n")
	file, err := install(root, program)
	if err != nil {
		t.Fatal(err)
	}
	written, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := install(root, program); err != nil || again != file {
		t.Errorf("the second call: %q, %v; want %q", again, err, file)
	}
	if now, err := os.Stat(file); err != nil || !os.SameFile(written, now) {
		t.Errorf("the second call replaced an intact file: %v", err)
	}
	for what, spoil := range map[string]func() error{
		"another content": func() error { return os.WriteFile(file, []byte("#!/bin/sh\nexit 1\n"), 0o755) },
		"another mode":    func() error { return os.Chmod(file, 0o600) },
		"no file":         func() error { return os.Remove(file) },
		"a link": func() error {
			copied := filepath.Join(t.TempDir(), "copy")
			return errors.Join(os.WriteFile(copied, program, 0o755), os.Remove(file), os.Symlink(copied, file))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := install(root, program); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		info, err := os.Lstat(file)
		if err != nil || info.Mode() != 0o755 {
			t.Errorf("%s: mode %v, %v; want a regular file of mode 0755", what, info, err)
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, program) {
			t.Errorf("%s: the file holds %q, %v", what, got, err)
		}
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("next to the helper: %v, %v", left, err)
	}
}

// TestPrune: a helper that no driver has requested for long goes; the others stay.
func TestPrune(t *testing.T) {
	root := t.TempDir()
	var files []string
	for _, text := range []string{"old", "recent"} {
		file, err := install(root, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	old := time.Now().Add(-unused - time.Hour)
	if err := os.Chtimes(filepath.Dir(files[0]), old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := install(root, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(files[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old helper is still there: %v", err)
	}
	if _, err := os.Stat(files[1]); err != nil {
		t.Errorf("the recent helper is gone: %v", err)
	}
}

// TestEmbedded: the driver either has the helper or says how to build it in.
func TestEmbedded(t *testing.T) {
	program, err := Bytes()
	switch {
	case errors.Is(err, ErrMissing):
		if _, err := Path(); !errors.Is(err, ErrMissing) {
			t.Errorf("Path without a helper: %v, want %v", err, ErrMissing)
		}
	case err != nil:
		t.Error(err)
	case !bytes.HasPrefix(program, []byte("\x7fELF")):
		t.Errorf("the helper is no program: it begins with %q", program[:min(len(program), 4)])
	}
}

// Machines are of amd64: a driver of amd64 has one helper for all, any other has one more.
func TestMachinesHaveTheirOwnHelper(t *testing.T) {
	for arch, want := range map[string]string{"amd64": "guest", "arm64": "guest-amd64"} {
		if got := machineFile(arch); got != want {
			t.Errorf("%s: %s, want %s", arch, got, want)
		}
	}
}
