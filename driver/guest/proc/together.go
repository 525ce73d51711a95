package proc

import (
	"fmt"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// StartTogether starts programs on one thread, each held before its first
// instruction, and releases them when all are there: what starts later would else
// meet those that run already, and under a real-time policy would not start
// while they do. The thread stays with them, as that of start does.
func (l *Launcher) StartTogether(at []*Endpoint, programs []Program) ([]*Process, error) {
	return l.StartHeld(at, programs, nil)
}

// StartHeld does as StartTogether, and calls held, unless it is nil, before it releases the programs:
// they have their PIDs and have not executed anything yet. An error of held ends them.
func (l *Launcher) StartHeld(at []*Endpoint, programs []Program, held func([]*Process) error) ([]*Process, error) {
	l.needPIDNamespace()
	processes := make([]*Process, len(at))
	released := make(chan error)
	go func() {
		// Never unlocked: the thread is changed for good and ends with us.
		runtime.LockOSThread()
		cmds, err := l.hold(at, programs, processes)
		if err == nil && held != nil {
			err = held(processes)
		}
		if err == nil {
			err = release(processes)
		}
		if err != nil {
			for _, cmd := range cmds {
				_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			}
		}
		// Only now: a wait for a held process reports its stop instead.
		var wait sync.WaitGroup
		for i, cmd := range cmds {
			wait.Go(func() {
				defer close(processes[i].Done)
				processes[i].wait(cmd)
			})
		}
		released <- err
		wait.Wait()
	}()
	return processes, <-released
}

// hold starts every program and waits until it has stopped at its first instruction.
// On an error cmds are those that were started.
func (l *Launcher) hold(at []*Endpoint, programs []Program, processes []*Process) (cmds []*exec.Cmd, err error) {
	for i, ep := range at {
		p := programs[i]
		p.held = true
		path, err := LookIn(ep.Root, p.Argv[0])
		if err != nil {
			return cmds, err
		}
		processes[i] = &Process{Done: make(chan struct{})}
		cmd, err := l.launch(ep, p, path, processes[i])
		if err != nil {
			return cmds, fmt.Errorf("start %s: %w", p.Argv[0], err)
		}
		cmds = append(cmds, cmd)
		if err := awaitStop(processes[i].PID); err != nil {
			return cmds, fmt.Errorf("hold %s: %w", p.Argv[0], err)
		}
	}
	return cmds, nil
}

// awaitStop waits for the stop that a traced program makes when it is executed
// (ptrace(2), PTRACE_TRACEME).
func awaitStop(pid int) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case !status.Stopped():
			return fmt.Errorf("process %d ended before it began (status %#x)", pid, uint32(status))
		}
		return nil
	}
}

// release has held processes run, on the thread that started them.
func release(processes []*Process) error {
	for _, p := range processes {
		if err := unix.PtraceDetach(p.PID); err != nil {
			return fmt.Errorf("release process %d: %w", p.PID, err)
		}
	}
	return nil
}
