package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLeftGroupsAreRemoved: what a killed helper left is gone with the next group, and with a
// sweep, and that of one that lives is not. In a plain directory, and in the kernel's hierarchies
// where this machine has them.
func TestLeftGroupsAreRemoved(t *testing.T) {
	const inside = "HOOKBED_TEST_CGROUPS"
	if top := os.Getenv(inside); top != "" {
		g, err := Make(top, Rules)
		fmt.Println(g.Dir, err)
		time.Sleep(time.Hour) // it is killed before
	}
	mounts, err := Mounted()
	if err != nil {
		t.Fatal(err)
	}
	tops := []string{t.TempDir()}
	for _, m := range mounts {
		if m.Version == 2 || slices.Contains(m.Controllers, "memory") {
			tops = append(tops, m.Dir)
		}
	}
	start := func(top string) (*exec.Cmd, string) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), inside+"="+top)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		dir, said, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err != nil || said != "<nil>" {
			t.Fatalf("it says %q (%v)", line, err)
		}
		return cmd, dir
	}
	kill := func(cmd *exec.Cmd) {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for _, top := range tops {
		killed, left := start(top)
		lives, used := start(top)
		kill(killed)
		if _, err := os.Stat(left); err != nil {
			t.Fatalf("a killed helper left nothing: %v", err)
		}
		g, err := Make(top, Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", left, err)
		}
		if _, err := os.Stat(used); err != nil {
			t.Errorf("the cgroup of a helper that lives: %v", err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		kill(lives)
		if _, err := Sweep(); err != nil {
			t.Error(err)
		}
		if _, err := sweep(top); err != nil { // a plain directory is no hierarchy
			t.Error(err)
		}
		if list, _ := filepath.Glob(filepath.Join(top, prefix+"*")); slices.ContainsFunc(list, func(d string) bool { return d == used || d == g.Dir }) {
			t.Errorf("%s holds %q", top, list)
		}
	}
}
