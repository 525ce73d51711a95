//go:build vm

package vm

import (
	"bufio"
	"context"
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

	"hookbed/images"
)

const (
	bootWait = 15 * time.Minute // only ends a test that hangs: two emulated nodes on a busy computer take long
	dataNet  = "hookbed-t-data"
)

// imageSet prepares the images, from the cache if it has them.
func imageSet(t testing.TB) (images.Set, string) {
	t.Helper()
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(context.Background(), images.Want{Kernel: images.DefaultKernel, Root: true, Endpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	return set, filepath.Join(store.Dir(), "libvirt")
}

// labNode is node n as a lab would have it, with its config disk in dir.
func labNode(t testing.TB, set images.Set, dir string, n int) Machine {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("make SSH key: %v: %s", err, out)
	}
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	name := fmt.Sprintf("node%d", n)
	nics := []NIC{
		{Network: mgmt.Name, MAC: fmt.Sprintf("52:54:00:12:00:%02x", 10+n), Queues: 1},
		{Network: dataNet, MAC: fmt.Sprintf("52:54:00:12:01:%02x", 10+n), Queues: 4},
	}
	config, err := ConfigDisk{
		Hostname: name, HostKeyPEM: read(key), HostKeyPub: read(key + ".pub"), AuthorizedKeys: read(key + ".pub"),
		NICs: []ConfigNIC{
			{Name: "mgmt0", MAC: nics[0].MAC, CIDR: fmt.Sprintf("198.18.0.%d/24", 10+n)},
			{Name: "data0", MAC: nics[1].MAC, CIDR: fmt.Sprintf("198.18.1.%d/24", n)},
		},
	}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, name+".config")
	if err := os.WriteFile(disk, config, 0o600); err != nil {
		t.Fatal(err)
	}
	return Machine{
		Name: "hookbed-t-" + name, VCPUs: 2, MemoryMiB: 1536, Accel: TCG,
		Kernel: set.Kernel.Path, Initramfs: set.Initramfs.Path, Cmdline: images.Cmdline,
		Disks: []Disk{
			{Path: set.Root.Path, ReadOnly: true, Serial: "root"}, {Path: set.Modules.Path, ReadOnly: true, Serial: "modules"},
			{Path: set.Endpoint.Path, ReadOnly: true, Serial: "endpoint"}, {Path: disk, ReadOnly: true, Serial: "config"},
		},
		NICs: nics, ConsoleLog: filepath.Join(dir, name+".console"),
	}
}

