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
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/tail"
)

const (
	listenLimit = time.Minute          // for a server to listen; one that ends is not waited for
	listenPoll  = 5 * time.Millisecond // between looks
	termGrace   = time.Second          // between SIGTERM and SIGKILL
	killGrace   = 15 * time.Second     // for the kernel to end a killed process
	rawLimit    = 4 << 20              // bytes kept of a workload's output
	tailLimit   = 2048                 // bytes of stderr in a message
	binDirs     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	tcpListen   = "0A"            // TCP_LISTEN in /proc/net/tcp
	drainDelay  = 2 * time.Second // for output of children that outlive their parent
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

// head keeps the first limit bytes written to it and notes whether there were
// more.
type head struct {
	limit int
	data  []byte
	cut   bool
}

func (h *head) Write(p []byte) (int, error) {
	room := min(h.limit-len(h.data), len(p))
	h.data = append(h.data, p[:room]...)
	h.cut = h.cut || room < len(p)
	return len(p), nil
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

// spawn starts a program in an endpoint: in its namespace, root file system and
// cgroup, in a process group of its own, pinned. The thread that starts it
// stays with it, because the kernel ends such a process with its thread.
func (x *executor) spawn(ep *endpoint, p program) (*process, error) {
	if len(p.argv) == 0 {
		return nil, errors.New("start a process: empty argv")
	}
	path, err := lookIn(ep.root, p.argv[0])
	if err != nil {
		return nil, err
	}
	x.needNursery()
	proc := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread is changed for good and ends with us.
		runtime.LockOSThread()
		defer close(proc.done)
		cmd, err := x.launch(ep, p, path, proc)
		started <- err
		if err == nil {
			proc.err = cmd.Wait()
			proc.used, _ = cmd.ProcessState.SysUsage().(*syscall.Rusage)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.argv[0], err)
	}
	return proc, nil
}

// needNursery starts the nursery unless there is one.
func (x *executor) needNursery() {
	if x.nursery == nil {
		x.nursery = startNursery()
	}
}

// launch prepares the calling thread and starts the program on it.
func (x *executor) launch(ep *endpoint, p program, path string, proc *process) (*exec.Cmd, error) {
	if err := ep.enter(); err != nil {
		return nil, err
	}
	if err := pin(p.cpus); err != nil {
		return nil, err
	}
	if err := schedule(p.sched); err != nil {
		return nil, err
	}
	attr := syscall.SysProcAttr{Setpgid: true, Chroot: ep.root, Ptrace: p.held}
	enter := x.nursery.enter
	if ep.room != nil {
		attr.Chroot, enter = "", ep.room.enter
	}
	if err := enter(); err != nil {
		return nil, err
	}
	if !x.nursery.works() {
		proc.note = "no PID namespace: " + x.nursery.why
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

func doStart(c *call, a bundle.Start) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	if a.Port != 0 {
		if busy, err := listening(a.Port); err != nil || busy {
			return errors.Join(fmt.Errorf("port %d is listened on already", a.Port), err)
		}
	}
	out := tail.NewBuffer(tailLimit)
	p, err := c.x.spawn(c.at, program{argv: a.Argv, cpus: a.CPUs, sched: a.Sched, stdout: out, stderr: out})
	if err != nil {
		return err
	}
	if p.note != "" {
		c.note("%s", p.note)
	}
	c.keepServer(a.Handle, p.end)
	if a.Port == 0 {
		return nil
	}
	err = awaitListen(c.ctx, p, a.Port)
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	_ = p.end(c.ctx) // so that its output is complete
	return subject("start %s: %w: %s", a.Argv[0], err, strings.TrimSpace(out.String()))
}

// keepServer files a server under a handle, to be ended by Stop or undo.
func (c *call) keepServer(handle string, end func(context.Context) error) {
	c.x.servers[handle] = end
	c.undoHere("end "+handle, func(u undoing) error {
		if _, ok := c.x.servers[handle]; !ok {
			return nil
		}
		delete(c.x.servers, handle)
		return end(u.ctx)
	})
}

func doStop(c *call, a bundle.Stop) error {
	end, ok := c.x.servers[a.Handle]
	if !ok {
		return fmt.Errorf("no server %q to stop", a.Handle)
	}
	delete(c.x.servers, a.Handle)
	return end(c.ctx)
}

// awaitListen waits until a TCP port is listened on in the thread's namespace.
func awaitListen(ctx context.Context, p *process, port int) error {
	deadline := time.After(listenLimit)
	for {
		if ok, err := listening(port); err != nil || ok {
			return err
		}
		select {
		case <-time.After(listenPoll):
		case <-p.done:
			return fmt.Errorf("ended before it listened on port %d (%v)", port, p.err) //nolint:errorlint // nil where it ended with status 0
		case <-deadline:
			return fmt.Errorf("does not listen on port %d after %v", port, listenLimit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listening reports whether any TCP socket of the thread's namespace listens
// on a port.
func listening(port int) (bool, error) {
	for _, name := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return false, fmt.Errorf("read sockets: %w", err)
		}
		if hasListener(string(data), port) {
			return true, nil
		}
	}
	return false, nil
}

// hasListener looks for a listening socket in the text of /proc/net/tcp.
func hasListener(table string, port int) bool {
	for _, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != tcpListen {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && int(n) == port {
			return true
		}
	}
	return false
}

// execution is a workload's client that runs.
type execution struct {
	*process
	out   *head
	err   *tail.Buffer
	start time.Time
}

// prepare is the program of a workload's client.
func (e *execution) prepare(a bundle.Exec) (program, error) {
	if a.Timeout <= 0 {
		return program{}, errors.New("exec without a timeout")
	}
	e.out, e.err, e.start = &head{limit: rawLimit}, tail.NewBuffer(tailLimit), time.Now()
	return program{argv: a.Argv, cpus: a.CPUs, sched: a.Sched, stdout: e.out, stderr: e.err}, nil
}

func doExec(c *call, a bundle.Exec) error {
	var e execution
	p, err := e.prepare(a)
	if err != nil {
		return err
	}
	if e.process, err = c.x.spawn(c.at, p); err != nil {
		return err
	}
	return c.finish(a, e)
}

// finish waits for the client and keeps what it printed.
func (c *call) finish(a bundle.Exec, e execution) error {
	if e.note != "" {
		c.note("%s", e.note)
	}
	stops := func() (int, float64) { return 0, 0 }
	if !c.x.quiet {
		stops = watchStops(e.process)
	}
	ended, err := c.await(e.process, a.Timeout)
	c.value("seconds", time.Since(e.start).Seconds())
	c.used(e.process)
	if n, seconds := stops(); n > 0 {
		c.value("stops", float64(n))
		c.value("stopped_seconds", seconds)
	}
	if e.out.cut {
		c.note("standard output cut after %d bytes", rawLimit)
	}
	if a.Out != "" {
		c.raw[a.Out] = string(e.out.data)
	}
	if err != nil {
		return err
	}
	return c.judge(e.process, a, ended, e.err.String())
}

// used tells how often the process slept, how often it was made to give way, and
// the CPU time that it took.
func (c *call) used(p *process) {
	select {
	case <-p.done:
		if p.used != nil {
			if !c.x.quiet {
				c.value("cpu_seconds", float64(p.used.Utime.Nano()+p.used.Stime.Nano())/1e9)
			}
			c.value("switches_voluntary", float64(p.used.Nvcsw))
			c.value("switches_involuntary", float64(p.used.Nivcsw))
		}
	default: // it does not end
	}
}

// await waits for a process to end by itself; past the timeout it ends it.
func (c *call) await(p *process, timeout float64) (ended bool, err error) {
	select {
	case <-p.done:
		ended = true
	case <-time.After(time.Duration(timeout * float64(time.Second))):
	case <-c.ctx.Done():
		err = c.ctx.Err()
	}
	return ended, errors.Join(err, p.end(context.Background()))
}

// judge turns the end of a workload into the step's outcome.
func (c *call) judge(p *process, a bundle.Exec, ended bool, stderr string) error {
	stderr = strings.TrimSpace(stderr)
	if !ended {
		return subject("%s: not finished after %g s: %s", a.Argv[0], a.Timeout, stderr)
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		c.value("exit", float64(exit.ExitCode()))
		return subject("%s: %w: %s", a.Argv[0], p.err, stderr)
	}
	if p.err != nil && !errors.Is(p.err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w", a.Argv[0], p.err)
	}
	c.value("exit", 0)
	return nil
}
