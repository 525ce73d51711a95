package images

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asAnother calls do as a user who may not write what root has made.
func asAnother(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with the goroutine, which never unlocks it.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Errorf("become another user: %v", errno)
			return
		}
		do()
	}()
	<-done
}

// A store of another user is read, held against the lock and its digests, and never written.
func TestStoreOfAnotherUser(t *testing.T) {
	a, p := servedPackage(t)
	dir := filepath.Join(t.TempDir(), "store")
	built := testRecipeNamed(sealedToolsFile)
	_, at, err := testStore(t, dir, a, "", p).ensure(context.Background(), built)
	if err != nil {
		t.Fatal(err)
	}
	reach(t, dir)
	open := func() *Store {
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.readLock = func(name string) (Lock, error) { l := lockOf(t, p); l.Name = name; return l, nil }
		return s
	}
	asAnother(t, func() {
		s := open()
		if !s.readOnly {
			t.Error("a store of root is writable")
		}
		if _, _, err := s.ensure(context.Background(), built); err != nil {
			t.Error(err)
		}
		other := built
		other.name = "other"
		if _, _, err := s.ensure(context.Background(), other); err == nil || !strings.Contains(err.Error(), "may only read") {
			t.Errorf("what is not there: error %v", err)
		}
	})
	// The same size and time: only its bytes tell.
	file := filepath.Join(at, sealedToolsFile)
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("package two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	asAnother(t, func() {
		if _, _, err := open().ensure(context.Background(), built); err == nil || !strings.Contains(err.Error(), sealedToolsFile) {
			t.Errorf("an image that was changed: error %v", err)
		}
	})
}

// An exported store has what sealed guests boot, and says so to what needs more.
func TestExportedStore(t *testing.T) {
	a, p := servedPackage(t)
	from, to := testStore(t, t.TempDir(), a, "", p), testStore(t, t.TempDir(), a, "", p)
	r := testRecipeNamed(sealedToolsFile, rootFile)
	for range 2 { // the second finds it there
		if err := from.export(context.Background(), to, r); err != nil {
			t.Fatal(err)
		}
	}
	m, dir, err := to.ensureFor(context.Background(), r, Want{Sealed: true}, rootFile)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 2 || m.artifact(dir, sealedToolsFile).Size == 0 {
		t.Errorf("the store has %v (%v), want the manifest and %s", names, err, sealedToolsFile)
	}
	if _, _, err := to.ensureFor(context.Background(), r, Want{}, rootFile); err == nil || !strings.Contains(err.Error(), "only what guests in virtual time boot") {
		t.Errorf("a machine with disks: error %v", err)
	}
	if err := to.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

// testRecipeNamed writes the first package to files of these names.
func testRecipeNamed(files ...string) recipe {
	return recipe{name: "test", build: func(_ context.Context, b *build) error {
		data, err := os.ReadFile(b.debs.path(b.lock.Packages[0]))
		for _, f := range files {
			if err == nil {
				err = os.WriteFile(filepath.Join(b.out, f), data, 0o600)
			}
		}
		return err
	}}
}

// reach lets every user come to a directory, but not write there.
func reach(t *testing.T, dir string) {
	t.Helper()
	for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
