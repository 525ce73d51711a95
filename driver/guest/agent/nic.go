package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/sysfs"
	"hookbed/driver/netdump"
)

// carrierLimit is how long a NIC that was set up may take to find its peer.
const carrierLimit = 15 * time.Second

// nicRecord is everything that a NIC loses when it is moved to another network
// namespace (dev_change_net_namespace in net/core/dev.c). Addresses, routes and
// neighbours are kept as the messages in which the kernel reports them, so that
// they come back with every attribute.
type nicRecord struct {
	Boot   string    `json:"boot"` // of the machine; what an earlier one had is void
	At     time.Time `json:"at"`
	Name   string    `json:"name"`
	Index  int       `json:"index"`
	MAC    string    `json:"mac"`
	Up     bool      `json:"up"`
	MTU    int       `json:"mtu"`
	Addrs  [][]byte  `json:"addrs"`  // RTM_NEWADDR
	Routes [][]byte  `json:"routes"` // RTM_NEWROUTE
	Neighs [][]byte  `json:"neighs"` // RTM_NEWNEIGH, permanent ones
	// Sysctls are the NIC's own, by path.
	Sysctls map[string]string `json:"sysctls"`
}

func bootID() string { return sysfs.ReadLine("/proc/sys/kernel/random/boot_id") }

// nicInUse says why a NIC must not be taken from the machine, "" if it may.
// keep are addresses whose traffic must not be cut: the machine's own under
// which the driver reached it, and the driver's.
func nicInUse(l netlink.Link, keep []netip.Addr) (string, error) {
	a := l.Attrs()
	if a.Flags&net.FlagLoopback != 0 {
		return "it is the loopback interface", nil
	}
	if a.MasterIndex != 0 {
		return "it is a port of a bridge, bond or team", nil
	}
	if a.Xdp != nil && a.Xdp.Attached {
		return "an XDP program is attached to it", nil
	}
	for _, look := range []func(netlink.Link, []netip.Addr) (string, error){carriesManagement, carriesRoutes, carriesLinks, carriesQdisc} {
		if why, err := look(l, keep); why != "" || err != nil {
			return why, err
		}
	}
	return "", nil
}

// carriesManagement looks for the addresses to keep, and on the way to them.
func carriesManagement(l netlink.Link, keep []netip.Addr) (string, error) {
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	for _, k := range keep {
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == k.Unmap() {
				return fmt.Sprintf("it carries the SSH connection (address %s)", k), nil
			}
		}
		routes, err := netlink.RouteGet(k.AsSlice())
		if err != nil {
			continue // no way there, so not by this NIC
		}
		for _, r := range routes {
			if r.LinkIndex == l.Attrs().Index {
				return fmt.Sprintf("the way to %s, of the SSH connection, leads over it", k), nil
			}
		}
	}
	return "", nil
}

// carriesRoutes looks for a default route, and for routes that cannot be put back.
func carriesRoutes(l netlink.Link, _ []netip.Addr) (string, error) {
	routes, err := netdump.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		for _, hop := range r.MultiPath {
			if hop.LinkIndex == l.Attrs().Index {
				return "a route of several paths leads over it", nil
			}
		}
		if r.LinkIndex != l.Attrs().Index || r.Type != unix.RTN_UNICAST {
			continue
		}
		if isDefault(r) {
			return "a default route leads over it", nil
		}
	}
	return "", nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// carriesLinks looks for links on top of the NIC.
func carriesLinks(l netlink.Link, _ []netip.Addr) (string, error) {
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return "", fmt.Errorf("list links: %w", err)
	}
	for _, other := range links {
		switch other.Type() {
		case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec":
			if a := other.Attrs(); a.ParentIndex == l.Attrs().Index && a.NetNsID < 0 {
				return fmt.Sprintf("link %s is on top of it", a.Name), nil
			}
		case "vxlan":
			if v, ok := other.(*netlink.Vxlan); ok && v.VtepDevIndex == l.Attrs().Index {
				return fmt.Sprintf("link %s is on top of it", v.Name), nil
			}
		}
	}
	return "", nil
}