// banner dials a node until its SSH server sends its banner.
func banner(ctx context.Context, h *Hypervisor, n int) (string, error) {
	for {
		line, err := greet(ctx, h.Dialer(), fmt.Sprintf("198.18.0.%d:22", 10+n))
		if err == nil || ctx.Err() != nil {
			return line, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func greet(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

// wantBanner waits for a node and returns the seconds since start.
func wantBanner(t testing.TB, h *Hypervisor, m Machine, n int, start time.Time) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bootWait)
	defer cancel()
	line, err := banner(ctx, h, n)
	if err != nil || !strings.HasPrefix(line, "SSH-2.0-") {
		t.Fatalf("%s says %q, %v; its console: %s", m.Name, line, err, logEnd(m.ConsoleLog))
	}
	return time.Since(start).Seconds()
}

func labNetworks(t testing.TB, h *Hypervisor) {
	t.Helper()
	for _, n := range []Network{mgmt, {Name: dataNet, Bridge: "hbd-t"}} {
		if err := h.CreateNetwork(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVMTwoNodes(t *testing.T) {
	set, cache := imageSet(t)
	ctx, dir := t.Context(), t.TempDir()
	h := connect(t, dir, cache)
	w := worldOf(t, *h.record.Process)
	labNetworks(t, h)
	start := time.Now()
	var nodes []Machine
	for n := 1; n <= 2; n++ {
		m := labNode(t, set, dir, n)
		if err := h.Start(ctx, m); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, m)
	}
	for i, m := range nodes {
		t.Logf("%s: SSH banner %.1f s after the first machine's start", m.Name, wantBanner(t, h, m, i+1, start))
	}
	names, err := h.List(ctx)
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{nodes[0].Name, nodes[1].Name}) {
		t.Errorf("machines are %v, %v", names, err)
	}
	line, err := h.CommandLine(ctx, nodes[0].Name)
	if joined := strings.Join(line, " "); err != nil || !strings.Contains(joined, set.Kernel.Path) || !strings.Contains(joined, `"mq":true`) {
		t.Errorf("command line is %q, %v", line, err)
	}
	if err := h.Destroy(ctx, nodes[0].Name); err != nil {
		t.Error(err)
	}
	if err := h.Wait(ctx, nodes[0].Name, Gone); err != nil {
		t.Error(err)
	}
	if state, err := h.State(ctx, nodes[1].Name); err != nil || state != Running {
		t.Errorf("the other machine is %s, %v", state, err)
	}
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	w.wantGone(t, dir)
}

func TestVMEndsByItself(t *testing.T) {
	set, cache := imageSet(t)
	dir := t.TempDir()
	h := connect(t, dir, cache)
	if err := h.CreateNetwork(t.Context(), mgmt); err != nil {
		t.Fatal(err)
	}
	m := bare(dir, set.Kernel.Path, set.Probe.Path)
	if err := h.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	wantUnprivileged(t, h, m)
	ctx, cancel := context.WithTimeout(t.Context(), bootWait)
	defer cancel()
	if err := h.Wait(ctx, m.Name, Gone); err != nil {
		t.Fatal(err)
	}
	if said := logEnd(m.ConsoleLog); !strings.Contains(said, images.ProbeOK) {
		t.Errorf("the probe guest said %q", said)
	}
}

// wantUnprivileged: a machine's QEMU is not root, has no capabilities, can get none, and filters its
// system calls (proc_pid_status(5)).
func wantUnprivileged(t *testing.T, h *Hypervisor, m Machine) {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(h.root(), "run/libvirt/qemu", m.Name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join(h.root(), "proc", strings.TrimSpace(string(pid)), "status"))
	if err != nil {
		t.Fatal(err)
	}
	uid := strings.Repeat("\t"+strconv.Itoa(h.daemon.user.UID), 4)
	for _, want := range []string{"Uid:" + uid + "\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) || h.daemon.user.UID == 0 {
			t.Errorf("QEMU of user %+v has no %q:\n%s", h.daemon.user, want, status)
		}
	}
}

func TestVMKilledDriverEndsItsMachines(t *testing.T) {
	set, _ := imageSet(t)
	dir := t.TempDir()
	cmd, p := child(t, dir, childKernel+"="+set.Kernel.Path, childInitrd+"="+set.Probe.Path)
	w := worldOf(t, p)
	emulates := func(link string) bool {
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "comm"))
		return strings.HasPrefix(string(name), "qemu-system")
	}
	if !slices.ContainsFunc(w.members(), emulates) {
		t.Error("no QEMU runs in the namespaces")
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.awaitGone()
	w.wantGone(t, dir)
}

// TestVMSystemLibvirtdEndsMachinesWithTheirDriver uses the socket of a private
// libvirtd as that of the system, and a lost connection as the end of a driver.
func TestVMSystemLibvirtdEndsMachinesWithTheirDriver(t *testing.T) {
	set, cache := imageSet(t)
	own := t.TempDir()
	private := connect(t, own, cache)
	ctx, dir := t.Context(), filepath.Join(own, "second") // which the private libvirtd sees
	h, err := Connect(ctx, Config{StateDir: dir, Lab: "t", Socket: private.daemon.socket()})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CreateNetwork(ctx, mgmt); err != nil {
		t.Fatal(err)
	}
	m := bare(dir, set.Kernel.Path, set.Probe.Path)
	if err := h.Start(ctx, m); err != nil {
		t.Fatal(err)
	}
	if state, err := private.State(ctx, m.Name); err != nil || state != Running {
		t.Fatalf("the machine is %s, %v", state, err)
	}
	if err := h.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := private.Wait(ctx, m.Name, Gone); err != nil {
		t.Error(err)
	}
	// By itself it would end too, a little later.
	if said := private.logTail(ctx, "var/log/libvirt/qemu/"+m.Name+".log"); !strings.Contains(said, "reason=destroyed") {
		t.Errorf("the machine was not ended with the connection; its log: %s", said)
	}
	if err := Cleanup(ctx, dir); err != nil {
		t.Error(err)
	}
	if _, err := private.lv.NetworkLookupByName(mgmt.Name); !isNotFound(err) {
		t.Errorf("looking for the network gives %v, want not found", err)
	}
}

func TestVMProbeAccel(t *testing.T) {
	set, _ := imageSet(t)
	cache := t.TempDir()
	first, err := ProbeAccel(t.Context(), set.Kernel.Path, set.Probe.Path, cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", first)
	if first.Seconds > 2*kvmLimit.Seconds() {
		t.Errorf("deciding took %.1f s", first.Seconds)
	}
	again, err := ProbeAccel(t.Context(), set.Kernel.Path, set.Probe.Path, cache)
	if err != nil || again != first {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	seconds, err := BootProbe(t.Context(), first.Name, set.Kernel.Path, set.Probe.Path)
	if err != nil || seconds <= 0 {
		t.Errorf("the probe guest took %.1f s under %s: %v", seconds, first.Name, err)
	}
	t.Logf("probe guest in user space after %.1f s under %s", seconds, first.Name)
}

// BenchmarkVMBoot compares a node's time to its SSH banner with the time of the
// bare kernel to user space, in the same run.
func BenchmarkVMBoot(b *testing.B) {
	set, cache := imageSet(b)
	accel, err := ProbeAccel(b.Context(), set.Kernel.Path, set.Probe.Path, filepath.Dir(cache))
	if err != nil {
		b.Fatal(err)
	}
	kernel, ssh := 0.0, 0.0
	for b.Loop() {
		seconds, err := BootProbe(b.Context(), accel.Name, set.Kernel.Path, set.Probe.Path)
		if err != nil {
			b.Fatal(err)
		}
		kernel += seconds
		dir := b.TempDir()
		h := connect(b, dir, cache)
		labNetworks(b, h)
		m := labNode(b, set, dir, 1)
		m.Accel = accel.Name
		start := time.Now()
		if err := h.Start(b.Context(), m); err != nil {
			b.Fatal(err)
		}
		ssh += wantBanner(b, h, m, 1, start)
		if err := h.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(kernel/float64(b.N), "s/kernel")
	b.ReportMetric(ssh/float64(b.N), "s/ssh")
	b.ReportMetric(ssh/kernel, "ssh/kernel")
}
