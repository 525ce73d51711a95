package step

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/proc"
)

// linkHook is a hook at which several programs run in a row, each attached by
// a BPF link, which the kernel detaches when the helper ends.
type linkHook struct {
	feature string // its name, for messages
	needs   string // first kernel version that has it
	at      ebpf.AttachType
	attach  func(prog *ebpf.Program, index int, at ebpf.AttachType) (link.Link, error)
}

func linkHooks() map[string]linkHook {
	tcx := func(prog *ebpf.Program, index int, at ebpf.AttachType) (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Program: prog, Interface: index, Attach: at})
	}
	netkit := func(prog *ebpf.Program, index int, at ebpf.AttachType) (link.Link, error) {
		return link.AttachNetkit(link.NetkitOptions{Program: prog, Interface: index, Attach: at})
	}
	return map[string]linkHook{
		bundle.HookTCXIngress:    {"tcx", "6.6", ebpf.AttachTCXIngress, tcx},
		bundle.HookTCXEgress:     {"tcx", "6.6", ebpf.AttachTCXEgress, tcx},
		bundle.HookNetkitPrimary: {"netkit", netkitNeeds, ebpf.AttachNetkitPrimary, netkit},
		bundle.HookNetkitPeer:    {"netkit", netkitNeeds, ebpf.AttachNetkitPeer, netkit},
	}
}

// attachLink attaches a program after those that are there.
func (c *call) attachLink(prog *ebpf.Program, l netlink.Link, h linkHook) error {
	id, err := programID(prog)
	if err != nil {
		return err
	}
	name, index := l.Attrs().Name, l.Attrs().Index
	attached, err := h.attach(prog, index, h.at)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fault.LacksFeature("attach to "+name, h.feature, h.needs, err)
	}
	if err != nil {
		return fmt.Errorf("attach to %s by %s: %w", name, h.feature, err)
	}
	c.undoHere(h.feature+" of "+name, func(undoing) error { return attached.Close() })
	ids, err := attachedPrograms(index, h.at)
	if err != nil {
		return fmt.Errorf("read back %s of %s: %w", h.feature, name, err)
	}
	if len(ids) == 0 || ids[len(ids)-1] != id {
		return fmt.Errorf("%s of %s reads back as programs %v, want %d last", h.feature, name, ids, id)
	}
	return nil
}

// attachedPrograms lists the IDs of the programs at a hook in the order in
// which they run.
func attachedPrograms(index int, at ebpf.AttachType) ([]int, error) {
	got, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: at})
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, p := range got.Programs {
		ids = append(ids, int(p.ID))
	}
	return ids, nil
}

// netkitNeeds is the first kernel version with netkit devices.
const netkitNeeds = "6.7"

func doNetkit(c *call, a bundle.Netkit) error {
	far, err := c.x.endpointOf(c.x.where(c.step.Node, a.PeerIn))
	if err != nil {
		return err
	}
	pair, err := netkitSpec(a, far)
	if err != nil {
		return err
	}
	err = c.nl.LinkAdd(pair)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fault.LacksFeature("make netkit "+a.Link+" to "+a.Peer, "netkit", netkitNeeds, err)
	}
	if err != nil {
		return fmt.Errorf("make netkit %s to %s: %w", a.Link, a.Peer, err)
	}
	return c.bringUp(a.Link, a.Peer, far)
}

// needLink is the name of a pair that is made to see whether one can be.
const needLink = "hb-need0"

func doNeedNetkit(c *call, _ bundle.NeedNetkit) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = needLink
	err := c.nl.LinkAdd(&netlink.Netkit{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fault.LacksFeature("join endpoints by netkit", "netkit", netkitNeeds, err)
	}
	if err != nil {
		return fmt.Errorf("make a netkit pair: %w", err)
	}
	made, err := c.nl.LinkByName(needLink)
	if err != nil {
		return fmt.Errorf("find link %s: %w", needLink, err)
	}
	return c.nl.LinkDel(made)
}

func netkitSpec(a bundle.Netkit, far *proc.Endpoint) (*netlink.Netkit, error) {
	near, peer := netlink.NewLinkAttrs(), netlink.NewLinkAttrs()
	near.Name, near.MTU = a.Link, a.MTU
	peer.Name, peer.MTU = a.Peer, a.MTU
	var err error
	if near.HardwareAddr, err = parseMAC(a.MAC); err != nil {
		return nil, err
	}
	if peer.HardwareAddr, err = parseMAC(a.PeerMAC); err != nil {
		return nil, err
	}
	fd, err := far.FD()
	if err != nil {
		return nil, err
	}
	peer.Namespace = netlink.NsFd(fd)
	// Scrubbing is what a veth does, and all that kernels before 6.13 know.
	n := &netlink.Netkit{
		LinkAttrs: near, Mode: netlink.NETKIT_MODE_L2,
		Policy: netlink.NETKIT_POLICY_FORWARD, PeerPolicy: netlink.NETKIT_POLICY_FORWARD,
		Scrub: netlink.NETKIT_SCRUB_DEFAULT, PeerScrub: netlink.NETKIT_SCRUB_DEFAULT,
	}
	n.SetPeerAttrs(&peer)
	return n, nil
}
