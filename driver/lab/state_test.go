package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

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
	if err := os.Mkdir(filepath.Join(root, "torn"), 0o700); err != nil {
		t.Fatal(err)
	}
	cleared, err := Sweep(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(cleared) != 2 || cleared[0] != "reused-pid" || cleared[1] != "torn" {
		t.Errorf("cleared %v, want reused-pid and torn", cleared)
	}
	left, err := Labs(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 || left[0].Name != "mine" || left[1].Name != "up" {
		t.Errorf("left %v, want mine and up", left)
	}
	if !left[0].InUse() || left[1].InUse() {
		t.Errorf("in use: mine %v, up %v; want true, false", left[0].InUse(), left[1].InUse())
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
