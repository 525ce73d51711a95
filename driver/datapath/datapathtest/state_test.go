package datapathtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// freshNetns makes a namespace of the test's own with a veth pair in it.
func freshNetns(t *testing.T) *netns {
	t.Helper()
	var p *netns
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			var f *os.File
			f, err = os.Open("/proc/thread-self/ns/net")
			p = &netns{name: "fresh", file: f}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	p.must(t, "ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0")
	for _, l := range []string{"lo", "a0", "b0"} {
		p.must(t, "ip", "link", "set", l, "up")
	}
	p.must(t, "ip", "addr", "add", "198.18.1.1/24", "dev", "a0")
	if err := p.awaitAddresses(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *netns) must(t *testing.T, argv ...string) {
	t.Helper()
	if _, err := p.run(argv...); err != nil {
		t.Fatal(err)
	}
}

func (p *netns) mustFeed(t *testing.T, input string, argv ...string) {
	t.Helper()
	if _, err := p.feed(input, argv...); err != nil {
		t.Fatal(err)
	}
}

func mustLook(t *testing.T, p *netns) state {
	t.Helper()
	s, err := look(p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leftover is something that a datapath might leave, and how it shows.
type leftover struct {
	name  string
	leave func(t *testing.T, p *netns)
	shows string // part of a line of the difference
}

// command leaves what a tool does.
func command(shows string, argv ...string) leftover {
	return leftover{strings.Join(argv, " "), func(t *testing.T, p *netns) { p.must(t, argv...) }, shows}
}

func leftovers() []leftover {
	restore := func(tool, rule, shows string) leftover {
		return leftover{tool, func(t *testing.T, p *netns) {
			p.mustFeed(t, "*filter\n-A INPUT "+rule+" -j DROP\nCOMMIT\n", tool+"-restore", "--noflush")
		}, shows}
	}
	return []leftover{
		command("br9", "ip", "link", "add", "br9", "type", "bridge"),
		command("mtu 1400", "ip", "link", "set", "a0", "mtu", "1400"),
		command("198.18.1.2/24", "ip", "addr", "add", "198.18.1.2/24", "dev", "a0"),
		command("2001:2::7", "ip", "-6", "addr", "add", "2001:2::7/64", "dev", "a0", "nodad"),
		command("198.19.0.0/16", "ip", "route", "add", "198.19.0.0/16", "via", "198.18.1.9"),
		command("2001:2:0:1319::/112", "ip", "-6", "route", "add", "2001:2:0:1319::/112", "dev", "a0"),
		command("table 77", "ip", "route", "add", "198.19.0.0/16", "dev", "a0", "table", "77"),
		command("lookup 77", "ip", "rule", "add", "from", "198.19.0.0/16", "lookup", "77"),
		command("198.18.1.77", "ip", "neigh", "add", "198.18.1.77", "lladdr", "02:00:00:00:00:77", "dev", "a0", "nud", "permanent"),
		command("198.18.1.78", "ip", "neigh", "add", "proxy", "198.18.1.78", "dev", "a0"),
		command("clsact", "tc", "qdisc", "add", "dev", "a0", "clsact"),
		{"filter of tc", func(t *testing.T, p *netns) { attachTC(t, p, "a0") }, "ingress filter bpf leftover program"},
		{"tcx", func(t *testing.T, p *netns) { attachTCX(t, p, "a0") }, "program"},
		{"XDP", func(t *testing.T, p *netns) { attachXDP(t, p, "a0") }, "xdp"},
		command("table ip left", "nft", "add", "table", "ip", "left"),
		{"bridge table", func(t *testing.T, p *netns) {
			p.mustFeed(t, "table bridge left { chain c { type filter hook forward priority 0; counter drop; }; }\n", "nft", "-f", "-")
		}, "table bridge left"},
		restore("iptables-legacy", "-s 198.19.0.1/32", "-j DROP"),
		restore("ip6tables-legacy", "-s 2001:2::1/128", "-j DROP"),
		restore("iptables-nft", "-s 198.19.0.1/32", "ip saddr 198.19.0.1 counter drop"),
		{"an empty legacy table", func(t *testing.T, p *netns) { p.must(t, "iptables-legacy", "-S") }, "*filter"},
		command("create left hash:ip", "ipset", "create", "left", "hash:ip"),
		{"sysctl", func(t *testing.T, p *netns) { setSysctl(t, p, "net/ipv4/ip_forward", "1") }, "ip_forward = 1"},
		{"sysctl of a link", func(t *testing.T, p *netns) { setSysctl(t, p, "net/ipv4/conf/a0/proxy_arp", "1") }, "proxy_arp = 1"},
		{"offload", func(t *testing.T, p *netns) { switchOff(t, p, "a0", "tx-tcp-segmentation") }, "tx-tcp-segmentation false"},
	}
}

// TestDifferenceNoticesEveryLeftover: what the suite would not see, it could
// not hold an arm to.
func TestDifferenceNoticesEveryLeftover(t *testing.T) {
	for _, l := range leftovers() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			p := freshNetns(t)
			before := mustLook(t, p)
			if diff := differences(before, mustLook(t, p)); len(diff) > 0 {
				t.Fatalf("an untouched namespace differs: %q", diff)
			}
			l.leave(t, p)
			diff := differences(before, mustLook(t, p))
			if !slices.ContainsFunc(diff, func(line string) bool { return strings.Contains(line, l.shows) }) {
				t.Errorf("the difference %q does not show %q", diff, l.shows)
			}
			if back := differences(mustLook(t, p), before); len(back) == 0 {
				t.Error("what is gone does not show")
			}
		})
	}
}

