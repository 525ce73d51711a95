package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// twoTrials measures two trials on this computer.
const twoTrials = `schema = 1
name = "two"
[lab]
provider = "local"
[measure]
blocks = 1
trials = 2
count = { TCP_RR = 200 }
warmup = "0s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10]
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
`

// TestFullDisk fills the disk of a run at different moments: before its plan is
// kept, before its first row, within it. Where the driver offers to resume a
// directory it can be resumed once there is room, and else nothing is left.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems and makes network namespaces: run it as root")
	}
	offered, before := 0, 0
	for _, kib := range []int{4, 8, 12, 20, 28, 40, 52, 64} {
		t.Run(fmt.Sprintf("%dk", kib), func(t *testing.T) {
			had, offer := fillDisk(t, kib)
			if offer {
				offered++
			}
			if offer && had == 0 {
				before++
			}
		})
	}
	if before == 0 || offered == before || offered == 8 {
		t.Errorf("of 8 runs %d could be resumed, %d of them without a row: the sizes do not tell the moments apart", offered, before)
	}
}

// fillDisk runs an experiment on a disk of that size, and says whether the driver
// offered to go on with it, which then must work, and how many trials it had by then.
func fillDisk(t *testing.T, kib int) (had int, offered bool) {
	disk, work := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	file := filepath.Join(work, "two.toml")
	if err := os.WriteFile(file, []byte(twoTrials), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(disk, "new", "o")
	code, said := driver(t, work, "run", file, "--out", out)
	if code == exitOK {
		return 2, false // it fitted
	}
	offer := regexp.MustCompile("driver run --resume ([^`]+)`").FindStringSubmatch(said)
	if offer == nil {
		if left, err := os.ReadDir(disk); err != nil || len(left) > 0 || strings.Contains(said, "--resume") || !strings.Contains(said, "make room, then run it again") {
			t.Errorf("no directory is named to resume, and %v is left (%v): %s", left, err, said)
		}
		return 0, false
	}
	if offer[1] != out || code != exitRig || !strings.Contains(said, "make room, then go on with") {
		t.Errorf("exit code %d, %q is offered: %s", code, offer[1], said)
	}
	rows := filepath.Join(out, "rows.csv")
	before, err := trialsIn(rows)
	if err != nil {
		t.Error(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	if code, said := driver(t, work, "run", "--resume", offer[1]); code != exitOK {
		t.Fatalf("with room again, exit code %d: %s", code, said)
	}
	trials, err := trialsIn(rows)
	if err != nil || len(trials) != 2 {
		t.Errorf("%d trials in rows.csv, want 2 (%v)", len(trials), err)
	}
	return len(before), true
}

// driver runs the real driver with a state directory of its own, and returns its
// exit code and the last line that it said.
func driver(t *testing.T, work string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "driver"), args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(work, "state"))
	out, _ := cmd.CombinedOutput() // its exit code says what there is to say
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return cmd.ProcessState.ExitCode(), lines[len(lines)-1]
}
