package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
	"hookbed/analysis/record"
)

// victimEnv names the run directory in which a re-executed test process
// records trials until it is killed. It reads a byte before each trial and writes one after it, so
// that it never gets further than the test lets it, however busy the machine.
const victimEnv = "RUNDIR_TEST_VICTIM"

const victimRows = 1500 // a trial of some 300 KB, so that a kill can tear it

func TestMain(m *testing.M) {
	if path := os.Getenv(victimEnv); path != "" {
		if err := victim(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func victim(path string) error {
	d, err := Open(path)
	if err != nil {
		return err
	}
	word := make([]byte, 1)
	for _, t := range d.Pending() {
		if _, err := os.Stdin.Read(word); err != nil {
			return err
		}
		if err := d.AppendRows(rowsOf(d, t, record.StatusOK, victimRows)); err != nil {
			return err
		}
		if _, err := os.Stdout.Write(word); err != nil {
			return err
		}
	}
	return d.Close()
}

// TestKilledInMidAppend kills drivers while they append, at different points of
// the file's growth, until one finishes: every trial is recorded once and whole.
func TestKilledInMidAppend(t *testing.T) {
	kills := 0
	d, err := Create(filepath.Join(t.TempDir(), "run"), makePlan(t, strings.Replace(experiment, "trials = 3", "trials = 6", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for growth := int64(1); ; growth += 200_000 {
		killed := runVictim(t, d.Path(), growth)
		checkWholeTrials(t, d.Path())
		if !killed {
			break
		}
		kills++
	}
	again, err := Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n := len(again.Pending()); n != 0 {
		t.Errorf("%d trials are missing", n)
	}
	if n := len(readRows(t, again, "rows.csv")); n != 12*victimRows {
		t.Errorf("%d rows, want %d", n, 12*victimRows)
	}
	if kills < 3 {
		t.Errorf("only %d drivers were killed at work, want at least 3", kills)
	}
}

// runVictim runs a driver and kills it once rows.csv has grown; it says
// whether the kill came before the end.
func runVictim(t *testing.T, path string, growth int64) (killed bool) {
	t.Helper()
	before := fileSize(path)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		word := make([]byte, 1)
		for size, err := before, error(nil); err == nil && size < before+growth; _, err = out.Read(word) {
			_, _ = in.Write(word) // it may have no trial left
			size = fileSize(path)
		}
		ended <- cmd.Wait()
	}()
	const limit = 5 * time.Minute // a busy machine may take long
	deadline := time.After(limit)
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == -1) {
				t.Fatalf("driver: %v", err)
			}
			return err != nil
		case <-deadline:
			_ = cmd.Process.Kill()
			t.Fatalf("driver took over %s", limit)
		default:
			if fileSize(path) >= before+growth {
				_ = cmd.Process.Kill() // it may have ended by itself
			}
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// fileSize is that of the rows, -1 where there are none.
func fileSize(path string) int64 {
	st, err := os.Stat(filepath.Join(path, "rows.csv"))
	if err != nil {
		return -1
	}
	return st.Size()
}

func checkWholeTrials(t *testing.T, path string) {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	count := map[Key]int{}
	for _, r := range readRows(t, d, "rows.csv") {
		count[Key{r.Cell, r.Block, r.Trial}]++
	}
	for k, n := range count {
		if n != victimRows {
			t.Errorf("trial %v has %d rows, want %d", k, n, victimRows)
		}
	}
	if len(count)+len(d.Pending()) != 12 {
		t.Errorf("%d trials recorded, %d pending, want 12 together", len(count), len(d.Pending()))
	}
}

// tinyDisk mounts a tmpfs of some KiB where only this test's thread sees it.
func tinyDisk(t *testing.T, kib string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: mounts a tiny tmpfs in a mount namespace of its own")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its mounts with it
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatalf("make a mount namespace: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatalf("make mounts private: %v", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tiny", dir, "tmpfs", 0, "size="+kib+"k"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestFullDiskLosesNothing(t *testing.T) {
	disk := tinyDisk(t, "128")
	d, err := Create(filepath.Join(disk, "run"), makePlan(t, experiment))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	trials := d.Plan().Trials
	appendRows(t, d, trials[0], record.StatusOK, 100)
	appendRows(t, d, trials[1], record.StatusFailed, 100)
	tr := trials[2]

	_, err = d.SaveRaw(tr.Cell, tr.Block, tr.Trial, "result.json", make([]byte, 256<<10))
	checkFull(t, err, "result.json")
	checkFull(t, d.AppendRows(rowsOf(d, tr, record.StatusOK, 1000)), "rows.csv")
	checkFull(t, d.AppendRows(rowsOf(d, trials[1], record.StatusOK, 1000)), "rows.csv")
	checkFull(t, d.WriteEnv(strings.Repeat("x", 256<<10)), "env.json")

	checkAsBefore(t, d)
	// With room again the run goes on, in this process or the next.
	appendRows(t, d, tr, record.StatusOK, 10)
	d = reopen(t, d)
	appendRows(t, d, trials[3], record.StatusOK, 10)
	if n := len(d.Pending()); n != 3 {
		t.Errorf("%d pending, want 3", n)
	}
}

func checkFull(t *testing.T, err error, file string) {
	t.Helper()
	var storage *StorageError
	if !errors.Is(err, ErrStorage) || !errors.Is(err, unix.ENOSPC) || !errors.As(err, &storage) {
		t.Fatalf("got %v, want ErrStorage and ENOSPC", err)
	}
	for _, want := range []string{file, "no space left on device", "free"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "--resume") { // merge and a run that never began write too
		t.Errorf("error %q offers to resume what may not be there", err)
	}
}

func checkAsBefore(t *testing.T, d *Dir) {
	t.Helper()
	if n := len(readRows(t, d, "rows.csv")); n != 200 {
		t.Errorf("%d rows after failed writes, want the 200 from before", n)
	}
	if n := len(d.Pending()); n != 5 {
		t.Errorf("%d pending, want 5", n)
	}
	err := filepath.WalkDir(d.Path(), func(path string, e fs.DirEntry, err error) error {
		if err == nil && durable.IsTemp(e.Name()) {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFullDiskAtCreation(t *testing.T) {
	disk := tinyDisk(t, "4")
	_, err := Create(filepath.Join(disk, "new", "run"), makePlan(t, experiment))
	checkFull(t, err, "plan.json")
	if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
		t.Errorf("left %v (%v), want nothing", left, err)
	}
}

// Discard removes what the run made, and nothing else.
func TestDiscard(t *testing.T) {
	p, top := makePlan(t, experiment), t.TempDir()
	for name, keep := range map[string]string{"new/parents/run": "", "there": "there", "notes": "notes/notes.txt"} {
		out := filepath.Join(top, name)
		if keep == "there" {
			if err := os.Mkdir(out, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		d, err := Create(out, p)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.WriteEnv("x"); err != nil {
			t.Fatal(err)
		}
		if d.Began() {
			t.Error("a run without rows says that it began")
		}
		if name == "notes" {
			if err := os.WriteFile(filepath.Join(top, keep), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Discard(); err != nil {
			t.Error(err)
		}
	}
	var left []string
	err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(top, path)
		left = append(left, rel)
		return err
	})
	if want := []string{".", "notes", "notes/notes.txt", "there"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left %v (%v), want %v", left, err, want)
	}
}

// Create does not change a directory that it refuses.
func TestCreateOverOthersFiles(t *testing.T) {
	top := t.TempDir()
	if err := os.WriteFile(filepath.Join(top, "env.json"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(top, makePlan(t, experiment)); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("got %v, want ErrNotEmpty", err)
	}
	if data, err := os.ReadFile(filepath.Join(top, "env.json")); err != nil || string(data) != "mine" {
		t.Errorf("env.json is %q (%v)", data, err)
	}
}

// A failed attempt that cannot be superseded keeps its rows.
func TestOldRowsStayWhereNewOnesDoNotFit(t *testing.T) {
	disk := tinyDisk(t, "64")
	d, err := Create(filepath.Join(disk, "run"), makePlan(t, experiment))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	failed := d.Plan().Trials[0]
	appendRows(t, d, failed, record.StatusFailed, 200)
	checkFull(t, d.AppendRows(rowsOf(d, failed, record.StatusOK, 200)), "rows")
	if rows := readRows(t, d, "rows.csv"); len(rows) != 200 || rows[0].Status != record.StatusFailed {
		t.Errorf("%d rows, want the 200 of the failed attempt", len(rows))
	}
}
