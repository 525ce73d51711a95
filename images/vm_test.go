//go:build vm

package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience only ends a test that hangs: an emulated machine on a busy computer may take long for
// anything.
const patience = 15 * time.Minute

func ensureAll(t *testing.T, dir string) (*Store, Set) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("building the root image needs root")
	}
	s, err := Open(dir, Options{Log: func(m string) { t.Log(m) }})
	if err != nil {
		t.Fatal(err)
	}
	set, err := s.Ensure(t.Context(), Want{Kernel: "6.12", Root: true, Endpoint: true, EndpointDir: true})
	if err != nil {
		t.Fatal(err)
	}
	return s, set
}

// Two builds from the same packages in two caches give the same bytes.
func TestVMImagesAreReproducible(t *testing.T) {
	s, set := ensureAll(t, "")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "debs"), 0o755); err != nil {
		t.Fatal(err)
	}
	debs, err := filepath.Glob(filepath.Join(s.debDir(), "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range debs {
		if err := os.Symlink(d, filepath.Join(dir, "debs", filepath.Base(d))); err != nil {
			t.Fatal(err)
		}
	}
	again, setAgain := ensureAll(t, dir)
	if err := again.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	first := []Artifact{set.Kernel, set.Modules, set.Initramfs, set.Probe, set.Root, set.Endpoint, set.EndpointArchive}
	second := []Artifact{setAgain.Kernel, setAgain.Modules, setAgain.Initramfs, setAgain.Probe, setAgain.Root, setAgain.Endpoint, setAgain.EndpointArchive}
	for i, a := range first {
		if b := second[i]; a.SHA256 != b.SHA256 || a.Size != b.Size {
			t.Errorf("%s: two builds differ: %s and %s", a.Name, a.SHA256, b.SHA256)
		}
	}
	if set.EndpointTag != setAgain.EndpointTag || set.EndpointDigest != setAgain.EndpointDigest {
		t.Errorf("endpoint is %s and %s", set.EndpointTag, setAgain.EndpointTag)
	}
}

// guest is a running machine; its serial console is read to the end.
type guest struct {
	dir   string
	cmd   *exec.Cmd
	lines chan string
}

// boot starts QEMU, always emulated so that the test means the same anywhere.
func boot(t *testing.T, args ...string) *guest {
	t.Helper()
	g := &guest{dir: t.TempDir(), lines: make(chan string, 10000)}
	argv := append([]string{"-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-serial", "stdio"}, args...)
	g.cmd = exec.Command("qemu-system-x86_64", argv...)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Stderr = os.Stderr
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
	})
	go func() {
		defer close(g.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			g.lines <- strings.TrimSpace(scan.Text())
		}
	}()
	return g
}

// wait reads the console until a line holds text; the lines read are returned.
func (g *guest) wait(t *testing.T, text string, limit time.Duration) []string {
	t.Helper()
	var seen []string
	deadline := time.After(limit)
	for {
		select {
		case line, ok := <-g.lines:
			if !ok {
				t.Fatalf("the guest ended before it said %q; it said:\n%s", text, strings.Join(seen, "\n"))
			}
			if seen = append(seen, line); strings.Contains(line, text) {
				return seen
			}
		case <-deadline:
			t.Fatalf("the guest did not say %q within %v; it said:\n%s", text, limit, strings.Join(seen, "\n"))
		}
	}
}

// ended waits until the guest has powered itself off.
func (g *guest) ended(t *testing.T, limit time.Duration) {
	t.Helper()
	deadline := time.After(limit)
	for {
		select {
		case _, ok := <-g.lines:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatalf("the guest did not power off within %v", limit)
		}
	}
}

func TestVMProbe(t *testing.T) {
	_, set := ensureAll(t, "")
	start := time.Now()
	g := boot(t, "-kernel", set.Kernel.Path, "-initrd", set.Probe.Path, "-append", Cmdline)
	seen := g.wait(t, ProbeOK, patience)
	t.Logf("kernel and initramfs reached user space after %.1f s", time.Since(start).Seconds())
	if last := seen[len(seen)-1]; last != ProbeOK {
		t.Errorf("the guest said %q, want exactly %q", last, ProbeOK)
	}
	g.ended(t, patience)
}

