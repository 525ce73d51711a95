package step

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

// endpointCgroups begins the names of cgroups of endpoints, each of which its maker has
// locked (flock(2)): one without a lock was left by a killed helper.
const endpointCgroups = "hookbed-endpoint-"

// cgroupEmpty is how long what has ended may still be in its cgroup.
const cgroupEmpty = 30 * time.Second

// doCgroup gives the step's endpoint a cgroup.
func doCgroup(c *call, _ bundle.Cgroup) error {
	if c.step.In == "" || c.at.Cgroup != "" {
		return errors.New("a cgroup is for an endpoint that has none")
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	top := mountedCgroups(string(info))
	if top == "" {
		return fault.Unsupported("no cgroup hierarchy of version 2 is mounted (Linux 4.5)")
	}
	removeLeftCgroups(top)
	dir, err := os.MkdirTemp(top, endpointCgroups)
	if err != nil {
		return fmt.Errorf("make a cgroup: %w", err)
	}
	lock, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("lock cgroup %s: %w", dir, err), os.Remove(dir))
	}
	at := c.at
	at.Cgroup = dir
	c.undoHere("cgroup "+dir, func(undoing) error {
		at.Cgroup = ""
		return errors.Join(removeCgroup(dir), lock.Close())
	})
	return nil
}

// mountedCgroups finds where the version 2 hierarchy is mounted in the text of
// /proc/self/mountinfo (proc(5)).
func mountedCgroups(mountinfo string) (dir string) {
	for _, line := range strings.Split(mountinfo, "\n") {
		left, right, ok := strings.Cut(line, " - ")
		if f := strings.Fields(left); ok && len(f) > 4 && strings.HasPrefix(right, "cgroup2 ") {
			dir = f[4]
		}
	}
	return dir
}

// removeCgroup waits until what ran in a cgroup has left it.
func removeCgroup(dir string) error {
	for end := time.Now().Add(cgroupEmpty); ; time.Sleep(time.Millisecond) {
		if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// removeLeftCgroups removes the cgroups whose makers have ended: the kernel has dropped
// their locks. One that is younger than its lock may be is left alone.
func removeLeftCgroups(top string) {
	dirs, _ := filepath.Glob(filepath.Join(top, endpointCgroups+"*"))
	for _, dir := range dirs {
		st, err := os.Stat(dir)
		if err != nil || time.Since(st.ModTime()) < cgroupEmpty {
			continue
		}
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(dir)
		}
		_ = f.Close()
	}
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

// attachStream has a program judge what the sockets in a map receive.
func (c *call) attachStream(prog *ebpf.Program, a bundle.AttachBPF) error {
	sockets, err := c.x.loadedMap(a.Handle, a.Map)
	if err != nil {
		return err
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: sockets.FD(), Program: prog, Attach: ebpf.AttachSkSKBStreamVerdict}); err != nil {
		return fmt.Errorf("attach to map %s: %w", a.Map, err)
	}
	c.undoHere("program of map "+a.Map, func(undoing) error {
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: sockets.FD(), Program: prog, Attach: ebpf.AttachSkSKBStreamVerdict})
	})
	return nil
}
