package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"hookbed/driver/host"
)

// fleet is a hub, where the driver runs, and machines that it reaches by SSH:
// network, mount and PID namespaces with an sshd each, joined by a data link.
// Nothing of it has a name in the computer's own namespaces.
type fleet struct {
	t        *testing.T
	dir      string
	hub      netns.NsHandle
	machines []*fleetMachine
}

// oneShortTrial is how much is measured of each cell where it matters that it is,
// and not what comes out.
const oneShortTrial = `[measure]
blocks = 1
trials = 1
duration = "1s"
warmup = "0s"
client_cpu = 1
server_cpu = 1
`

// plainUser may log in to the machines of a fleet, and sudo.
const plainUser = "plain"

type fleetMachine struct {
	name string
	net  netns.NsHandle
	init *exec.Cmd // first process of its PID namespace
	pid  int       // of that process, seen from here
}

// Addresses in the fleet are of the block for benchmarks. The hub has .1 and a
// machine .2 on their own management link; the data NIC has addresses, routes and
// settings that somebody wants back.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make network namespaces: run them as root")
	}
	f := &fleet{t: t, dir: t.TempDir(), hub: newNetns(t)}
	login := newKey(t)
	known := ""
	f.write("login", string(login.PrivatePEM))
	for i := 1; i <= 2; i++ {
		m := &fleetMachine{name: fmt.Sprintf("node%d", i), net: newNetns(t)}
		f.machines = append(f.machines, m)
		// Addresses are as they stay from the beginning.
		if out, err := f.in(m.net, "sh", "-c", "for c in all default; do echo 0 >/proc/sys/net/ipv6/conf/$c/accept_dad; done").CombinedOutput(); err != nil {
			t.Fatalf("switch duplicate address detection off: %v: %s", err, out)
		}
		joinNetns(t, f.hub, fmt.Sprintf("m%d", i), m.net, "eth0")
		f.ip(f.hub, "address add 198.18.10%d.1/24 dev m%d", i, i)
		f.ip(f.hub, "link set m%d up", i)
		f.ip(m.net, "address add 198.18.10%d.2/24 dev eth0", i)
		f.ip(m.net, "link set eth0 up")
		f.ip(m.net, "route add default via 198.18.10%d.1", i)
		known += fmt.Sprintf("198.18.10%d.2 %s\n", i, f.sshServer(m))
	}
	f.copyCore()
	f.addUser()
	f.write("authorized_keys", login.AuthorizedKey+"\n")
	f.mode("authorized_keys", 0o644) // sshd reads it as the one who logs in
	f.write("known_hosts", known)
	joinNetns(t, f.machines[0].net, "eth1", f.machines[1].net, "eth1")
	for i, m := range f.machines {
		f.ip(m.net, "address add 198.18.200.%d/24 dev eth1", i+1)
		f.ip(m.net, "address add 198.18.202.%d/32 dev eth1 label eth1:x", i+1)
		f.ip(m.net, "address add 2001:2:0:200::%d/64 dev eth1 nodad", i+1)
		f.ip(m.net, "link set eth1 mtu 1480 up")
	}
	for i, m := range f.machines {
		f.ip(m.net, "route add 198.18.201.0/24 via 198.18.200.%d metric 77 mtu 1300", 2-i)
		f.ip(m.net, "route add 198.18.203.0/24 via 198.18.200.%d table 99", 2-i)
		f.ip(m.net, "-6 route add 2001:2:0:201::/64 via 2001:2:0:200::%d", 2-i)
		f.ip(m.net, "neigh add 198.18.200.99 lladdr 02:00:00:00:00:99 dev eth1 nud permanent")
	}
	for _, m := range f.machines {
		f.boot(m)
	}
	for _, m := range f.machines {
		eventually(t, "links of "+m.name+" are up", func() error {
			out, err := f.on(m, "ip", "-6", "address", "show", "scope", "link").Output()
			if err == nil && strings.Count(string(out), "inet6 fe80") < 2 {
				err = fmt.Errorf("addresses %s", out)
			}
			return err
		})
	}
	return f
}