// TestVMBootsAndRunsContainers boots the real images the way a lab does and
// uses what the lab needs: SSH, Docker over a forwarded socket, legacy
// iptables, modules, the endpoint image, and the power button.
func TestVMBootsAndRunsContainers(t *testing.T) {
	_, set := ensureAll(t, "")
	dir := t.TempDir()
	port := freePort(t)
	key := configDisk(t, dir)
	disk := func(id, path string) []string {
		return []string{"-drive", fmt.Sprintf("if=none,id=%s,file=%s,format=raw,readonly=on", id, path), "-device", "virtio-blk-pci,drive=" + id}
	}
	args := []string{"-kernel", set.Kernel.Path, "-initrd", set.Initramfs.Path, "-append", Cmdline,
		// Closed to the outside; the forwarded port is on loopback.
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,net=198.18.0.0/24,hostfwd=tcp:127.0.0.1:%d-198.18.0.11:22", port),
		"-device", "virtio-net-pci,netdev=net,mac=52:54:00:00:00:0b",
		"-monitor", "unix:" + filepath.Join(dir, "monitor") + ",server,nowait"}
	for _, d := range [][]string{disk("vda", set.Root.Path), disk("vdb", set.Modules.Path), disk("vdc", set.Endpoint.Path), disk("vdd", filepath.Join(dir, "config.img"))} {
		args = append(args, d...)
	}
	start := time.Now()
	g := boot(t, args...)
	g.wait(t, "Server listening", patience)
	t.Logf("sshd listened after %.1f s", time.Since(start).Seconds())
	ssh := func(more ...string) *exec.Cmd {
		return exec.Command("ssh", append([]string{"-i", key, "-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + filepath.Join(dir, "known_hosts"),
			"-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR", "-p", fmt.Sprint(port), "root@127.0.0.1"}, more...)...)
	}
	checkGuest(t, ssh, set)
	t.Logf("checked after %.1f s", time.Since(start).Seconds())

	socket := filepath.Join(dir, "docker.sock")
	forward := ssh("-N", "-L", socket+":/run/docker.sock")
	forward.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = forward.Process.Kill()
		_ = forward.Wait()
	}()
	defer func() {
		if t.Failed() {
			log, _ := ssh("grep -v 'loading plugin' /run/hookbed/dockerd.log").CombinedOutput()
			t.Logf("dockerd said:\n%s", log)
		}
	}()
	d := dockerClient{t: t, socket: socket}
	d.ready(patience)
	t.Logf("dockerd answered after %.1f s", time.Since(start).Seconds())
	d.checkContainers(set)
	out, err := ssh("iptables-legacy", "-S", "FORWARD").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "-P FORWARD ACCEPT") || !strings.Contains(string(out), "DOCKER-USER") {
		t.Errorf("FORWARD of the legacy tables is %s, error %v, want policy ACCEPT and a jump to DOCKER-USER", out, err)
	}
	pressPower(t, filepath.Join(dir, "monitor"))
	g.ended(t, patience)
}

// checkGuest runs one command for each property.
func checkGuest(t *testing.T, ssh func(...string) *exec.Cmd, set Set) {
	t.Helper()
	for _, c := range []struct{ command, want string }{
		{"uname -r", set.KernelRelease},
		{"hostname", "node1"},
		{"iptables -V", "legacy"},
		{"iptables-nft -V", "nf_tables"},
		{"cat /sys/class/net/mgmt0/address", "52:54:00:00:00:0b"},
		{"ip -4 -o addr show mgmt0", "198.18.0.11/24"},
		{"cat /sys/fs/cgroup/cgroup.subtree_control", "cpuset cpu io memory"},
		{"stat -f -c %T /sys/fs/bpf; stat -c %a /run/hookbed/config", "700"},
		{"cat /proc/sys/net/core/bpf_jit_enable /proc/sys/kernel/panic", "1\n1"},
		{"ls /sys/kernel/tracing/events | grep -c -x net", "1"},
		// Modules load when they are requested, by name, by link kind, by match.
		{"modprobe ip_set_hash_ip && ipset create x hash:ip && ipset list -n", "x"},
		{"ip link add v0 type veth peer name v1 && ip link add vx type vxlan id 1 dstport 4789 && ip -o link show type vxlan", "vx"},
		{"iptables -A INPUT -p tcp -m comment --comment c -m conntrack --ctstate INVALID -j DROP && iptables -S INPUT", "--ctstate INVALID"},
		{"nft add table ip t && nft list tables", "table ip t"},
		{"tc qdisc add dev v0 clsact && tc qdisc show dev v0", "clsact"},
		{"chroot /run/hookbed/endpoint iperf3 --version", "iperf 3.18"},
		{"chroot /run/hookbed/endpoint netperf -V", "Netperf version 2.7"},
		{"ps -o args= -p 1", "init"},
		{"dmesg --level=emerg,alert,crit,err 2>/dev/null || dmesg | grep -ciE 'oops|call trace'", ""},
	} {
		out, err := ssh(c.command).CombinedOutput()
		if got := strings.Join(strings.Split(strings.TrimSpace(string(out)), "\n"), "\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, error %v, want %q", c.command, got, err, c.want)
		}
	}
}

