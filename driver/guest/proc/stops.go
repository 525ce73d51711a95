package proc

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Codes of a child's state in siginfo (include/uapi/asm-generic/siginfo.h).
const (
	childStopped   = 5 // CLD_STOPPED
	childContinued = 6 // CLD_CONTINUED
)

// WatchStops watches whether a process is stopped (SIGSTOP and its like), of which
// the kernel informs a parent as it does of its end. The returned function ends the
// watch and returns how often, and for how long. It costs nothing while nothing
// happens.
func WatchStops(p *Process) func() (n int, seconds float64) {
	changed := make(chan os.Signal, 16)
	signal.Notify(changed, unix.SIGCHLD)
	quit, told := make(chan struct{}), make(chan stopCount, 1)
	go func() {
		var s stopCount
		for {
			for s.look(p.PID) {
			}
			select {
			case <-changed:
			case <-quit:
				signal.Stop(changed)
				told <- s
				return
			}
		}
	}()
	return func() (int, float64) {
		close(quit)
		s := <-told
		if !s.since.IsZero() { // it ended while stopped
			s.seconds += time.Since(s.since).Seconds()
		}
		return s.n, s.seconds
	}
}

// stopCount counts stops of one process.
type stopCount struct {
	n       int
	seconds float64
	since   time.Time // of the present stop
}

// look takes one change of state, if there is one.
func (s *stopCount) look(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WCONTINUED|unix.WNOHANG, nil)
	if err != nil || info.Signo == 0 {
		return false
	}
	switch info.Code {
	case childStopped:
		s.n++
		s.since = time.Now()
	case childContinued:
		if s.since.IsZero() { // the stop itself was missed
			s.n++
			break
		}
		s.seconds += time.Since(s.since).Seconds()
		s.since = time.Time{}
	}
	return true
}
