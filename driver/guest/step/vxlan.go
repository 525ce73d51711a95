package step

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
)

func doVxlan(c *call, a bundle.Vxlan) error {
	under, err := c.link(a.Underlay)
	if err != nil {
		return err
	}
	spec, err := vxlanSpec(a)
	if err != nil {
		return fmt.Errorf("make vxlan %s: %w", a.Link, err)
	}
	if err := addVxlan(spec, under.Attrs().Index); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fault.LacksFeature("make vxlan "+a.Link, "VXLAN", "3.7", err)
		}
		return fmt.Errorf("make vxlan %s: %w", a.Link, err)
	}
	l, err := c.nl.LinkByName(a.Link)
	if err != nil {
		return fmt.Errorf("find %s after making it: %w", a.Link, err)
	}
	c.undoDelete(l)
	if err := vxlanIsNot(spec, l); err != nil {
		return err
	}
	if err := c.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", a.Link, err)
	}
	return nil
}

func vxlanSpec(a bundle.Vxlan) (*netlink.Vxlan, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Link, a.MTU
	var err error
	if attrs.HardwareAddr, err = net.ParseMAC(a.MAC); err != nil {
		return nil, err
	}
	local := net.ParseIP(a.Local).To4()
	if local == nil {
		return nil, fmt.Errorf("source %q is no IPv4 address", a.Local)
	}
	return &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(a.VNI), SrcAddr: local, Port: a.Port, UDPCSum: a.UDPCsum, FlowBased: a.External}, nil
}

// addVxlan requests the device by a message of its own: netlink's package leaves
// the attribute out that switches the checksum off, and without it the kernel
// switches it on (vxlan_nl2conf in drivers/net/vxlan/vxlan_core.c). The thread is
// in the step's namespace. A device that takes its keys from packets takes no
// underlay either, which would make the kernel refuse routes elsewhere.
func addVxlan(v *netlink.Vxlan, under int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, v.HardwareAddr))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_LOCAL, v.SrcAddr)
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{0})
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, []byte{asByte(v.UDPCSum)})
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, uint16(v.Port)))
	if v.FlowBased {
		data.AddRtAttr(nl.IFLA_VXLAN_FLOWBASED, []byte{1})
	} else {
		data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(uint32(v.VxlanId)))
		data.AddRtAttr(nl.IFLA_VXLAN_LINK, nl.Uint32Attr(uint32(under)))
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func asByte(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// vxlanIsNot reports in what a device that was just made is not as requested.
func vxlanIsNot(want *netlink.Vxlan, l netlink.Link) error {
	got, ok := l.(*netlink.Vxlan)
	switch {
	case !ok:
		return fmt.Errorf("%s is a %s, not a vxlan", want.Name, l.Type())
	case got.MTU != want.MTU:
		return fmt.Errorf("the MTU of %s is %d, want %d", want.Name, got.MTU, want.MTU)
	case got.UDPCSum != want.UDPCSum || got.FlowBased != want.FlowBased || got.Learning || got.Port != want.Port || got.VxlanId != want.VxlanId:
		return fmt.Errorf("%s was made with VNI %d, port %d, UDP checksum %t, external %t, learning %t, want %d, %d, %t, %t and none",
			want.Name, got.VxlanId, got.Port, got.UDPCSum, got.FlowBased, got.Learning, want.VxlanId, want.Port, want.UDPCSum, want.FlowBased)
	}
	return nil
}

func doFDB(c *call, a bundle.FDB) error {
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return err
	}
	n := &netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP(a.Dst), HardwareAddr: mac,
	}
	if n.IP == nil {
		return fmt.Errorf("underlay address %q is no address", a.Dst)
	}
	if err := c.nl.NeighSet(n); err != nil {
		return fmt.Errorf("add %s behind %s to the table of %s: %w", a.MAC, a.Dst, a.Link, err)
	}
	c.undoHere("forwarding entry "+a.MAC, func(u undoing) error { return u.nl.NeighDel(n) })
	return nil
}
