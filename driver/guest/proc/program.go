// Package proc starts programs in endpoints and ends them with all that they started: in
// PID namespaces that end with the helper. It also reads what /proc says of them and of the
// machine's work.
package proc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

const (
	termGrace  = time.Second      // between SIGTERM and SIGKILL
	killGrace  = 15 * time.Second // for the kernel to end a killed process
	drainDelay = 2 * time.Second  // for output of children that outlive their parent
)

// BinDirs is where commands are looked for: PATH of all that the helper starts.
const BinDirs = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ProcessEnv is the whole environment of every process the helper starts, so
// that the driver's surroundings do not leak into a measurement.
func ProcessEnv() []string {
	return []string{"PATH=" + BinDirs, "HOME=/root", "LC_ALL=C", "TERM=dumb"}
}

// LookIn finds a command in a root file system ("" is the helper's own) and
// returns its path as seen from inside.
func LookIn(root, name string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, dir := range filepath.SplitList(BinDirs) {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	for _, path := range candidates {
		// Not Stat: an absolute symbolic link means something else outside.
		if st, err := os.Lstat(filepath.Join(root, "/", path)); err == nil && !st.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("no command %q in %s", name, filepath.Join(root, "/"))
}

// Program is a process to start in an endpoint.
type Program struct {
	Argv           []string
	CPUs           []int
	Stdin          io.Reader // nil is empty
	Sched          string    // of bundle.SchedBatch, bundle.SchedRR; "" = as it is
	Stdout, Stderr io.Writer
	Env            []string // added to ProcessEnv
	held           bool     // it stops at its first instruction (PTRACE_TRACEME)
	Dir            string   // "" is "/"
}

// Process is one that runs, or ran.
type Process struct {
	PID   int
	Note  string
	Apart bool // it runs outside the endpoint's cgroup, as Note says
	Done  chan struct{}
	Err   error           // of Wait; valid once done is closed
	Usage *syscall.Rusage // by it, or nil; valid once done is closed
}

// Launcher starts programs in a PID namespace of its own, which the first of them makes.
// The zero value is ready.
type Launcher struct {
	pidns *pidns
}

// Close ends every process that was started, and what those started, and makes the
// Launcher ready again.
func (l *Launcher) Close() {
	if l.pidns != nil {
		l.pidns.close()
		l.pidns = nil
	}
}

// Start starts a program in an endpoint: in its namespace, root file system and
// cgroup, in a process group of its own, pinned. The thread that starts it
// stays with it, because the kernel ends such a process with its thread.
func (l *Launcher) Start(ep *Endpoint, p Program) (*Process, error) {
	if len(p.Argv) == 0 {
		return nil, errors.New("start a process: empty argv")
	}
	path, err := LookIn(ep.Root, p.Argv[0])
	if err != nil {
		return nil, err
	}
	l.needPIDNamespace()
	proc := &Process{Done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread is changed for good and ends with us.
		runtime.LockOSThread()
		defer close(proc.Done)
		cmd, err := l.launch(ep, p, path, proc)
		started <- err
		if err == nil {
			proc.wait(cmd)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Argv[0], err)
	}
	return proc, nil
}

// needPIDNamespace starts the PID namespace unless there is one.
func (l *Launcher) needPIDNamespace() {
	if l.pidns == nil {
		l.pidns = startPIDNamespace()
	}
}

// launch prepares the calling thread and starts the program on it.
func (l *Launcher) launch(ep *Endpoint, p Program, path string, proc *Process) (*exec.Cmd, error) {
	if err := ep.Enter(); err != nil {
		return nil, err
	}
	if err := pin(p.CPUs); err != nil {
		return nil, err
	}
	if err := schedule(p.Sched); err != nil {
		return nil, err
	}
	attr := syscall.SysProcAttr{Setpgid: true, Chroot: ep.Root, Ptrace: p.held}
	cgroup, cgroupErr := openCgroup(ep.Cgroup) // which a container does not show
	if cgroup != nil {
		defer cgroup.Close()
	}
	enter := l.pidns.enter
	if ep.Container != nil {
		attr.Chroot, enter = "", ep.Container.enter
	}
	if err := enter(); err != nil {
		return nil, err
	}
	if !l.pidns.works() {
		proc.Note = "no PID namespace: " + l.pidns.why
		attr.Pdeathsig = syscall.SIGKILL
	}
	start := func(attr syscall.SysProcAttr) (*exec.Cmd, error) {
		cmd := &exec.Cmd{Path: path, Args: p.Argv, Env: append(ProcessEnv(), p.Env...), Dir: cmp.Or(p.Dir, "/"), Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, SysProcAttr: &attr, WaitDelay: drainDelay}
		err := cmd.Start()
		if err == nil {
			proc.PID = cmd.Process.Pid
		}
		return cmd, err
	}
	if ep.Cgroup != "" {
		err := cgroupErr
		if err == nil {
			attr.UseCgroupFD, attr.CgroupFD = true, int(cgroup.Fd())
			var cmd *exec.Cmd
			if cmd, err = start(attr); err == nil {
				return cmd, nil
			}
		}
		proc.Note, proc.Apart = fmt.Sprintf("outside the endpoint's cgroup: %v", err), true
		attr.UseCgroupFD, attr.CgroupFD = false, 0
	}
	return start(attr)
}

// openCgroup opens the directory of a cgroup, nil for none.
func openCgroup(dir string) (*os.File, error) {
	if dir == "" {
		return nil, nil
	}
	return os.Open(dir)
}

// wait waits for a process that this helper started. The caller closes done.
func (p *Process) wait(cmd *exec.Cmd) {
	p.Err = cmd.Wait()
	p.Usage, _ = cmd.ProcessState.SysUsage().(*syscall.Rusage)
}

// pin binds the calling thread, and what it starts, to CPUs.
func pin(cpus []int) error {
	if len(cpus) == 0 {
		return nil
	}
	var set unix.CPUSet
	for _, n := range cpus {
		set.Set(n)
		if !set.IsSet(n) {
			return fmt.Errorf("pin to CPU %d: out of range", n)
		}
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPUs %v: %w", cpus, err)
	}
	var got unix.CPUSet
	if err := unix.SchedGetaffinity(0, &got); err != nil {
		return fmt.Errorf("read back the pinning: %w", err)
	}
	if got != set {
		return fmt.Errorf("pin to CPUs %v: this machine does not have them all", cpus)
	}
	return nil
}

// schedule puts the calling thread, and what it starts, under a scheduling policy.
// Neither lets a program preempt the one that wakes it (of SCHED_BATCH see
// check_preempt_wakeup_fair in kernel/sched/fair.c). SCHED_RR also keeps no account
// that could make one switch cost more than another; what is not of that policy
// still gets 50 ms a second (the fair server, Linux 6.12; real-time throttling before), but in sealed
// guests.
func schedule(policy string) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr}
	switch policy {
	case "":
		return nil
	case bundle.SchedBatch:
		attr.Policy = unix.SCHED_BATCH
	case bundle.SchedRR:
		attr.Policy, attr.Priority = unix.SCHED_RR, 1
	default:
		return fmt.Errorf("schedule as %q: no such policy", policy)
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("schedule as %q: %w", policy, err)
	}
	got, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("read back the scheduling policy: %w", err)
	}
	if got.Policy != attr.Policy {
		return fmt.Errorf("schedule as %q: the policy is still %d", policy, got.Policy)
	}
	return nil
}

// End terminates a process and its group: SIGTERM, then SIGKILL.
func (p *Process) End(ctx context.Context) error {
	select {
	case <-p.Done:
	default:
		_ = unix.Kill(-p.PID, unix.SIGTERM)
	}
	select {
	case <-p.Done:
	case <-time.After(termGrace):
	case <-ctx.Done():
	}
	// Also when the leader is gone: its children are in the group.
	_ = unix.Kill(-p.PID, unix.SIGKILL)
	select {
	case <-p.Done:
		return nil
	case <-time.After(killGrace):
		return fmt.Errorf("process %d does not end", p.PID)
	}
}