// sshServer writes what a machine's sshd needs, and returns its host key.
func (f *fleet) sshServer(m *fleetMachine) (authorizedKey string) {
	key := newKey(f.t)
	f.write(m.name+".host_key", string(key.PrivatePEM))
	f.write(m.name+".sshd_config", strings.Join([]string{
		"ListenAddress 0.0.0.0", "Port 22", "PidFile none", "UsePAM no", "StrictModes no", "UseDNS no",
		"PermitRootLogin yes", "PasswordAuthentication no", "LogLevel ERROR", "HostKey /mnt/" + m.name + ".host_key",
		"AuthorizedKeysFile /mnt/authorized_keys", "Subsystem sftp internal-sftp", "",
	}, "\n"))
	return key.AuthorizedKey
}

// addUser gives the machines a user who is not root and may sudo without a password.
func (f *fleet) addUser() {
	f.t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("passwd", strings.TrimSuffix(string(passwd), "\n")+"\n"+plainUser+":x:4242:4242::/tmp:/bin/sh\n")
	f.write("shadow", "root:*:20000:0:99999:7:::\n"+plainUser+":*:20000:0:99999:7:::\n")
	f.write("sudoers", "root ALL=(ALL) NOPASSWD: ALL\n"+plainUser+" ALL=(ALL) NOPASSWD: ALL\n")
	f.mode("passwd", 0o644)
	f.mode("sudoers", 0o440)
}

func (f *fleet) mode(name string, mode os.FileMode) {
	f.t.Helper()
	if err := os.Chmod(f.path(name), mode); err != nil {
		f.t.Fatal(err)
	}
}

// copyCore copies the sysctls of net.core. Some, as those of the JIT compiler,
// the kernel shows in the computer's first network namespace only, which no
// machine here is.
func (f *fleet) copyCore() {
	f.t.Helper()
	if err := os.Mkdir(f.path("core"), 0o755); err != nil {
		f.t.Fatal(err)
	}
	files, err := filepath.Glob("/proc/sys/net/core/*")
	if err != nil || len(files) == 0 {
		f.t.Fatal("no sysctls of net.core", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.t.Fatal(err)
		}
		f.write(filepath.Join("core", filepath.Base(file)), string(data))
	}
}

func newKey(t *testing.T) host.Key {
	t.Helper()
	key, err := host.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newNetns makes a network namespace that lives as long as the test.
func newNetns(t *testing.T) netns.NsHandle {
	t.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in its namespace
		ns := netns.None()
		if unix.Unshare(unix.CLONE_NEWNET) == nil {
			ns, _ = netns.Get()
		}
		made <- ns
	}()
	ns := <-made
	if !ns.IsOpen() {
		t.Fatal("cannot make a network namespace")
	}
	t.Cleanup(func() { ns.Close() })
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// joinNetns makes a veth pair between two namespaces, in neither of which it was before.
func joinNetns(t *testing.T, a netns.NsHandle, nameA string, b netns.NsHandle, nameB string) {
	t.Helper()
	h, err := netlink.NewHandleAt(a)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumTxQueues, attrs.NumRxQueues = nameA, 2, 2
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = nameB, netlink.NsFd(b)
	if err := h.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fleet) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// in is a command in a network namespace.
func (f *fleet) in(ns netns.NsHandle, argv ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(ns)), "--"}, argv...)...)
	cmd.Dir = f.dir
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+f.path("state"))
	return cmd
}

