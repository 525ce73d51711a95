package step

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/cgroup"
	"hookbed/driver/guest/fault"
)

// doCgroup gives the step's endpoint a cgroup.
func doCgroup(c *call, _ bundle.Cgroup) error {
	if c.step.In == "" || c.at.Cgroup != "" {
		return errors.New("a cgroup is for an endpoint that has none")
	}
	group, err := makeCgroup()
	if err != nil {
		return err
	}
	at := c.at
	at.Cgroup = group.Dir
	c.undoHere("cgroup "+group.Dir, func(undoing) error {
		at.Cgroup = ""
		return group.Remove()
	})
	return nil
}

// makeCgroup makes a cgroup of version 2 for what runs in endpoints.
func makeCgroup() (*cgroup.Group, error) {
	mounts, err := cgroup.Mounted()
	if err != nil {
		return nil, err
	}
	top := newHierarchy(mounts)
	if top == "" {
		return nil, fault.Unsupported("no cgroup hierarchy of version 2 is mounted (Linux 4.5)")
	}
	return cgroup.Make(top, cgroup.Endpoint)
}

// newHierarchy is where the version 2 hierarchy is mounted, "" where it is not.
func newHierarchy(mounts []cgroup.Mount) (dir string) {
	for _, m := range mounts {
		if m.Version == 2 {
			dir = m.Dir
		}
	}
	return dir
}

// attachSockOps has a program see the sockets of the endpoint's cgroup.
func (c *call) attachSockOps(prog *ebpf.Program) error {
	if c.at.Cgroup == "" {
		return errors.New("the endpoint has no cgroup")
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: c.at.Cgroup, Attach: ebpf.AttachCGroupSockOps, Program: prog})
	if err != nil {
		return fmt.Errorf("attach to cgroup %s: %w", c.at.Cgroup, err)
	}
	c.undoHere("program of "+c.at.Cgroup, func(undoing) error { return l.Close() })
	return nil
}

// attachSockets has a program judge what the sockets in a map receive, or are given to send.
func (c *call) attachSockets(prog *ebpf.Program, a bundle.AttachBPF, at ebpf.AttachType) error {
	sockets, err := c.x.loadedMap(a.Handle, a.Map)
	if err != nil {
		return err
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: sockets.FD(), Program: prog, Attach: at}); err != nil {
		return fmt.Errorf("attach to map %s: %w", a.Map, err)
	}
	c.undoHere("program of map "+a.Map, func(undoing) error {
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: sockets.FD(), Program: prog, Attach: at})
	})
	return nil
}
