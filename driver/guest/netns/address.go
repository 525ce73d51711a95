package netns

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DataLink is the name of a node's data link in the node, by convention of the lab.
const DataLink = "data0"

// ParseAddr reads an address in CIDR form, to be usable as soon as it is added:
// IPv6 would otherwise first listen for a second or two whether another machine
// has it.
func ParseAddr(cidr string) (*netlink.Addr, error) {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return nil, err
	}
	if addr.IP.To4() == nil {
		addr.Flags |= unix.IFA_F_NODAD
	}
	return addr, nil
}