func (f *fleet) ip(ns netns.NsHandle, format string, args ...any) {
	f.t.Helper()
	argv := append([]string{"ip"}, strings.Fields(fmt.Sprintf(format, args...))...)
	if out, err := f.in(ns, argv...).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// machineInit is the first process of a machine: a /run, a /var/lib and a bpffs
// of its own, settings of its NIC, and sshd. What other tests have mounted meanwhile would
// vanish later, and look like a change.
const machineInit = `set -e
findmnt -rn -o TARGET | grep "^${1%/*/*}/" | sort -r | while read -r m; do umount -l "$m" || true; done
mount --bind "$1" /mnt; mount --bind "$1/core" /proc/sys/net/core
mount -t tmpfs run /run; mkdir /run/sshd; mount -t tmpfs lib /var/lib; mount -t tmpfs tmp /tmp
for f in passwd shadow sudoers; do mount --bind "/mnt/$f" "/etc/$f"; done
mount -t sysfs sysfs /sys; mount -t bpf bpf /sys/fs/bpf; mount --bind /dev/null /root/.bashrc 2>/dev/null || true
echo 2 >/proc/sys/net/ipv4/conf/eth1/rp_filter; echo 7 >/proc/sys/net/ipv4/neigh/eth1/ucast_solicit; echo 0 >/proc/sys/net/ipv4/ip_forward
iptables-nft -A INPUT -p tcp --dport 9 -j DROP; iptables-legacy -A INPUT -p udp --dport 9 -j DROP
exec tini -- /usr/sbin/sshd -D -e -f "/mnt/$2.sshd_config"`

func (f *fleet) boot(m *fleetMachine) {
	f.t.Helper()
	f.bootWith(m, machineInit)
}

// bootWith starts a machine and waits until its sshd listens.
func (f *fleet) bootWith(m *fleetMachine, init string) {
	f.t.Helper()
	var said bytes.Buffer
	m.init = f.in(m.net, "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", init, "machine", f.dir, m.name)
	m.init.Stdout, m.init.Stderr = &said, &said
	m.init.WaitDelay = time.Second
	if err := m.init.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = m.init.Process.Kill()
		_ = m.init.Wait()
		m.awaitEnd()
		if f.t.Failed() {
			f.t.Logf("%s said:\n%s", m.name, said.String())
		}
	})
	eventually(f.t, m.name+" listens", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.init.Process.Pid, m.init.Process.Pid))
		if err != nil {
			return err
		}
		if m.pid, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
			return err
		}
		out, err := f.on(m, "ss", "-Hltn", "sport", "=", ":22").CombinedOutput()
		if err == nil && len(out) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
}

// awaitEnd waits until the first process of a machine's PID namespace is gone, which
// the kernel kills with its parent; all others are gone before it.
func (m *fleetMachine) awaitEnd() {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if m.pid == 0 || unix.Kill(m.pid, 0) != nil {
			return
		}
	}
}

// on is a command on a machine.
func (f *fleet) on(m *fleetMachine, argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.pid), "--mount", "--net", "--pid", "--"}, argv...)...)
}

// machineSnapshot is what a run could leave on a machine.
const machineSnapshot = `exec 2>&1
ip -d address; ip -6 route show table all; ip route show table all; ip neigh show nud permanent; ip rule; ip netns
tc qdisc show; for l in eth0 eth1; do tc filter show dev $l ingress; bpftool net 2>/dev/null || true; done
nft list ruleset; iptables-legacy-save | sed -e '/^#/d' -e 's/\[[0-9:]*\]//'; iptables-nft-save | grep -v '^#'; ipset list
grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 2>/dev/null | grep -v -e stable_secret -e route/ -e fs_ -e random -e /neigh/.*base_reach
find /sys/fs/bpf /var/lib /run /tmp -newermt @0; cat /var/lib/hookbed/nic.error 2>/dev/null; findmnt -rn -o TARGET,FSTYPE`

