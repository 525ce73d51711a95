package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// childDir in the environment makes the test binary a driver that starts a
// private libvirtd with its state there, prints that, and waits to be killed. With
// a kernel and an initramfs it starts a machine, too.
const (
	childDir      = "HOOKBED_VM_CHILD_DIR"
	childDetached = "HOOKBED_VM_CHILD_DETACHED"
	childKernel   = "HOOKBED_VM_CHILD_KERNEL"
	childInitrd   = "HOOKBED_VM_CHILD_INITRAMFS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(driverChild(dir))
	}
	os.Exit(m.Run())
}

// patience ends a test that hangs: a busy machine may take long for any step.
const patience = 5 * time.Minute

func driverChild(dir string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cfg := Config{StateDir: dir, Lab: "child", Detached: os.Getenv(childDetached) != "", Socket: filepath.Join(dir, "none")}
	kernel := os.Getenv(childKernel)
	if kernel != "" {
		cfg.ImagesDir = filepath.Dir(kernel)
	}
	h, err := Connect(ctx, cfg)
	if err == nil {
		err = h.CreateNetwork(ctx, mgmt)
	}
	if err == nil && kernel != "" {
		err = h.Start(ctx, bare(dir, kernel, os.Getenv(childInitrd)))
	}
	if err != nil {
		fmt.Fprintln(os.Stdout, "FAILED", err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "READY")
	<-ctx.Done()
	return 0
}

var mgmt = Network{Name: "hookbed-t-mgmt", Bridge: "hbm-t", HostCIDR: "198.18.0.1/24"}

// bare is a machine with only a kernel, an initramfs and a network card.
func bare(dir, kernel, initramfs string) Machine {
	return Machine{
		Name: "hookbed-t-bare", VCPUs: 1, MemoryMiB: 256, Accel: TCG, Kernel: kernel, Initramfs: initramfs, Cmdline: probeLine,
		NICs: []NIC{{Network: mgmt.Name, MAC: "52:54:00:12:00:0b"}}, ConsoleLog: filepath.Join(dir, "bare.console"),
	}
}

// connect starts a private libvirtd with its state in dir, whatever the system has.
func connect(t testing.TB, dir string, cacheDir string) *Hypervisor {
	t.Helper()
	needRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg := Config{StateDir: dir, Lab: "t", CacheDir: cacheDir, Socket: filepath.Join(dir, "none")}
	if cacheDir != "" {
		cfg.ImagesDir = filepath.Dir(cacheDir) // of the images' store
	}
	h, err := Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Cleanup(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestImagesAndStateBelowOneHome: where the state and the images are both below a directory that is
// root's alone, as a home is, QEMU's user finds both, and nothing else of it.
func TestImagesAndStateBelowOneHome(t *testing.T) {
	needRoot(t)
	home := filepath.Join(t.TempDir(), "home")
	state, images, secret := filepath.Join(home, "state", "lab"), filepath.Join(home, "cache", "images"), filepath.Join(home, "secret")
	for _, dir := range []string{state, images} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(images, "image")
	for _, file := range []string{image, secret} {
		if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(images, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h, err := Connect(ctx, Config{StateDir: state, Lab: "t", ImagesDir: images, Socket: filepath.Join(home, "none")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Cleanup(context.Background(), state); err != nil {
			t.Error(err)
		}
	})
	user := h.daemon.user
	for file, found := range map[string]bool{image: true, filepath.Join(state, "libvirt"): true, secret: false} {
		probe := exec.Command("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", h.daemon.process.PID), "setpriv", "--reuid", strconv.Itoa(user.UID), "--regid", strconv.Itoa(user.GID), "--clear-groups", "test", "-e", file)
		if out, err := probe.CombinedOutput(); (err == nil) != found {
			t.Errorf("QEMU's user finds %s: %v (%s), want %v", file, err, out, found)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a private libvirtd needs root: run the tests as root")
	}
}

// world is the namespaces of a private libvirtd, by which its processes are found.
// They are held open: the kernel gives the number of one that has gone to the next that
// anything on this machine makes.
type world struct {
	links []string
	held  []*os.File
}

func worldOf(t *testing.T, p Process) *world {
	t.Helper()
	w := &world{}
	t.Cleanup(w.release)
	for _, kind := range []string{"net", "mnt", "pid"} {
		f, err := os.Open(p.path("ns/" + kind))
		if err != nil {
			t.Fatal(err)
		}
		w.held = append(w.held, f)
		ns, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		if ns == own {
			t.Fatalf("%s namespace of the private libvirtd is ours", kind)
		}
		w.links = append(w.links, ns)
	}
	return w
}

// release closes the namespaces. What is found by their numbers afterwards means nothing.
func (w *world) release() {
	for _, f := range w.held {
		_ = f.Close()
	}
	w.held = nil
}

// members are the processes, and the threads of this one, in any of the namespaces.
// A dead process that its parent, the init process, has not yet reaped does not count, nor
// does one that was reaped meanwhile.
func (w *world) members() []string {
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	threads, _ := filepath.Glob("/proc/self/task/*/ns/*")
	for _, path := range append(paths, threads...) {
		ns, err := os.Readlink(path)
		if err != nil || !slices.Contains(w.links, ns) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(path)), "stat"))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			found = append(found, path)
		}
	}
	return found
}

// awaitGone waits until no process is left.
func (w *world) awaitGone() {
	for end := time.Now().Add(patience); len(w.members()) > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *world) wantGone(t *testing.T, dir string) {
	t.Helper()
	if left := w.members(); len(left) > 0 {
		t.Errorf("still in the namespaces: %v", left)
	}
	w.release()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) || strings.Contains(string(mounts), "/libvirt") {
		t.Errorf("mounts remain:\n%s", mounts)
	}
	if _, err := netlink.LinkByName(mgmt.Bridge); err == nil {
		t.Errorf("bridge %s is in our own network namespace", mgmt.Bridge)
	}
}

func TestPrivateLibvirtdLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	files := openFiles(t)
	h := connect(t, dir, "")
	w := worldOf(t, *h.record.Process)
	if err := h.CreateNetwork(t.Context(), mgmt); err != nil {
		t.Fatal(err)
	}
	if n := len(w.members()); n < 3 {
		t.Errorf("%d namespace links of processes found, want those of tini and libvirtd at least", n)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	w.wantGone(t, dir)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files remain: %v, %v", left, err)
	}
	for end := time.Now().Add(patience); openFiles(t) > files && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // the connection's reader notices by itself
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d files are open, %d were before", n, files)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// openFiles counts the open descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// child runs this binary as a driver until it is up, and returns its libvirtd.
func child(t *testing.T, dir string, env ...string) (*exec.Cmd, Process) {
	t.Helper()
	needRoot(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), childDir+"="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := Cleanup(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "READY\n" {
		t.Fatalf("the child driver said %q", line)
	}
	r, err := loadRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, *r.Process
}

func TestKilledDriverLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	cmd, p := child(t, dir)
	w := worldOf(t, p)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.awaitGone()
	w.wantGone(t, dir)
	if err := Cleanup(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state directory remains (%v)", err)
	}
}

func TestDetachedLabOutlivesItsDriver(t *testing.T) {
	dir := t.TempDir()
	cmd, p := child(t, dir, childDetached+"=1")
	w := worldOf(t, p)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	h, err := attach(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := h.List(t.Context()); err != nil || len(names) > 0 {
		t.Errorf("machines are %v, %v", names, err)
	}
	if err := h.Detach(); err != nil {
		t.Error(err)
	}
	if len(w.members()) == 0 {
		t.Error("detaching ended the lab")
	}
	for range 2 { // the second finds nothing to do
		if err := Cleanup(t.Context(), dir); err != nil {
			t.Error(err)
		}
	}
	w.wantGone(t, dir)
}

func TestAttachNoticesReuseOfThePID(t *testing.T) {
	dir := t.TempDir()
	other := Process{PID: os.Getpid(), Start: "1"}
	if err := (record{Lab: "t", Process: &other}).save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := attach(t.Context(), dir); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("error is %v, want os.ErrProcessDone", err)
	}
	// It would kill this test.
	if err := Cleanup(t.Context(), dir); err != nil {
		t.Error(err)
	}
}

func TestAttachWithoutRecord(t *testing.T) {
	if _, err := attach(t.Context(), t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want os.ErrNotExist", err)
	}
}

func TestDialerReachesIntoTheNamespace(t *testing.T) {
	h := connect(t, t.TempDir(), "")
	if err := h.CreateNetwork(t.Context(), mgmt); err != nil {
		t.Fatal(err)
	}
	// A listener of the test at the lab's address, in the lab's namespace.
	l := listenIn(t, h, "198.18.0.1:0")
	c, err := h.Dialer()(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String()); err == nil {
		t.Error("the lab's address is reachable without its namespace")
	}
	if _, err := h.Dialer()(t.Context(), "tcp", "localhost:22"); err == nil || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("a name was dialled: %v", err)
	}
	if _, err := os.Stat(h.NetNS()); err != nil {
		t.Error(err)
	}
	w := worldOf(t, *h.record.Process)
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if left := w.members(); len(left) > 0 {
		t.Errorf("still in the namespaces: %v", left)
	}
}

