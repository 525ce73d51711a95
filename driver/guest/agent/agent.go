// Package agent runs a helper on a machine that is not ours: it borrows a NIC, and leaves
// the machine as it was when the driver ends, however that happens.
package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
	"hookbed/driver/bundle"
	"hookbed/driver/guest/cgroup"
	"hookbed/driver/guest/ftrace"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/sysfs"
	"hookbed/driver/marker"
)

const (
	// detachedEnv marks the agent's second self, in a session of its own.
	detachedEnv = "HOOKBED_DETACHED"
	// lockFile and journalFile are files of the agent's directory.
	lockFile    = "lock"
	journalFile = "nic.json"
	errorFile   = "nic.error" // why the NIC did not get everything back
	imagesDir   = "images"
	// RunPrefix begins the names of the directories of runs.
	RunPrefix = "run-"
	// staleRun is the age at which no agent can be about to use a run's directory: one takes
	// the lock seconds after its directory was made.
	staleRun = time.Hour
)

// Options are the flags of `guest agent`.
type Options struct {
	Dir, Run    string        // directory of all runs, and this one's name in it
	Data, CIDR  string        // NIC to borrow, "" for none, and its address in the node
	Token       string        // of the markers of both; what has another one is not this run's
	Keep        []netip.Addr  // addresses of the SSH connection
	Abandon     time.Duration // without a line from the driver
	LockWait    time.Duration
	Cache       bool // leave images behind
	BrNetfilter bool // have br_netfilter loaded
}

// agent looks after a helper on a machine that is not ours: it lends it a
// NIC, passes lines to and fro, and when the driver is gone, however it went,
// it leaves the machine as it was. The helper is a child in network and mount
// namespaces of its own; the agent never leaves the machine's.
type agent struct {
	Options
	log  *slog.Logger
	node *netns.Namespace // its supervisor made it
	undo []func() error   // newest last
}

// Run serves one driver. args are the helper's command line for it: the process
// that was started only supervises, and its second self, in a session of its own, gets no
// signal that is meant for the driver's terminal or login.
func Run(ctx context.Context, args []string, o Options, in io.Reader, out, errOut io.Writer) error {
	if os.Getenv(detachedEnv) == "" {
		return supervise(ctx, args, o, errOut)
	}
	if err := os.Unsetenv(detachedEnv); err != nil {
		return err
	}
	node, err := netns.Inherited("node", nodeFD)
	if err != nil {
		return err
	}
	defer node.Close()
	unix.CloseOnExec(beatsFD)
	go beat(os.NewFile(beatsFD, "beats"), o.beatEvery())
	a := &agent{Options: o, log: slog.New(slog.NewTextHandler(errOut, nil)), node: node}
	return a.serveDriver(ctx, in, out, errOut)
}

// serveDriver serves one driver from beginning to end.
func (a *agent) serveDriver(ctx context.Context, in io.Reader, out, errOut io.Writer) (err error) {
	if !marker.Has(a.Dir, a.Token) {
		return fmt.Errorf("%s has not this run's marker (%s): nothing in it is touched", a.Dir, marker.File)
	}
	if err := a.attend(); err != nil {
		return err
	}
	unlock, err := a.lock(ctx)
	if err != nil {
		return errors.Join(err, a.removeRun(a.Run))
	}
	a.then(unlock)
	a.then(ftrace.Recover) // of a helper that was killed
	defer func() { err = errors.Join(err, a.undoAll()) }()
	if err := errors.Join(a.recover(), ftrace.Recover()); err != nil {
		return fmt.Errorf("put right what an earlier run left: %w", err)
	}
	a.then(sweepCgroups) // a helper that is killed leaves some
	if err := a.prepare(); err != nil {
		return err
	}
	return a.serve(ctx, in, out, errOut)
}

// attend says that this process removes the run's directory from now on. The shell that made it has
// removed it where nothing came from the driver for too long.
func (a *agent) attend() error {
	f, err := os.OpenFile(filepath.Join(a.Dir, a.Run, marker.Attended), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("take over the run's directory: %w", err)
	}
	return f.Close()
}

func (a *agent) then(undo func() error) { a.undo = append(a.undo, undo) }

// leave undoes everything, newest first.
func (a *agent) undoAll() error {
	var errs []error
	for len(a.undo) > 0 {
		last := a.undo[len(a.undo)-1]
		a.undo = a.undo[:len(a.undo)-1]
		errs = append(errs, last())
	}
	return errors.Join(errs...)
}

