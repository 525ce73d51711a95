package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/sysfs"
)

// ip runs ip(8) in the calling thread's namespace and returns what it prints.
func ip(t *testing.T, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// machineWithNIC calls do in a namespace that has a NIC with all that one can
// have, whose other end is in the namespace given to do.
func machineWithNIC(t *testing.T, do func(far *netns.Namespace) error) {
	t.Helper()
	home, err := netns.Current("")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	here, err := netns.New(home, "machine")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	far, err := netns.New(home, "far")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	err = here.Do(func() error {
		fd, err := far.FD()
		if err != nil {
			return err
		}
		v := netlink.NewVeth(netlink.LinkAttrs{Name: "eth1", MTU: 1400})
		v.PeerName, v.PeerNamespace = "eth1", netlink.NsFd(fd)
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		for _, path := range []string{"/proc/sys/net/ipv6/conf/eth1/accept_dad", "/proc/sys/net/ipv4/conf/eth1/rp_filter"} {
			if err := sysfs.WriteSysctl(path, "0"); err != nil {
				return err
			}
		}
		if err := sysfs.WriteSysctl("/proc/sys/net/ipv4/neigh/eth1/mcast_solicit", "9"); err != nil {
			return err
		}
		for _, args := range []string{
			"address add 198.18.200.1/24 dev eth1", "address add 198.18.200.7/24 dev eth1 label eth1:x",
			"address add 198.18.204.1/24 dev eth1 noprefixroute", "address add 198.18.205.1/24 dev eth1 valid_lft 4000 preferred_lft 3000",
			"address add 2001:2:0:200::1/64 dev eth1", "link set eth1 up",
			"route add 198.18.202.0/24 dev eth1 scope link src 198.18.200.7",
			"route add 198.18.201.0/24 via 198.18.202.9 metric 77 mtu 1300 advmss 1200",
			"route add 198.18.203.0/24 via 198.18.206.9 dev eth1 onlink table 99",
			"route add blackhole 198.18.207.0/24",
			"-6 route add 2001:2:0:201::/64 via 2001:2:0:200::9",
			"neigh add 198.18.200.99 lladdr 02:00:00:00:00:99 dev eth1 nud permanent",
		} {
			ip(t, args)
		}
		return do(far)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// seen is what is to be the same afterwards: lines, sorted, without what passes.
func seen(t *testing.T) string {
	t.Helper()
	for range 100 { // addresses may be looked for elsewhere first
		if !strings.Contains(ip(t, "-6 address"), "tentative") {
			break
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 5e7}, nil)
	}
	var lines []string
	for _, args := range []string{"-d address", "route show table all", "-6 route show table all", "neigh show nud permanent"} {
		for line := range strings.Lines(ip(t, args)) {
			if !strings.Contains(line, "valid_lft") || strings.Contains(line, "forever") {
				lines = append(lines, line)
			}
		}
	}
	for path, value := range nicSysctls("eth1") {
		lines = append(lines, path+" = "+value+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// onlyIn lists the lines of a that b has not.
func onlyIn(a, b, mark string) string {
	var out strings.Builder
	for line := range strings.Lines(a) {
		if !strings.Contains(b, line) {
			out.WriteString(mark + line)
		}
	}
	return out.String()
}

// TestLentNICComesBack: also when it had no carrier at the time, and by way of
// the record on disk.
func TestLentNICComesBack(t *testing.T) {
	for _, tt := range []struct{ name, before string }{{"up", ""}, {"no carrier", "down"}} {
		t.Run(tt.name, func(t *testing.T) {
			machineWithNIC(t, func(far *netns.Namespace) error {
				peer := func(up bool) error {
					return far.WithNetlink(func(h *netlink.Handle) error {
						l, err := h.LinkByName("eth1")
						if err != nil {
							return err
						}
						if up {
							return h.LinkSetUp(l)
						}
						return h.LinkSetDown(l)
					})
				}
				if err := errors.Join(peer(true), awaitState(t, netlink.OperUp)); err != nil {
					return err
				}
				want := seen(t)
				if tt.before != "" {
					if err := errors.Join(peer(false), awaitState(t, netlink.OperDown)); err != nil {
						return err
					}
				}
				l, err := netlink.LinkByName("eth1")
				if err != nil {
					return err
				}
				r, err := recordNIC(l)
				if err != nil {
					return err
				}
				data, err := json.Marshal(r)
				if err == nil {
					r = nicRecord{}
					err = json.Unmarshal(data, &r)
				}
				if err != nil {
					return err
				}
				if err := peer(true); err != nil {
					return err
				}
				here, err := netns.Current("")
				if err != nil {
					return err
				}
				defer here.Close()
				node, err := netns.New(here, "node")
				if err != nil {
					return err
				}
				defer node.Close()
				if err := r.lend(node, netns.DataLink, "198.18.1.11/24"); err != nil {
					return err
				}
				if _, err := netlink.LinkByName("eth1"); !fault.IsGone(err) {
					t.Errorf("while it is lent the machine's own eth1 gives %v", err)
				}
				if err := errors.Join(r.fetch(node, netns.DataLink), r.restore(), awaitState(t, netlink.OperUp)); err != nil {
					return err
				}
				if got := seen(t); got != want {
					t.Errorf("the machine has other than before:\n%s", onlyIn(got, want, "+ ")+onlyIn(want, got, "- "))
				}
				return r.restore() // once more does no harm
			})
		})
	}
}

func awaitState(t *testing.T, want netlink.LinkOperState) error {
	t.Helper()
	var got netlink.LinkOperState
	for range 100 {
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		if got = l.Attrs().OperState; got == want {
			return nil
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 5e7}, nil)
	}
	return errors.New("eth1 stays " + got.String())
}

// TestNICInUse: what the machine needs is not taken from it.
func TestNICInUse(t *testing.T) {
	for name, tt := range map[string]struct{ do, want string }{
		"free":              {"", ""},
		"its own address":   {"", "it carries the SSH connection (address 198.18.200.1)"},
		"the driver's":      {"", "the way to 198.18.200.50, of the SSH connection, leads over it"},
		"default route":     {"route add default via 198.18.200.9", "a default route leads over it"},
		"default elsewhere": {"-6 route add default via 2001:2:0:200::9 table 7", "a default route leads over it"},
		"several paths":     {"route add 198.18.220.0/24 nexthop via 198.18.200.9 dev eth1 nexthop via 198.18.200.10 dev eth1", "a route of several paths leads over it"},
		"macvlan":           {"link add link eth1 name v5 type macvlan", "link v5 is on top of it"},
		"bridge":            {"link set eth1 master br5", "it is a port of a bridge, bond or team"},
	} {
		t.Run(name, func(t *testing.T) {
			keep := map[string][]netip.Addr{
				"its own address": {netip.MustParseAddr("198.18.200.1")}, "the driver's": {netip.MustParseAddr("198.18.200.50")},
				"free": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
			}[name]
			machineWithNIC(t, func(*netns.Namespace) error {
				if strings.Contains(tt.do, "br5") {
					ip(t, "link add br5 type bridge")
				}
				if tt.do != "" {
					ip(t, tt.do)
				}
				l, err := netlink.LinkByName("eth1")
				if err != nil {
					return err
				}
				if got, err := nicInUse(l, keep); err != nil || got != tt.want {
					t.Errorf("in use: %q, %v, want %q", got, err, tt.want)
				}
				return nil
			})
		})
	}
	machineWithNIC(t, func(*netns.Namespace) error {
		if out, err := exec.Command("tc", "qdisc", "add", "dev", "eth1", "clsact").CombinedOutput(); err != nil {
			t.Fatalf("tc: %v: %s", err, out)
		}
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		if got, err := nicInUse(l, nil); err != nil || got != `queueing discipline "clsact" was set on it (tc)` {
			t.Errorf("with clsact it is %q, %v", got, err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if got, err := nicInUse(lo, nil); err != nil || got != "it is the loopback interface" {
			t.Errorf("lo is %q, %v", got, err)
		}
		return nil
	})
}

func TestInspectMachine(t *testing.T) {
	machineWithNIC(t, func(*netns.Namespace) error {
		for nic, want := range map[string]map[string]string{
			"eth1": {"nic.present": "true", "nic.mtu": "1400", "user": "0"},
			"eth7": {"nic.present": "false", "nic.others": "eth1"},
		} {
			var out bytes.Buffer
			if err := Inspect(map[string]string{"kernel.release": "6.12"}, nic, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, &out); err != nil {
				return err
			}
			var facts map[string]string
			if err := json.Unmarshal(out.Bytes(), &facts); err != nil {
				return err
			}
			for key, value := range want {
				if facts[key] != value {
					t.Errorf("%s: %s is %q, want %q", nic, key, facts[key], value)
				}
			}
			if facts["kernel.release"] != "6.12" || facts["br_netfilter"] == "" || facts["btf"] == "" {
				t.Errorf("facts are missing: %v", facts)
			}
		}
		return nil
	})
}
