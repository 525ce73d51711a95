package vm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

//go:embed daemon.sh
var daemonScript string

// libvirtdConf needs no authentication: the socket is in a namespace that only root
// can enter.
const libvirtdConf = `auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`

// qemuConf: QEMU runs as a user who owns nothing but what a machine of this lab needs, without
// capabilities, and filters its own system calls. Images are shared with other labs, so libvirt must
// not change owners. Without control groups and virtlogd, nothing outlives the namespaces.
const qemuConf = `user = "+%d"
group = "+%d"
dynamic_ownership = 0
remember_owner = 0
clear_emulator_capabilities = 1
seccomp_sandbox = 1
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
lock_manager = "nop"
max_core = 0
`

// daemon is a private libvirtd: first process (tini), libvirtd, QEMUs, bridges
// and taps in PID, mount and network namespaces that end with the first process.
type daemon struct {
	process Process
	dir     string         // its configuration and logs
	net     netns.NsHandle // its network namespace
	user    User           // of its QEMUs
	done    chan struct{}  // closed when the child has ended; nil if it is not a child of this process
}

// socket is the path of libvirtd's socket through its mount namespace: the path is
// short, and ends with the namespace.
func (d *daemon) socket() string { return d.process.path("root") + systemSocket }

func daemonDir(stateDir string) string { return filepath.Join(stateDir, "libvirt") }

// startDaemon starts a private libvirtd and waits until it listens.
func startDaemon(ctx context.Context, cfg Config) (_ *daemon, err error) {
	user := qemuUser(kvmDevice)
	if err := prepareDaemon(cfg, user); err != nil {
		return nil, err
	}
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer open.Close()
	d := &daemon{dir: daemonDir(cfg.StateDir), net: netns.None(), user: user, done: make(chan struct{})}
	err = d.launch(cfg, gate)
	_ = gate.Close() // the child has its own copy
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.end(context.WithoutCancel(ctx)))
		}
	}()
	if d.net, err = netns.GetFromPath(d.process.path("ns/net")); err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	if err := (record{Lab: cfg.Lab, Process: &d.process}).save(cfg.StateDir); err != nil {
		return nil, err
	}
	if _, err := open.WriteString("recorded\n"); err != nil {
		return nil, fmt.Errorf("release it: %w; it said: %s", err, d.logs())
	}
	return d, d.listening(ctx)
}

// prepareDaemon writes the daemon's configuration and checks that the directories
// exist over which the daemon mounts its own.
func prepareDaemon(cfg Config, user User) error {
	for _, dir := range []string{"/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"} {
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("libvirt is not fully installed, run `make deps`: %w", err)
		}
	}
	// QEMU's user opens files in it by their names, and cannot list it.
	if err := os.Chmod(cfg.StateDir, 0o711); err != nil {
		return fmt.Errorf("let QEMU's user pass: %w", err)
	}
	dir := daemonDir(cfg.StateDir)
	for _, d := range []string{filepath.Join(dir, "etc"), filepath.Join(dir, "log"), cfg.CacheDir} {
		if d == "" {
			continue
		}
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make its directories: %w", err)
		}
	}
	for name, text := range map[string]string{"libvirtd.conf": libvirtdConf, "qemu.conf": fmt.Sprintf(qemuConf, user.UID, user.GID)} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write its configuration: %w", err)
		}
	}
	return nil
}

// launch starts the first process. It has its own session, since otherwise an
// interrupt typed at the driver would end it before the driver does.
func (d *daemon) launch(cfg Config, gate *os.File) error {
	out, err := os.Create(filepath.Join(d.dir, "log", "start.log"))
	if err != nil {
		return fmt.Errorf("make its log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh", "-c", daemonScript, "hookbed-libvirtd", d.dir, cfg.CacheDir, cfg.StateDir, cfg.ImagesDir)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{gate}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Setsid:     true,
	}
	if !cfg.Detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := startOnOwnThread(cmd, d.done); err != nil {
		return err
	}
	d.process, err = processOf(cmd.Process.Pid)
	return err
}

// startOnOwnThread starts a command on a thread that lives as long as the child,
// since PR_SET_PDEATHSIG signals the end of the thread that forked, not that of the
// process (prctl(2)). It closes done after it has reaped the child.
func startOnOwnThread(cmd *exec.Cmd, done chan<- struct{}) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its output
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// listening waits until libvirtd accepts connections.
func (d *daemon) listening(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemonLimit)
	defer cancel()
	for !answers(d.socket()) {
		select {
		case <-d.done:
			return fmt.Errorf("it ended: %s", d.logs())
		case <-ctx.Done():
			return fmt.Errorf("it does not listen: %w; it said: %s", ctx.Err(), d.logs())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// logs is the end of the daemon's logs.
func (d *daemon) logs() string {
	return logEnd(filepath.Join(d.dir, "log", "start.log")) + "\n" + logEnd(filepath.Join(d.dir, "log", "libvirtd.log"))
}

// attachDaemon finds the private libvirtd of a detached lab.
func attachDaemon(p Process, stateDir string) (*daemon, error) {
	fd, err := p.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	ns, err := netns.GetFromPath(p.path("ns/net"))
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &daemon{process: p, dir: daemonDir(stateDir), net: ns, user: qemuUser(kvmDevice)}, nil
}

// end kills everything in the namespaces and removes the daemon's files.
func (d *daemon) end(ctx context.Context) error {
	if err := d.process.kill(ctx); err != nil {
		return err
	}
	if d.done != nil {
		<-d.done
	}
	if err := d.release(); err != nil {
		return err
	}
	return os.RemoveAll(d.dir)
}

// release closes the handle of the network namespace, which would keep it.
func (d *daemon) release() error {
	if !d.net.IsOpen() {
		return nil
	}
	return d.net.Close()
}