// passing is a program that does nothing.
func passing(t *testing.T, kind ebpf.ProgramType, verdict int32) *ebpf.Program {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "leftover", Type: kind, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog
}

func (p *netns) index(t *testing.T, name string) (index int) {
	t.Helper()
	err := p.do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			index = l.Attrs().Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func attachTC(t *testing.T, p *netns, name string) {
	t.Helper()
	prog, index := passing(t, ebpf.SchedCLS, 0), p.index(t, name)
	p.must(t, "tc", "qdisc", "add", "dev", name, "clsact")
	err := p.do(func() error {
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          prog.FD(), Name: "leftover", DirectAction: true,
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func attachTCX(t *testing.T, p *netns, name string) {
	t.Helper()
	prog, index := passing(t, ebpf.SchedCLS, 0), p.index(t, name)
	err := p.do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func attachXDP(t *testing.T, p *netns, name string) {
	t.Helper()
	prog, index := passing(t, ebpf.XDP, 2), p.index(t, name)
	err := p.do(func() error {
		l, err := link.AttachXDP(link.XDPOptions{Interface: index, Program: prog, Flags: link.XDPGenericMode})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func setSysctl(t *testing.T, p *netns, key, value string) {
	t.Helper()
	if err := p.do(func() error { return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644) }); err != nil {
		t.Fatal(err)
	}
}

func switchOff(t *testing.T, p *netns, name, feature string) {
	t.Helper()
	err := p.do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return e.Change(name, map[string]bool{feature: false})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAttachedProgramsAreFound: by their IDs the suite knows which
// programs of this computer are an arm's.
func TestAttachedProgramsAreFound(t *testing.T) {
	p := freshNetns(t)
	want := map[string]func(*testing.T, *netns, string){"a0": attachTC, "b0": attachXDP}
	for name, attach := range want {
		attach(t, p, name)
	}
	attachTCX(t, p, "a0")
	if ids := attachedIDs(mustLook(t, p)); len(slices.Compact(slices.Sorted(slices.Values(ids)))) != 3 {
		t.Errorf("found programs %v, want three", ids)
	}
}

// TestObjectsThatStayAreNamed: programs, maps, links and processes.
func TestObjectsThatStayAreNamed(t *testing.T) {
	p := freshNetns(t)
	index := p.index(t, "a0")
	prog := passing(t, ebpf.XDP, 2)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "leftover", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	var l link.Link
	err = p.do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Interface: index, Program: prog, Flags: link.XDPGenericMode})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	var mine []object
	for _, o := range heldObjects(os.Getpid()) {
		if o.kind == kindLink || strings.Contains(o.name(), "leftover") {
			mine = append(mine, o)
		}
	}
	for _, pid := range descendants(os.Getpid()) {
		if pid == sleeper.Process.Pid {
			mine = append(mine, object{kindProcess, pid, startTime(pid)})
		}
	}
	kinds := map[string]bool{}
	for _, o := range mine {
		if kinds[o.kind] = true; !o.alive() {
			t.Errorf("%s is not alive", o)
		}
	}
	if len(kinds) != 4 {
		t.Fatalf("found only %v", mine)
	}
	sleeper.Process.Kill()
	sleeper.Wait()
	l.Close()
	m.Close()
	prog.Close()
	if stay := left(mine); len(stay) > 0 {
		t.Errorf("after all were closed stay %v", stay)
	}
}

// TestInhabitantsAreSeen: a process in a namespace, and one that only holds it.
func TestInhabitantsAreSeen(t *testing.T) {
	p := freshNetns(t)
	id, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(p.file.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	if in := holders([]string{id}); len(in) > 0 {
		t.Fatalf("a namespace of the test's own has %v", in)
	}
	var inside *exec.Cmd
	if err := p.do(func() error { inside = exec.Command("sleep", "600"); return inside.Start() }); err != nil {
		t.Fatal(err)
	}
	holding := exec.Command("sleep", "600")
	holding.ExtraFiles = []*os.File{p.file}
	if err := holding.Start(); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(holders([]string{id}), " ")
	for _, c := range []*exec.Cmd{inside, holding} {
		if !strings.Contains(text, "/proc/"+strconv.Itoa(c.Process.Pid)+"/") {
			t.Errorf("process %d is not among %s", c.Process.Pid, text)
		}
		c.Process.Kill()
		c.Wait()
	}
}
