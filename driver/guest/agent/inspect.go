package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/sysfs"
	"hookbed/driver/netdump"
)

// Inspect adds to the facts of a session, by the same kind of names, what an agent
// needs of a machine, and prints them all. It changes nothing. nic is the one to be
// borrowed, "" for none; keep are addresses of the SSH connection.
func Inspect(facts map[string]string, nic string, keep []netip.Addr, out io.Writer) error {
	sysfs.SetFact(facts, "user", strconv.Itoa(os.Geteuid()))
	sysfs.SetFact(facts, "capabilities", capabilities())
	facts["btf"] = strconv.FormatBool(sysfs.Exists("/sys/kernel/btf/vmlinux"))
	facts["br_netfilter"] = bridgeNetfilter()
	if nic != "" {
		if err := nicFacts(facts, nic, keep); err != nil {
			return err
		}
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(facts)
}

// capabilities is the effective set in hex, as in /proc/self/status.
func capabilities() string {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if mask, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strings.TrimSpace(mask)
		}
	}
	return ""
}

// bridgeNetfilter says whether bridged packets can be made to meet iptables.
func bridgeNetfilter() string {
	if sysfs.Exists(bridgeSwitches) {
		return "loaded"
	}
	if err := proc.Modprobe(context.Background(), "-n", "-q", "br_netfilter"); err == nil {
		return "module"
	}
	return "missing"
}

// nicFacts describes the NIC that is to be borrowed: its state, and why it may
// not be.
func nicFacts(f map[string]string, name string, keep []netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if fault.IsGone(err) {
		f["nic.present"] = "false"
		sysfs.SetFact(f, "nic.others", strings.Join(linkNames(), " "))
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the NIC %s: %w", name, err)
	}
	why, err := nicInUse(l, keep)
	if err != nil {
		return err
	}
	a := l.Attrs()
	f["nic.present"] = "true"
	sysfs.SetFact(f, "nic.in_use", why)
	sysfs.SetFact(f, "nic.mac", a.HardwareAddr.String())
	sysfs.SetFact(f, "nic.mtu", strconv.Itoa(a.MTU))
	sysfs.SetFact(f, "nic.state", a.OperState.String())
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, unix.AF_INET) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	var list []string
	for _, addr := range addrs {
		list = append(list, addr.IPNet.String())
	}
	sysfs.SetFact(f, "nic.addresses", strings.Join(list, " "))
	return nil
}

// linkNames are the links of this namespace but lo.
func linkNames() []string {
	links, _ := netdump.Whole(netlink.LinkList)
	var out []string
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" {
			out = append(out, name)
		}
	}
	return out
}
