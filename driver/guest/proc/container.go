package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hookbed/driver/guest/netns"

	"hookbed/driver/tail"
)

// Container is where external programs run: PID and mount namespaces that no other
// program shares, with the root file system of those programs. Its first process waits there, and all
// that is mounted or pinned in the container ends with it. A daemon that changes into a
// client's namespaces, and back into those of process 1, never leaves it.
type Container struct {
	*pidns
	mnt *os.File
}

// enter moves the calling thread, which must be locked and never used again,
// into the container's mount namespace, and its children into the PID namespace.
func (c *Container) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the shared file system context: %w", err)
	}
	if err := unix.Setns(int(c.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return c.pidns.enter()
}

// Close ends every process in the container, and with them what is mounted in it.
func (c *Container) Close() error {
	c.pidns.close()
	return c.mnt.Close()
}

// Path is where the rest of the machine finds a file of the container.
func (c *Container) Path(file string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", c.cmd.Process.Pid), file)
}

// Room is what a container is made of.
type Room struct {
	Root string // directory that has the root file system
	// Agent: it has its network namespace in /sys, and cannot change /proc/sys/kernel, which is not
	// the namespace's.
	Agent bool
	// Cgroup is the directory in cgroup v2 that an agent has as /sys/fs/cgroup; "" is the whole
	// hierarchy.
	Cgroup string
}

// args are the arguments by which the first process is given a room.
func (r Room) args() []string {
	if !r.Agent {
		return []string{r.Root}
	}
	return []string{agentMark + r.Root, r.Cgroup}
}

// roomOf is the room of such arguments.
func roomOf(args []string) (r Room) {
	r.Root, r.Agent = strings.CutPrefix(args[0], agentMark)
	if len(args) > 1 {
		r.Cgroup = args[1]
	}
	return r
}

// OpenContainer starts the container's first process in a network namespace.
func OpenContainer(at *netns.Namespace, room Room) (*Container, error) {
	c := &Container{pidns: &pidns{done: make(chan struct{})}}
	started := make(chan error)
	go func() {
		// The thread lives as long as the container: its end is the signal.
		runtime.LockOSThread()
		defer close(c.done)
		err := at.Enter()
		if err == nil {
			err = c.start(room)
		}
		started <- err
		if err == nil {
			_ = c.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	err := c.open()
	if err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// start starts the first process and waits until it has mounted the container's root.
func (c *Container) start(room Room) error {
	c.cmd = exec.Command("/proc/self/exe", append([]string{FirstProcessCommand}, room.args()...)...)
	c.cmd.Env = []string{"GOMAXPROCS=1"}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	said := tail.NewBuffer(TailLimit)
	c.cmd.Stderr = said
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		return err
	}
	if line, err := io.ReadAll(out); err != nil || string(line) != containerReady {
		err = errors.Join(err, c.cmd.Wait())
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// containerReady is what the first process prints once the root is mounted.
const containerReady = "ready\n"

func (c *Container) open() (err error) {
	proc := fmt.Sprintf("/proc/%d/ns/", c.cmd.Process.Pid)
	if c.ns, err = os.Open(proc + "pid"); err == nil {
		c.mnt, err = os.Open(proc + "mnt")
	}
	return err
}

// agentMark goes before the root of an agent's container.
const agentMark = "agent:"

// mount is one mount below the root of a container.
type mount struct {
	source, dir, kind string
	flags             uintptr
}

// agentMounts are those of an agent's container. With a cgroup it gets that one alone.
func agentMounts(cgroup string) []mount {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	groups := mount{"cgroup2", "sys/fs/cgroup", "cgroup2", quiet}
	if cgroup != "" {
		groups = mount{cgroup, "sys/fs/cgroup", "", unix.MS_BIND}
	}
	return []mount{
		{"proc", "proc", "proc", quiet},
		{"/proc/sys/kernel", "proc/sys/kernel", "", unix.MS_BIND},
		{"", "proc/sys/kernel", "", unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC},
		{"sysfs", "sys", "sysfs", quiet},
		{"bpf", "sys/fs/bpf", "bpf", quiet},
		groups,
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
	}
}

// coverRoot mounts an overlay on a root, so that what is written there is in memory and ends with
// the container: an agent writes to its library, of an image that may be read-only, and the tool that
// cleans up after it removes the library, which the next setup needs.
func coverRoot(root string) error {
	changes := filepath.Join(root, "tmp")
	if err := unix.Mount("tmpfs", changes, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount memory for changes: %w", err)
	}
	upper, work := filepath.Join(changes, "upper"), filepath.Join(changes, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", root, upper, work)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay on %s: %w", root, err)
	}
	return nil
}

// externalMounts are those of the container of external filters.
func externalMounts() []mount {
	return []mount{
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC},
		{"/sys", "sys", "", unix.MS_BIND}, // for the kernel's BTF
		{"bpf", "sys/fs/bpf", "bpf", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
	}
}

// mountContainer makes a room's root that of the calling process's mount namespace, with
// what programs expect in it.
func mountContainer(room Room) error {
	if err := netns.PrivateMounts(); err != nil {
		return err
	}
	root := room.Root
	mounts := append([]mount{{root, "", "", unix.MS_BIND}}, externalMounts()...)
	if room.Agent {
		mounts = agentMounts(room.Cgroup)
		if err := coverRoot(root); err != nil {
			return err
		}
	}
	for _, m := range mounts {
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