// snapshot is what is on a machine now: lines, sorted, because the kernel tells
// links in an order that moving one changes.
func (f *fleet) snapshot(m *fleetMachine) string {
	f.t.Helper()
	out, err := f.on(m, "sh", "-c", machineSnapshot).CombinedOutput()
	if err != nil {
		f.t.Fatalf("look at %s: %v: %s", m.name, err, out)
	}
	lines := strings.Split(string(out), "\n")
	for _, p := range descendants(f.t, m.pid) {
		if !strings.HasPrefix(p, "sshd") { // of an abandoned session it ends with TCP's patience
			lines = append(lines, "process "+p)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// descendants are the names of the processes below one.
func descendants(t *testing.T, pid int) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	parents, names := map[string]string{}, map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		id, rest, _ := strings.Cut(string(data), " (")
		name, rest, _ := strings.Cut(rest, ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parents[id], names[id] = f[1], name
		}
	}
	var out []string
	for id := range parents {
		for up, depth := parents[id], 0; up != "" && depth < 100; up, depth = parents[up], depth+1 {
			if up == strconv.Itoa(pid) {
				out = append(out, names[id])
			}
		}
	}
	return out
}

func (f *fleet) snapshots() []string {
	var out []string
	for _, m := range f.machines {
		out = append(out, f.snapshot(m))
	}
	return out
}

// expectAsBefore waits until the machines are as they were.
func (f *fleet) expectAsBefore(before []string) {
	f.t.Helper()
	eventually(f.t, "the machines are as they were", func() error {
		for i, now := range f.snapshots() {
			if now != before[i] {
				return fmt.Errorf("%s is not as it was:\n%s", f.machines[i].name, difference(before[i], now))
			}
		}
		return nil
	})
}

// difference lists the lines that only one of two texts has.
func difference(a, b string) string {
	count := map[string]int{}
	for _, l := range strings.Split(a, "\n") {
		count[l]++
	}
	for _, l := range strings.Split(b, "\n") {
		count[l]--
	}
	var out strings.Builder
	for _, text := range []string{a, b} {
		for _, l := range strings.Split(text, "\n") {
			switch n := count[l]; {
			case n > 0:
				fmt.Fprintf(&out, "- %s\n", l)
			case n < 0:
				fmt.Fprintf(&out, "+ %s\n", l)
			}
			count[l] = 0
		}
	}
	return out.String()
}

// patience only ends a test that hangs: a busy computer may take long for anything.
const patience = 5 * time.Minute

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s it is not so that %s: %v", patience, what, err)
		}
	}
}

const fleetExperiment = `schema = 1
name = "machines"
seed = 5
[lab]
provider = "ssh"
abandon_after = "2m"
[[lab.machine]]
name = "node1"
host = "198.18.101.2"
key = "login"
known_hosts = "known_hosts"
data = "eth1"
[[lab.machine]]
name = "node2"
host = "198.18.102.2"
key = "login"
known_hosts = "known_hosts"
data = "eth1"
[measure]
blocks = 1
trials = 1
duration = "1s"
warmup = "0s"
client_cpu = 0
server_cpu = 0
[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_STREAM", "TCP_RR"]
policies = [5]
[[arm]]
name = "docker"
datapath = "docker"
[[arm]]
name = "iptables-forward"
datapath = "iptables"
placement = "forward"
[[arm]]
name = "cilium-like"
datapath = "cilium-like"
[[arm]]
name = "xdp"
datapath = "xdp"
`

const fleetTrials = 16

