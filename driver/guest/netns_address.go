package main

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dataLink is the name of a node's data link in the node, by convention of the lab.
const dataLink = "data0"

// parseAddr reads an address in CIDR form, to be usable as soon as it is added:
// IPv6 would otherwise first listen for a second or two whether somebody else
// has it.
func parseAddr(cidr string) (*netlink.Addr, error) {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return nil, err
	}
	if addr.IP.To4() == nil {
		addr.Flags |= unix.IFA_F_NODAD
	}
	return addr, nil
}
