package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netns"

	"hookbed/driver/lab"
	"hookbed/driver/plan"
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
` + oneShortTrial + `[matrix]
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
		known += fmt.Sprintf("198.18.10%d.2 %s\n", i, f.sshServer(m))
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
// directories of its own, with the mode that the distribution gives them, a user who is not root,
// and sshd. It cannot virtualise, and nothing that bridges carry is filtered.
const computerInit = `set -e
mode=$(stat -c %a /var/lib/libvirt/qemu)
mount --bind "$1" /mnt
mount -t tmpfs run /run; mkdir /run/sshd; mount -t tmpfs lib /var/lib; mount -t sysfs sysfs /sys
mkdir -p /var/lib/libvirt/images /var/lib/libvirt/dnsmasq /var/lib/hookbed; mkdir -m "$mode" /var/lib/libvirt/qemu
mount --bind "/mnt/$2" /var/lib/hookbed
mount -t tmpfs log /var/log; mkdir -p /var/log/libvirt/qemu
mount -t tmpfs cache /var/cache/libvirt; mount -t tmpfs etc /etc/libvirt
mount --bind /mnt/passwd /etc/passwd; mount --bind /mnt/group /etc/group
mount --bind /dev/null /root/.bashrc 2>/dev/null || true; [ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm
for switch in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$switch" ] || echo 0 >"$switch"; done
printf '%s\n' 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' 'unix_sock_group = "hookbed-libvirt"' 'unix_sock_rw_perms = "0770"' >/etc/libvirt/libvirtd.conf
printf '%s\n' 'security_driver = "none"' 'cgroup_controllers = []' 'namespaces = []' 'stdio_handler = "file"' >/etc/libvirt/qemu.conf
exec tini -- /usr/sbin/sshd -D -e -f "/mnt/$2.sshd_config"`