// carriesQdisc looks for queueing that was configured: what the kernel chooses
// by itself has the handle 0:.
func carriesQdisc(l netlink.Link, _ []netip.Addr) (string, error) {
	qdiscs, err := netdump.Whole(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
	if err != nil {
		return "", fmt.Errorf("list queueing disciplines: %w", err)
	}
	for _, q := range qdiscs {
		if major, _ := netlink.MajorMinor(q.Attrs().Handle); major != 0 {
			return fmt.Sprintf("queueing discipline %q was set on it (tc)", q.Type()), nil
		}
	}
	return "", nil
}

// recordNIC notes what a NIC of this namespace is to get back.
func recordNIC(l netlink.Link) (nicRecord, error) {
	a := l.Attrs()
	r := nicRecord{
		Boot: bootID(), At: time.Now(), Name: a.Name, Index: a.Index, MAC: a.HardwareAddr.String(),
		Up: a.Flags&net.FlagUp != 0, MTU: a.MTU, Sysctls: nicSysctls(a.Name),
	}
	var err error
	if r.Addrs, err = dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC), r.owns(isAddr)); err != nil {
		return r, fmt.Errorf("record addresses of %s: %w", a.Name, err)
	}
	if r.Neighs, err = dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, &netlink.Ndmsg{Index: uint32(a.Index)}, r.owns(isPermanentNeigh)); err != nil {
		return r, fmt.Errorf("record neighbours of %s: %w", a.Name, err)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msg := nl.NewRtMsg()
		msg.Family, msg.Table, msg.Protocol, msg.Scope, msg.Type = family, 0, 0, 0, 0
		routes, err := dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, msg, r.owns(isOwnRoute))
		if err != nil {
			return r, fmt.Errorf("record routes over %s: %w", a.Name, err)
		}
		r.Routes = append(r.Routes, routes...)
	}
	return r, nil
}

// dump requests all of something from the kernel and keeps what is wanted.
func dump(ask int, want uint16, header nl.NetlinkRequestData, keep func([]byte) bool) ([][]byte, error) {
	req := nl.NewNetlinkRequest(ask, unix.NLM_F_DUMP)
	req.AddData(header)
	all, err := req.Execute(unix.NETLINK_ROUTE, want)
	if err != nil {
		return nil, err
	}
	out := [][]byte{}
	for _, m := range all {
		if keep(m) {
			out = append(out, bytes.Clone(m))
		}
	}
	return out, nil
}

// owns combines a predicate on a message with the NIC's index.
func (r nicRecord) owns(is func(m []byte, index uint32) bool) func([]byte) bool {
	return func(m []byte) bool { return is(m, uint32(r.Index)) }
}

// isAddr: struct ifaddrmsg has the index at offset 4.
func isAddr(m []byte, index uint32) bool {
	return len(m) >= unix.SizeofIfAddrmsg && binary.NativeEndian.Uint32(m[4:]) == index
}

// isPermanentNeigh: struct ndmsg has the index at offset 4, the state at 8.
func isPermanentNeigh(m []byte, index uint32) bool {
	return len(m) >= unix.SizeofNdMsg && binary.NativeEndian.Uint32(m[4:]) == index &&
		binary.NativeEndian.Uint16(m[8:])&unix.NUD_PERMANENT != 0
}

// isOwnRoute: one over the NIC that neither the kernel makes with an address
// nor a router announces (struct rtmsg: protocol at offset 5, flags at 8).
func isOwnRoute(m []byte, index uint32) bool {
	if len(m) < unix.SizeofRtMsg || m[5] == unix.RTPROT_KERNEL || m[5] == unix.RTPROT_RA ||
		binary.NativeEndian.Uint32(m[8:])&unix.RTM_F_CLONED != 0 {
		return false
	}
	attrs, err := nl.ParseRouteAttrAsMap(m[unix.SizeofRtMsg:])
	if err != nil {
		return false
	}
	out, ok := attrs[unix.RTA_OIF]
	return ok && len(out.Value) >= 4 && binary.NativeEndian.Uint32(out.Value) == index
}

// nicSysctls reads the NIC's own sysctls of IPv4 and IPv6; a secret that was
// never set cannot be read, and is none.
func nicSysctls(name string) map[string]string {
	out := map[string]string{}
	for _, kind := range []string{"ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"} {
		dir := filepath.Join("/proc/sys/net", kind, name)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if data, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
				out[filepath.Join(dir, e.Name())] = strings.TrimSpace(string(data))
			}
		}
	}
	return out
}