func listenIn(t *testing.T, h *Hypervisor, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	err := inNamespace(h.daemon.net, func() error {
		var err error
		l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestSystemLibvirtd uses the socket of a private libvirtd as that of the system.
func TestSystemLibvirtd(t *testing.T) {
	private := connect(t, t.TempDir(), "")
	ctx, dir := t.Context(), t.TempDir()
	h, err := Connect(ctx, Config{StateDir: dir, Lab: "t", Socket: private.daemon.socket()})
	if err != nil {
		t.Fatal(err)
	}
	if h.NetNS() != "" {
		t.Errorf("network namespace is %q, want ours", h.NetNS())
	}
	if err := h.CreateNetwork(ctx, mgmt); err != nil {
		t.Fatal(err)
	}
	loopback := Network{Name: "hookbed-t-lo", Bridge: "hbl-t", HostCIDR: "127.1.0.1/16"}
	if err := h.CreateNetwork(ctx, loopback); err == nil || !strings.Contains(err.Error(), "127.1.0.0/16 is in use by the address of lo") {
		t.Errorf("error is %v, want the overlap with loopback", err)
	}
	if _, err := private.lv.NetworkLookupByName(mgmt.Name); err != nil {
		t.Errorf("the network is not there: %v", err)
	}
	// A lab of the same name, as from another home directory, gets nothing of this lab, and
	// taking it down does not take down anything of this one.
	other, err := Connect(ctx, Config{StateDir: t.TempDir(), Lab: "t", Socket: private.daemon.socket()})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.CreateNetwork(ctx, mgmt); !errors.Is(err, errOthers) {
		t.Errorf("another lab's network of the same name: %v, want it refused", err)
	}
	if err := other.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := private.lv.NetworkLookupByName(mgmt.Name); err != nil {
		t.Errorf("the other lab took this one's network down: %v", err)
	}
	// As after a crash: another process cleans up by the record.
	if err := Cleanup(ctx, dir); err != nil {
		t.Error(err)
	}
	if _, err := private.lv.NetworkLookupByName(mgmt.Name); !isNotFound(err) {
		t.Errorf("looking for the network again gives %v, want not found", err)
	}
	otherLabOfTheName(t, private)
}

// otherLabOfTheName: a record that is older than its machines takes down nothing of the
// lab that has the name now.
func otherLabOfTheName(t *testing.T, private *Hypervisor) {
	t.Helper()
	ctx := t.Context()
	var labs []*Hypervisor
	for range 2 {
		h, err := Connect(ctx, Config{StateDir: t.TempDir(), Lab: "t", Socket: private.daemon.socket()})
		if err != nil {
			t.Fatal(err)
		}
		if len(labs) > 0 { // as after a reboot
			if err := private.destroyNetwork(ctx, mgmt.Name, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.CreateNetwork(ctx, mgmt); err != nil {
			t.Fatal(err)
		}
		labs = append(labs, h)
	}
	if err := labs[0].Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := private.lv.NetworkLookupByName(mgmt.Name); err != nil {
		t.Errorf("the lab of before took the present one's network down: %v", err)
	}
	if err := labs[1].Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := private.lv.NetworkLookupByName(mgmt.Name); !isNotFound(err) {
		t.Errorf("its own lab left it: %v", err)
	}
}

func TestDestroyOfNothingIsNoError(t *testing.T) {
	h := connect(t, t.TempDir(), "")
	ctx := t.Context()
	if err := errors.Join(h.Destroy(ctx, "hookbed-t-none"), h.destroyNetwork(ctx, "hookbed-t-none", ""), h.Wait(ctx, "hookbed-t-none", Gone)); err != nil {
		t.Error(err)
	}
	if err := h.Detach(); err == nil {
		t.Error("a lab that is not detached was let go")
	}
}

func TestStartReportsQEMU(t *testing.T) {
	dir := t.TempDir()
	h := connect(t, dir, "")
	m := node()
	m.NICs, m.Disks, m.ConsoleLog = nil, nil, filepath.Join(dir, "console")
	var fail *StartError
	if err := h.Start(t.Context(), m); !errors.As(err, &fail) || !strings.Contains(err.Error(), `start machine "hookbed-golden-node1"`) {
		t.Fatalf("error is %v, want a StartError", err)
	}
	if !strings.Contains(fail.Error(), "/images/vmlinuz") {
		t.Errorf("%q does not say what QEMU missed", fail)
	}
}