// driver is the real driver, in the hub.
func (f *fleet) driver(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := f.in(f.hub, append([]string{filepath.Join(binaries, "driver")}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// TestMachinesRun measures between two machines that are there already, one
// through root's login and one through that of a user who may sudo, and leaves
// them as they were.
func TestMachinesRun(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.write("machines.toml", strings.Replace(fleetExperiment, "host = \"198.18.102.2\"\n", "host = \"198.18.102.2\"\nuser = \""+plainUser+"\"\n", 1))
	before := f.snapshots()
	cmd, out := f.driver("run", "machines.toml", "--out", "run")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen, err := trialsIn(f.path("run/rows.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != fleetTrials {
		t.Errorf("%d trials, want %d\n%s", len(seen), fleetTrials, out)
	}
	f.expectAsBefore(before) // a link takes a moment to see its other end
	env, err := os.ReadFile(f.path("run/env.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"provider": "ssh"`, `"data_nic": "eth1"`, `"host_key": "ssh-ed25519 SHA256:`, `"link.data0.mtu": "1480"`} {
		if !strings.Contains(string(env), want) {
			t.Errorf("env.json lacks %s", want)
		}
	}
}

// killSessions kills the processes of a machine's SSH sessions, not its listener. One of
// them may end by the death of another before its turn.
func (f *fleet) killSessions(m *fleetMachine) {
	f.t.Helper()
	const script = `for p in /proc/[0-9]*; do
	case "$(tr '\0' ' ' <$p/cmdline)" in
	*listener*) ;;
	"sshd: "*) kill -9 ${p#/proc/} && echo killed ;;
	esac
done 2>/dev/null; :`
	out, err := f.on(m, "sh", "-c", script).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "killed") {
		f.t.Fatalf("kill sessions of %s: %v: %s", m.name, err, out)
	}
}

// TestMachinesAbandoned: whatever becomes of the driver or the way to it, the
// machines undo everything by themselves.
func TestMachinesAbandoned(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		cut   func(f *fleet, driver *exec.Cmd)
		after func(f *fleet, driver *exec.Cmd)
	}{
		{"killed", func(_ *fleet, d *exec.Cmd) { _ = d.Process.Kill() }, nil},
		{"stopped", func(_ *fleet, d *exec.Cmd) { _ = d.Process.Signal(syscall.SIGSTOP) },
			func(_ *fleet, d *exec.Cmd) { _ = d.Process.Kill() }},
		{"link cut", func(f *fleet, _ *exec.Cmd) {
			for _, chain := range []string{"INPUT", "OUTPUT"} {
				if out, err := f.in(f.hub, "iptables-nft", "-A", chain, "-j", "DROP").CombinedOutput(); err != nil {
					f.t.Fatalf("cut the way to the machines: %v: %s", err, out)
				}
			}
		},
			func(_ *fleet, d *exec.Cmd) { _ = d.Process.Kill() }},
		{"sshd killed", func(f *fleet, d *exec.Cmd) {
			_ = d.Process.Signal(syscall.SIGSTOP) // it would log in anew and try again
			for _, m := range f.machines {
				f.killSessions(m)
			}
		}, func(_ *fleet, d *exec.Cmd) { _ = d.Process.Kill() }},
		{"interrupted", func(_ *fleet, d *exec.Cmd) { _ = d.Process.Signal(syscall.SIGINT) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			// The workload outlasts what is waited for, and a busy driver's signs of life
			// come in time.
			text := strings.NewReplacer(`duration = "1s"`, `duration = "30m"`, `abandon_after = "2m"`, `abandon_after = "15s"`).Replace(fleetExperiment)
			f.write("machines.toml", strings.Replace(text, `"localhost", `, "", 1))
			before := f.snapshots()
			cmd, out := f.driver("run", "machines.toml", "--out", "run")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = cmd.Wait() // how it ended is each case's own matter
				close(ended)
			}()
			eventually(t, "the workload runs", func() error {
				for _, m := range f.machines {
					if f.on(m, "ip", "link", "show", "eth1").Run() == nil {
						return errors.New("the NIC is not borrowed")
					}
				}
				return f.on(f.machines[0], "sh", "-c", "cat /proc/[0-9]*/comm | grep -q -e '^iperf3' -e '^netperf'").Run()
			})
			start := time.Now()
			tt.cut(f, cmd)
			f.expectAsBefore(before)
			t.Logf("as before after %s", time.Since(start).Round(100*time.Millisecond))
			if tt.after != nil {
				tt.after(f, cmd)
			}
			select {
			case <-ended:
			case <-time.After(patience):
				_ = cmd.Process.Kill()
				t.Errorf("the driver does not end:\n%s", out)
			}
		})
	}
}

// TestMachinesDoctor: what is wrong with a machine is said with its fix, and
// looking leaves nothing there.
func TestMachinesDoctor(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.write("machines.toml", fleetExperiment)
	f.write("empty", "")
	stranger := newKey(t)
	f.write("stranger", string(stranger.PrivatePEM))
	f.write("wrong_hosts", "198.18.101.2 "+stranger.AuthorizedKey+"\n")
	before := f.snapshots()
	for _, tt := range []struct {
		name, from, to string
		exit           int
		want           []string
	}{
		{"good", "", "", 0, []string{"ok    node1 login", "ok    node2 data NIC", "can run docker, iptables-forward, cilium-like, xdp", "ok    data link", "ok    measure"}},
		{"no such CPU", "server_cpu = 0", "server_cpu = 1023", 1, []string{"FAIL  measure", "node1: measure.server_cpu: 1023 is not a CPU that programs can be pinned to on its machine, want 0", "node2: measure.server_cpu: 1023"}},
		{"unknown host", `"known_hosts"`, `"empty"`, 1, []string{"FAIL  node1 login", "has no line for 198.18.101.2", "fix: compare the fingerprint", "ssh-keyscan -p 22 198.18.101.2"}},
		{"other host key", `"known_hosts"`, `"wrong_hosts"`, 1, []string{"presents host key ssh-ed25519", "fix: find out why the machine has another key"}},
		{"other login", `"login"`, `"stranger"`, 1, []string{"is refused for user root", "fix: add the public half of stranger to ~root/.ssh/authorized_keys"}},
		{"nobody there", `"198.18.101.2"`, `"198.18.101.1"`, 1, []string{"fix: ", "198.18.101.1"}},
		{"management NIC", `"eth1"`, `"eth0"`, 1, []string{"eth0 cannot be borrowed: it carries the SSH connection (address 198.18.101.2)", "fix: give data a NIC"}},
		{"no such NIC", `"eth1"`, `"eth7"`, 1, []string{"there is no eth7, but eth0 eth1"}},
		{"no such directory", `abandon_after = "2m"`, `directory = "/proc/none"`, 1, []string{"fix: give lab.directory a place"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.write("doctor.toml", strings.Replace(fleetExperiment, tt.from, tt.to, 1))
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
	f.expectAsBefore(before)
}

// TestMachinesWithoutWhatTrialsNeed: the run ends before its first trial, blames the
// key and not the rig, and leaves the machines as they were.
func TestMachinesWithoutWhatTrialsNeed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	before := f.snapshots()
	f.write("machines.toml", strings.Replace(fleetExperiment, "client_cpu = 0", "client_cpu = 1023", 1))
	cmd, out := f.driver("run", "machines.toml", "--out", "run")
	_ = cmd.Run()
	said := out.String()
	if got := cmd.ProcessState.ExitCode(); got != exitUsage || !strings.Contains(said, "node1: measure.client_cpu: 1023 is not a CPU that programs can be pinned to on its machine, want 0") || strings.Contains(said, "rig fault") {
		t.Errorf("exit code %d, want %d and the key:\n%s", got, exitUsage, said)
	}
	if _, err := os.Stat(f.path("run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a run directory without a trial is left: %v", err)
	}
	f.expectAsBefore(before)
}

// TestMachinesRefused: a run never takes the NIC that the connection is on.
func TestMachinesRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	before := f.snapshots()
	f.write("machines.toml", strings.Replace(fleetExperiment, `"eth1"`, `"eth0"`, 1))
	cmd, out := f.driver("run", "machines.toml", "--out", "run")
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != exitRig || !strings.Contains(out.String(), "it carries the SSH connection") {
		t.Errorf("exit code %d, want %d and a reason:\n%s", got, exitRig, out)
	}
	f.expectAsBefore(before)
}
