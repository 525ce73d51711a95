package lab

import (
	"os"
	"path/filepath"
	"testing"
)

func putLab(t *testing.T, root string, s State) {
	t.Helper()
	dir := filepath.Join(root, s.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := saveState(dir, s); err != nil {
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
