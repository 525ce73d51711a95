package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/tail"
)

// programLimit bounds a Program that sets no limit of its own: 10 000 rules take
// bpfilter half a minute.
const programLimit = 120.0

// unixListen is __SO_ACCEPTCON in the flags of /proc/net/unix: the socket listens.
const unixListen = 0x10000

// peers is where filters by others run, and those that stay.
type peers struct {
	root    string // Hello.PeersRoot
	room    *room  // of the present setup, nil before its first Program
	daemons map[string]*process
	adopted map[string]bool // handles of objects that AdoptBPF filed
}

// room is where peers run: PID and mount namespaces of their own, whose root is
// the peers' root file system. Its first process waits there, as in a nursery,
// and all that is mounted or pinned in the room ends with it. A daemon that
// changes into a client's namespaces, and back into those of process 1, never
// leaves it.
type room struct {
	*nursery
	mnt *os.File
}

// enter moves the calling thread, which must be locked and never used again,
// into the room's mount namespace, and its children into the PID namespace.
func (r *room) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the shared file system context: %w", err)
	}
	if err := unix.Setns(int(r.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return r.nursery.enter()
}

// path is where the rest of the machine finds a file of the room.
func (r *room) path(file string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", r.cmd.Process.Pid), file)
}

// needRoom is the room of the present setup.
func (c *call) needRoom() (*room, error) {
	p := &c.x.peers
	if p.room != nil {
		return p.room, nil
	}
	if p.root == "" {
		return nil, errors.New("the session named no root file system of peers")
	}
	r, err := openRoom(c.at.namespace, p.root)
	if err != nil {
		return nil, fmt.Errorf("open the peers' room in %s: %w", p.root, err)
	}
	p.room = r
	c.undoHere("peers' room", func(undoing) error {
		p.room = nil
		r.close()
		return r.mnt.Close()
	})
	return r, nil
}

// openRoom starts the room's first process in a network namespace.
func openRoom(at *namespace, root string) (*room, error) {
	r := &room{nursery: &nursery{done: make(chan struct{})}}
	started := make(chan error)
	go func() {
		// The thread lives as long as the room: its end is the signal.
		runtime.LockOSThread()
		defer close(r.done)
		err := at.enter()
		if err == nil {
			err = r.start(root)
		}
		started <- err
		if err == nil {
			_ = r.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	err := r.open()
	if err != nil {
		r.kill()
		return nil, err
	}
	return r, nil
}

// start starts the first process and waits until it has furnished the room.
func (r *room) start(root string) error {
	r.cmd = exec.Command("/proc/self/exe", "nursery", root)
	r.cmd.Env = []string{"GOMAXPROCS=1"}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	said := tail.NewBuffer(tailLimit)
	r.cmd.Stderr = said
	out, err := r.cmd.StdoutPipe()
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		return err
	}
	if line, err := io.ReadAll(out); err != nil || string(line) != roomReady {
		err = errors.Join(err, r.cmd.Wait())
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// roomReady is what the first process says once the room is furnished.
const roomReady = "ready\n"

func (r *room) open() (err error) {
	proc := fmt.Sprintf("/proc/%d/ns/", r.cmd.Process.Pid)
	if r.ns, err = os.Open(proc + "pid"); err == nil {
		r.mnt, err = os.Open(proc + "mnt")
	}
	return err
}

// furnishRoom makes root the root of the calling process's mount namespace, with
// what programs expect in it.
func furnishRoom(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct {
		source, dir, kind string
		flags             uintptr
	}{
		{root, "", "", unix.MS_BIND},
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC},
		{"/sys", "sys", "", unix.MS_BIND}, // for the kernel's BTF
		{"bpf", "sys/fs/bpf", "bpf", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if err := unix.Mount(m.source, filepath.Join(root, m.dir), m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount /%s: %w", m.dir, err)
		}
	}
	// Over the old root, not instead of it: an initramfs cannot be pivoted away.
	err := unix.Chdir(root)
	if err == nil {
		err = unix.Mount(".", "/", "", unix.MS_MOVE, "")
	}
	if err == nil {
		err = unix.Chroot(".")
	}
	if err != nil {
		return fmt.Errorf("change the root to %s: %w", root, err)
	}
	return unix.Chdir("/")
}

func doTool(c *call, a bundle.Tool) error {
	start := time.Now()
	_, err := c.run(c.ctx, a.Do)
	metric := a.Metric
	if metric == "" {
		metric = bundle.MetricLoad
	}
	c.value(metric, time.Since(start).Seconds())
	if a.Undo != nil {
		// Also of one that failed: it may have got half way.
		c.undoHere("tool "+a.Do.String(), func(u undoing) error {
			_, err := c.run(u.ctx, *a.Undo)
			return err
		})
	}
	return err
}

// run runs a program to its end and returns its standard output. One that fails
// is the subject's fault, or unsupported where it says so.
func (c *call) run(ctx context.Context, p bundle.Program) (string, error) {
	job, clean, err := c.prepare(p)
	if err != nil {
		return "", err
	}
	defer clean()
	out, errTail := &head{limit: rawLimit}, tail.NewBuffer(tailLimit)
	job.program.stdout, job.program.stderr = out, errTail
	proc, err := c.x.spawn(job.at, job.program)
	if err != nil {
		return "", refusedScript(p, err)
	}
	limit := p.Timeout
	if limit == 0 {
		limit = programLimit
	}
	within := *c
	within.ctx = ctx
	ended, err := within.await(proc, limit)
	said := strings.TrimSpace(errTail.String())
	switch {
	case err != nil:
		return "", err
	case !ended:
		return "", subject("%s: not finished after %g s: %s", p, limit, said)
	case proc.err == nil:
		return string(out.data), nil
	case lackedFeature(said) != "":
		return "", unsupported("kernel %s lacks %s: %s: %w: %s", kernelRelease(), lackedFeature(said), p, proc.err, said)
	}
	return "", subject("%s: %w: %s", p, proc.err, said)
}

// refusedScript blames a script that the kernel does not execute: it has no first
// line that names an interpreter, or one that is not there. Other programs are
// the rig's own.
func refusedScript(p bundle.Program, err error) error {
	var at *os.PathError
	if p.Script == "" || !errors.As(err, &at) {
		return err
	}
	for _, e := range []error{unix.ENOENT, unix.ENOEXEC, unix.EACCES, unix.ENOTDIR, unix.ELOOP} {
		if errors.Is(at, e) {
			return subject("%s: cannot be executed: %w: its first line names no interpreter that this machine has", p, at.Err)
		}
	}
	return err
}

// job is a program with the place it runs in.
type job struct {
	at      *endpoint
	program program
}

// prepare readies the files and the place of a program. clean removes the files.
func (c *call) prepare(p bundle.Program) (j job, clean func(), err error) {
	clean = func() {}
	dir := ""
	if p.Script != "" {
		if dir, err = c.scriptDir(p); err != nil {
			return j, clean, err
		}
		clean = func() { _ = os.RemoveAll(dir) }
		j.at = &endpoint{namespace: c.at.namespace}
		j.program = program{argv: append([]string{filepath.Join(dir, filepath.Base(p.Script))}, p.Argv...), dir: dir}
	} else {
		r, err := c.needRoom()
		if err != nil {
			return j, clean, err
		}
		j.at = &endpoint{namespace: c.at.namespace, root: c.x.peers.root, room: r}
		j.program = program{argv: slices.Clone(p.Argv)}
	}
	if err := c.fillIn(p, dir, &j.program); err != nil {
		clean()
		return j, func() {}, err
	}
	return j, clean, nil
}

// fillIn replaces what a program's text says of links, and opens its input.
func (c *call) fillIn(p bundle.Program, dir string, to *program) error {
	for i, arg := range to.argv {
		text, err := c.linkText(arg)
		if err != nil {
			return err
		}
		to.argv[i] = strings.ReplaceAll(text, "{dir}", dir)
	}
	for key, value := range p.Env {
		text, err := c.linkText(value)
		if err != nil {
			return err
		}
		to.env = append(to.env, key+"="+strings.ReplaceAll(text, "{dir}", dir))
	}
	if p.Stdin == "" {
		return nil
	}
	data, err := c.file(p.Stdin)
	if err != nil {
		return err
	}
	text, err := c.linkText(string(data))
	to.stdin = strings.NewReader(text)
	return err
}

// scriptDir makes a directory with the script and its files.
func (c *call) scriptDir(p bundle.Program) (string, error) {
	dir, err := os.MkdirTemp(c.x.blobs, "script.")
	if err != nil {
		return "", fmt.Errorf("make the script's directory: %w", err)
	}
	for _, name := range append([]string{p.Script}, p.Files...) {
		data, err := c.file(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o700)
		}
		if err != nil {
			_ = os.RemoveAll(dir)
			return "", err
		}
	}
	return dir, nil
}

// linkText replaces "{index:LINK}" and "{name:LINK}".
func (c *call) linkText(text string) (string, error) {
	var failed error
	out := regexp.MustCompile(`\{(index|name):([^{}]*)\}`).ReplaceAllStringFunc(text, func(s string) string {
		what, name, _ := strings.Cut(s[1:len(s)-1], ":")
		l, err := c.link(name)
		if err != nil {
			failed = errors.Join(failed, err)
			return ""
		}
		if what == "index" {
			return strconv.Itoa(l.Attrs().Index)
		}
		return l.Attrs().Name
	})
	return out, failed
}

func doDaemon(c *call, a bundle.Daemon) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	j, _, err := c.prepare(bundle.Program{Argv: a.Argv})
	if err != nil {
		return err
	}
	out := tail.NewBuffer(tailLimit)
	j.program.stdout, j.program.stderr = out, out
	p, err := c.x.spawn(j.at, j.program)
	if err != nil {
		return err
	}
	if c.x.peers.daemons == nil {
		c.x.peers.daemons = map[string]*process{}
	}
	c.x.peers.daemons[a.Handle] = p
	c.keepServer(a.Handle, func(ctx context.Context) error {
		delete(c.x.peers.daemons, a.Handle)
		return p.end(ctx)
	})
	err = awaitSocket(c.ctx, p, a.Socket)
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	_ = p.end(c.ctx) // so that its output is complete
	said := strings.TrimSpace(out.String())
	if strings.Contains(said, lacksFunction) {
		return lacksFeature("start "+a.Argv[0], a.Argv[0], "6.6", fmt.Errorf("%w: %s", err, said))
	}
	return subject("start %s: %w: %s", a.Argv[0], err, said)
}

// lacksFunction is what bpfilter says where the kernel has not every function
// that its programs call; of 0.6 the newest are in 6.6.
const lacksFunction = "failed to find BTF type"

// awaitSocket waits until a process listens on a Unix socket, by the path it
// was bound to, in the thread's network namespace.
func awaitSocket(ctx context.Context, p *process, path string) error {
	deadline := time.After(listenLimit)
	for {
		data, err := os.ReadFile("/proc/thread-self/net/unix")
		if err != nil || hasUnixListener(string(data), path) {
			return err
		}
		select {
		case <-time.After(listenPoll):
		case <-p.done:
			return fmt.Errorf("ended before it listened on %s (%v)", path, p.err) //nolint:errorlint // nil where it ended with status 0
		case <-deadline:
			return fmt.Errorf("does not listen on %s after %v", path, listenLimit)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hasUnixListener looks for a listening socket in the text of /proc/net/unix:
// Num RefCount Protocol Flags Type St Inode Path.
func hasUnixListener(table, path string) bool {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != 8 || f[7] != path {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 32); err == nil && flags&unixListen != 0 {
			return true
		}
	}
	return false
}
