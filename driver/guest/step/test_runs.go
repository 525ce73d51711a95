package step

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

// measuringNice is the priority of a thread that is being timed.
const measuringNice = -15

// pinned runs fn on the calling thread, which must be locked, with only one CPU
// to run on and a high priority, and gives both back.
func pinned(cpu int, fn func() error) error {
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the thread's CPUs: %w", err)
	}
	only.Set(cpu)
	if cpu < 0 || only.Count() != 1 {
		return fmt.Errorf("no CPU %d", cpu)
	}
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	// In the kernel a priority belongs to a thread; 0 is the calling one.
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, measuringNice)
	}
	if err == nil {
		err = fn()
		// The system call says 20 - nice.
		err = errors.Join(err, unix.Setpriority(unix.PRIO_PROCESS, 0, 20-nice))
	}
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

func doTestRuns(c *call, a bundle.TestRuns) error {
	return pinned(a.CPU, func() error {
		for _, r := range a.Runs {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			ns, err := c.testRun(r)
			if err != nil {
				return fmt.Errorf("run %s: %w", r.Name, err)
			}
			c.value(r.Name, ns)
		}
		return nil
	})
}

// testRun is the time of one run, in nanoseconds.
func (c *call) testRun(r bundle.TestRun) (float64, error) {
	prog, err := c.x.loadedProgram(r.Handle, r.Program)
	if err != nil {
		return 0, err
	}
	frame, err := r.Frame.Bytes()
	if err != nil {
		return 0, err
	}
	var ret uint32
	var took time.Duration
	err = withoutSignals(func() error {
		start := time.Now()
		ret, err = prog.Run(&ebpf.RunOptions{Data: frame, Repeat: r.Repeat})
		took = time.Since(start)
		return err
	})
	if err != nil {
		return 0, err
	}
	if ret != r.Want {
		return 0, fault.Subject("%s returned %d, want %d", r.Program, ret, r.Want)
	}
	return float64(took.Nanoseconds()) / float64(max(r.Repeat, 1)), nil
}
