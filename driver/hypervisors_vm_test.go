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
	"syscall"
	"testing"

	"hookbed/driver/marker"
)

// computerState is what a lab could leave on a computer. Images stay; what $1 says
// stays where the login is not root's, for libvirt keeps it.
const computerState = `exec 2>&1
virsh --connect qemu:///system list --all --name; virsh --connect qemu:///system net-list --all --name
ip -br link | cut -d' ' -f1; ip address show; ip route; bridge link | cut -d' ' -f2; iptables-save | grep -e hb -e 198.18; nft list ruleset | grep -e hb[dm]- -e 198.18
find /var/lib/hookbed -type d; find /var/lib/hookbed -type f -not -path '/var/lib/hookbed/images/*'; find /var/lib/hookbed/images -name '.*'
find /run /var/lib/libvirt /var/log /etc/libvirt -name '*hookbed-*' -o -name 'hb[dm]-*' | grep -v -e "$1"
for p in /proc/[0-9]*; do cat $p/comm; done | grep -e qemu -e dnsmasq`

// computersClean waits until the computers have nothing of a lab.
func (f *fleet) computersClean(before []string) {
	f.t.Helper()
	eventually(f.t, "the computers are as they were", func() error {
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
	stays := "^$"
	if m.name == "node2" {
		stays = `^/var/log/libvirt/qemu/hookbed-.*[.]log$\|^/run/libvirt/network/hookbed-`
	}
	out, _ := f.on(m, "sh", "-c", computerState, "sh", stays).CombinedOutput() // grep finds nothing where nothing is left
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
// is not root; the driver cut off and killed while machines boot, and killed while it measures.
// Nothing is left on either computer but the images, which are copied once.
func TestVMHypervisors(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	f := newComputers(t)
	f.write("h.toml", hypervisorsHead+twoComputers+hypervisorsTail)
	f.refusals()

	before := make([]string, len(f.machines))
	for i, m := range f.machines {
		// As a lab leaves it.
		const used = `mkdir -p /var/lib/hookbed/images && mkdir -p -m 711 /var/lib/hookbed/labs && printf '%s' "$1" >/var/lib/hookbed/.hookbed &&
chmod 644 /var/lib/hookbed/.hookbed && chown --reference=/var/lib/hookbed /var/lib/hookbed/* /var/lib/hookbed/.hookbed`
		if out, err := f.on(m, "sh", "-c", used, "sh", marker.New("r1", "anna").Text()).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		eventually(t, "libvirt has asked QEMU what it can do, and addresses are as they stay", func() error {
			if before[i] = f.computerState(m); strings.Contains(before[i], "qemu-system") || strings.Contains(before[i], "tentative") {
				return errors.New(before[i])
			}
			return nil
		})
	}

	// Cut off while its machines boot: it takes them down by another connection.
	machines := func() error {
		for _, m := range f.machines {
			if err := f.on(m, "sh", "-c", `virsh --connect qemu:///system list --name | grep hookbed-`).Run(); err != nil {
				return fmt.Errorf("no machine on %s", m.name)
			}
		}
		return nil
	}
	cut := f.startRun("cut", machines)
	f.filesAreTheirs()
	f.killSessions(f.machines[0])
	if <-cut.ended; cut.cmd.ProcessState.ExitCode() != exitRig {
		t.Errorf("exit code %d of a run whose connection was cut, want %d:\n%s", cut.cmd.ProcessState.ExitCode(), exitRig, cut.out)
	}
	f.computersClean(before)

	// Killed while its machines boot: what has no owner any more goes at the next run.
	f.startRun("killed", machines).kill()
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
	f.startRun("again", func() error {
		if trialsStarted(f.path("again/rows.csv")) < 1 {
			return errors.New("no trial is done")
		}
		return nil
	}).kill()
	f.expectDriver(0, []string{"taken down: r"}, "down", "--all")
	f.computersClean(before)
}

// ofMachines prints owner and mode of the files of labs, and of a machine's QEMU what pattern $1 finds
// in its status (proc_pid_status(5)).
const ofMachines = `cd /var/lib/hookbed/labs && find . -mindepth 1 -not -name .hookbed -printf '%y %m %U %f\n' | sort | sed 's/ r[0-9]*-[0-9a-f]*$/ LAB/'
for p in /proc/[0-9]*; do
	if grep -q ^qemu-system "$p/comm" 2>/dev/null && grep -q -a guest=hookbed- "$p/cmdline"; then grep -E "^($1):" "$p/status" | tr '\t' ' '; fi
done`

// filesAreTheirs: a machine's own file, which has keys, is for QEMU's user alone. That is libvirt's own
// where the login is root's, else who logs in. QEMU has no capabilities, and gets at what libvirt has
// for it.
func (f *fleet) filesAreTheirs() {
	f.t.Helper()
	st, err := os.Stat("/var/lib/libvirt/qemu")
	if err != nil {
		f.t.Fatal(err)
	}
	own, ok := st.Sys().(*syscall.Stat_t)
	if !ok || own.Uid == 0 {
		f.t.Fatal("this computer's libvirt has no user of its own for QEMU")
	}
	gid, groups := 4242, "4242 4243 "
	if st.Mode()&1 == 0 {
		gid, groups = int(own.Gid), fmt.Sprint(groups, own.Gid, " ")
	}
	for i, want := range []string{
		fmt.Sprintf("d 710 0 LAB\nf 600 %[1]d node1.config\nf 644 0 node1.console\nUid: %[1]d %[1]d %[1]d %[1]d\nGid: %[2]d %[2]d %[2]d %[2]d\n", own.Uid, own.Gid),
		fmt.Sprintf("d 700 4242 LAB\nf 600 4242 node2.config\nf 644 0 node2.console\nUid: 4242 4242 4242 4242\nGid: %[1]d %[1]d %[1]d %[1]d\nGroups: %[2]s\n", gid, groups),
	} {
		m, status := f.machines[i], "Uid|Gid|CapPrm|CapEff"
		if i == 1 {
			status += "|Groups"
		}
		want += fmt.Sprintf("CapPrm: %016[1]x\nCapEff: %016[1]x\n", 0)
		seen := ""
		eventually(f.t, "a machine runs on "+m.name, func() error {
			out, err := f.on(m, "sh", "-c", ofMachines, "sh", status).CombinedOutput()
			if err == nil && string(out) != want {
				if len(out) >= len(seen) {
					seen = string(out)
				}
				err = fmt.Errorf("%s\nwant %s", seen, want)
			}
			return err
		})
	}
}

// startRun starts a run and returns when reached has no error any more.
func (f *fleet) startRun(dir string, reached func() error) *drivenRun {
	f.t.Helper()
	cmd, out := f.driver("run", "h.toml", "--out", dir)
	r := startDriver(f.t, cmd, out)
	r.until(f.t, reached)
	return r
}

// TestVMHypervisorUp is the interactive lab on another computer, as an ordinary
// user there, with a data network that the lab makes.
func TestVMHypervisorUp(t *testing.T) {
	t.Parallel()
	if !apart(t) {
		return
	}
	f := newComputers(t)
	const one = "[[lab.hypervisor]]\nnodes = [\"node1\"]\nuri = \"qemu+ssh://lab@198.18.102.2/system\"\nkey = \"login\"\nknown_hosts = \"known_hosts\"\n"
	f.write("up.toml", hypervisorsHead+one+strings.Replace(hypervisorsTail, "multi-host", "localhost", 1))
	f.expectDriver(0, []string{"driver ssh node1"}, "up", "up.toml")
	f.expectDriver(0, []string{"node1 two words"}, "ssh", "node1", "--", "sh", "-c", `echo "$(uname -n) two words"`)
	f.expectDriver(7, nil, "ssh", "node1", "--", "sh", "-c", "exit 7")
	if err := os.Mkdir(f.path("elsewhere"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd, out := f.driver("down", "up")
	cmd.Dir = f.path("elsewhere") // the key's path is relative to where the lab was brought up
	if err := cmd.Run(); err != nil {
		t.Errorf("driver down: %v\n%s", err, out)
	}
	if left := f.computerState(f.machines[1]); strings.Contains(left, "hookbed-") || strings.Contains(left, "qemu") {
		t.Errorf("left on the computer:\n%s", left)
	}
}

// refusals: a run says what is wrong with a hypervisor, and its fix, before anything boots.
func (f *fleet) refusals() {
	f.t.Helper()
	f.write("bad.toml", hypervisorsHead+strings.Replace(twoComputers, `"br-data"`, `"br-none"`, 1)+hypervisorsTail)
	f.expectDriver(exitRig, []string{`find data_bridge "br-none" on root@198.18.101.2`}, "run", "bad.toml", "--out", "bad")
	f.stopLibvirtd(f.machines[1])
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
