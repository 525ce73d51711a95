package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/lab"
)

// sameEvent is how close two signals of one event may be: `timeout` sends one to the driver and one to
// its group, and a terminal that closes sends SIGHUP with SIGCONT and SIGTERM.
const sameEvent = 500 * time.Millisecond

// awaitSecond cancels the work at the first signal, and returns at the second one that is no part of
// the same event.
func awaitSecond(signals <-chan os.Signal, cancel func(), apart time.Duration) {
	<-signals
	first := time.Now()
	cancel()
	for range signals {
		if time.Since(first) > apart {
			return
		}
	}
}

// nothingRuns begins what commands say when they were interrupted and took everything down.
const nothingRuns = "nothing is left running"

// whenInterrupted is the hint of a command that was interrupted, and what still runs, if something
// does.
func whenInterrupted(err error, hint string) string {
	if errors.Is(err, lab.ErrStillRuns) {
		rest := strings.TrimPrefix(strings.TrimPrefix(hint, nothingRuns), "; ")
		return strings.TrimSuffix(fmt.Sprintf("%v; %s", livingOf(err), rest), "; ")
	}
	return hint
}

// livingOf is the part of a joined error that names what still runs.
func livingOf(err error) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return err
	}
	var living []error
	for _, e := range joined.Unwrap() {
		if errors.Is(e, lab.ErrStillRuns) {
			living = append(living, e)
		}
	}
	return errors.Join(living...)
}

// killedLimit is how long killed children may take to end.
const killedLimit = 3 * time.Second

// endChildren kills what this process has started, without undoing anything, and says what does not
// end. Namespaces end with the helper that holds them; an agent on another machine puts that right by
// itself when its connection is gone.
func endChildren(talk io.Writer) {
	children := map[int]string{} // by pidfd
	for _, pid := range childrenOf(os.Getpid()) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			children[fd] = fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(name)), pid)
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // fails only if it has ended
		}
	}
	var left []string
	limit := time.Now().Add(killedLimit)
	for fd, name := range children {
		if !ends(fd, time.Until(limit)) {
			left = append(left, name)
		}
	}
	slices.Sort(left)
	said := "nothing was undone; the next run clears what is left, as `driver down` does"
	if len(left) > 0 {
		said = strings.Join(left, ", ") + " was killed and does not end; " + said
	}
	fmt.Fprintln(talk, "ended at once by a second signal:", said)
}

// childrenOf are the processes that a process has started, by any of its threads.
func childrenOf(pid int) (out []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is right
	for _, list := range lists {
		data, _ := os.ReadFile(list) // a thread may have ended
		for _, field := range strings.Fields(string(data)) {
			if n, err := strconv.Atoi(field); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// ends waits for the end of the process of a pidfd.
func ends(fd int, limit time.Duration) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll(poll, int(max(time.Until(end), 0).Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return n > 0
		}
		if !time.Now().Before(end) {
			return false
		}
	}
}