// configDisk writes config.img and known_hosts, and returns the user's key.
func configDisk(t *testing.T, dir string) (key string) {
	t.Helper()
	for _, k := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, k)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range [][2]string{{"hostname", "node1\n"}, {"ssh_host_ed25519_key", read("host")}, {"ssh_host_ed25519_key.pub", read("host.pub")},
		{"authorized_keys", read("user.pub")}, {"nics", "mgmt0 52:54:00:00:00:0b 198.18.0.11/24\n"}, {"services", "docker\n"}} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o600, Size: int64(len(f[1])), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	disk := append(b.Bytes(), make([]byte, 1<<20-b.Len())...)
	if err := os.WriteFile(filepath.Join(dir, "config.img"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), []byte("* "+read("host.pub")), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "user")
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func pressPower(t *testing.T, monitor string) {
	t.Helper()
	c, err := net.Dial("unix", monitor)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "system_powerdown\n"); err != nil {
		t.Fatal(err)
	}
	// The monitor drops the command of one that hangs up before its next prompt.
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	const prompt = "(qemu) "
	var said []byte
	for buf := make([]byte, 4096); bytes.Count(said, []byte(prompt)) < 2; {
		n, err := c.Read(buf)
		if said = append(said, buf[:n]...); err != nil {
			t.Fatalf("the monitor: %v after %q", err, said)
		}
	}
}

// dockerClient uses the Engine's HTTP API (version 1.43 is Docker 24's).
type dockerClient struct {
	t      *testing.T
	socket string
}

func (d dockerClient) call(method, path string, body any, answer any) error {
	var in io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case io.Reader:
		in, kind = b, "application/x-tar"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return err
		}
		in = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.43"+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.socket)
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}

func (d dockerClient) must(method, path string, body, answer any) {
	d.t.Helper()
	if err := d.call(method, path, body, answer); err != nil {
		d.t.Fatal(err)
	}
}

func (d dockerClient) ready(limit time.Duration) {
	d.t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		var info struct{ Driver, CgroupDriver, CgroupVersion string }
		if err = d.call("GET", "/info", nil, &info); err == nil {
			if info.Driver != "overlay2" || info.CgroupDriver != "cgroupfs" || info.CgroupVersion != "2" {
				d.t.Errorf("Docker works with %+v, want overlay2, cgroupfs, 2", info)
			}
			return
		}
	}
	d.t.Fatalf("dockerd did not answer within %v: %v", limit, err)
}

// checkContainers loads the endpoint image and runs iperf3 in it, without a
// network and from one container to another over a bridge.
func (d dockerClient) checkContainers(set Set) {
	d.t.Helper()
	f, err := os.Open(set.EndpointArchive.Path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	d.must("POST", "/images/load", f, nil)
	d.must("POST", "/networks/create", map[string]any{"Name": "lab", "Driver": "bridge"}, nil)
	server := d.start(set.EndpointTag, "lab", "iperf3", "-s", "-1")
	var info struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	d.must("GET", "/containers/"+server+"/json", nil, &info)
	address := info.NetworkSettings.Networks["lab"].IPAddress
	if !strings.HasPrefix(address, "198.18.") {
		d.t.Errorf("container has the address %s, want one of 198.18.128.0/18", address)
	}
	for network, command := range map[string][]string{"none": {"iperf3", "--version"}, "lab": {"iperf3", "-c", address, "-t", "1", "--connect-timeout", "9000"}} {
		var ended struct{ StatusCode int }
		d.must("POST", "/containers/"+d.start(set.EndpointTag, network, command...)+"/wait", nil, &ended)
		if ended.StatusCode != 0 {
			d.t.Errorf("%v in network %s ended with status %d", command, network, ended.StatusCode)
		}
	}
}

func (d dockerClient) start(image, network string, command ...string) (id string) {
	d.t.Helper()
	var made struct{ ID string }
	d.must("POST", "/containers/create", map[string]any{"Image": image, "Cmd": command, "HostConfig": map[string]any{"NetworkMode": network}}, &made)
	d.must("POST", "/containers/"+made.ID+"/start", nil, nil)
	return made.ID
}
