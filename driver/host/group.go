package host

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// group is the process group of a child. It is signaled through the leader's pidfd where the kernel
// does that (Linux 6.9), else by its number: while it has members, the kernel does not reuse that.
type group struct {
	id    int
	pidfd int // of the leader; -1 if there is none
}

// newGroup is the group that a child leads which was not waited for yet.
func newGroup(pid int) *group {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		fd = -1
	}
	return &group{pid, fd}
}

func (g *group) close() {
	if g.pidfd >= 0 {
		_ = unix.Close(g.pidfd)
	}
}

// toGroup is PIDFD_SIGNAL_PROCESS_GROUP (include/uapi/linux/pidfd.h).
const toGroup = 1 << 2

func (g *group) signal(s unix.Signal) error {
	if g.pidfd >= 0 {
		err := unix.PidfdSendSignal(g.pidfd, s, nil, toGroup)
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			return err
		}
	}
	return unix.Kill(-g.id, s)
}

// runs reports whether the group has members.
func (g *group) runs() bool { return g.signal(0) == nil }

// end ends the group: SIGTERM, endGrace, SIGKILL. What is stopped gets the first only when it goes
// on, and the second at once.
func (g *group) end() {
	_ = g.signal(unix.SIGTERM) // fails only if all are gone
	for limit := time.Now().Add(endGrace); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		if !g.runs() {
			return
		}
	}
	_ = g.signal(unix.SIGKILL)
}
