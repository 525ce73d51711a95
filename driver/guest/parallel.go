package main

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

func doParallel(c *call, a bundle.Parallel) error {
	all, err := c.branches(a)
	if err != nil {
		return err
	}
	errs := make([]error, len(all))
	if _, programs := a.Steps[0].Do.(bundle.Exec); programs {
		errs, err = c.x.runTogether(all)
	} else {
		atOnce(all, func(i int) { errs[i] = all[i].probe() })
	}
	if err != nil {
		return err
	}
	for i, b := range all {
		for key, v := range b.result.Values {
			c.value(key, c.result.Values[key]+v)
		}
		if b.result.Note != "" {
			c.note("%s: %s", b.step.In, b.result.Note)
		}
		maps.Copy(c.raw, b.raw)
		if errs[i] != nil {
			errs[i] = fmt.Errorf("in %s: %w", b.step.In, errs[i])
		}
	}
	return errors.Join(errs...)
}

// branches are the steps as calls of their own, with results of their own.
func (c *call) branches(a bundle.Parallel) ([]*call, error) {
	if len(a.Steps) == 0 {
		return nil, errors.New("parallel without steps")
	}
	var out []*call
	for _, s := range a.Steps {
		kind := s.Do.Kind()
		if kind != a.Steps[0].Do.Kind() || kind != (bundle.Exec{}).Kind() && kind != (bundle.Probes{}).Kind() {
			return nil, fmt.Errorf("parallel takes programs or probes, all of one kind, and not %q", kind)
		}
		if s.Node != c.step.Node {
			return nil, fmt.Errorf("parallel on %q has a step of %q", c.step.Node, s.Node)
		}
		at, err := c.x.endpointOf(c.x.where(s.Node, s.In))
		if err != nil {
			return nil, err
		}
		out = append(out, &call{ctx: c.ctx, x: c.x, step: s, at: at, files: c.files, result: &bundle.StepResult{Kind: kind}, raw: map[string]string{}})
	}
	return out, nil
}

// atOnce calls do for each call and waits for all.
func atOnce(all []*call, do func(i int)) {
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() { do(i) })
	}
	wait.Wait()
}

// probe executes the call's probes in its namespace.
func (c *call) probe() error {
	return c.at.withNetlink(func(h *netlink.Handle) error {
		c.nl = h
		do, ok := c.step.Do.(bundle.Probes)
		if !ok {
			return fmt.Errorf("parallel holds a %T", c.step.Do)
		}
		return doProbes(c, do)
	})
}

// runTogether starts the calls' programs, lets them go together and waits until
// all have ended.
func (x *executor) runTogether(all []*call) ([]error, error) {
	running := make([]execution, len(all))
	programs := make([]program, len(all))
	for i, c := range all {
		do, ok := c.step.Do.(bundle.Exec)
		if !ok {
			return nil, fmt.Errorf("parallel holds a %T", c.step.Do)
		}
		var err error
		if programs[i], err = running[i].prepare(do); err != nil {
			return nil, err
		}
	}
	processes, err := x.spawnHeld(all, programs)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(all))
	atOnce(all, func(i int) {
		running[i].process = processes[i]
		if do, ok := all[i].step.Do.(bundle.Exec); ok {
			errs[i] = all[i].finish(do, running[i])
		}
	})
	return errs, nil
}

// spawnHeld starts programs on one thread, each held before its first
// instruction, and lets them go when all are there: what starts later would else
// meet those that run already, and under a real-time policy would not start
// while they do. The thread stays with them, as that of spawn does.
func (x *executor) spawnHeld(all []*call, programs []program) ([]*process, error) {
	x.needPIDNamespace()
	processes := make([]*process, len(all))
	released := make(chan error)
	go func() {
		// Never unlocked: the thread is changed for good and ends with us.
		runtime.LockOSThread()
		cmds, err := x.hold(all, programs, processes)
		if err == nil {
			err = release(processes)
		}
		if err != nil {
			for _, cmd := range cmds {
				_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			}
		}
		// Only now: whoever waits for a held process is told of its stop instead.
		var wait sync.WaitGroup
		for i, cmd := range cmds {
			wait.Go(func() { processes[i].reap(cmd) })
		}
		released <- err
		wait.Wait()
	}()
	return processes, <-released
}

// hold starts every program and waits until it stands at its first instruction.
// On an error cmds are those that were started.
func (x *executor) hold(all []*call, programs []program, processes []*process) (cmds []*exec.Cmd, err error) {
	for i, c := range all {
		p := programs[i]
		p.held = true
		path, err := lookIn(c.at.root, p.argv[0])
		if err != nil {
			return cmds, err
		}
		processes[i] = &process{done: make(chan struct{})}
		cmd, err := x.launch(c.at, p, path, processes[i])
		if err != nil {
			return cmds, fmt.Errorf("start %s: %w", p.argv[0], err)
		}
		cmds = append(cmds, cmd)
		if err := awaitStop(processes[i].pid); err != nil {
			return cmds, fmt.Errorf("hold %s: %w", p.argv[0], err)
		}
	}
	return cmds, nil
}

// reap waits for a process that this helper started.
func (p *process) reap(cmd *exec.Cmd) {
	defer close(p.done)
	p.err = cmd.Wait()
	p.used, _ = cmd.ProcessState.SysUsage().(*syscall.Rusage)
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

// release lets processes run, on the thread that started them.
func release(processes []*process) error {
	for _, p := range processes {
		if err := unix.PtraceDetach(p.pid); err != nil {
			return fmt.Errorf("let process %d go: %w", p.pid, err)
		}
	}
	return nil
}
