//go:build vm

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

const hypervisorsHead = `schema = 1
name = "hypervisors"
seed = 7
[lab]
provider = "libvirt"
endpoint = "netns"
accel = "tcg"
memory = "1536MiB"
`

const hypervisorsTail = `
[measure]
blocks = 1
trials = 1
duration = "1s"
warmup = "0s"
client_cpu = 1
server_cpu = 1
[matrix]
scenarios = ["multi-host"]
workloads = ["TCP_RR"]
policies = [5]
[[arm]]
name = "iptables-forward"
datapath = "iptables"
placement = "forward"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
`

// twoComputers has a node on each of two computers: root's on one, and that of an
// ordinary user who is in group libvirt on the other.
const twoComputers = `[[lab.hypervisor]]
nodes = ["node1"]
uri = "qemu+ssh://root@198.18.101.2/system"
key = "login"
known_hosts = "known_hosts"
data_bridge = "br-data"
[[lab.hypervisor]]
nodes = ["node2"]
uri = "qemu+ssh://lab@198.18.102.2/system"
key = "login"
known_hosts = "known_hosts"
data_bridge = "br-data"
`

// newComputers is a hub, where the driver runs, and two computers with a libvirtd
// and an sshd each, joined by a link between their bridges.
func newComputers(t *testing.T) *fleet {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make network namespaces: run them as root")
	}
	f := &fleet{t: t, dir: t.TempDir(), hub: newNetns(t)}
	login, known := newKey(t), ""
	f.write("login", string(login.PrivatePEM))
	f.write("authorized_keys", login.AuthorizedKey+"\n")
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	f.write("passwd", string(users)+"lab:*:4242:4242::/:/bin/sh\n")
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	f.write("group", string(groups)+"hookbed-lab:x:4242:\nhookbed-libvirt:x:4243:lab\n")
	for _, name := range []string{"passwd", "group", "authorized_keys"} {
		if err := os.Chmod(f.path(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 2; i++ {
		m := &fleetMachine{name: fmt.Sprintf("node%d", i), net: newNetns(t)}
		f.machines = append(f.machines, m)
		f.joinHub(m, i)
		key := newKey(t)
		known += fmt.Sprintf("198.18.10%d.2 %s\n", i, key.AuthorizedKey)
		f.write(m.name+".host_key", string(key.PrivatePEM))
		f.write(m.name+".sshd_config", strings.Join([]string{
			"ListenAddress 0.0.0.0", "Port 22", "PidFile none", "UsePAM no", "StrictModes no", "UseDNS no",
			"PermitRootLogin yes", "PasswordAuthentication no", "LogLevel ERROR", "HostKey /mnt/" + m.name + ".host_key",
			"AuthorizedKeysFile /mnt/authorized_keys", "Subsystem sftp internal-sftp", "",
		}, "\n"))
		if err := os.Mkdir(f.path(m.name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(f.path("node2"), 4242, 4242); err != nil {
		t.Fatal(err)
	}
	f.write("known_hosts", known)
	joinNetns(t, f.machines[0].net, "eth1", f.machines[1].net, "eth1")
	for _, m := range f.machines {
		f.ip(m.net, "link add br-data type bridge")
		f.ip(m.net, "link set eth1 master br-data up")
		f.ip(m.net, "link set br-data up")
	}
	for _, m := range f.machines {
		f.bootWith(m, computerInit)
		f.startLibvirtd(m)
	}
	return f
}

// joinHub gives the hub .1 and a computer .2 on a management link of its own.
func (f *fleet) joinHub(m *fleetMachine, i int) {
	f.t.Helper()
	joinNetns(f.t, f.hub, fmt.Sprintf("m%d", i), m.net, "eth0")
	for _, at := range []struct {
		ns   netns.NsHandle
		link string
		host int
	}{{f.hub, fmt.Sprintf("m%d", i), 1}, {m.net, "eth0", 2}} {
		f.ip(at.ns, "address add 198.18.10%d.%d/24 dev %s", i, at.host, at.link)
		f.ip(at.ns, "link set %s up", at.link)
	}
}

// computerInit is the first process of a computer: a /run, /var/lib and libvirt's
// directories of its own, a user who is not root, and sshd. Nothing that bridges
// carry is filtered.
const computerInit = `set -e
mount --bind "$1" /mnt
mount -t tmpfs run /run; mkdir /run/sshd; mount -t tmpfs lib /var/lib; mount -t sysfs sysfs /sys
mkdir -p /var/lib/libvirt/images /var/lib/libvirt/dnsmasq /var/lib/libvirt/qemu /var/lib/hookbed
mount --bind "/mnt/$2" /var/lib/hookbed
mount -t tmpfs log /var/log; mkdir -p /var/log/libvirt/qemu
mount -t tmpfs cache /var/cache/libvirt; mount -t tmpfs etc /etc/libvirt
mount --bind /mnt/passwd /etc/passwd; mount --bind /mnt/group /etc/group
mount --bind /dev/null /root/.bashrc 2>/dev/null || true
for switch in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$switch" ] || echo 0 >"$switch"; done
printf '%s\n' 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' 'unix_sock_group = "hookbed-libvirt"' 'unix_sock_rw_perms = "0770"' >/etc/libvirt/libvirtd.conf
printf '%s\n' 'security_driver = "none"' 'cgroup_controllers = []' 'namespaces = []' 'stdio_handler = "file"' >/etc/libvirt/qemu.conf
exec tini -- /usr/sbin/sshd -D -e -f "/mnt/$2.sshd_config"`

func (f *fleet) startLibvirtd(m *fleetMachine) {
	f.t.Helper()
	if out, err := f.on(m, "libvirtd", "--daemon").CombinedOutput(); err != nil {
		f.t.Fatalf("start libvirtd of %s: %v: %s", m.name, err, out)
	}
	eventually(f.t, 30*time.Second, "libvirtd of "+m.name+" answers", func() error {
		out, err := f.on(m, "virsh", "--connect", "qemu:///system", "list").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func (f *fleet) stopLibvirtd(m *fleetMachine) {
	f.t.Helper()
	const script = `pid=$(cat /run/libvirtd.pid); kill "$pid"; while [ -e "/proc/$pid" ]; do sleep 0.05; done`
	if out, err := f.on(m, "timeout", "20", "sh", "-c", script).CombinedOutput(); err != nil {
		f.t.Fatalf("stop libvirtd of %s: %v: %s", m.name, err, out)
	}
}

// computerState is what a lab could leave on a computer. Images stay, and so do
// libvirt's logs of machines where the login is not root's.
const computerState = `exec 2>&1
virsh --connect qemu:///system list --all --name; virsh --connect qemu:///system net-list --all --name
ip -br link | cut -d' ' -f1; ip address show; ip route; bridge link | cut -d' ' -f2; iptables-save | grep -e hb -e 198.18; nft list ruleset | grep -e hb[dm]- -e 198.18
find /var/lib/hookbed -type d; find /var/lib/hookbed -type f -not -path '/var/lib/hookbed/images/*'; find /var/lib/hookbed/images -name '.*'
find /run /var/lib/libvirt /var/log /etc/libvirt -name '*hookbed-*' -o -name 'hb[dm]-*' | grep -v '^/var/log/libvirt/qemu/hookbed-.*-node2.log$'
for p in /proc/[0-9]*; do cat $p/comm; done | grep -e qemu -e dnsmasq`

// computersClean waits until the computers have nothing of a lab.
func (f *fleet) computersClean(before []string) {
	f.t.Helper()
	eventually(f.t, 10*time.Second, "the computers are as they were", func() error {
		for i, m := range f.machines {
			if now := f.computerState(m); now != before[i] {
				return fmt.Errorf("%s is not as it was:\n%s", m.name, difference(before[i], now))
			}
		}
		return nil
	})
	if left, _ := filepath.Glob(f.path("state/hookbed/labs/*")); len(left) > 0 {
		f.t.Errorf("lab state left: %v", left)
	}
}

func (f *fleet) computerState(m *fleetMachine) string {
	out, _ := f.on(m, "sh", "-c", computerState).CombinedOutput() // grep finds nothing where nothing is left
	return string(out)
}

// imagesOn lists a computer's images with their inodes: what is copied again gets another.
func (f *fleet) imagesOn(m *fleetMachine) string {
	f.t.Helper()
	out, err := f.on(m, "sh", "-c", "cd /var/lib/hookbed/images && stat -c '%n %i %y %a' *").CombinedOutput()
	if err != nil {
		f.t.Fatalf("list images of %s: %v: %s", m.name, err, out)
	}
	return string(out)
}

// TestVMHypervisors: nodes on the libvirtds of two computers, one of whose logins
// is not root; the driver killed while machines boot and again while it measures.
// Nothing is left on either computer but the images, which are copied once.
func TestVMHypervisors(t *testing.T) {
	f := newComputers(t)
	f.write("h.toml", hypervisorsHead+twoComputers+hypervisorsTail)
	f.expectDriver(0, []string{"ok    root@198.18.101.2 login", "ok    lab@198.18.102.2 directory", "ok    lab@198.18.102.2 data bridge"}, "doctor", "h.toml")
	f.refusals()

	before := make([]string, len(f.machines))
	for i, m := range f.machines {
		if out, err := f.on(m, "sh", "-c", `mkdir -p /var/lib/hookbed/images && mkdir -p -m 711 /var/lib/hookbed/labs && chown --reference=/var/lib/hookbed /var/lib/hookbed/*`).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		before[i] = f.computerState(m)
	}

	// Killed while its machines boot: what has no owner any more goes at the next run.
	f.killRun("killed", func() error {
		for _, m := range f.machines {
			if err := f.on(m, "sh", "-c", `virsh --connect qemu:///system list --name | grep hookbed-`).Run(); err != nil {
				return fmt.Errorf("no machine on %s", m.name)
			}
		}
		return nil
	})
	was := []string{f.imagesOn(f.machines[0]), f.imagesOn(f.machines[1])}

	said := f.expectDriver(0, []string{"cleared what killed runs left on hypervisors: [r"}, "run", "h.toml", "--out", "run")
	t.Log(said)
	if seen, err := trialsIn(f.path("run/rows.csv")); err != nil || len(seen) != 2 {
		t.Errorf("%d trials, %v, want 2", len(seen), err)
	}
	f.computersClean(before)
	for i, m := range f.machines {
		if now := f.imagesOn(m); now != was[i] {
			t.Errorf("images of %s were copied again:\n%s", m.name, difference(was[i], now))
		}
	}
	env, err := os.ReadFile(f.path("run/env.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"hypervisors": {`, `"uri": "qemu+ssh://lab@198.18.102.2/system"`, `"libvirt": "`, `"data_bridge": "br-data"`, `"host_key": "ssh-ed25519 SHA256:`, `"guest=hookbed-r`} {
		if !strings.Contains(string(env), want) {
			t.Errorf("env.json lacks %s", want)
		}
	}

	// Killed while it measures: `driver down` does it.
	f.killRun("again", func() error {
		if trialsStarted(f.path("again/rows.csv")) < 1 {
			return errors.New("no trial is done")
		}
		return nil
	})
	f.expectDriver(0, []string{"taken down: r"}, "down")
	f.computersClean(before)
}

// killRun starts a run and kills its driver as soon as when has no error any more.
func (f *fleet) killRun(dir string, when func() error) {
	f.t.Helper()
	cmd, out := f.driver("run", "h.toml", "--out", dir)
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed
		close(ended)
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
	}()
	for limit := time.Now().Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := when()
		if err == nil {
			return
		}
		select {
		case <-ended:
			f.t.Fatalf("the run ended by itself: %v\n%s", err, out)
		default:
		}
		if time.Now().After(limit) {
			f.t.Fatalf("run %s: %v", dir, err)
		}
	}
}

// TestVMHypervisorUp is the interactive lab on another computer, as an ordinary
// user there, with a data network that the lab makes.
func TestVMHypervisorUp(t *testing.T) {
	f := newComputers(t)
	const one = "[[lab.hypervisor]]\nnodes = [\"node1\"]\nuri = \"qemu+ssh://lab@198.18.102.2/system\"\nkey = \"login\"\nknown_hosts = \"known_hosts\"\n"
	f.write("up.toml", hypervisorsHead+one+strings.Replace(hypervisorsTail, "multi-host", "localhost", 1))
	f.expectDriver(0, []string{"driver ssh node1"}, "up", "up.toml")
	f.expectDriver(0, []string{"node1 two words"}, "ssh", "node1", "--", "sh", "-c", `echo "$(uname -n) two words"`)
	f.expectDriver(7, nil, "ssh", "node1", "--", "sh", "-c", "exit 7")
	if err := os.Mkdir(f.path("elsewhere"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd, out := f.driver("down")
	cmd.Dir = f.path("elsewhere") // the key's path is relative to where the lab was brought up
	if err := cmd.Run(); err != nil {
		t.Errorf("driver down: %v\n%s", err, out)
	}
	if left := f.computerState(f.machines[1]); strings.Contains(left, "hookbed-") || strings.Contains(left, "qemu") {
		t.Errorf("left on the computer:\n%s", left)
	}
}

// refusals: what is wrong with a hypervisor is said with its fix, before anything boots.
func (f *fleet) refusals() {
	f.t.Helper()
	change := func(from, to string) {
		f.t.Helper()
		text := hypervisorsHead + strings.Replace(twoComputers, from, to, 1) + hypervisorsTail
		if !strings.Contains(text, to) {
			f.t.Fatalf("%q is not in the experiment", from)
		}
		f.write("bad.toml", text)
	}
	change("198.18.102.2", "198.18.102.2:2222")
	f.write("known_hosts.bad", "[198.18.102.2]:2222 "+newKey(f.t).AuthorizedKey+"\n")
	f.expectDriver(1, []string{"FAIL  lab@198.18.102.2:2222 login", "fix: compare the fingerprint that `ssh-keyscan -p 2222 198.18.102.2"}, "doctor", "bad.toml")
	known, err := os.ReadFile(f.path("known_hosts"))
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("known_hosts", string(known)+"[198.18.102.2]:2222 "+newKey(f.t).AuthorizedKey+"\n")
	f.expectDriver(1, []string{"FAIL  lab@198.18.102.2:2222 login", "SSH server answers at 198.18.102.2 port 2222"}, "doctor", "bad.toml")
	f.expectDriver(exitRig, []string{"reach hypervisor lab@198.18.102.2:2222", "connection refused"}, "run", "bad.toml", "--out", "bad")

	change(`"br-data"`, `"br-none"`)
	f.expectDriver(1, []string{"FAIL  root@198.18.101.2 data bridge", `there is no such bridge; make one there`}, "doctor", "bad.toml")
	f.expectDriver(exitRig, []string{`find data_bridge "br-none" on root@198.18.101.2`}, "run", "bad.toml", "--out", "bad")

	f.stopLibvirtd(f.machines[1])
	f.expectDriver(1, []string{"FAIL  lab@198.18.102.2 libvirt", "systemctl start libvirtd"}, "doctor", "h.toml")
	f.expectDriver(exitRig, []string{"use libvirt of lab@198.18.102.2", "systemctl start libvirtd"}, "run", "h.toml", "--out", "bad")
	f.startLibvirtd(f.machines[1])
	if left, _ := filepath.Glob(f.path("state/hookbed/labs/*")); len(left) > 0 {
		f.t.Errorf("lab state left: %v", left)
	}
}

// expectDriver runs the real driver in the hub and returns what it said.
func (f *fleet) expectDriver(exit int, want []string, args ...string) string {
	f.t.Helper()
	cmd, out := f.driver(args...)
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		f.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != exit {
		f.t.Fatalf("driver %s: exit code %s, want %d:\n%s", strings.Join(args, " "), strconv.Itoa(got), exit, out)
	}
	for _, text := range want {
		if !strings.Contains(out.String(), text) {
			f.t.Errorf("driver %s does not say %q:\n%s", strings.Join(args, " "), text, out)
		}
	}
	return out.String()
}
