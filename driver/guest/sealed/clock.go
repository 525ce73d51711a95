package sealed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What would make the same work cost another number of instructions on one kernel than on
// another, although the path of a packet is the same (docs/virtual-time.md).

const (
	debugfs = "/sys/kernel/debug"
	// schedFeatures lists the scheduler's features, those that are off with NO_ before the
	// name. Before Linux 5.13 the file has another name, and none of what is looked for here.
	schedFeatures = debugfs + "/sched/features"
)

// evenTurns has the scheduler give turns in the same way on every kernel and at any time of a
// workload. A kernel without debugfs has what it was built with.
func evenTurns() error {
	err := unix.Mount("debugfs", debugfs, "debugfs", 0, "")
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return errors.Join(alwaysRealTime(rtRuntime, fairServers), kernelInTurn("/proc"))
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", debugfs, err)
	}
	return errors.Join(noHighResolutionTick(schedFeatures), alwaysRealTime(rtRuntime, fairServers), kernelInTurn("/proc"), unix.Unmount(debugfs, 0))
}

const (
	// rtRuntime is how many microseconds of a second real-time programs may run; -1: all.
	rtRuntime = "/proc/sys/kernel/sched_rt_runtime_us"
	// fairServers are how many nanoseconds of a second other programs get nevertheless, since Linux
	// 6.12, on each CPU.
	fairServers = debugfs + "/sched/fair_server/cpu*/runtime"
)

// alwaysRealTime lets programs of a real-time policy run as long as they have something to do. The
// kernel would stop them for the last 50 ms of a second, once for a trial of a second, or never, or
// twice, as the second began (kernel/sched/rt.c; since Linux 6.12 dl_server in kernel/sched/deadline.c):
// an error of 5 %. What is not of such a policy runs while they sleep, and after the workload.
func alwaysRealTime(runtime, servers string) error {
	files, err := filepath.Glob(servers)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte("0"), 0); err != nil {
			return fmt.Errorf("let real-time programs run always: %w", err)
		}
	}
	if err := os.WriteFile(runtime, []byte("-1"), 0); err != nil {
		return fmt.Errorf("let real-time programs run always: %w", err)
	}
	return nil
}

// kernelInTurn puts two threads of the kernel under the policy of the programs that are measured, which
// else have them wait for as long as they run.
//
//   - ksoftirqd, which the kernel gives softirqs to that come too often. In Linux 5.10 and 6.1 nothing
//     else handles a packet while it waits (ksoftirqd_running in kernel/softirq.c). A program that it
//     wakes would run before it is done, and send; so it would have the packets of all transactions
//     from the first one that it gets, two switches more in each.
//   - RCU's, which ends grace periods (rcu_gp_kthread in kernel/rcu/tree.c): what programs free with
//     RCU, every closed socket, would neither be freed nor cost them anything.
func kernelInTurn(procfs string) error {
	names, err := filepath.Glob(filepath.Join(procfs, "[0-9]*", "comm"))
	if err != nil {
		return err
	}
	var softirqs, grace bool
	for _, file := range names {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		switch name := strings.TrimSpace(string(data)); {
		case strings.HasPrefix(name, "ksoftirqd/"):
			softirqs = true
		case name == "rcu_preempt" || name == "rcu_sched": // as the kernel was built
			grace = true
		default:
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil {
			err = unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}, 0)
		}
		if err != nil {
			return fmt.Errorf("let %s take turns with programs: %w", strings.TrimSpace(string(data)), err)
		}
	}
	if !softirqs || !grace {
		return fmt.Errorf("let threads of the kernel take turns with programs: ksoftirqd found %v, rcu_preempt or rcu_sched found %v", softirqs, grace)
	}
	return nil
}

// noHighResolutionTick lets a program of the fair scheduler run until the clock's tick, as every
// kernel before Linux 7.1 does. From there on, HRTICK ends a turn when its slice of 0.7 ms
// is over, by a timer of its own: sender and receiver of a stream, on one processor, then
// take turns five times as often, and a MiB costs a quarter more. On a machine with
// a processor for each they would not take turns at all. It turns the features off that end a turn between two ticks, and
// checks that they are. The kernel takes one word in a write.
func noHighResolutionTick(file string) error {
	on, err := highResolutionTick(file)
	if err != nil {
		return err
	}
	for _, feature := range on {
		if err := os.WriteFile(file, []byte("NO_"+feature), 0); err != nil {
			return err
		}
	}
	if on, err = highResolutionTick(file); err == nil && len(on) > 0 {
		err = fmt.Errorf("%s has %v after they were turned off", file, on)
	}
	return err
}

// highResolutionTick is which of these features are on: none where there is no such file.
func highResolutionTick(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return slices.DeleteFunc(strings.Fields(string(data)), func(f string) bool { return f != "HRTICK" && f != "HRTICK_DL" }), nil
}

// checkCopies refuses a processor for which the kernel copies memory byte by byte: each
// turn of a string instruction counts as an instruction, so a copy would cost eight
// times as much as one by words of 8 bytes. cpuinfo is /proc/cpuinfo.
func checkCopies(cpuinfo string) error {
	flags := ""
	for line := range strings.Lines(cpuinfo) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			flags = value
			break
		}
	}
	has := strings.Fields(flags)
	if !slices.Contains(has, "rep_good") {
		return errors.New("the processor has no rep_good: the kernel would copy without string instructions")
	}
	for _, f := range []string{"erms", "fsrm", "fsrs"} {
		if slices.Contains(has, f) {
			return fmt.Errorf("the processor has %s: the kernel would copy byte by byte", f)
		}
	}
	return nil
}
