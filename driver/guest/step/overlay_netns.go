package step

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
)

// engineNamespaces is where the Docker Engine mounts the network namespaces that
// it makes, those of overlay networks among them (libnetwork/osl).
const engineNamespaces = "/run/docker/netns"

func doOverlayNetns(c *call, a bundle.OverlayNetns) error {
	if _, ok := c.x.endpoints[a.Name]; ok || a.Name == "" {
		return fmt.Errorf("endpoint %q exists already", a.Name)
	}
	l, err := c.nl.LinkByName(a.Link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", a.Link, err)
	}
	ns, err := c.beyond(a.Name, l, c.x.mounted)
	if err != nil {
		return err
	}
	c.x.endpoints[a.Name] = &proc.Endpoint{Namespace: ns, Root: c.x.root}
	c.undoHere("forget namespace "+a.Name, func(undoing) error {
		delete(c.x.endpoints, a.Name)
		return ns.Close()
	})
	return ns.WithNetlink(func(h *netlink.Handle) error { return c.waysKnown(h, a) })
}

// beyond opens the namespace, among those that are mounted in dir, in which the
// other end of a link of the step's namespace is. The kernel numbers the namespaces
// that links lead to (rtnl_link_get_net, IFLA_LINK_NETNSID).
func (c *call) beyond(name string, l netlink.Link, dir string) (*netns.Namespace, error) {
	far := l.Attrs().NetNsID
	if far < 0 {
		return nil, fmt.Errorf("the other end of %s is in no other namespace", l.Attrs().Name)
	}
	mounted, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the engine's namespaces: %w", err)
	}
	for _, m := range mounted {
		ns, err := netns.Open(name, filepath.Join(dir, m.Name()))
		if err != nil {
			continue // unmounted meanwhile
		}
		fd, err := ns.FD()
		if err == nil {
			if id, err := c.nl.GetNetNsIdByFd(fd); err == nil && id == far {
				return ns, nil
			}
		}
		_ = ns.Close()
	}
	return nil, fmt.Errorf("the other end of %s is in none of the %d namespaces of %s", l.Attrs().Name, len(mounted), dir)
}

// waysKnown checks the VXLAN device of an overlay's namespace, and waits until engines have
// informed each other of where endpoints are. h is of the overlay's namespace.
func (c *call) waysKnown(h *netlink.Handle, a bundle.OverlayNetns) error {
	l, err := h.LinkByName(a.Device)
	if err != nil {
		return fmt.Errorf("find link %s: %w", a.Device, err)
	}
	v, ok := l.(*netlink.Vxlan)
	if !ok || v.VxlanId != int(a.VNI) || v.Port != a.Port {
		return fmt.Errorf("%s is a %s with VNI %d and port %d, want a vxlan with %d and %d", a.Device, l.Type(), vniOf(v), portOf(v), a.VNI, a.Port)
	}
	c.value("udp_csum", float64(asByte(v.UDPCSum)))
	until := time.Now().Add(time.Duration(a.Timeout * float64(time.Second)))
	for {
		missing, err := missingWays(h, l.Attrs().Index, a.Ways)
		if err != nil || missing == "" {
			return err
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s does not know after %g s that %s", a.Device, a.Timeout, missing)
		}
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-time.After(waysAskedEvery):
		}
	}
}

const waysAskedEvery = 50 * time.Millisecond

func vniOf(v *netlink.Vxlan) int {
	if v == nil {
		return 0
	}
	return v.VxlanId
}

func portOf(v *netlink.Vxlan) int {
	if v == nil {
		return 0
	}
	return v.Port
}

// missingWays says which endpoint a VXLAN device does not know to be where it is:
// it wants a neighbour for the address, and a forwarding entry for that one's MAC
// address. "" means none.
func missingWays(h *netlink.Handle, device int, ways map[string]string) (string, error) {
	// A table that changes meanwhile is read as far as it goes, and again later.
	neighbours, err := h.NeighList(device, unix.AF_INET)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", fmt.Errorf("list neighbours: %w", err)
	}
	behind, err := h.NeighList(device, unix.AF_BRIDGE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", fmt.Errorf("list forwarding entries: %w", err)
	}
	macs, vteps := map[string]string{}, map[string]string{}
	for _, n := range neighbours {
		macs[n.IP.String()] = n.HardwareAddr.String()
	}
	for _, n := range behind {
		if n.IP != nil { // else it is the bridge's, about a port
			vteps[n.HardwareAddr.String()] = n.IP.String()
		}
	}
	for _, addr := range slices.Sorted(maps.Keys(ways)) {
		if mac, ok := macs[addr]; !ok || vteps[mac] != ways[addr] {
			return fmt.Sprintf("%s is behind %s", addr, ways[addr]), nil
		}
	}
	return "", nil
}
