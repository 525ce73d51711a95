// Package cgroup makes control groups that do not outlive their maker by more than one look: each
// is locked by the process that made it, and one without a lock was left by a killed one.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the names of all groups.
const prefix = "hookbed-"

// Kinds of groups, in their names after the prefix.
const (
	Endpoint = "endpoint" // what runs in an endpoint
	Rules    = "rules"    // a tool that loads rules, whose memory is measured
)

// busyLimit is how long, on a busy machine, what has ended may still be in its group.
const busyLimit = 30 * time.Second

// Mount is a mounted hierarchy.
type Mount struct {
	Dir         string
	Controllers []string // of version 1
	Version     int      // 1 or 2
}

// Mounts lists the hierarchies in the text of /proc/self/mountinfo (proc(5)). One may be mounted
// over another, which is then listed before it.
func Mounts(mountinfo string) (out []Mount) {
	for _, line := range strings.Split(mountinfo, "\n") {
		left, right, ok := strings.Cut(line, " - ")
		f, kind := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup":
			out = append(out, Mount{Dir: f[4], Controllers: strings.Split(kind[2], ","), Version: 1})
		case "cgroup2":
			out = append(out, Mount{Dir: f[4], Version: 2})
		}
	}
	return out
}

// Mounted are the hierarchies that this process sees.
func Mounted() ([]Mount, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	return Mounts(string(info)), err
}

// Group is a group that this process made.
type Group struct {
	Dir  string
	lock *os.File // of Dir, held until the group is removed or its maker ends
}

// Make makes a group of a kind in the top of a hierarchy, after it has removed there what killed
// processes left.
func Make(top, kind string) (*Group, error) {
	_, _ = sweep(top) // what cannot be removed is in no run's way
	for {
		dir, err := os.MkdirTemp(top, prefix+kind+"-")
		if err != nil {
			return nil, fmt.Errorf("make a cgroup: %w", err)
		}
		lock, err := lockDirectory(dir, unix.LOCK_EX)
		switch {
		case err == nil:
			return &Group{Dir: dir, lock: lock}, nil
		case !errors.Is(err, os.ErrNotExist): // else another process took it for left
			return nil, errors.Join(err, os.Remove(dir))
		}
	}
}

// Remove removes the group. It waits until what has ended has left it.
func (g *Group) Remove() error {
	defer g.lock.Close()
	return remove(g.Dir, busyLimit)
}

func remove(dir string, limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		err := os.Remove(dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case !errors.Is(err, unix.EBUSY):
			return err
		case time.Now().After(end):
			return fmt.Errorf("something still runs in %s: %w", dir, err)
		}
	}
}

// leftLimit is how long what a killed process started may take to end.
const leftLimit = 2 * time.Second

// Sweep removes, in every hierarchy, the groups that killed processes left, and returns them. The
// error names those in which something still runs.
func Sweep() (removed []string, err error) {
	mounts, err := Mounted()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, m := range mounts {
		some, err := sweep(m.Dir)
		removed, errs = append(removed, some...), append(errs, err)
	}
	slices.Sort(removed)
	return slices.Compact(removed), errors.Join(errs...)
}

// sweep removes what is left in one hierarchy: the kernel has dropped the locks of makers that
// have ended.
func sweep(top string) (removed []string, err error) {
	var errs []error
	for _, kind := range []string{Endpoint, Rules} {
		dirs, _ := filepath.Glob(filepath.Join(top, prefix+kind+"-*")) // the pattern is right
		for _, dir := range dirs {
			lock, err := lockDirectory(dir, unix.LOCK_EX|unix.LOCK_NB)
			if err != nil {
				continue // in use, or just removed
			}
			if err := remove(dir, leftLimit); err != nil {
				errs = append(errs, err)
			} else {
				removed = append(removed, dir)
			}
			_ = lock.Close()
		}
	}
	return removed, errors.Join(errs...)
}

// lockDirectory locks a directory (flock(2)). The error is os.ErrNotExist if it was removed
// meanwhile.
func lockDirectory(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how)
	if err == nil {
		_, err = os.Stat(dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}
