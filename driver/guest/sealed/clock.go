package sealed

import (
	"errors"
	"fmt"
	"os"
	"slices"
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

// endTurnsAtTick lets a program of the fair scheduler run until the clock's tick, as every
// kernel before Linux 7.1 does. From there on, HRTICK ends a turn when its slice of 0.7 ms
// is over, by a timer of its own: sender and receiver of a stream, on one processor, then
// take turns five times as often, and a MiB costs a quarter more. On a machine with
// a processor for each they would not take turns at all. A kernel without debugfs has what
// it was built with.
func endTurnsAtTick() error {
	err := unix.Mount("debugfs", debugfs, "debugfs", 0, "")
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", debugfs, err)
	}
	if err := errors.Join(noHighResolutionTick(schedFeatures), unix.Unmount(debugfs, 0)); err != nil {
		return fmt.Errorf("end turns at the clock's tick: %w", err)
	}
	return nil
}

// noHighResolutionTick turns the features off that end a turn between two ticks, and
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