// lend moves the NIC into a namespace, under another name and with one address,
// and waits for its carrier. What fails is undone.
func (r nicRecord) lend(to *netns.Namespace, name, cidr string) (err error) {
	l, err := netlink.LinkByIndex(r.Index)
	if err != nil {
		return fmt.Errorf("find %s: %w", r.Name, err)
	}
	fd, err := to.FD()
	if err != nil {
		return err
	}
	if err := netlink.LinkSetDown(l); err != nil {
		return fmt.Errorf("set %s down: %w", r.Name, err)
	}
	if err := netlink.LinkSetNsFd(l, fd); err != nil {
		return errors.Join(fmt.Errorf("move %s into the node's namespace: %w", r.Name, err), r.restore())
	}
	return to.WithNetlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(r.Name)
		if err != nil {
			return fmt.Errorf("find %s in the node's namespace: %w", r.Name, err)
		}
		addr, err := netns.ParseAddr(cidr)
		if err != nil {
			return fmt.Errorf("address %q: %w", cidr, err)
		}
		if err := errors.Join(h.LinkSetName(l, name), h.AddrAdd(l, addr), h.LinkSetUp(l)); err != nil {
			return fmt.Errorf("set up %s as %s: %w", r.Name, name, err)
		}
		return awaitCarrier(h, r.Name, l.Attrs().Index)
	})
}

// awaitCarrier waits until a link can send.
func awaitCarrier(h *netlink.Handle, name string, index int) error {
	for deadline := time.Now().Add(carrierLimit); ; time.Sleep(50 * time.Millisecond) {
		l, err := h.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if s := l.Attrs().OperState; s == netlink.OperUp || s == netlink.OperUnknown {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has no carrier after %s: is its cable plugged in, and the other end up?", name, carrierLimit)
		}
	}
}

// fetch moves the NIC back into this namespace under its own name.
func (r nicRecord) fetch(from *netns.Namespace, lent string) error {
	home, err := netns.Current("")
	if err != nil {
		return err
	}
	defer home.Close()
	fd, err := home.FD()
	if err != nil {
		return err
	}
	return from.WithNetlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(lent)
		if fault.IsGone(err) {
			l, err = h.LinkByName(r.Name) // it was moved and not renamed
		}
		if fault.IsGone(err) {
			return nil // not there: never lent, or back already
		}
		if err != nil {
			return fmt.Errorf("find %s: %w", lent, err)
		}
		if err := h.LinkSetDown(l); err != nil {
			return fmt.Errorf("set %s down: %w", lent, err)
		}
		if err := h.LinkSetName(l, r.Name); err != nil {
			return fmt.Errorf("name %s %s again: %w", lent, r.Name, err)
		}
		if err := h.LinkSetNsFd(l, fd); err != nil {
			return fmt.Errorf("move %s back: %w", r.Name, err)
		}
		return nil
	})
}

// restore gives a NIC that is in this namespace again everything it had. It may
// be called twice.
func (r nicRecord) restore() error {
	l, err := r.find()
	if err != nil {
		return err
	}
	if l.Attrs().MTU != r.MTU {
		if err := netlink.LinkSetMTU(l, r.MTU); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", r.MTU, r.Name, err)
		}
	}
	_ = r.restoreSysctls() // before the link is up: some decide what happens then; repeated below
	if !r.Up {
		return errors.Join(r.replay(l), r.restoreSysctls())
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", r.Name, err)
	}
	// Routes want a carrier in some cases, and there was one; without it they are
	// restored all the same.
	if h, err := netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
		_ = awaitCarrier(h, r.Name, l.Attrs().Index)
		h.Close()
	}
	return errors.Join(r.replay(l), r.restoreSysctls())
}

// returnLimit is how long a NIC may take to come back from the namespace of an agent that was killed.
const returnLimit = 30 * time.Second

// awaitReturn waits until the NIC is in this namespace: the kernel brings it back some time after the
// namespace that it was in has ended, or that agent's supervisor does, which need not have the lock.
func (r nicRecord) awaitReturn() error {
	for limit := time.Now().Add(returnLimit); ; time.Sleep(50 * time.Millisecond) {
		if _, err := r.find(); err == nil || time.Now().After(limit) {
			return err
		}
	}
}

