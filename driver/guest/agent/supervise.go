package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/ftrace"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
	"hookbed/driver/marker"
)

const (
	// Descriptors that the supervisor passes on: the node's network namespace, and the end of a pipe
	// into which the agent writes as long as it lives.
	nodeFD  = 3
	beatsFD = 4
	// missedBeats is for how many times in a row the agent must have said nothing. One is missed where
	// the whole machine stood still.
	missedBeats = 4
)

// beatEvery is how often the agent says that it lives.
func (o Options) beatEvery() time.Duration { return max(o.Abandon/missedBeats, 10*time.Millisecond) }

// supervisor is the process that the driver's login started: it starts the agent in a session of its
// own, and puts the machine right where that is killed, or stopped for good. It has the node's
// namespace open, so that a virtual NIC, too, is still there then.
type supervisor struct {
	Options
	log     *slog.Logger
	node    *netns.Namespace
	bridged bool // br_netfilter was loaded before
}

// supervise starts this program anew as the agent and waits for it.
func supervise(ctx context.Context, args []string, o Options, errOut io.Writer) error {
	// The helper of an agent that was killed becomes this process's child.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of what the agent leaves: %w", err)
	}
	home, err := netns.Current("")
	if err != nil {
		return err
	}
	defer home.Close()
	node, err := netns.New(home, "node")
	if err != nil {
		return err
	}
	defer node.Close()
	_, err = os.Stat(bridgeSwitches)
	s := supervisor{Options: o, log: slog.New(slog.NewTextHandler(errOut, nil)), node: node, bridged: err == nil}
	how := s.run(ctx, args)
	if how == nil {
		return nil
	}
	how = fmt.Errorf("agent: %w", how) // what went wrong it has said itself
	if _, err := os.Lstat(filepath.Join(o.Dir, o.Run, marker.Attended)); errors.Is(err, fs.ErrNotExist) {
		return how // it has put the machine right, or had not begun
	}
	s.log.Warn("the agent ended before it put the machine right", "how", how)
	return errors.Join(how, s.putRight(context.WithoutCancel(ctx)))
}

// run runs the agent to its end.
func (s supervisor) run(ctx context.Context, args []string) error {
	beats, alive, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer beats.Close()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), detachedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{s.node.File, alive} // nodeFD, beatsFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = alive.Close() // the agent has its own
	if err != nil {
		return fmt.Errorf("start in a session of its own: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
	defer stop()
	go s.watch(beats, cmd.Process)
	return cmd.Wait()
}

// watch kills an agent that is stopped.
func (s supervisor) watch(beats *os.File, agent *os.Process) {
	for missed := 0; missed < missedBeats; {
		_ = beats.SetReadDeadline(time.Now().Add(s.beatEvery() * 5 / 4))
		switch _, err := beats.Read(make([]byte, 16)); {
		case err == nil:
			missed = 0
		case errors.Is(err, os.ErrDeadlineExceeded):
			missed++
		default:
			return // it has ended
		}
	}
	s.log.Warn("the agent does not move, and is killed")
	_ = agent.Kill()
}

// beat says that this agent lives, until it ends.
func beat(to io.Writer, every time.Duration) {
	for {
		if _, err := to.Write([]byte{0}); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// putRight does what an agent did not: it ends what the agent has left, and restores the machine.
func (s supervisor) putRight(ctx context.Context) error {
	endOrphans()
	a := &agent{Options: s.Options, log: s.log, node: s.node}
	// Another run may have the lock already, and waits for the NIC.
	if r, err := a.journal(); err == nil && r != nil {
		if err := r.fetch(s.node, netns.DataLink); err != nil {
			s.log.Warn("the NIC does not come back", "error", err)
		}
	}
	unlock, err := a.lock(ctx)
	if err != nil {
		return errors.Join(err, a.removeRun(a.Run))
	}
	a.then(unlock)
	a.then(sweepCgroups)
	if _, err := os.Stat(bridgeSwitches); err == nil && s.BrNetfilter && !s.bridged {
		a.then(func() error { return proc.Modprobe(ctx, "-r", "br_netfilter") })
	}
	err = errors.Join(a.recover(), ftrace.Recover())
	return errors.Join(err, a.undoAll())
}

// killedLimit is how long what was killed may take to end.
const killedLimit = 10 * time.Second

// endOrphans waits until the helper of an agent that was killed has undone what it did, which it does
// at its parent's end, and kills what has not ended then. No other child of this process is left.
func endOrphans() {
	limit := bundle.EndLimit
	if ftrace.Pending() {
		limit += bundle.TracerLimit
	}
	if reapAll(limit) {
		return
	}
	for end := time.Now().Add(killedLimit); time.Now().Before(end); {
		for _, pid := range children() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if reapAll(100 * time.Millisecond) { // the children of each become this process's
			return
		}
	}
}

// reapAll waits until this process has no child any more, for a limit.
func reapAll(limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return true
		case err == nil && pid > 0, errors.Is(err, unix.EINTR):
			continue
		case time.Now().After(end):
			return false
		}
	}
}

// children are those of this process. A child's parent in /proc is the thread that started it.
func children() (out []int) {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list) // of a thread that has ended meanwhile
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}
