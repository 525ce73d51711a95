package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// testStore is a store in dir whose only lock pins packages on a mirror.
func testStore(t *testing.T, dir string, a *archive, drift string, packages ...Package) *Store {
	t.Helper()
	s, err := Open(dir, Options{Drift: drift})
	if err != nil {
		t.Fatal(err)
	}
	s.findMirrors = func(context.Context) (mirrors, error) { return a.mirrors(), nil }
	s.readLock = func(name string) (Lock, error) {
		l := lockOf(t, packages...)
		l.Name = name
		return l, nil
	}
	return s
}

// testRecipe copies the first package to a file "image".
func testRecipe(built *atomic.Int32) recipe {
	return recipe{name: "test", build: func(_ context.Context, b *build) error {
		built.Add(1)
		data, err := os.ReadFile(b.debs.path(b.lock.Packages[0]))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(b.out, "image"), data, 0o600)
	}}
}

func servedPackage(t *testing.T) (*archive, Package) {
	a := newArchive(t)
	p := pin("one", "1", "package one")
	a.serve(p, "package one")
	return a, p
}

func TestEnsureBuildsOnce(t *testing.T) {
	a, p := servedPackage(t)
	dir := t.TempDir()
	var built atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		s := testStore(t, dir, a, "", p)
		wg.Go(func() {
			m, at, err := s.ensure(context.Background(), testRecipe(&built))
			if err != nil {
				t.Error(err)
				return
			}
			if data, err := os.ReadFile(m.artifact(at, "image").Path); err != nil || string(data) != "package one" {
				t.Errorf("image is %q, error %v", data, err)
			}
		})
	}
	wg.Wait()
	if built.Load() != 1 || a.asked["/debian/"+p.Path] != 1 {
		t.Errorf("built %d times, fetched %d times, want once", built.Load(), a.asked["/debian/"+p.Path])
	}
}

func TestEnsureReadableByAll(t *testing.T) {
	a, p := servedPackage(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	var built atomic.Int32
	m, dir, err := testStore(t, filepath.Join(t.TempDir(), "cache"), a, "", p).ensure(context.Background(), testRecipe(&built))
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]os.FileMode{dir: 0o755, filepath.Dir(dir): 0o755, filepath.Dir(filepath.Dir(dir)): 0o755, m.artifact(dir, "image").Path: 0o644} {
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, error %v, want %v", file, st.Mode().Perm(), err, want)
		}
	}
}

func TestEnsureDigestMismatch(t *testing.T) {
	a, p := servedPackage(t)
	s := testStore(t, t.TempDir(), a, "", p)
	var built atomic.Int32
	m, dir, err := s.ensure(context.Background(), testRecipe(&built))
	if err != nil {
		t.Fatal(err)
	}
	image := m.artifact(dir, "image").Path
	if err := os.WriteFile(image, []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.ensure(context.Background(), testRecipe(&built))
	if err == nil || !strings.Contains(err.Error(), image) || !strings.Contains(err.Error(), "remove "+dir) {
		t.Errorf("error %v, want one that names %s and the fix", err, image)
	}
	if err := s.Verify(context.Background()); err == nil || !strings.Contains(err.Error(), image) {
		t.Errorf("Verify: error %v, want one that names %s", err, image)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.ensure(context.Background(), testRecipe(&built)); err != nil || built.Load() != 2 {
		t.Errorf("after removing it: error %v, built %d times, want 2", err, built.Load())
	}
	if err := s.Verify(context.Background()); err != nil {
		t.Errorf("Verify: %v", err)
	}
}

// Verify reads everything, also where size and time are unsuspicious.
func TestVerifyReadsFiles(t *testing.T) {
	a, p := servedPackage(t)
	s := testStore(t, t.TempDir(), a, "", p)
	var built atomic.Int32
	m, dir, err := s.ensure(context.Background(), testRecipe(&built))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{m.artifact(dir, "image").Path, filepath.Join(s.debDir(), p.SHA256+".deb")} {
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("pAckage one"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, st.ModTime(), st.ModTime()); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(context.Background()); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("Verify: error %v, want one that names %s", err, file)
		}
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	a, p := servedPackage(t)
	s := testStore(t, t.TempDir(), a, "", p)
	broken := recipe{name: "test", build: func(_ context.Context, b *build) error {
		return errors.Join(os.WriteFile(filepath.Join(b.out, "image"), nil, 0o644), errors.New("no luck"))
	}}
	if _, _, err := s.ensure(context.Background(), broken); err == nil || !strings.Contains(err.Error(), "build image test: no luck") {
		t.Errorf("error %v, want the build's", err)
	}
	wantEmpty(t, s.artifacts(), s.tempDir())
}

// A full disk is a tmpfs of 64 KiB, mounted where only this thread sees it.
func TestFullDiskLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a tmpfs: run it as root")
	}
	a, p := servedPackage(t)
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the mount
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("full", dir, "tmpfs", 0, "size=64k")); err != nil {
			t.Error(err)
			return
		}
		s := testStore(t, dir, a, "", p)
		big := recipe{name: "test", build: func(_ context.Context, b *build) error {
			return os.WriteFile(filepath.Join(b.out, "image"), make([]byte, 1<<20), 0o644)
		}}
		if _, _, err := s.ensure(context.Background(), big); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("error %v, want no space left on device", err)
		}
		wantEmpty(t, s.artifacts(), s.tempDir())
	}()
	<-done
}

