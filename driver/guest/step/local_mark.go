package step

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

func doLocalMark(c *call, a bundle.LocalMark) error {
	lo, err := c.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	rule, any := netlink.NewRule(), &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	rule.Mark, rule.Table, rule.Family = a.Mark, a.Table, netlink.FAMILY_V4
	if a.Family == bundle.IPv6 {
		rule.Family, any = netlink.FAMILY_V6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	if err := c.nl.RuleAdd(rule); err != nil {
		return fmt.Errorf("add a rule for mark %d: %w", a.Mark, err)
	}
	c.undoHere(fmt.Sprintf("rule for mark %d", a.Mark), func(u undoing) error { return u.nl.RuleDel(rule) })
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: any, Table: a.Table, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
	if err := c.nl.RouteAdd(route); err != nil {
		return fmt.Errorf("add a local route to table %d: %w", a.Table, err)
	}
	c.undoHere(fmt.Sprintf("route of table %d", a.Table), func(u undoing) error { return u.nl.RouteDel(route) })
	return nil
}
