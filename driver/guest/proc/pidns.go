package proc

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// pidns is a PID namespace for everything that endpoints run. Its first
// process does nothing but reap, and the kernel ends it with the helper; with
// it ends every process in the namespace, daemons and grandchildren included,
// even when the helper was killed. The helper itself stays outside, so that
// its PID means the same to everybody.
type pidns struct {
	cmd  *exec.Cmd
	ns   *os.File
	done chan struct{}
	why  string // why there is none
}

// startPIDNamespace never fails: without PID namespaces processes are started
// in that of the helper, and only direct children end with it.
func startPIDNamespace() *pidns {
	n := &pidns{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The thread lives as long as the PID namespace: its end is the signal.
		runtime.LockOSThread()
		defer close(n.done)
		n.cmd = exec.Command("/proc/self/exe", FirstProcessCommand)
		n.cmd.Env = []string{"GOMAXPROCS=1"}
		n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
		err := n.cmd.Start()
		started <- err
		if err == nil {
			_ = n.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		n.why = err.Error()
		return n
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", n.cmd.Process.Pid))
	if err != nil {
		n.why = err.Error()
		n.kill()
		return n
	}
	n.ns = ns
	return n
}

func (n *pidns) works() bool { return n.ns != nil }

// enter makes children of the calling thread be born in the PID namespace.
func (n *pidns) enter() error {
	if !n.works() {
		return nil
	}
	if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("enter PID namespace: %w", err)
	}
	return nil
}

func (n *pidns) kill() {
	_ = n.cmd.Process.Kill()
	<-n.done
}

// close ends every process in the PID namespace.
func (n *pidns) close() {
	if n.works() {
		_ = n.ns.Close()
		n.kill()
	}
}

// FirstProcessCommand is the helper's command that runs FirstProcess.
const FirstProcessCommand = "pidns"

// FirstProcess is the first process of a PID namespace: it reaps orphans until it is
// killed. That of a container is given a room, and mounts it first.
func FirstProcess(args ...string) error {
	if len(args) > 0 {
		if err := mountContainer(roomOf(args)); err != nil {
			return err
		}
		if _, err := os.Stdout.WriteString(containerReady); err != nil {
			return err
		}
		if err := os.Stdout.Close(); err != nil {
			return err
		}
	}
	dead := make(chan os.Signal, 1)
	signal.Notify(dead, unix.SIGCHLD)
	for range dead {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}
