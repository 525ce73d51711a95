package main

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
	binDirs    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	drainDelay = 2 * time.Second // for output of children that outlive their parent
)

// processEnv is the whole environment of every process the helper starts, so
// that the driver's surroundings do not leak into a measurement.
func processEnv() []string {
	return []string{"PATH=" + binDirs, "HOME=/root", "LC_ALL=C", "TERM=dumb"}
}

// lookIn finds a command in a root file system ("" is the helper's own) and
// returns its path as seen from inside.
func lookIn(root, name string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, dir := range filepath.SplitList(binDirs) {
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

// program is a process to start in an endpoint.
type program struct {
	argv           []string
	cpus           []int
	stdin          io.Reader // nil is empty
	sched          string    // of bundle.SchedBatch, bundle.SchedRR; "" = as it is
	stdout, stderr io.Writer
	env            []string // added to processEnv
	held           bool     // it stops at its first instruction (PTRACE_TRACEME)
	dir            string   // "" is "/"
}

// process is one that runs, or ran.
type process struct {
	pid  int
	note string
	done chan struct{}
	err  error           // of Wait; valid once done is closed
	used *syscall.Rusage // by it, or nil; valid once done is closed
}

// launcher starts programs in a PID namespace of its own, which the first of them makes.
// The zero value is ready.
type launcher struct {
	pidns *pidns
}

// close ends every process that was started, and what those started, and makes the
// launcher ready again.
func (l *launcher) close() {
	if l.pidns != nil {
		l.pidns.close()
		l.pidns = nil
	}
}

// start starts a program in an endpoint: in its namespace, root file system and
// cgroup, in a process group of its own, pinned. The thread that starts it
// stays with it, because the kernel ends such a process with its thread.
func (l *launcher) start(ep *endpoint, p program) (*process, error) {
	if len(p.argv) == 0 {
		return nil, errors.New("start a process: empty argv")
	}
	path, err := lookIn(ep.root, p.argv[0])
	if err != nil {
		return nil, err
	}
	l.needPIDNamespace()
	proc := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread is changed for good and ends with us.
		runtime.LockOSThread()
		defer close(proc.done)
		cmd, err := l.launch(ep, p, path, proc)
		started <- err
		if err == nil {
			proc.wait(cmd)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.argv[0], err)
	}
	return proc, nil
}

// needPIDNamespace starts the PID namespace unless there is one.
func (l *launcher) needPIDNamespace() {
	if l.pidns == nil {
		l.pidns = startPIDNamespace()
	}
}

// launch prepares the calling thread and starts the program on it.
func (l *launcher) launch(ep *endpoint, p program, path string, proc *process) (*exec.Cmd, error) {
	if err := ep.Enter(); err != nil {
		return nil, err
	}
	if err := pin(p.cpus); err != nil {
		return nil, err
	}
	if err := schedule(p.sched); err != nil {
		return nil, err
	}
	attr := syscall.SysProcAttr{Setpgid: true, Chroot: ep.root, Ptrace: p.held}
	enter := l.pidns.enter
	if ep.container != nil {
		attr.Chroot, enter = "", ep.container.enter
	}
	if err := enter(); err != nil {
		return nil, err
	}
	if !l.pidns.works() {
		proc.note = "no PID namespace: " + l.pidns.why
		attr.Pdeathsig = syscall.SIGKILL
	}
	start := func(attr syscall.SysProcAttr) (*exec.Cmd, error) {
		cmd := &exec.Cmd{Path: path, Args: p.argv, Env: append(processEnv(), p.env...), Dir: cmp.Or(p.dir, "/"), Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr, SysProcAttr: &attr, WaitDelay: drainDelay}
		err := cmd.Start()
		if err == nil {
			proc.pid = cmd.Process.Pid
		}
		return cmd, err
	}
	if ep.cgroup != "" {
		dir, err := os.Open(ep.cgroup)
		if err == nil {
			defer dir.Close()
			attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
			var cmd *exec.Cmd
			if cmd, err = start(attr); err == nil {
				return cmd, nil
			}
		}
		proc.note = fmt.Sprintf("outside the endpoint's cgroup: %v", err)
		attr.UseCgroupFD, attr.CgroupFD = false, 0
	}
	return start(attr)
}

// wait waits for a process that this helper started. The caller closes done.
func (p *process) wait(cmd *exec.Cmd) {
	p.err = cmd.Wait()
	p.used, _ = cmd.ProcessState.SysUsage().(*syscall.Rusage)
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
// still gets 50 ms a second (the fair server, Linux 6.12; real-time throttling before).
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

// end terminates a process and its group: SIGTERM, then SIGKILL.
func (p *process) end(ctx context.Context) error {
	select {
	case <-p.done:
	default:
		_ = unix.Kill(-p.pid, unix.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(termGrace):
	case <-ctx.Done():
	}
	// Also when the leader is gone: its children are in the group.
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	select {
	case <-p.done:
		return nil
	case <-time.After(killGrace):
		return fmt.Errorf("process %d does not end", p.pid)
	}
}
