package vm

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"libvirt.org/go/libvirtxml"

	"hookbed/driver/netdump"
)

// namePrefix begins the names of all labs' networks.
const namePrefix = "hookbed-"

// Network is an isolated network of a lab: a bridge that joins only its machines,
// without DHCP, DNS or a route to other networks.
type Network struct {
	Name     string // namePrefix + "LAB-mgmt"
	Bridge   string // name of the bridge interface, at most 15 characters
	HostCIDR string // the driver's address on it, "198.18.0.1/24"; "" is none
	MTU      int    // bytes; 0 is the kernel's 1500
	// Existing: Bridge already exists on the computer, and leads to other computers.
	Existing bool
}

func (n Network) xml() (*libvirtxml.Network, error) {
	if n.Bridge == "" || len(n.Bridge) > 15 {
		return nil, fmt.Errorf("bridge name %q has %d characters, want 1 to 15", n.Bridge, len(n.Bridge))
	}
	if n.Existing {
		return &libvirtxml.Network{Name: n.Name, Forward: &libvirtxml.NetworkForward{Mode: "bridge"}, Bridge: &libvirtxml.NetworkBridge{Name: n.Bridge}}, nil
	}
	x := &libvirtxml.Network{
		Name:   n.Name,
		Bridge: &libvirtxml.NetworkBridge{Name: n.Bridge, STP: "off", Delay: "0"},
		// With neither DNS nor DHCP, libvirt starts no dnsmasq.
		DNS: &libvirtxml.NetworkDNS{Enable: "no"},
	}
	if n.MTU > 0 {
		x.MTU = &libvirtxml.NetworkMTU{Size: uint(n.MTU)}
	}
	if n.HostCIDR != "" {
		p, err := netip.ParsePrefix(n.HostCIDR)
		if err != nil {
			return nil, fmt.Errorf("host address: %w", err)
		}
		x.IPs = []libvirtxml.NetworkIP{{Address: p.Addr().String(), Prefix: uint(p.Bits())}}
	}
	return x, nil
}

// CreateNetwork makes a network, which lasts until Close, Cleanup or
// shutdown of the computer. On the system's libvirtd it refuses an address
// range that the computer already uses.
func (h *Hypervisor) CreateNetwork(ctx context.Context, n Network) error {
	fail := func(err error) error { return fmt.Errorf("create network %q: %w", n.Name, err) }
	x, err := n.xml()
	if err != nil {
		return fail(err)
	}
	if n.HostCIDR != "" && h.daemon == nil && h.cfg.Remote == nil { // libvirt refuses it on a remote one
		if err := checkFree(netip.MustParsePrefix(n.HostCIDR).Masked()); err != nil {
			return fail(err)
		}
	}
	if x.UUID, err = newUUID(); err != nil {
		return fail(err)
	}
	text, err := x.Marshal()
	if err != nil {
		return fail(err)
	}
	lookup := func() error { _, err := h.lv.NetworkLookupByName(n.Name); return err }
	if err := h.checkUnused(ctx, &h.record.Networks, n.Name, lookup); err != nil {
		return fail(err)
	}
	if err := h.remember(&h.record.Networks, n.Name, x.UUID); err != nil {
		return fail(err)
	}
	// The call is not interrupted: nothing would remove a network that it makes later.
	making, cancel := context.WithTimeout(context.WithoutCancel(ctx), createLimit)
	defer cancel()
	err = within(making, func() error { _, err := h.lv.NetworkCreateXML(text); return err })
	if err == nil && n.Existing {
		err = h.checkBridge(ctx, n)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// checkBridge fails if another lab's network is on the bridge, too: nodes of all
// labs have the same data addresses, and their traffic would mix. The caller has
// made its network before, so that of two labs at the same time at least one sees
// the other.
func (h *Hypervisor) checkBridge(ctx context.Context, n Network) error {
	others := ""
	err := within(ctx, func() error {
		all, _, err := h.lv.ConnectListAllNetworks(1, 0)
		if err != nil {
			return err
		}
		for _, o := range all {
			text, err := h.lv.NetworkGetXMLDesc(o, 0)
			if isNotFound(err) {
				continue // gone meanwhile
			}
			var x libvirtxml.Network
			if err == nil {
				err = x.Unmarshal(text)
			}
			if err != nil {
				return fmt.Errorf("read network %q: %w", o.Name, err)
			}
			if strings.HasPrefix(o.Name, namePrefix) && o.Name != n.Name && x.Bridge != nil && x.Bridge.Name == n.Bridge {
				others = o.Name
			}
		}
		return nil
	})
	if err == nil && others != "" {
		err = fmt.Errorf("bridge %s carries the data of another lab, whose network is %q: wait for its end, name another bridge, or where its driver died run `driver down NAME`, or `virsh net-destroy %s` if it cannot", n.Bridge, others, others)
	}
	return err
}

// destroyNetwork removes a network, if it has the UUID; it is not an error if there is
// no such network.
func (h *Hypervisor) destroyNetwork(ctx context.Context, name, uuid string) error {
	err := within(ctx, func() error {
		n, err := h.lv.NetworkLookupByName(name)
		if err == nil && sameUUID(uuid, n.UUID) {
			err = h.lv.NetworkDestroy(n)
		}
		return err
	})
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("destroy network %q: %w", name, err)
	}
	return nil
}

// usedRange is an address range that a computer already uses.
type usedRange struct {
	Prefix netip.Prefix
	By     string // "the address of eth0"
}

// overlap finds the first range in use that shares addresses with p. A default
// route, which covers all addresses, does not count.
func overlap(p netip.Prefix, used []usedRange) (usedRange, bool) {
	for _, u := range used {
		if u.Prefix.Bits() > 0 && u.Prefix.Overlaps(p) {
			return u, true
		}
	}
	return usedRange{}, false
}

// checkFree fails if this network namespace uses a part of an address range.
func checkFree(p netip.Prefix) error {
	used, err := usedRanges()
	if err != nil {
		return err
	}
	if u, found := overlap(p, used); found {
		return fmt.Errorf("address range %s is in use by %s (%s): free it, or stop libvirtd so that a private one with a network namespace of its own is used", p, u.By, u.Prefix)
	}
	return nil
}

// usedRanges reads the IPv4 addresses and routes of this network namespace.
func usedRanges() ([]usedRange, error) {
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var used []usedRange
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.IPNet.String()); err == nil {
			used = append(used, usedRange{p.Masked(), "the address of " + names[a.LinkIndex]})
		}
	}
	routes, err := netdump.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if p, err := netip.ParsePrefix(r.Dst.String()); err == nil {
			used = append(used, usedRange{p, strings.TrimSpace("a route through " + names[r.LinkIndex])})
		}
	}
	return used, nil
}