func wantEmpty(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if left, err := os.ReadDir(d); err != nil || len(left) != 0 {
			t.Errorf("%s holds %v, error %v, want nothing", d, left, err)
		}
	}
}

func TestLeftoversOfKilledBuilds(t *testing.T) {
	a, p := servedPackage(t)
	s := testStore(t, t.TempDir(), a, "", p)
	leave := func() {
		for _, f := range []string{filepath.Join(s.tempDir(), "test", "out", "half"), filepath.Join(s.debDir(), "part.1", "x")} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave()
	var built atomic.Int32
	_, dir, err := s.ensure(context.Background(), testRecipe(&built))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); err == nil {
		t.Error("a leftover got into the image")
	}
	wantEmpty(t, s.tempDir())

	leave()
	if _, err := s.GC(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s.tempDir(), s.artifacts())
	if left, err := filepath.Glob(filepath.Join(s.debDir(), "part.*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

func TestGC(t *testing.T) {
	a, p := servedPackage(t)
	s := testStore(t, t.TempDir(), a, "", p)
	var built atomic.Int32
	m, dir, err := s.ensure(context.Background(), testRecipe(&built))
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(context.Background(), "busy")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	busy := filepath.Join(s.tempDir(), "busy")
	if err := os.Mkdir(busy, 0o755); err != nil {
		t.Fatal(err)
	}
	others := []string{filepath.Join(s.debDir(), "mine.deb"), filepath.Join(s.tempDir(), "mine", "x")}
	for _, f := range others {
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s.readLock = readLock // so that the artifact is not a current one
	if removed, err := s.GC(context.Background(), m.Inputs[:12]); err != nil || len(removed) != 0 {
		t.Errorf("GC that keeps it removed %v, error %v", removed, err)
	}
	entries, err := s.List()
	if err != nil || len(entries) != 1 || entries[0].Current || entries[0].Dir != dir || entries[0].Size() != int64(len("package one")) {
		t.Errorf("List() = %+v, error %v", entries, err)
	}
	if removed, err := s.GC(context.Background()); err != nil || fmt.Sprint(removed) != fmt.Sprint([]string{dir, filepath.Join(s.debDir(), p.SHA256+".deb")}) {
		t.Errorf("GC removed %v, error %v", removed, err)
	}
	if _, err := os.Stat(busy); err != nil {
		t.Errorf("GC removed what another process is building: %v", err)
	}
	for _, f := range others {
		if _, err := os.Stat(f); err != nil {
			t.Errorf("GC removed what this program did not make: %v", err)
		}
	}
}

func TestDrift(t *testing.T) {
	a := newArchive(t)
	gone, stays := pin("gone", "1+b1", "old"), pin("stays", "5", "same")
	now := pin("gone", "2", "newer")
	a.serve(stays, "same")
	a.serve(now, "newer")
	a.index(now, stays)
	dir := t.TempDir()
	var built atomic.Int32
	if _, _, err := testStore(t, dir, a, "forbid", gone, stays).ensure(context.Background(), testRecipe(&built)); !errors.As(err, new(*GoneError)) {
		t.Fatalf("error %v, want *GoneError", err)
	}
	s := testStore(t, dir, a, "allow", gone, stays)
	var last string
	for range 2 {
		m, at, err := s.ensure(context.Background(), testRecipe(&built))
		if err != nil {
			t.Fatal(err)
		}
		if want := []Drift{{Package: "gone", Locked: "1+b1", Used: "2"}}; fmt.Sprint(m.Drift) != fmt.Sprint(want) {
			t.Errorf("drift is %v, want %v", m.Drift, want)
		}
		if data, err := os.ReadFile(m.artifact(at, "image").Path); err != nil || string(data) != "newer" {
			t.Errorf("image is %q, error %v", data, err)
		}
		last = at
	}
	if l, _ := s.readLock("test"); built.Load() != 1 || last == s.artifactDir(testRecipe(&built), l) {
		t.Errorf("built %d times, want once; in %s, which must not be the directory of the locked packages", built.Load(), last)
	}
}

func TestOpenRejectsDrift(t *testing.T) {
	if _, err := Open(t.TempDir(), Options{Drift: "maybe"}); err == nil || !strings.Contains(err.Error(), "allowed: allow, forbid") {
		t.Errorf("error %v, want one that says what is allowed", err)
	}
}

// TestFlippedByteIsFound: what is to be booted or executed is read each time: a flipped byte is found
// where size and time of change are those of before.
func TestFlippedByteIsFound(t *testing.T) {
	a, p := servedPackage(t)
	s := testStore(t, t.TempDir(), a, "", p)
	r := testRecipe(new(atomic.Int32))
	inner := r.build
	r.build = func(ctx context.Context, b *build) error {
		root := filepath.Join(b.out, endpointDir)
		err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(root, "program"), []byte("program"), 0o755))
		sum, digestErr := treeDigest(root, b.epoch())
		b.manifest.Values[valueLayer] = sum
		return errors.Join(err, digestErr, inner(ctx, b))
	}
	m, dir, err := s.ensure(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	join := func() error {
		f, err := os.Create(filepath.Join(t.TempDir(), "initramfs"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return Join(f, []Artifact{m.artifact(dir, "image")}, nil)
	}
	image := func() error { _, err := m.verified(dir, "image", Lock{}); return err }
	if err := image(); err != nil { // it is not read again until it is touched
		t.Fatal(err)
	}
	tree := func() error { _, err := m.verifiedDir(dir); return err }
	for file, checks := range map[string][]func() error{"image": {image, join}, endpointDir + "/program": {tree}} {
		path := filepath.Join(dir, file)
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, bit := range []byte{0, 1} { // as it was, and flipped
			data[0] ^= bit
			if err := errors.Join(os.WriteFile(path, data, st.Mode()), os.Chtimes(path, st.ModTime(), st.ModTime())); err != nil {
				t.Fatal(err)
			}
			for i, check := range checks {
				if err := check(); (err == nil) != (bit == 0) || err != nil && !strings.Contains(err.Error(), "remove "+dir) {
					t.Errorf("%s, bits flipped %d, check %d: %v", file, bit, i, err)
				}
			}
		}
	}
	if _, _, err := s.ensure(t.Context(), r); err != nil {
		t.Errorf("a look at size and time alone: %v", err)
	}
	other := Lock{Name: "test", Files: map[string]string{"image": "0123"}}
	if _, err := m.verified(dir, "image", other); err == nil {
		t.Error("a file that the lock pins with another digest passes")
	}
}

// BenchmarkCheck is what it costs to read an image of 256 MiB again.
func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 256<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	sum, size, err := hashFile(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		if err := (Artifact{Path: path, SHA256: sum}).Check(); err != nil {
			b.Fatal(err)
		}
	}
}