// lock makes this the machine's only run. Its undo removes the files: the last
// thing done, and done under the lock.
func (a *agent) lock(ctx context.Context) (undo func() error, err error) {
	path := filepath.Join(a.Dir, lockFile)
	limit, cancel := context.WithTimeout(ctx, a.LockWait)
	defer cancel()
	l, err := durable.AwaitLock(limit, path, 0o600, nil)
	switch {
	case err == nil:
		return func() error { return errors.Join(a.removeFiles(), l.Unlock()) }, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("another run is using this machine (%s is locked)", path)
	}
	return nil, fmt.Errorf("open the machine's lock: %w", err)
}

// recover restores a NIC whose agent was killed: it is in the node's namespace yet, or the kernel
// brought it back to this one, without its name and addresses.
func (a *agent) recover() error {
	r, err := a.journal()
	if r == nil || err != nil {
		return err
	}
	if r.Boot == bootID() {
		if err := errors.Join(r.fetch(a.node, netns.DataLink), r.awaitReturn(), r.restore()); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(a.Dir, errorFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(filepath.Join(a.Dir, journalFile))
}

// journal is the record of a NIC that was lent and has not come back; nil if there is none.
func (a *agent) journal() (*nicRecord, error) {
	path := filepath.Join(a.Dir, journalFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r := new(nicRecord)
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// sweepCgroups removes what killed helpers left.
func sweepCgroups() error {
	_, err := cgroup.Sweep()
	return err
}

// prepare lends the NIC to the node's namespace.
func (a *agent) prepare() error {
	if a.BrNetfilter {
		if err := a.loadBridgeNetfilter(); err != nil {
			a.log.Warn("fabrics with a bridge will not work", "error", err)
		}
	}
	if a.Data == "" {
		return nil
	}
	return a.borrow()
}

// borrow lends the data NIC to the node. What it will have to get back is on
// disk before anything changes.
func (a *agent) borrow() error {
	l, err := netlink.LinkByName(a.Data)
	if err != nil {
		return fmt.Errorf("find the data NIC %s: %w", a.Data, err)
	}
	why, err := nicInUse(l, a.Keep)
	if err == nil && why != "" {
		err = errors.New(why)
	}
	if err != nil {
		return fmt.Errorf("borrow the data NIC %s: %w", a.Data, err)
	}
	r, err := recordNIC(l)
	if err != nil {
		return err
	}
	journal := filepath.Join(a.Dir, journalFile)
	if err := writeJournal(journal, r); err != nil {
		return err
	}
	a.then(func() error {
		if err := errors.Join(r.fetch(a.node, netns.DataLink), r.restore()); err != nil {
			// For the next run, and for anyone who administers the machine.
			return errors.Join(err, os.WriteFile(filepath.Join(a.Dir, errorFile), []byte(err.Error()+"\n"), 0o600))
		}
		return os.Remove(journal)
	})
	return r.lend(a.node, netns.DataLink, a.CIDR)
}

// writeJournal writes a record so that it is there whole or not at all.
func writeJournal(path string, r nicRecord) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode what %s has: %w", r.Name, err)
	}
	if err := durable.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("note what %s has: %w", r.Name, err)
	}
	return nil
}

// bridgeSwitches say whether bridged packets meet the firewall: switches of a
// network namespace that are on from when br_netfilter is loaded.
const bridgeSwitches = "/proc/sys/net/bridge"

// loadBridgeNetfilter loads br_netfilter where it is not, without letting it
// change what the machine's own bridges do.
func (a *agent) loadBridgeNetfilter() error {
	if _, err := os.Stat(bridgeSwitches); err == nil {
		return nil
	}
	if err := proc.Modprobe(context.Background(), "br_netfilter"); err != nil {
		return fmt.Errorf("load br_netfilter: %w", err)
	}
	a.then(func() error {
		if err := proc.Modprobe(context.Background(), "-r", "br_netfilter"); err != nil {
			return fmt.Errorf("unload br_netfilter: %w", err)
		}
		return nil
	})
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"} {
		if err := sysfs.WriteSysctl(filepath.Join(bridgeSwitches, name), "0"); err != nil {
			return fmt.Errorf("keep br_netfilter off the machine's own bridges: %w", err)
		}
	}
	return nil
}

// Why the driver is gone.
var (
	errInputEnded = errors.New("the driver closed the conversation, or its connection ended")
	errSilent     = errors.New("no sign of the driver")
)

