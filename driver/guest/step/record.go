package step

import (
	"errors"
	"fmt"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/ftrace"
	"hookbed/driver/guest/proc"
)

// recording is an observer of the kernel at work.
type recording interface {
	// Add has it observe a process too, and what that starts.
	Add(pid int) error
	// End ends it, puts everything back as it was, and returns what it has. Further calls do nothing.
	End() (ftrace.Record, error)
}

func doRecordCalls(c *call, a bundle.RecordCalls) error {
	pids, err := c.serverPIDs(a.Servers)
	if err != nil {
		return err
	}
	r, err := ftrace.RecordCalls(ftrace.Calls{Idle: a.Idle, BufferKiB: a.BufferKiB})
	if err != nil {
		return err
	}
	if r.Instance() {
		c.value(bundle.ValueInstance, 1)
	}
	return c.keepRecording(a.Handle, r, pids)
}

func doRecordDrops(c *call, a bundle.RecordDrops) error {
	r, err := ftrace.RecordDrops(a.IPv6)
	if err != nil {
		return err
	}
	return c.keepRecording(a.Handle, r, nil)
}

func doCountInstructions(c *call, a bundle.CountInstructions) error {
	pids, err := c.serverPIDs(a.Servers)
	if err != nil {
		return err
	}
	n := ftrace.CountInstructions()
	if n.Why != "" {
		c.note("%s", n.Why)
	}
	return c.keepRecording(a.Handle, n, pids)
}

// keepRecording files a recording under a handle, to be ended by EndRecord or undo, and has it
// observe processes.
func (c *call) keepRecording(handle string, r recording, pids []int) error {
	if _, taken := c.x.recordings[handle]; taken || handle == "" {
		_, err := r.End()
		return errors.Join(fmt.Errorf("recording %q is taken", handle), err)
	}
	c.x.recordings[handle] = r
	c.undoHere("end recording "+handle, func(undoing) error {
		if c.x.recordings[handle] == r {
			delete(c.x.recordings, handle)
		}
		_, err := r.End()
		return err
	})
	for _, pid := range pids {
		if err := r.Add(pid); err != nil {
			return err
		}
	}
	return nil
}

// serverPIDs are the processes of Start steps.
func (c *call) serverPIDs(handles []string) (pids []int, err error) {
	for _, h := range handles {
		pid, ok := c.x.processes[h]
		if !ok {
			return nil, fmt.Errorf("no server %q runs", h)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// startRecorded starts a program that a recording observes from its first instruction on.
func (c *call) startRecorded(handle string, at *proc.Endpoint, p proc.Program) (*proc.Process, error) {
	r, ok := c.x.recordings[handle]
	if !ok {
		return nil, fmt.Errorf("nothing is recorded as %q", handle)
	}
	started, err := c.x.launcher.StartHeld([]*proc.Endpoint{at}, []proc.Program{p}, func(held []*proc.Process) error {
		return r.Add(held[0].PID)
	})
	if err != nil {
		return nil, err
	}
	c.value(bundle.ValueClient, float64(started[0].PID))
	return started[0], nil
}

func doEndRecord(c *call, a bundle.EndRecord) error {
	r, ok := c.x.recordings[a.Handle]
	if !ok {
		return fmt.Errorf("nothing is recorded as %q", a.Handle)
	}
	delete(c.x.recordings, a.Handle)
	got, err := r.End()
	if err != nil {
		return err
	}
	for key, v := range got.Values {
		c.value(key, v)
	}
	if got.Note != "" {
		c.note("%s", got.Note)
	}
	if a.Out != "" {
		c.raw[a.Out] = got.Text
	}
	return nil
}
