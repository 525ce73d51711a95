package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func putLab(t *testing.T, root string, s State) {
	t.Helper()
	if err := claim(filepath.Join(root, s.Name), s); err != nil {
		t.Fatal(err)
	}
}

// TestSweepClearsOnlyTheDead: a lab goes when its driver died; one of a living
// driver, or one that was meant to outlive its driver, stays.
func TestSweepClearsOnlyTheDead(t *testing.T) {
	root := t.TempDir()
	me := thisProcess()
	putLab(t, root, State{Name: "mine", Driver: me})
	putLab(t, root, State{Name: "reused-pid", Driver: ProcessID{PID: me.PID, Start: "1"}})
	putLab(t, root, State{Name: "up", Detached: true, Driver: ProcessID{PID: me.PID, Start: "1"}})
	// A home that computers share: another one's driver, and one of this computer before it booted.
	other, before := me, me
	other.Boot, other.Host = "another-boot", "another-host"
	before.Boot = "the-boot-before"
	putLab(t, root, State{Name: "other-host", Driver: other})
	putLab(t, root, State{Name: "before-boot", Driver: before})
	if err := os.Mkdir(filepath.Join(root, "vacant"), 0o700); err != nil {
		t.Fatal(err)
	}
	cleared, err := Sweep(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(cleared) != "[before-boot reused-pid vacant]" {
		t.Errorf("cleared %v, want before-boot, reused-pid and vacant", cleared)
	}
	left, err := Labs(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 3 || left[0].Name != "mine" || left[1].Name != "other-host" || left[2].Name != "up" {
		t.Fatalf("left %v, want mine, other-host and up", left)
	}
	if !left[0].InUse() || !left[1].InUse() || left[2].InUse() {
		t.Errorf("in use: mine %v, other-host %v, up %v; want true, true, false", left[0].InUse(), left[1].InUse(), left[2].InUse())
	}
	if err := left[1].EndOwner(t.Context()); err == nil || !strings.Contains(err.Error(), "another-host") {
		t.Errorf("the end of a driver elsewhere: %v", err)
	}
	if owner := left[1].Listing(time.Now()).Owner(); !strings.Contains(owner, "on another-host") {
		t.Errorf("its owner is %q", owner)
	}
}

// TestWhatIsNoLabStays: files, links and folders of others that are among the labs,
// labs whose state cannot be read or whose owner cannot be seen from here stop no
// run and are not removed; nor is anything by a name that is only written down.
func TestWhatIsNoLabStays(t *testing.T) {
	outside := t.TempDir()
	root := filepath.Join(t.TempDir(), "labs")
	putLab(t, root, State{Name: "dead", Driver: ProcessID{PID: os.Getpid(), Start: "1"}})
	putLab(t, root, State{Name: "container", Driver: ProcessID{PID: os.Getpid(), Start: "1", Space: "pid:[1]"}})
	write := func(text string, at ...string) {
		t.Helper()
		path := filepath.Join(at...)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("x", root, "notes.txt")
	write("x", root, "folder", "precious")
	write(`{"name":`, root, "torn", stateFile)
	write("x", outside, "precious")
	write(`{"name": "../victim", "driver": {"pid": 1, "start": "1"}}`, root, "liar", stateFile)
	write("x", filepath.Dir(root), "victim", stateFile)
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	cleared, err := Sweep(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(cleared) != "[dead liar]" {
		t.Errorf("cleared %v, want dead and liar", cleared)
	}
	for _, stays := range [][]string{{root, "notes.txt"}, {root, "folder", "precious"}, {root, "torn", stateFile}, {root, "container", stateFile},
		{outside, "precious"}, {root, "link"}, {filepath.Dir(root), "victim", stateFile}} {
		if _, err := os.Lstat(filepath.Join(stays...)); err != nil {
			t.Errorf("removed: %v", err)
		}
	}
	strays, err := Strays(root)
	if err != nil || len(strays) != 3 {
		t.Errorf("strays %v, %v; want folder, link and notes.txt", strays, err)
	}
	for _, name := range []string{"folder", "link", "notes.txt", "../victim"} {
		if err := Clear(t.Context(), root, name); err != nil {
			t.Errorf("clear %s: %v, want nothing to happen", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "folder", "precious")); err != nil {
		t.Error("Clear removed what is no lab")
	}
}

// TestLabOfAnother: neither claiming a name that is taken nor giving it up again
// touches the lab that has it, and a fresh name avoids it.
func TestLabOfAnother(t *testing.T) {
	root := t.TempDir()
	other := State{Name: "up", Experiment: "theirs", Detached: true, Driver: ProcessID{PID: os.Getpid(), Start: "1"}}
	dir := filepath.Join(root, other.Name)
	putLab(t, root, other)
	if err := claim(dir, State{Name: "up", Driver: thisProcess()}); !errors.Is(err, ErrTaken) {
		t.Errorf("claim of a lab that another has: %v, want ErrTaken", err)
	}
	if err := release(dir); err != nil {
		t.Error(err)
	}
	if s := readState(dir); s.Experiment != "theirs" {
		t.Errorf("the lab of another is now %+v", s)
	}
	first := FreshName(root, "r")
	putLab(t, root, State{Name: first, Driver: ProcessID{PID: os.Getpid(), Start: "1"}})
	if second := FreshName(root, "r"); second == first || len(bridgeName(second, "m")) > 15 {
		t.Errorf("fresh name %q beside %q", second, first)
	}
}

// TestSweepMeetsNoLabHalfMade: drivers that start and end labs while others
// sweep, as the shards of a run do, keep what is theirs.
func TestSweepMeetsNoLabHalfMade(t *testing.T) {
	root := t.TempDir()
	var group errgroup.Group
	for i := range 4 {
		dir := filepath.Join(root, strconv.Itoa(i))
		group.Go(func() error {
			for range 200 {
				if err := claim(dir, State{Name: filepath.Base(dir), Driver: thisProcess()}); err != nil {
					return err
				}
				if err := os.Mkdir(filepath.Join(dir, "blobs"), 0o700); err != nil {
					return err
				}
				if err := release(dir); err != nil {
					return err
				}
			}
			return nil
		})
		group.Go(func() error {
			for range 200 {
				if cleared, err := Sweep(t.Context(), root); err != nil || len(cleared) > 0 {
					return fmt.Errorf("swept %v: %w", cleared, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func TestLabsOfNoDirectoryIsNone(t *testing.T) {
	labs, err := Labs(filepath.Join(t.TempDir(), "none"))
	if err != nil || len(labs) != 0 {
		t.Errorf("%v, %v; want none", labs, err)
	}
}

func TestBridgeNamesFitTheKernel(t *testing.T) {
	for _, lab := range []string{"up", "r4194304", "a-very-long-lab-name"} {
		if name := bridgeName(lab, "m"); len(name) > 15 {
			t.Errorf("bridge name %q of lab %q has %d characters, the kernel takes 15", name, lab, len(name))
		}
	}
}

// TestAHalfWrittenStateIsNoLab: a driver that was killed as it wrote its lab's first state
// leaves a directory that the next one takes, or removes.
func TestAHalfWrittenStateIsNoLab(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "labs", "half")
	left := filepath.Join(dir, ".tmp-"+stateFile+"-17")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(left, []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if !vacant(dir) {
		t.Error("a half-written state counts as a lab")
	}
	if err := removeVacant(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory stays: %v", err)
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, ".tmp-notes-17"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if vacant(dir) {
		t.Error("a directory with another program's file counts as vacant")
	}
}

// TestLabsThatOthersCouldChange: a lab has keys and is cleared by root, so its directory is not
// where every user may write.
func TestLabsThatOthersCouldChange(t *testing.T) {
	root := t.TempDir()
	if err := os.Chmod(root, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := claim(filepath.Join(root, "r1"), State{Name: "r1", Driver: thisProcess()}); err == nil || !strings.Contains(err.Error(), "every user may write to "+root) {
		t.Errorf("claimed: %v", err)
	}
}
