package sealed

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTurnsEndAtTheTick: what ends a turn earlier is turned off by the word that the kernel
// takes, and nothing is written where it is off already.
func TestTurnsEndAtTheTick(t *testing.T) {
	for features, want := range map[string]string{
		"PLACE_LAG NO_NEXT_BUDDY HRTICK NO_HRTICK_DL NO_DOUBLE_TICK\n":    "NO_HRTICK",
		"PLACE_LAG NO_NEXT_BUDDY NO_HRTICK HRTICK_DL NO_DOUBLE_TICK\n":    "NO_HRTICK_DL",
		"PLACE_LAG NO_NEXT_BUDDY NO_HRTICK NO_HRTICK_DL NO_DOUBLE_TICK\n": "PLACE_LAG NO_NEXT_BUDDY NO_HRTICK NO_HRTICK_DL NO_DOUBLE_TICK\n",
	} {
		file := filepath.Join(t.TempDir(), "features")
		if err := os.WriteFile(file, []byte(features), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := noHighResolutionTick(file); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("features %q: the file then has %q, %v, want %q", features, got, err, want)
		}
	}
	if err := noHighResolutionTick(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("a kernel without the file: %v", err)
	}
}

// TestRealTimeIsNotStopped: what stops real-time programs once a second is turned off, on every CPU, and
// where there is nothing but the limit of kernels before 6.12.
func TestRealTimeIsNotStopped(t *testing.T) {
	dir := t.TempDir()
	runtime, servers := filepath.Join(dir, "sched_rt_runtime_us"), filepath.Join(dir, "fair_server", "cpu*", "runtime")
	holds := func(file, want string) {
		t.Helper()
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v, want %q", file, got, err, want)
		}
	}
	if err := alwaysRealTime(runtime, servers); err != nil {
		t.Fatal(err)
	}
	holds(runtime, "-1")
	for _, cpu := range []string{"cpu0", "cpu1"} {
		if err := os.MkdirAll(filepath.Join(dir, "fair_server", cpu), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "fair_server", cpu, "runtime"), []byte("50000000\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := alwaysRealTime(runtime, servers); err != nil {
		t.Fatal(err)
	}
	holds(filepath.Join(dir, "fair_server", "cpu0", "runtime"), "0")
	holds(filepath.Join(dir, "fair_server", "cpu1", "runtime"), "0")
	if err := alwaysRealTime(filepath.Join(dir, "none", "none"), servers); err == nil {
		t.Error("no error without the file of the limit")
	}
}

// TestKernelIsInTurn: the threads that programs wait for get the policy, and no other; a kernel without
// one of them is refused.
func TestKernelIsInTurn(t *testing.T) {
	dir := t.TempDir()
	policies := func(names ...string) (out []uint32, err error) {
		dir := filepath.Join(dir, strconv.Itoa(len(names))+strings.ReplaceAll(names[1], "/", "-"))
		var pids []int
		for _, name := range names {
			cmd := exec.Command("sleep", "600")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait()) })
			pids = append(pids, cmd.Process.Pid)
			of := filepath.Join(dir, strconv.Itoa(cmd.Process.Pid))
			if err := errors.Join(os.MkdirAll(of, 0o755), os.WriteFile(filepath.Join(of, "comm"), []byte(name+"\n"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		err = kernelInTurn(dir)
		for _, pid := range pids {
			attr, err := unix.SchedGetAttr(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, attr.Policy)
		}
		return out, err
	}
	for _, name := range []string{"rcu_preempt", "rcu_sched"} {
		want := []uint32{unix.SCHED_NORMAL, unix.SCHED_RR, unix.SCHED_NORMAL, unix.SCHED_RR}
		if got, err := policies("kworker/0:1", name, "rcu_par_gp", "ksoftirqd/0"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s among others: policies %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"rcu_preempt", "ksoftirqd/0"} {
		if _, err := policies("kworker/0:1", name); err == nil {
			t.Errorf("no error where there is nothing but %s", name)
		}
	}
}

func TestCopiesAreByWords(t *testing.T) {
	const head = "processor\t: 0\nmodel name\t: QEMU Virtual CPU\nflags\t\t: "
	for flags, want := range map[string]string{
		"fpu sse2 nx lm rep_good nopl": "",
		"fpu sse2 nx lm nopl":          "the processor has no rep_good: the kernel would copy without string instructions",
		"fpu rep_good nopl erms":       "the processor has erms: the kernel would copy byte by byte",
		"fpu rep_good nopl fsrm":       "the processor has fsrm: the kernel would copy byte by byte",
	} {
		got := ""
		if err := checkCopies(head + flags + "\nbugs\t\t: erms\n"); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("flags %q: %q, want %q", flags, got, want)
		}
	}
}
