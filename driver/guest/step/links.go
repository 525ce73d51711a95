package step

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

// link finds a link of the step's namespace by name; "peer:ENDPOINT/LINK" is
// the other end of an endpoint's link.
func (c *call) link(name string) (netlink.Link, error) {
	rest, ok := strings.CutPrefix(name, "peer:")
	if !ok {
		l, err := c.nl.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("find link %s: %w", name, err)
		}
		return l, nil
	}
	epName, inner, ok := strings.Cut(rest, "/")
	if !ok {
		return nil, fmt.Errorf("link %q: want peer:ENDPOINT/LINK", name)
	}
	l, err := c.peer(epName, inner)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	return l, nil
}

// peer finds the other end of link inner of an endpoint, and makes sure that
// it lies in the step's namespace: an ifindex alone may be that of any link.
func (c *call) peer(epName, inner string) (netlink.Link, error) {
	ep, err := c.x.endpointOf(epName)
	if err != nil {
		return nil, err
	}
	here, err := c.at.FD()
	if err != nil {
		return nil, err
	}
	var far *netlink.LinkAttrs
	nsid := -1
	err = ep.WithNetlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(inner)
		if err != nil {
			return err
		}
		far = l.Attrs()
		nsid, err = h.GetNetNsIdByFd(here)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Without a namespace ID both ends are in one namespace, the endpoint's.
	inStep := far.NetNsID >= 0 && far.NetNsID == nsid || far.NetNsID < 0 && ep.Same(c.at.Namespace)
	if far.ParentIndex == 0 || !inStep {
		return nil, errors.New("its other end is not in the step's namespace")
	}
	near, err := c.nl.LinkByIndex(far.ParentIndex)
	if err != nil {
		return nil, err
	}
	if near.Attrs().ParentIndex != far.Index {
		return nil, fmt.Errorf("%s (ifindex %d) is not its other end", near.Attrs().Name, far.ParentIndex)
	}
	return near, nil
}

func parseMAC(s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	return net.ParseMAC(s)
}

func doVeth(c *call, a bundle.Veth) error {
	far, err := c.x.endpointOf(c.x.where(c.step.Node, a.PeerIn))
	if err != nil {
		return err
	}
	veth, err := vethSpec(a, far)
	if err != nil {
		return err
	}
	if err := c.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth %s to %s: %w", a.Link, a.Peer, err)
	}
	return c.bringUp(a.Link, a.Peer, far)
}

// bringUp registers the deletion of a pair that was just made, by its end in
// the step's namespace, and sets both ends up.
func (c *call) bringUp(link, peer string, far *proc.Endpoint) error {
	near, err := c.nl.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s after making it: %w", link, err)
	}
	c.undoDelete(near)
	if err := c.nl.LinkSetUp(near); err != nil {
		return fmt.Errorf("set %s up: %w", link, err)
	}
	return far.WithNetlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(peer)
		if err != nil {
			return fmt.Errorf("find %s after making it: %w", peer, err)
		}
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", peer, err)
		}
		return nil
	})
}

func vethSpec(a bundle.Veth, far *proc.Endpoint) (*netlink.Veth, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Link, a.MTU
	attrs.NumTxQueues, attrs.NumRxQueues = max(a.Queues, 1), max(a.Queues, 1)
	var err error
	if attrs.HardwareAddr, err = parseMAC(a.MAC); err != nil {
		return nil, err
	}
	v := netlink.NewVeth(attrs)
	v.PeerName = a.Peer
	if v.PeerHardwareAddr, err = parseMAC(a.PeerMAC); err != nil {
		return nil, err
	}
	fd, err := far.FD()
	if err != nil {
		return nil, err
	}
	v.PeerNamespace = netlink.NsFd(fd)
	return v, nil
}

func doBridge(c *call, a bundle.Bridge) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Link
	if err := c.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge %s: %w", a.Link, err)
	}
	l, err := c.nl.LinkByName(a.Link)
	if err != nil {
		return fmt.Errorf("find %s after making it: %w", a.Link, err)
	}
	c.undoDelete(l)
	if err := c.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", a.Link, err)
	}
	return nil
}

// undoDelete registers the deletion of a link the step made. It goes by index,
// because the link may have been renamed since.
func (c *call) undoDelete(l netlink.Link) {
	index, name := l.Attrs().Index, l.Attrs().Name
	c.undoHere("delete link "+name, func(u undoing) error {
		l, err := u.nl.LinkByIndex(index)
		if err != nil {
			return err
		}
		return u.nl.LinkDel(l)
	})
}

