package watch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	var got [3]Plugin
	var errs [3]error
	var wait sync.WaitGroup
	for i := range got {
		wait.Go(func() { got[i], errs[i] = Build(t.Context(), dir, "10.0.2") })
	}
	wait.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	again, err := Build(t.Context(), dir, "10.0.2")
	if err != nil || again.QEMUVersion != "10.0.2" || len(again.SHA256) != 64 {
		t.Errorf("plugin %+v, %v", again, err)
	}
	files, err := os.ReadDir(filepath.Join(dir, "plugins"))
	if err != nil || len(files) != 1 || got[0].Path != again.Path || got[1].Path != again.Path {
		t.Errorf("the cache holds %v, %v; the plugins are %+v", files, err, got)
	}
	if st, err := os.Stat(filepath.Join(dir, "plugins")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("not every user gets at the plugins: %v, %v", st.Mode(), err)
	}
	other, err := Build(t.Context(), dir, "9.2.0")
	if err != nil || other.Path == again.Path {
		t.Errorf("for another QEMU: %+v, %v", other, err)
	}
}

func TestTheCacheIsUsed(t *testing.T) {
	dir := t.TempDir()
	p, err := Build(t.Context(), dir, "10.0.2")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if again, err := Build(t.Context(), dir, "10.0.2"); err != nil || again != p {
		t.Errorf("without a compiler: %+v, %v; want %+v", again, err, p)
	}
	_, err = Build(t.Context(), t.TempDir(), "10.0.2")
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "make deps") {
		t.Errorf("error %v, want one that names the fix", err)
	}
	cc := filepath.Join(dir, compiler)
	if err := os.WriteFile(cc, []byte("#!/bin/sh\necho no such flag; exit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err = Build(t.Context(), t.TempDir(), "10.0.2"); err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("error %v, want what the compiler says", err)
	}
}

func TestVersionsOfQEMU(t *testing.T) {
	for _, good := range []string{"9.1.0", "9.2", "10.0.2", "11.0.50"} {
		if err := supported(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for version, want := range map[string]string{"9.0.4": "9.1 or newer", "8.2.2": "9.1 or newer", "7": "no version", "x.y": "no version", "": "no version"} {
		if err := supported(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", version, err, want)
		}
	}
}
