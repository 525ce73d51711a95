package step

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/bpfmap"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/sysfs"
)

// Files of the connection tracker's counts, as seen from a namespace.
const (
	conntrackCount = "/proc/sys/net/netfilter/nf_conntrack_count"
	conntrackMax   = "/proc/sys/net/netfilter/nf_conntrack_max"
)

// look checks one thing and returns what is wrong with it, if anything. An
// error means that it could not be looked at.
type look func(*call, bundle.Guard) (wrong []string, err error)

// looks are what a Guard looks at, in the order in which it reports.
func looks() []look { return []look{lookJIT, lookXDP, lookMTU, lookOffloads, lookConntrack, lookMaps} }

func doGuard(c *call, a bundle.Guard) error {
	if a.Handle != "" && c.x.objects[a.Handle] == nil {
		return fmt.Errorf("no BPF object %q is loaded", a.Handle)
	}
	var all []string
	for _, look := range looks() {
		wrong, err := look(c, a)
		if err != nil {
			return err
		}
		all = append(all, wrong...)
	}
	if len(all) > 0 {
		return fault.Void("%s", strings.Join(all, "; "))
	}
	return nil
}

func lookJIT(c *call, a bundle.Guard) (wrong []string, err error) {
	if !a.JIT {
		return nil, nil
	}
	got, err := c.x.jit()
	if err != nil {
		return nil, fmt.Errorf("read the state of the BPF JIT compiler: %w", err)
	}
	for _, want := range []struct{ fact, name, value string }{{"bpf_jit_enable", "jit_enable", "1"}, {"bpf_jit_harden", "jit_harden", "0"}} {
		if n, err := strconv.ParseFloat(got[want.fact], 64); err == nil {
			c.value(want.name, n)
		}
		if got[want.fact] != want.value {
			wrong = append(wrong, fmt.Sprintf("net.core.%s is %q, want %s", want.fact, got[want.fact], want.value))
		}
	}
	if a.Handle == "" {
		return wrong, nil
	}
	programs := c.x.objects[a.Handle].Programs
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		info, err := programs[name].Info()
		if err != nil {
			return nil, fmt.Errorf("read program info: %w", err)
		}
		if _, err := info.JitedSize(); err != nil {
			wrong = append(wrong, fmt.Sprintf("program %s is interpreted, or the kernel hides from this process that it is not (jited length 0): %v", name, err))
		}
	}
	return wrong, nil
}

func lookXDP(c *call, a bundle.Guard) (wrong []string, err error) {
	if a.XDP == "" {
		return nil, nil
	}
	if !slices.Contains([]string{bundle.XDPNone, bundle.XDPNative, bundle.XDPGeneric}, a.XDP) {
		return nil, fmt.Errorf("unknown XDP mode %q", a.XDP)
	}
	l, err := c.link(a.Link)
	if err != nil {
		return nil, err
	}
	mode, id := xdpOf(l)
	c.value("xdp_program", float64(id))
	if mode != a.XDP {
		wrong = append(wrong, fmt.Sprintf("XDP on %s is %s, want %s", a.Link, mode, a.XDP))
	}
	if a.Program == "" {
		return wrong, nil
	}
	prog, err := c.x.loadedProgram(a.Handle, a.Program)
	if err != nil {
		return nil, err
	}
	want, err := programID(prog)
	if err != nil {
		return nil, err
	}
	if id != want {
		wrong = append(wrong, fmt.Sprintf("XDP on %s runs program %d, want %d (%s)", a.Link, id, want, a.Program))
	}
	return wrong, nil
}

// xdpOf is the mode in which XDP runs on a link, and its program's ID, 0
// where there is none.
func xdpOf(l netlink.Link) (mode string, id int) {
	x := l.Attrs().Xdp
	if x == nil || !x.Attached {
		return bundle.XDPNone, 0
	}
	switch x.AttachMode {
	case nl.XDP_ATTACHED_DRV:
		mode = bundle.XDPNative
	case nl.XDP_ATTACHED_SKB:
		mode = bundle.XDPGeneric
	case nl.XDP_ATTACHED_HW:
		mode = "in hardware"
	default:
		mode = fmt.Sprintf("in mode %d", x.AttachMode)
	}
	return mode, int(x.ProgId)
}

func lookMTU(c *call, a bundle.Guard) (wrong []string, err error) {
	if a.MTU == 0 {
		return nil, nil
	}
	l, err := c.link(a.Link)
	if err != nil {
		return nil, err
	}
	got := l.Attrs().MTU
	c.value("mtu", float64(got))
	if got != a.MTU {
		wrong = append(wrong, fmt.Sprintf("the MTU of %s is %d, want %d", a.Link, got, a.MTU))
	}
	return wrong, nil
}

func lookOffloads(c *call, a bundle.Guard) (wrong []string, err error) {
	if len(a.Offloads) == 0 {
		return nil, nil
	}
	l, err := c.link(a.Link)
	if err != nil {
		return nil, err
	}
	et, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("open ethtool: %w", err)
	}
	defer et.Close()
	have, err := et.FeaturesWithState(l.Attrs().Name)
	if err != nil {
		return nil, fmt.Errorf("read offloads of %s: %w", a.Link, err)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Offloads)) {
		if len(sysfs.MatchFeatures(name, have)) == 0 {
			return nil, fault.Unsupported("%s has no offload %q", a.Link, name)
		}
	}
	for _, name := range sysfs.FeaturesNotAs(a.Offloads, have) {
		wrong = append(wrong, fmt.Sprintf("offload %s of %s is %t, want %t", name, a.Link, !a.Offloads[name], a.Offloads[name]))
	}
	return wrong, nil
}

func lookConntrack(c *call, a bundle.Guard) (wrong []string, err error) {
	if a.Conntrack == 0 {
		return nil, nil
	}
	count, err := readCount(conntrackCount)
	if errors.Is(err, os.ErrNotExist) {
		c.note("no connection is tracked here")
		return nil, nil
	}
	most, err2 := readCount(conntrackMax)
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("read the connection tracker's counts: %w", err)
	}
	c.value("conntrack_count", float64(count))
	c.value("conntrack_max", float64(most))
	return tooFull("the connection tracker", count, most, a.Conntrack), nil
}

func lookMaps(c *call, a bundle.Guard) (wrong []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(a.Maps)) {
		m, err := c.x.loadedMap(a.Handle, name)
		if err != nil {
			return nil, err
		}
		n, err := bpfmap.CountEntries(m)
		if err != nil {
			return nil, fmt.Errorf("count map %s: %w", name, err)
		}
		c.value("entries."+name, float64(n))
		c.value("max_entries."+name, float64(m.MaxEntries()))
		wrong = append(wrong, tooFull("map "+name, n, uint64(m.MaxEntries()), a.Maps[name])...)
	}
	return wrong, nil
}

// tooFull says so if more than a share of a table is taken. A table that drops
// or forgets entries measures something else than the filter.
func tooFull(what string, count, most uint64, share float64) []string {
	if float64(count) <= share*float64(most) {
		return nil
	}
	return []string{fmt.Sprintf("%s holds %d of %d entries, want at most %g of it", what, count, most, share)}
}

func readCount(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
}