func doSetLink(c *call, a bundle.SetLink) error {
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	if a.Master != "" {
		if err := setMaster(c, l, a.Master); err != nil {
			return err
		}
	}
	if old := l.Attrs().MTU; a.MTU != 0 && a.MTU != old {
		if err := c.nl.LinkSetMTU(l, a.MTU); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", a.MTU, a.Link, err)
		}
		c.undoHere("MTU of "+a.Link, func(u undoing) error { return u.nl.LinkSetMTU(l, old) })
	}
	if a.Up && l.Attrs().Flags&net.FlagUp == 0 {
		if err := c.nl.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", a.Link, err)
		}
		c.undoHere("set down "+a.Link, func(u undoing) error { return u.nl.LinkSetDown(l) })
	}
	return nil
}

func setMaster(c *call, l netlink.Link, master string) error {
	m, err := c.link(master)
	if err != nil {
		return err
	}
	old := l.Attrs().MasterIndex
	if old == m.Attrs().Index {
		return nil
	}
	if err := c.nl.LinkSetMasterByIndex(l, m.Attrs().Index); err != nil {
		return fmt.Errorf("put %s into %s: %w", l.Attrs().Name, master, err)
	}
	c.undoHere("master of "+l.Attrs().Name, func(u undoing) error { return u.nl.LinkSetMasterByIndex(l, old) })
	return nil
}

func doAddr(c *call, a bundle.Addr) error {
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	addr, err := netns.ParseAddr(a.CIDR)
	if err != nil {
		return fmt.Errorf("address %q: %w", a.CIDR, err)
	}
	err = c.nl.AddrAdd(l, addr)
	if errors.Is(err, unix.EEXIST) {
		c.note("%s was there before", a.CIDR)
		return nil
	}
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", a.CIDR, a.Link, err)
	}
	c.undoHere("address "+a.CIDR, func(u undoing) error { return u.nl.AddrDel(l, addr) })
	return nil
}

func doRoute(c *call, a bundle.Route) error {
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	r, err := routeSpec(a, l.Attrs().Index)
	if err != nil {
		return err
	}
	if err := c.nl.RouteAdd(r); err != nil {
		return fmt.Errorf("add route to %s by %s: %w", a.Dst, a.Link, err)
	}
	c.undoHere("route to "+a.Dst, func(u undoing) error { return u.nl.RouteDel(r) })
	return nil
}

func routeSpec(a bundle.Route, index int) (*netlink.Route, error) {
	prefix, err := routeDst(a)
	if err != nil {
		return nil, fmt.Errorf("route to %q: %w", a.Dst, err)
	}
	r := &netlink.Route{LinkIndex: index, Dst: prefix, Scope: netlink.SCOPE_LINK}
	if a.Via != "" {
		r.Scope = netlink.SCOPE_UNIVERSE
		if r.Gw = net.ParseIP(a.Via); r.Gw == nil {
			return nil, fmt.Errorf("route to %s: gateway %q is no address", a.Dst, a.Via)
		}
	}
	if a.OnLink {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	return r, nil
}

// routeDst is the destination as a prefix, the default route's of its family.
func routeDst(a bundle.Route) (*net.IPNet, error) {
	dst := a.Dst
	if dst == "default" {
		via := net.ParseIP(a.Via)
		switch {
		case a.Family == bundle.IPv6, a.Family == "" && via != nil && via.To4() == nil:
			dst = "::/0"
		case a.Family == bundle.IPv4, a.Family == "":
			dst = "0.0.0.0/0"
		default:
			return nil, fmt.Errorf("unknown family %q, want %s or %s", a.Family, bundle.IPv4, bundle.IPv6)
		}
	}
	_, prefix, err := net.ParseCIDR(dst)
	return prefix, err
}

func doNeigh(c *call, a bundle.Neigh) error {
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return err
	}
	n := &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a.IP), HardwareAddr: mac}
	if n.IP == nil {
		return fmt.Errorf("neighbour %q is no address", a.IP)
	}
	if err := c.nl.NeighSet(n); err != nil {
		return fmt.Errorf("add neighbour %s on %s: %w", a.IP, a.Link, err)
	}
	c.undoHere("neighbour "+a.IP, func(u undoing) error { return u.nl.NeighDel(n) })
	return nil
}
