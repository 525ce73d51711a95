package step

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/guest/ruleset"
	"hookbed/driver/guest/sysfs"
	"hookbed/driver/netdump"
)

// keepNamespace has the firewall, the sysctls and the routes of the step's namespace as they are now
// once the undo comes here: an agent changes them, what cleans up after it does not change them
// back, and the next arm would have them.
func (c *call) keepNamespace(handle string) error {
	rules, err := ruleset.Note(c.ctx)
	if err != nil {
		return err
	}
	sysctls, err := sysfs.NoteSysctls()
	if err != nil {
		return err
	}
	before := map[route]bool{}
	if err := c.at.WithNetlink(func(h *netlink.Handle) error {
		return eachRoute(h, func(r route, _ netlink.Route) error {
			before[r] = true
			return nil
		})
	}); err != nil {
		return err
	}
	c.undoHere("firewall, sysctls and routes before "+handle, func(u undoing) error {
		return errors.Join(rules.Clear(u.ctx), sysctls.Restore(), c.at.WithNetlink(func(h *netlink.Handle) error {
			return eachRoute(h, func(r route, all netlink.Route) error {
				if before[r] {
					return nil
				}
				return h.RouteDel(&all)
			})
		}))
	})
	return nil
}

// route tells routes apart.
type route struct {
	dst, via string
	link     int
	table    int
}

// eachRoute visits the IPv4 routes but those to the namespace's own addresses. The agent calls its
// routes the kernel's (RTPROT_KERNEL).
func eachRoute(h *netlink.Handle, visit func(route, netlink.Route) error) error {
	all, err := netdump.Whole(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range all {
		if r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		dst := "default"
		if r.Dst != nil {
			dst = r.Dst.String()
		}
		if err := visit(route{dst, r.Gw.String(), r.LinkIndex, r.Table}, r); err != nil {
			return fmt.Errorf("route %s: %w", dst, err)
		}
	}
	return nil
}