// serve runs the helper and passes lines until either side is gone.
func (a *agent) serve(ctx context.Context, in io.Reader, out, errOut io.Writer) error {
	helper, err := a.startHelper(errOut)
	if err != nil {
		return err
	}
	// The first line says that machine and NIC are ours; the driver waits for it.
	if err := bundle.WriteReply(out, bundle.Reply{PID: os.Getpid()}); err != nil {
		return errors.Join(fmt.Errorf("tell the driver: %w", err), helper.end(a.log))
	}
	gone := make(chan error, 3)
	var last atomic.Int64 // of the driver's lines, as time since start
	start := time.Now()
	go func() { gone <- passLines(helper.in, in, func() { last.Store(int64(time.Since(start))) }) }()
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		// A driver's side that takes nothing any more must not hold the helper up.
		if _, err := io.Copy(out, helper.out); err != nil {
			gone <- fmt.Errorf("pass on a reply: %w", err)
		}
	}()
	ended, said := helper.done, (chan struct{})(nil)
	tick := time.NewTicker(max(a.Abandon/20, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ended:
			// The driver may be sending files: what is removed now would come back. It is told, and ends
			// the conversation.
			ended, said = nil, passed
		case <-said:
			if err := sayEnded(out, helper.err); err != nil {
				return errors.Join(helper.err, err)
			}
			said = nil
		case <-ctx.Done():
			return helper.end(a.log)
		case why := <-gone:
			if !errors.Is(why, errInputEnded) {
				a.log.Warn("the driver is gone", "why", why)
			}
			return helper.end(a.log)
		case <-tick.C:
			if silent := time.Since(start) - time.Duration(last.Load()); silent > a.Abandon {
				a.log.Warn("the driver is gone", "why", errSilent, "for", silent.Round(time.Second))
				return helper.end(a.log)
			}
		}
	}
}

// sayEnded answers the driver's request, or its next one, in place of a helper that has ended: perhaps
// in the middle of a line.
func sayEnded(out io.Writer, how error) error {
	if how == nil {
		how = errors.New("exit status 0")
	}
	if _, err := io.WriteString(out, "\n"); err != nil {
		return fmt.Errorf("pass on the helper's end: %w", err)
	}
	return bundle.WriteReply(out, bundle.Reply{Error: fmt.Sprintf("the guest helper is gone: %v", how), Fault: bundle.FaultRig})
}

// passLines passes the driver's lines on. An empty one only says that the
// driver lives.
func passLines(to io.Writer, from io.Reader, seen func()) error {
	r := bufio.NewReaderSize(from, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return errInputEnded
		}
		seen()
		if len(line) == 1 {
			continue
		}
		if _, err := to.Write(line); err != nil {
			return fmt.Errorf("pass on a request: %w", err)
		}
	}
}

// child is the helper process.
type child struct {
	cmd  *exec.Cmd
	in   *os.File
	out  *os.File
	done chan struct{}
	err  error // how it ended, read after done is closed
}

// startHelper starts `guest serve` in the node's network namespace and a mount
// namespace of its own. The thread that starts it stays with it, because its
// end is what the kernel takes for the parent's.
func (a *agent) startHelper(errOut io.Writer) (*child, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	outside, err := netns.Current("")
	if err != nil {
		return nil, err
	}
	env, err := netns.EnvOfOutside(3) // the first of ExtraFiles
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command("/proc/self/exe", "serve", "--node-netns", "--die-with-parent"), in: inW, out: outR, done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.ExtraFiles = []*os.File{outside.File}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = inR, outW, errOut
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWNS}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread stays in the node's namespace and ends with us.
		runtime.LockOSThread()
		err := a.node.Enter()
		if err == nil {
			err = c.cmd.Start()
		}
		for _, f := range []*os.File{inR, outW, outside.File} {
			_ = f.Close() // the child has its own
		}
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the helper: %w", err)
	}
	return c, nil
}

// end has the helper undo everything and waits for it, longer if it has the machine's tracer to put
// back. One that does not end is killed, and the kernel drops its namespaces' contents.
func (c *child) end(log *slog.Logger) error {
	limit := bundle.EndLimit
	if ftrace.Pending() {
		limit += bundle.TracerLimit
	}
	_ = c.in.Close()
	go func() { _, _ = io.Copy(io.Discard, c.out) }() // next to one that may be stuck
	select {
	case <-c.done:
		return c.err
	case <-time.After(limit):
	}
	log.Error("the helper does not end, and is killed")
	_ = c.cmd.Process.Kill()
	<-c.done
	return errors.New("the helper did not undo everything in time and was killed")
}
