package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// measuringNice is the priority of a thread that is being timed.
const measuringNice = -15

// pinned runs fn on the calling thread, which must be locked, with only one CPU
// to run on and a high priority, and gives both back.
func pinned(cpu int, fn func() error) error {
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the thread's CPUs: %w", err)
	}
	only.Set(cpu)
	if cpu < 0 || only.Count() != 1 {
		return fmt.Errorf("no CPU %d", cpu)
	}
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	// In the kernel a priority belongs to a thread; 0 is the calling one.
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, measuringNice)
	}
	if err == nil {
		err = fn()
		// The system call says 20 - nice.
		err = errors.Join(err, unix.Setpriority(unix.PRIO_PROCESS, 0, 20-nice))
	}
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

func doTestRuns(c *call, a bundle.TestRuns) error {
	return pinned(a.CPU, func() error {
		for _, r := range a.Runs {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			ns, err := c.testRun(r)
			if err != nil {
				return fmt.Errorf("run %s: %w", r.Name, err)
			}
			c.value(r.Name, ns)
		}
		return nil
	})
}

// testRun is the time of one run, in nanoseconds.
func (c *call) testRun(r bundle.TestRun) (float64, error) {
	prog, err := c.x.loadedProgram(r.Handle, r.Program)
	if err != nil {
		return 0, err
	}
	frame, err := r.Frame.Bytes()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	ret, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: r.Repeat})
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if ret != r.Want {
		return 0, subject("%s returned %d, want %d", r.Program, ret, r.Want)
	}
	return float64(took.Nanoseconds()) / float64(max(r.Repeat, 1)), nil
}

func doPeer(c *call, a bundle.Peer) error {
	if _, ok := c.x.objects[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("object handle %q is taken", a.Handle)
	}
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	dir, err := c.peerDirectory(a)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	start := time.Now()
	end, err := c.startPeer(dir, a)
	if err != nil {
		return err
	}
	c.value("load_seconds", time.Since(start).Seconds())
	coll, err := adopt(l, a.Hook)
	if err := errors.Join(err, end()); err != nil {
		return fmt.Errorf("hold the program of %s: %w", a.Script, err)
	}
	c.x.objects[a.Handle] = coll
	c.undoHere("object "+a.Handle, func(undoing) error {
		delete(c.x.objects, a.Handle)
		coll.Close()
		return nil
	})
	return nil
}

// peerDirectory is a new directory with the files of a peer's script.
func (c *call) peerDirectory(a bundle.Peer) (string, error) {
	dir, err := os.MkdirTemp("", "hookbed-peer-")
	if err != nil {
		return "", fmt.Errorf("make a directory for %s: %w", a.Script, err)
	}
	for _, name := range append([]string{a.Script}, a.Files...) {
		data, err := c.file(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o600)
		}
		if err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// peerPrelude makes the namespaces of a peer's script: what it mounts, pins and
// starts goes away with it.
const peerPrelude = `set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
`

// startPeer starts a peer's script and waits until it is ready. The returned
// function ends it, and every process that it started.
func (c *call) startPeer(dir string, a bundle.Peer) (end func() error, err error) {
	script, err := os.ReadFile(filepath.Join(dir, filepath.Base(a.Script)))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(c.ctx, "/bin/sh", "-c", peerPrelude+string(script))
	cmd.Dir, cmd.Env = dir, processEnv()
	for k, v := range a.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	// The shell is the first process of its PID namespace: with it all end. It
	// ends with the calling thread, which is locked, and so with the helper.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	said := &tail{limit: tailLimit}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", a.Script, err)
	}
	end = func() error {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return nil
	}
	if err := awaitReady(out, seconds(a.Timeout)); err != nil {
		_ = end()
		return nil, subject("%s: %w: %s", a.Script, err, strings.TrimSpace(said.String()))
	}
	return end, nil
}

// awaitReady reads until a line "ready".
func awaitReady(out interface{ Read([]byte) (int, error) }, limit time.Duration) error {
	done := make(chan error, 1)
	go func() {
		var got []byte
		buf := make([]byte, 512)
		for {
			n, err := out.Read(buf)
			got = append(got, buf[:n]...)
			if slices.ContainsFunc(bytes.Split(got, []byte("\n")), func(l []byte) bool { return string(l) == "ready" }) {
				done <- nil
				return
			}
			if err != nil {
				done <- errors.New("ended before it was ready")
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("was not ready after %v", limit)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// adopt holds the program on a link and the maps that it uses.
func adopt(l netlink.Link, hook string) (*ebpf.Collection, error) {
	id, err := attachedID(l, hook)
	if err != nil {
		return nil, err
	}
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open program %d: %w", id, err)
	}
	coll := &ebpf.Collection{Programs: map[string]*ebpf.Program{bundle.PeerProgram: prog}, Maps: map[string]*ebpf.Map{}}
	info, err := prog.Info()
	if err != nil {
		coll.Close()
		return nil, fmt.Errorf("read program info: %w", err)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, name, err := mapByID(id)
		if err != nil {
			coll.Close()
			return nil, err
		}
		coll.Maps[name] = m
	}
	return coll, nil
}

func mapByID(id ebpf.MapID) (*ebpf.Map, string, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, "", fmt.Errorf("open map %d: %w", id, err)
	}
	info, err := m.Info()
	if err != nil {
		_ = m.Close()
		return nil, "", fmt.Errorf("read map info: %w", err)
	}
	return m, info.Name, nil
}

// attachedID is the program on a link: its XDP program, the first of its tcx
// ones (6.6), or the last of its clsact ones.
func attachedID(l netlink.Link, hook string) (ebpf.ProgramID, error) {
	name := l.Attrs().Name
	switch hook {
	case bundle.HookXDPNative, bundle.HookXDPGeneric:
		now, err := netlink.LinkByIndex(l.Attrs().Index)
		if err != nil {
			return 0, err
		}
		if x := now.Attrs().Xdp; x != nil && x.Attached {
			return ebpf.ProgramID(x.ProgId), nil
		}
	case bundle.HookTCIngress:
		got, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		if err == nil && len(got.Programs) > 0 {
			return got.Programs[0].ID, nil
		}
		filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
		if err != nil {
			return 0, fmt.Errorf("list filters of %s: %w", name, err)
		}
		for _, f := range slices.Backward(filters) {
			if b, ok := f.(*netlink.BpfFilter); ok {
				return ebpf.ProgramID(b.Id), nil
			}
		}
	default:
		return 0, fmt.Errorf("a peer's program cannot be at hook %q", hook)
	}
	return 0, subject("%s has no program at %s", name, hook)
}