// find finds the NIC by its name, or by its hardware address where the kernel
// brought it back under another one.
func (r nicRecord) find() (netlink.Link, error) {
	l, err := netlink.LinkByName(r.Name)
	if err == nil {
		return l, nil
	}
	links, lerr := netdump.Whole(netlink.LinkList)
	if lerr != nil {
		return nil, fmt.Errorf("find %s: %w", r.Name, lerr)
	}
	for _, l := range links {
		if a := l.Attrs(); a.HardwareAddr.String() == r.MAC && a.Index == r.Index {
			if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, r.Name)); err != nil {
				return nil, fmt.Errorf("name %s %s again: %w", a.Name, r.Name, err)
			}
			return netlink.LinkByName(r.Name)
		}
	}
	return nil, fmt.Errorf("find %s: %w", r.Name, err)
}

// restoreSysctls writes those that differ. Some take no write of the value that
// they show; only one that still differs is an error.
func (r nicRecord) restoreSysctls() error {
	now := nicSysctls(r.Name)
	var paths []string
	for path, value := range r.Sysctls {
		if now[path] != value {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	var errs []error
	for _, path := range paths {
		if err := sysfs.WriteSysctl(path, r.Sysctls[path]); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("set %s to %q again: %w", path, r.Sysctls[path], err))
		}
	}
	return errors.Join(errs...)
}

// replay puts addresses, routes and permanent neighbours back. What is there
// already is left alone; a route may need another one first.
func (r nicRecord) replay(l netlink.Link) error {
	index := uint32(l.Attrs().Index)
	var errs []error
	for _, m := range r.Addrs {
		m = bytes.Clone(m)
		binary.NativeEndian.PutUint32(m[4:], index)
		r.age(m)
		errs = append(errs, replayOne(unix.RTM_NEWADDR, m))
	}
	for _, m := range r.Neighs {
		m = bytes.Clone(m)
		binary.NativeEndian.PutUint32(m[4:], index)
		errs = append(errs, replayOne(unix.RTM_NEWNEIGH, m))
	}
	left := r.Routes
	for len(left) > 0 {
		var failed [][]byte
		var why []error
		for _, m := range left {
			m = bytes.Clone(m)
			// Flags of the moment, such as RTNH_F_LINKDOWN, are refused in a request
			// (fib_create_info in net/ipv4/fib_semantics.c).
			binary.NativeEndian.PutUint32(m[8:], binary.NativeEndian.Uint32(m[8:])&(unix.RTNH_F_ONLINK|unix.RTNH_F_PERVASIVE))
			setOIF(m, index)
			if err := replayOne(unix.RTM_NEWROUTE, m); err != nil {
				failed, why = append(failed, m), append(why, err)
			}
		}
		if len(failed) == len(left) {
			errs = append(errs, why...)
			break
		}
		left = failed
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("put back what %s had: %w", r.Name, err)
	}
	return nil
}

func replayOne(kind int, m []byte) error {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddRawData(m)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// age takes the time that has passed off an address's lifetimes (struct
// ifa_cacheinfo: preferred, valid; in seconds, 2^32-1 is for ever).
func (r nicRecord) age(addr []byte) {
	passed := uint32(max(0, time.Since(r.At)/time.Second))
	eachAttr(addr, unix.SizeofIfAddrmsg, func(kind uint16, value []byte) {
		if kind != unix.IFA_CACHEINFO || len(value) < 8 {
			return
		}
		for _, life := range [][]byte{value[:4], value[4:8]} {
			if n := binary.NativeEndian.Uint32(life); n != ^uint32(0) {
				binary.NativeEndian.PutUint32(life, max(n, passed+1)-passed)
			}
		}
	})
}

func setOIF(route []byte, index uint32) {
	eachAttr(route, unix.SizeofRtMsg, func(kind uint16, value []byte) {
		if kind == unix.RTA_OIF && len(value) >= 4 {
			binary.NativeEndian.PutUint32(value, index)
		}
	})
}

// eachAttr walks the attributes after a message's header; values may be changed.
func eachAttr(m []byte, header int, do func(kind uint16, value []byte)) {
	for m = m[min(header, len(m)):]; len(m) >= unix.SizeofRtAttr; {
		n := int(binary.NativeEndian.Uint16(m))
		if n < unix.SizeofRtAttr || n > len(m) {
			return
		}
		do(binary.NativeEndian.Uint16(m[2:]), m[unix.SizeofRtAttr:n])
		m = m[min((n+3)&^3, len(m)):]
	}
}
