package step

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/netdump"
)

func doAttachBPF(c *call, a bundle.AttachBPF) error {
	prog, err := c.x.loadedProgram(a.Handle, a.Program)
	if err != nil {
		return err
	}
	switch a.Hook {
	case bundle.HookSockOps:
		return c.attachSockOps(prog)
	case bundle.HookStream:
		return c.attachSockets(prog, a, ebpf.AttachSkSKBStreamVerdict)
	case bundle.HookMessage:
		return c.attachSockets(prog, a, ebpf.AttachSkMsgVerdict)
	}
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	switch a.Hook {
	case bundle.HookTCIngress:
		return c.attachTC(prog, a.Program, l, netlink.HANDLE_MIN_INGRESS)
	case bundle.HookTCEgress:
		return c.attachTC(prog, a.Program, l, netlink.HANDLE_MIN_EGRESS)
	case bundle.HookXDPNative:
		return c.attachXDP(prog, l, link.XDPDriverMode)
	case bundle.HookXDPGeneric:
		return c.attachXDP(prog, l, link.XDPGenericMode)
	case bundle.HookTCXIngress, bundle.HookTCXEgress, bundle.HookNetkitPrimary, bundle.HookNetkitPeer:
		return c.attachLink(prog, l, linkHooks()[a.Hook])
	default:
		return fmt.Errorf("unknown hook %q", a.Hook)
	}
}

// loadedProgram finds a program of a loaded object.
func (x *executor) loadedProgram(handle, name string) (*ebpf.Program, error) {
	coll := x.objects[handle]
	if coll == nil {
		return nil, fmt.Errorf("no BPF object %q is loaded", handle)
	}
	prog := coll.Programs[name]
	if prog == nil {
		return nil, fmt.Errorf("object %q has no loaded program %q, only %q", handle, name, slices.Sorted(maps.Keys(coll.Programs)))
	}
	return prog, nil
}

// attachTC attaches a program by a direct-action filter of the link's clsact
// qdisc, which is made if the link has none.
func (c *call) attachTC(prog *ebpf.Program, name string, l netlink.Link, parent uint32) error {
	if err := c.ensureClsact(l); err != nil {
		return err
	}
	id, err := programID(prog)
	if err != nil {
		return err
	}
	present, err := netdump.Whole(func() ([]netlink.Filter, error) { return c.nl.FilterList(l, parent) })
	if err != nil {
		return fmt.Errorf("list filters of %s: %w", l.Attrs().Name, err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: freePriority(present)},
		Fd:           prog.FD(),
		Name:         name,
		DirectAction: true,
	}
	if err := c.nl.FilterAdd(filter); err != nil {
		return fmt.Errorf("attach %s to %s by tc: %w", name, l.Attrs().Name, err)
	}
	c.undoHere("filter on "+l.Attrs().Name, func(u undoing) error { return u.nl.FilterDel(filter) })
	return c.checkTC(l, parent, id)
}

// freePriority is one after the last in use, so that filters run in the order
// in which they were attached.
func freePriority(present []netlink.Filter) uint16 {
	last := uint16(0)
	for _, f := range present {
		last = max(last, f.Attrs().Priority)
	}
	return last + 1
}

func (c *call) ensureClsact(l netlink.Link) error {
	present, err := netdump.Whole(func() ([]netlink.Qdisc, error) { return c.nl.QdiscList(l) })
	if err != nil {
		return fmt.Errorf("list qdiscs of %s: %w", l.Attrs().Name, err)
	}
	for _, q := range present {
		if q.Type() == "clsact" {
			return nil
		}
	}
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := c.nl.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("add clsact to %s: %w", l.Attrs().Name, err)
	}
	c.undoHere("clsact of "+l.Attrs().Name, func(u undoing) error {
		// The kernel says EINVAL for a qdisc of a link that is gone.
		if _, err := u.nl.LinkByIndex(qdisc.LinkIndex); err != nil {
			return err
		}
		return u.nl.QdiscDel(qdisc)
	})
	return nil
}

func (c *call) checkTC(l netlink.Link, parent uint32, id int) error {
	present, err := netdump.Whole(func() ([]netlink.Filter, error) { return c.nl.FilterList(l, parent) })
	if err != nil {
		return fmt.Errorf("read back filters of %s: %w", l.Attrs().Name, err)
	}
	for _, f := range present {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Id == id && b.DirectAction {
			return nil
		}
	}
	return fmt.Errorf("program %d is not on %s after attaching it", id, l.Attrs().Name)
}

func programID(prog *ebpf.Program) (int, error) {
	info, err := prog.Info()
	if err != nil {
		return 0, fmt.Errorf("read program info: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, fault.Unsupported("this kernel does not tell program IDs")
	}
	return int(id), nil
}

// attachXDP attaches by a BPF link (5.9), which the kernel detaches when the
// helper ends, however that happens.
func (c *call) attachXDP(prog *ebpf.Program, l netlink.Link, mode link.XDPAttachFlags) error {
	id, err := programID(prog)
	if err != nil {
		return err
	}
	name, index := l.Attrs().Name, l.Attrs().Index
	attached, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: mode})
	if err != nil {
		return refusedXDP(err, prog, name, index, mode)
	}
	c.undoHere("XDP of "+name, func(undoing) error { return attached.Close() })
	return c.checkXDP(name, index, id, mode)
}

// refusedXDP classifies a failed attachment: what a driver cannot do in native
// mode is unsupported.
func refusedXDP(err error, prog *ebpf.Program, name string, index int, mode link.XDPAttachFlags) error {
	why := xdpExplanation(prog, index, mode)
	if why != "" {
		err = fmt.Errorf("%w: %s", err, why)
	}
	if mode == link.XDPDriverMode {
		for _, e := range []error{unix.EOPNOTSUPP, unix.EINVAL, unix.ENOMEM, unix.ERANGE, unix.E2BIG, ebpf.ErrNotSupported} {
			if errors.Is(err, e) {
				return fault.Unsupported("attach XDP to %s in native mode: %w", name, err)
			}
		}
	}
	return fmt.Errorf("attach XDP to %s: %w", name, err)
}

// xdpExplanation requests the same by netlink, only to get the driver's message:
// the bpf system call returns a bare number. Should it succeed, the program
// is detached again.
func xdpExplanation(prog *ebpf.Program, index int, mode link.XDPAttachFlags) string {
	err := setXDP(index, prog.FD(), uint32(mode))
	if err == nil {
		_ = setXDP(index, -1, uint32(mode))
		return ""
	}
	return err.Error()
}

// setXDP sets or (fd -1) clears the program of a link in the thread's
// namespace, with extended error messages on.
func setXDP(index, fd int, flags uint32) error {
	sock, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer sock.Close()
	if err := sock.SetExtAck(true); err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	xdp := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	xdp.AddRtAttr(nl.IFLA_XDP_FD, nl.Uint32Attr(uint32(fd)))
	xdp.AddRtAttr(nl.IFLA_XDP_FLAGS, nl.Uint32Attr(flags))
	req.AddData(xdp)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (c *call) checkXDP(name string, index, id int, mode link.XDPAttachFlags) error {
	want := uint32(nl.XDP_ATTACHED_DRV)
	if mode == link.XDPGenericMode {
		want = nl.XDP_ATTACHED_SKB
	}
	l, err := c.nl.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("read back XDP of %s: %w", name, err)
	}
	got := l.Attrs().Xdp
	if got == nil || !got.Attached || got.ProgId != uint32(id) || got.AttachMode != want {
		return fmt.Errorf("XDP of %s reads back as %+v, want program %d in mode %d", name, got, id, want)
	}
	return nil
}
