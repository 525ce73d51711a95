package step

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/proc"

	"hookbed/driver/tail"
)

// rawLimit is how much is kept of a workload's output, in bytes.
const rawLimit = 4 << 20

func doStart(c *call, a bundle.Start) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	if a.Port != 0 {
		if busy, err := proc.Listening(a.Port); err != nil || busy {
			return errors.Join(fmt.Errorf("port %d is listened on already", a.Port), err)
		}
	}
	at, err := c.place(a.HTTP)
	if err == nil {
		err = c.lay(a.Files)
	}
	if err != nil {
		return err
	}
	out := tail.NewBuffer(proc.TailLimit)
	p, err := c.x.launcher.Start(at, proc.Program{Argv: a.Argv, CPUs: a.CPUs, Sched: a.Sched, Stdout: out, Stderr: out})
	if err != nil {
		return err
	}
	if p.Note != "" {
		c.note("%s", p.Note)
	}
	c.x.processes[a.Handle] = p.PID
	c.keepServer(a.Handle, func(ctx context.Context) error {
		delete(c.x.processes, a.Handle)
		return p.End(ctx)
	})
	if a.Port == 0 {
		return nil
	}
	err = proc.AwaitPort(c.ctx, p, a.Port, 0)
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	_ = p.End(c.ctx) // so that its output is complete
	return fault.Subject("start %s: %w: %s", a.Argv[0], err, strings.TrimSpace(out.String()))
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

// execution is a workload's client that runs.
type execution struct {
	*proc.Process
	out   *proc.Head
	err   *tail.Buffer
	start time.Time
}

// prepare is the program of a workload's client.
func (e *execution) prepare(a bundle.Exec) (proc.Program, error) {
	if a.Timeout <= 0 {
		return proc.Program{}, errors.New("exec without a timeout")
	}
	e.out, e.err, e.start = &proc.Head{Limit: rawLimit}, tail.NewBuffer(proc.TailLimit), time.Now()
	return proc.Program{Argv: a.Argv, CPUs: a.CPUs, Sched: a.Sched, Stdout: e.out, Stderr: e.err}, nil
}

func doExec(c *call, a bundle.Exec) error {
	var e execution
	p, err := e.prepare(a)
	if err != nil {
		return err
	}
	at, err := c.place(a.HTTP)
	if err != nil {
		return err
	}
	if a.Recorded != "" {
		e.Process, err = c.startRecorded(a.Recorded, at, p)
	} else {
		e.Process, err = c.x.launcher.Start(at, p)
	}
	if err != nil {
		return err
	}
	return c.finish(a, e)
}

// finish waits for the client and keeps what it printed.
func (c *call) finish(a bundle.Exec, e execution) error {
	if e.Note != "" {
		c.note("%s", e.Note)
	}
	stops := func() (int, float64) { return 0, 0 }
	if !c.x.quiet {
		stops = proc.WatchStops(e.Process)
	}
	ended, err := c.await(e.Process, a.Timeout)
	took := time.Since(e.start).Seconds()
	c.value("seconds", took)
	c.used(e.Process)
	if n, seconds := stops(); n > 0 {
		c.value("stops", float64(n))
		// One that ended before its going on was seen counts as stopped until now.
		c.value("stopped_seconds", min(seconds, took))
	}
	if e.out.Cut {
		c.note("standard output cut after %d bytes", rawLimit)
	}
	if a.Out != "" {
		c.raw[a.Out] = string(e.out.Data)
	}
	if err != nil {
		return err
	}
	return c.judge(e.Process, a, ended, e.err.String())
}

// used records how often the process slept, how often it was preempted, and
// the CPU time that it took.
func (c *call) used(p *proc.Process) {
	select {
	case <-p.Done:
		if p.Usage != nil {
			if !c.x.quiet {
				c.value("cpu_seconds", float64(p.Usage.Utime.Nano()+p.Usage.Stime.Nano())/1e9)
			}
			c.value("switches_voluntary", float64(p.Usage.Nvcsw))
			c.value("switches_involuntary", float64(p.Usage.Nivcsw))
		}
	default: // it does not end
	}
}

// await waits for a process to end by itself; past the timeout it ends it.
func (c *call) await(p *proc.Process, timeout float64) (ended bool, err error) {
	select {
	case <-p.Done:
		ended = true
	case <-time.After(time.Duration(timeout * float64(time.Second))):
	case <-c.ctx.Done():
		err = c.ctx.Err()
	}
	return ended, errors.Join(err, p.End(context.Background()))
}

// judge turns the end of a workload into the step's outcome.
func (c *call) judge(p *proc.Process, a bundle.Exec, ended bool, stderr string) error {
	stderr = strings.TrimSpace(stderr)
	if !ended {
		return fault.Subject("%s: not finished after %g s: %s", a.Argv[0], a.Timeout, stderr)
	}
	var exit *exec.ExitError
	if errors.As(p.Err, &exit) {
		c.value("exit", float64(exit.ExitCode()))
		return fault.Subject("%s: %w: %s", a.Argv[0], p.Err, stderr)
	}
	if p.Err != nil && !errors.Is(p.Err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w", a.Argv[0], p.Err)
	}
	c.value("exit", 0)
	return nil
}