func (f *fleet) startLibvirtd(m *fleetMachine) {
	f.t.Helper()
	if out, err := f.on(m, "libvirtd", "--daemon").CombinedOutput(); err != nil {
		f.t.Fatalf("start libvirtd of %s: %v: %s", m.name, err, out)
	}
	eventually(f.t, "libvirtd of "+m.name+" answers", func() error {
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
	if out, err := f.on(m, "timeout", "300", "sh", "-c", script).CombinedOutput(); err != nil {
		f.t.Fatalf("stop libvirtd of %s: %v: %s", m.name, err, out)
	}
}

// TestHypervisorsDoctor: what is wrong with a hypervisor is said with its fix, and
// looking leaves nothing there.
func TestHypervisorsDoctor(t *testing.T) {
	t.Parallel()
	f := newComputers(t)
	text := hypervisorsHead + twoComputers + hypervisorsTail
	f.write("empty", "")
	f.write("stranger", string(newKey(t).PrivatePEM))
	known, err := os.ReadFile(f.path("known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("known_hosts", string(known)+"[198.18.102.2]:2222 "+newKey(t).AuthorizedKey+"\n")
	one, two := f.machines[0], f.machines[1]
	run := func(m *fleetMachine, script string) func() {
		return func() {
			t.Helper()
			if out, err := f.on(m, "sh", "-c", script).CombinedOutput(); err != nil {
				t.Fatalf("%s on %s: %v: %s", script, m.name, err, out)
			}
		}
	}
	good := func() {}
	for _, tt := range []struct {
		name, from, to string
		before, after  func()
		exit           int
		want           []string
	}{
		{"good", "", "", good, good, 0, []string{
			"ok    root@198.18.101.2 login", "ok    root@198.18.101.2 libvirt", "ok    lab@198.18.102.2 libvirt", ", QEMU ", "ok    lab@198.18.102.2 accelerator tcg",
			"ok    lab@198.18.102.2 forwarding", "ok    lab@198.18.102.2 directory", "ok    lab@198.18.102.2 bridged frames", `ok    root@198.18.101.2 data bridge br-data, with the ports ["eth1"]`}},
		{"unknown host", `"known_hosts"`, `"empty"`, good, good, 1, []string{"FAIL  root@198.18.101.2 login", "fix: compare the fingerprint that `ssh-keyscan -p 22 198.18.101.2"}},
		{"other login", `"login"`, `"stranger"`, good, good, 1, []string{"is refused for user root", "fix: add the public half"}},
		{"nobody there", "198.18.102.2", "198.18.102.2:2222", good, good, 1, []string{"FAIL  lab@198.18.102.2:2222 login", "its SSH server answers at 198.18.102.2 port 2222"}},
		{"no such bridge", `"br-data"`, `"br-none"`, good, good, 1, []string{"FAIL  root@198.18.101.2 data bridge", `find data_bridge "br-none" on root@198.18.101.2: there is no such bridge; make one there`}},
		{"MTU", "[[lab", "mtu = 1400\n[[lab", good, good, 1, []string{`data_bridge "br-data" on root@198.18.101.2 has an MTU of 1500 bytes, and the data NIC of the experiment 1400`}},
		{"no KVM", `"tcg"`, `"kvm"`, good, good, 1, []string{"FAIL  root@198.18.101.2 accelerator", "libvirt offers no kvm"}},
		{"not the user's directory", "", "", run(two, "chown root /var/lib/hookbed"), run(two, "chown lab /var/lib/hookbed"), 1, []string{"FAIL  lab@198.18.102.2 directory", "install -d -o lab /var/lib/hookbed"}},
		{"firewall", "", "", run(one, "modprobe br_netfilter 2>/dev/null; echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables"), run(one, "echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables"), 1,
			[]string{"FAIL  root@198.18.101.2 bridged frames", "sysctl -w net.bridge.bridge-nf-call-iptables=0"}},
		{"not in the group", "", "", run(two, "chgrp 0 /run/libvirt/libvirt-sock"), run(two, "chgrp 4243 /run/libvirt/libvirt-sock"), 1, []string{"FAIL  lab@198.18.102.2 libvirt", "one of group libvirt"}},
		{"no libvirtd", "", "", func() { f.stopLibvirtd(two) }, func() { f.startLibvirtd(two) }, 1, []string{"FAIL  lab@198.18.102.2 libvirt", "systemctl start libvirtd"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.write("doctor.toml", strings.Replace(text, tt.from, tt.to, 1))
			tt.before()
			defer tt.after()
			cmd, out := f.driver("doctor", "doctor.toml")
			_ = cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != tt.exit {
				t.Errorf("exit code %d, want %d", got, tt.exit)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("doctor does not say %q:\n%s", want, out)
				}
			}
		})
	}
	for _, m := range f.machines {
		if out, err := f.on(m, "find", "/var/lib/hookbed", "-mindepth", "1").CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("left in the directory of %s: %s, %v", m.name, out, err)
		}
	}
}

// TestHypervisorProxy logs in to a node that only its hypervisor reaches: here it is
// the other computer, on the network of their bridges.
func TestHypervisorProxy(t *testing.T) {
	t.Parallel()
	f := newComputers(t)
	for i, m := range f.machines {
		f.ip(m.net, "address add 198.18.200.%d/24 dev br-data", i+1)
	}
	known, err := os.ReadFile(f.path("known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("known_nodes", strings.Replace(string(known), "198.18.101.2", "198.18.200.1", 1))
	state, err := json.Marshal(lab.State{Name: "up", Provider: plan.ProviderLibvirt, Detached: true, Key: f.path("login"), Known: f.path("known_nodes"),
		Nodes:       []lab.StateNode{{Name: "node1", Addr: "198.18.200.1"}},
		Hypervisors: []plan.Hypervisor{{Nodes: []string{"node1"}, Host: "198.18.102.2", Port: 22, User: "lab", Key: f.path("login"), KnownHosts: f.path("known_hosts")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(f.path("state/hookbed/labs/up"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.write("state/hookbed/labs/up/lab.json", string(state))
	cmd, out := f.driver("ssh", "node1", "--", "sh", "-c", `echo "two words as $(id -un) from $SSH_CLIENT"; exit 7`)
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != 7 || !strings.Contains(out.String(), "two words as root from 198.18.200.2 ") {
		t.Errorf("exit code %d, want the command's 7, and a login as root from the hypervisor:\n%s", got, out)
	}
}
