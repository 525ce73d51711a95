package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// NoLibvirt says why this process can have no libvirt for machines of its own: none answers, and it
// may not start a private one. "" where it can.
func NoLibvirt() string {
	if answers(systemSocket) {
		return ""
	}
	none := "no libvirtd answers at " + systemSocket + ", and "
	switch {
	case os.Geteuid() != 0:
		return none + "only root can start a private one"
	case !mayUnshare():
		return none + "this process may make no namespaces for a private one (CAP_SYS_ADMIN)"
	}
	for _, program := range []string{"libvirtd", "tini"} {
		if _, err := exec.LookPath(program); err != nil {
			return none + program + " is not installed"
		}
	}
	return ""
}

// mayUnshare says whether this process has the capability to make namespaces (capabilities(7)).
func mayUnshare() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&head, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// Direct runs machines in virtual time as children of this process, without libvirt and without any
// privilege: such a machine has neither disks nor networks. The machine is the one that libvirt
// makes of the same description. Its methods may be called by several goroutines.
type Direct struct {
	cfg     Config
	version string // of QEMU

	mu      sync.Mutex
	running map[string]*qemu
}

// qemu is a machine's QEMU.
type qemu struct {
	process Process
	log     string // path of the file with QEMU's messages
	done    chan struct{}
	err     error // how it ended; valid once done is closed
}

// ConnectDirect checks that there is a QEMU that can be used. Of the configuration it uses StateDir
// and Lab. The caller calls Close.
func ConnectDirect(ctx context.Context, cfg Config) (*Direct, error) {
	var err error
	if cfg.StateDir, err = filepath.Abs(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("find state directory: %w", err)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	d := &Direct{cfg: cfg, running: map[string]*qemu{}}
	if d.version, err = QEMUVersion(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// Versions is that of QEMU.
func (d *Direct) Versions(context.Context) (Version, error) { return Version{QEMU: d.version}, nil }

// arguments are those of QEMU for a machine in virtual time: those with which libvirt 9 to 11 starts
// it that say what the guest has, and confinement. It boots at once, ends when the guest powers off
// or resets, and has no monitor.
func (m Machine) arguments() ([]string, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if m.Virtual == nil {
		return nil, errors.New("only a machine in virtual time runs without libvirt")
	}
	start := time.Unix(virtualStart, 0).UTC().Format("2006-01-02T15:04:05")
	out := []string{
		"-name", "guest=" + m.Name + ",debug-threads=on",
		"-machine", "q35,usb=off,dump-guest-core=off,memory-backend=pc.ram", "-accel", TCG, "-cpu", virtualCPU,
		"-m", fmt.Sprint(m.MemoryMiB), "-object", fmt.Sprintf("memory-backend-ram,id=pc.ram,size=%d", m.MemoryMiB<<20), "-overcommit", "mem-lock=off",
		"-smp", "1,sockets=1,dies=1,cores=1,threads=1", "-uuid", m.UUID,
		"-display", "none", "-no-user-config", "-nodefaults", "-rtc", "base=" + start + ",clock=vm", "-no-reboot", "-boot", "strict=on",
		"-kernel", m.Kernel, "-initrd", m.Initramfs, "-append", m.Cmdline,
	}
	for i, path := range []string{m.ConsoleLog, m.Virtual.Results} {
		out = append(out, "-chardev", fmt.Sprintf("file,id=charserial%d,path=%s,append=off", i, escaped(path)),
			"-device", fmt.Sprintf("isa-serial,chardev=charserial%d,id=serial%d,index=%d", i, i, i))
	}
	out = append(out, m.Virtual.arguments()...)
	return append(out, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-msg", "timestamp=on"), nil
}

// Start starts a machine. It runs until it ends by itself, until Destroy or Close, and not longer
// than this process. If QEMU cannot be started, the error is a *StartError; one that QEMU itself
// has is that of Wait.
func (d *Direct) Start(_ context.Context, m Machine) error {
	args, err := m.arguments()
	if err != nil {
		return fmt.Errorf("describe machine %q: %w", m.Name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, there := d.running[m.Name]; there {
		return fmt.Errorf("start machine %q: %w", m.Name, errOthers)
	}
	c := &qemu{log: filepath.Join(d.cfg.StateDir, m.Name+".log"), done: make(chan struct{})}
	if err := c.start(args); err != nil {
		return &StartError{Machine: m.Name, Err: err}
	}
	d.running[m.Name] = c
	if err := d.save(); err != nil {
		delete(d.running, m.Name)
		return errors.Join(&StartError{Machine: m.Name, Err: err}, c.end(context.Background()))
	}
	return nil
}

// save writes down which processes there are. It is called under mu.
func (d *Direct) save() error {
	r := record{Lab: d.cfg.Lab, Children: map[string]Process{}}
	for name, c := range d.running {
		r.Children[name] = c.process
	}
	return r.save(d.cfg.StateDir)
}

// start starts QEMU on a thread that lives as long as QEMU, since PR_SET_PDEATHSIG signals the end
// of the thread that forked (prctl(2)). The thread has no capabilities to give, and ends with the
// goroutine: it is never unlocked.
func (c *qemu) start(args []string) error {
	said, err := os.OpenFile(c.log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make its log: %w", err)
	}
	defer said.Close()
	cmd := exec.Command(qemuBinary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Dir(c.log), said, said
	// Its own process group, since otherwise an interrupt typed at the driver would end it, too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := confine()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", qemuBinary, err)
	}
	if c.process, err = processOf(cmd.Process.Pid); err != nil { // it has ended, and Wait says why
		c.process = Process{}
	}
	return nil
}

// confine takes from the calling thread, and so from the programs that it starts, every way to get
// privileges: root then owns its files, and has no capabilities (capabilities(7), "Capability
// bounding set").
func confine() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil // execve gives none
	}
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil || has == 0 {
			continue // an older kernel does not have it
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	return nil
}

// Wait waits until a machine is in a state. If it is to be Gone, the error says how QEMU failed.
func (d *Direct) Wait(ctx context.Context, name string, want State) error {
	d.mu.Lock()
	c := d.running[name]
	d.mu.Unlock()
	switch {
	case c == nil && want == Gone, c != nil && want == Running:
		return nil
	case want != Gone:
		return fmt.Errorf("wait for machine %q to be %s: without libvirt it is only ever %s or %s", name, want, Running, Gone)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait for machine %q to be %s: %w", name, want, ctx.Err())
	case <-c.done:
	}
	if c.err != nil {
		return fmt.Errorf("machine %q: QEMU ended (%w): %s", name, c.err, logEnd(c.log))
	}
	return nil
}

// Destroy ends a machine at once; it is not an error if there is none.
func (d *Direct) Destroy(ctx context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.running[name]
	if c == nil {
		return nil
	}
	if err := c.end(ctx); err != nil {
		return fmt.Errorf("destroy machine %q: %w", name, err)
	}
	delete(d.running, name)
	_ = d.save() // a record of one that has ended does no harm, and the disk may be full
	return nil
}

// end kills QEMU, waits for its end, and removes its log.
func (c *qemu) end(ctx context.Context) error {
	select {
	case <-c.done:
	default:
		if err := c.process.kill(ctx); err != nil {
			return err
		}
		<-c.done
	}
	return os.Remove(c.log)
}

// Close ends all machines. It may be called again.
func (d *Direct) Close(ctx context.Context) error {
	for _, name := range d.names() {
		if err := d.Destroy(ctx, name); err != nil {
			return err
		}
	}
	return removeRecord(d.cfg.StateDir)
}

// names are those of the machines that were started and not destroyed, sorted.
func (d *Direct) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.running))
}
