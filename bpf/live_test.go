package bpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// gateway is every endpoint's next hop. No link has the address.
var gateway = netip.MustParseAddr("198.18.0.1")

// newNode loads the tc object as a node with no endpoints yet. Nothing passes
// through its stack's forwarding unless a test switches it on.
func newNode(t testing.TB, w when, peer uint8) *rig {
	t.Helper()
	r := loadTC(t, w, peer)
	r.must(func() error { return sysctl("net/ipv4/ip_forward", "0") })
	return r
}

// addEndpoint makes a namespace whose eth0 is joined to the node by a veth
// with the program at the node's end, and enters it into the map. It answers
// for its gateway's address by a static neighbour.
func (r *rig) addEndpoint(name string, ip netip.Addr, enforce bool) *namespace {
	r.t.Helper()
	ns := newNamespace(r.t)
	var host netlink.Link
	r.must(func() (err error) { host, err = r.joinVeth("hb-"+name, "eth0", ns); return err })
	r.must(func() error { return attach(r.coll.Programs[ProgFromEndpoint], host) })
	var mac net.HardwareAddr
	err := ns.do(func() (err error) {
		mac, err = configureEndpoint(ip, host.Attrs().HardwareAddr)
		return err
	})
	if err != nil {
		r.t.Fatalf("configure endpoint %s: %v", name, err)
	}
	r.must(func() error { return waitCarrier("hb-" + name) })
	r.endpoint(ip, host.Attrs().Index, mac.String(), host.Attrs().HardwareAddr.String(), enforce)
	return ns
}

// joinVeth makes a veth from this thread's namespace into another.
func (r *rig) joinVeth(link, peer string, in *namespace) (netlink.Link, error) {
	var fd *os.File
	err := in.do(func() (err error) { fd, err = os.Open("/proc/thread-self/ns/net"); return err })
	if err != nil {
		return nil, err
	}
	defer fd.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = link
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(fd.Fd())}); err != nil {
		return nil, fmt.Errorf("make veth %s: %w", link, err)
	}
	return upLink(link)
}

func upLink(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	return l, netlink.LinkSetUp(l)
}

// waitCarrier waits until a link transmits: the kernel notices only a moment
// after the other end is up, and drops what is sent before.
func waitCarrier(name string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return fmt.Errorf("link %s does not come up", name)
}

func configureEndpoint(ip netip.Addr, gwMAC net.HardwareAddr) (net.HardwareAddr, error) {
	l, err := upLink("eth0")
	if err != nil {
		return nil, err
	}
	index := l.Attrs().Index
	return l.Attrs().HardwareAddr, errors.Join(
		netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32))}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(gateway, 32)), Scope: netlink.SCOPE_LINK}),
		netlink.NeighAdd(&netlink.Neigh{LinkIndex: index, IP: gateway.AsSlice(), HardwareAddr: gwMAC, State: netlink.NUD_PERMANENT}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice()}),
	)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// echo serves TCP echo in a namespace until the test ends.
func echo(t *testing.T, ns *namespace, at netip.AddrPort) {
	t.Helper()
	var l *net.TCPListener
	err := ns.do(func() (err error) { l, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at)); return err })
	if err != nil {
		t.Fatalf("listen on %v: %v", at, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func dial(ns *namespace, from netip.Addr, to netip.AddrPort, timeout time.Duration) (c net.Conn, err error) {
	d := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	d.SetMultipathTCP(false)
	nsErr := ns.do(func() error { c, err = d.DialContext(context.Background(), "tcp4", to.String()); return nil })
	return c, errors.Join(err, nsErr)
}

// checkConnects sends 3 MB there and back.
func checkConnects(t *testing.T, ns *namespace, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	c, err := dial(ns, from, to, patience)
	if err != nil {
		t.Errorf("connect from %v: %v", from, err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	sent := make([]byte, 3<<20)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(sent)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("from %v: %d of %d bytes came back: %v", from, len(got), len(sent), err)
	}
}

// checkSilent requires that there is no answer at all: a refusal is not what a drop looks like.
func checkSilent(t *testing.T, ns *namespace, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	c, err := dial(ns, from, to, 300*time.Millisecond)
	if err == nil {
		c.Close()
	}
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		t.Errorf("connect from %v to %v: %v, want a timeout", from, to, err)
	}
}

// forwarded is the number of packets that the stack of a namespace forwarded.
func (r *rig) forwarded() int {
	r.t.Helper()
	n := -1
	r.must(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		lines := strings.SplitN(string(b), "\n", 3)
		names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
		n, err = strconv.Atoi(values[slices.Index(names, "ForwDatagrams")])
		return err
	})
	return n
}

// transmitted is the number of packets that a link of the node sent.
func (r *rig) transmitted(name string) uint64 {
	r.t.Helper()
	var n uint64
	r.must(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			n = l.Attrs().Statistics.TxPackets
		}
		return err
	})
	return n
}

// addSource gives an endpoint another address to send from.
func addSource(t *testing.T, ns *namespace, ip netip.Addr) {
	t.Helper()
	err := ns.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32))})
	})
	if err != nil {
		t.Fatalf("add source %v: %v", ip, err)
	}
}

func eachSwitch(t *testing.T, f func(t *testing.T, w when, peer uint8)) {
	for _, w := range enforceWhen() {
		for peer := range uint8(2) {
			t.Run(fmt.Sprintf("%s,use_peer=%d", w.name, peer), func(t *testing.T) { f(t, w, peer) })
		}
	}
}

// TestTCPOnOneNode: a client and a server on a node whose stack forwards
// nothing.
func TestTCPOnOneNode(t *testing.T) {
	eachSwitch(t, func(t *testing.T, w when, peer uint8) {
		n := newNode(t, w, peer)
		from, to := n.addEndpoint("client", client, true), n.addEndpoint("server", server, true)
		n.setRules(onlyClient)
		addSource(t, from, stranger)
		for _, port := range []uint16{5001, 5002} {
			echo(t, to, netip.AddrPortFrom(server, port))
		}
		checkConnects(t, from, client, netip.AddrPortFrom(server, 5001))
		if s := n.stats(); s[StatDropped].Packets != 0 || s[StatAccepted].Bytes < 6<<20 {
			t.Errorf("stats %+v after 6 MB, want no drop and all bytes accepted", s)
		}
		wantEntries(t, n, 1)
		if queued := n.transmitted("hb-server") >= 20; queued == (peer == 1) {
			t.Errorf("use_peer=%d, and the node's end of the veth transmitted many packets is %v", peer, queued)
		}
		checkSilent(t, from, client, netip.AddrPortFrom(server, 5002))
		checkSilent(t, from, stranger, netip.AddrPortFrom(server, 5001))
		if s := n.stats(); s[StatDropped].Packets < 2 {
			t.Errorf("stats %+v after two denied connections", s)
		}
		wantEntries(t, n, 1)
	})
}

// TestTCPBetweenNodes: the same between two nodes. Their stacks would forward,
// and must have nothing to do.
func TestTCPBetweenNodes(t *testing.T) {
	eachSwitch(t, func(t *testing.T, w when, peer uint8) {
		a, b := newNode(t, w, peer), newNode(t, w, peer)
		remote := netip.MustParseAddr("198.18.12.20")
		from, to := a.addEndpoint("client", client, true), b.addEndpoint("server", remote, true)
		joinNodes(a, b)
		b.setRules(onlyClient)
		addSource(t, from, stranger)
		for _, port := range []uint16{5001, 5002} {
			echo(t, to, netip.AddrPortFrom(remote, port))
		}
		checkConnects(t, from, client, netip.AddrPortFrom(remote, 5001))
		if s := b.stats(); s[StatDropped].Packets != 0 || s[StatAccepted].Bytes < 3<<20 {
			t.Errorf("server node's stats %+v after 3 MB each way", s)
		}
		if s := a.stats(); s[StatDropped].Packets != 0 || s[StatAccepted].Bytes < 3<<20 {
			t.Errorf("client node's stats %+v: replies to an enforcing client are accepted", s)
		}
		checkSilent(t, from, client, netip.AddrPortFrom(remote, 5002))
		checkSilent(t, from, stranger, netip.AddrPortFrom(remote, 5001))
		if s := b.stats(); s[StatDropped].Packets < 2 {
			t.Errorf("server node's stats %+v after two denied connections", s)
		}
		if x, y := a.forwarded(), b.forwarded(); x+y != 0 {
			t.Errorf("the nodes' stacks forwarded %d and %d packets, want none", x, y)
		}
	})
}

// joinNodes gives two nodes a network, with no neighbour known in advance, and
// routes to each other's endpoints.
func joinNodes(a, b *rig) {
	a.must(func() error { _, err := a.joinVeth("data0", "data0", b.ns); return err })
	for i, n := range []*rig{a, b} {
		n.must(func() error { return n.joinNetwork(i) })
	}
}

func (r *rig) joinNetwork(i int) error {
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 1, byte(11 + i)}) }
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(12 - i), 0}), 24)
	l, err := upLink("data0")
	if err != nil {
		return err
	}
	return errors.Join(
		sysctl("net/ipv4/ip_forward", "1"),
		attach(r.coll.Programs[ProgFromNetdev], l),
		netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr(i), 24))}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(subnet), Gw: addr(1 - i).AsSlice()}),
	)
}

// network is a node with a client, joined to another, and the links of it.
func network(t *testing.T) (n *rig, veth, nic netlink.Link) {
	n = newNode(t, when{}, 0)
	n.addEndpoint("client", client, false)
	joinNodes(n, newNode(t, when{}, 0))
	n.must(func() (err error) { veth, err = netlink.LinkByName("hb-client"); return err })
	n.must(func() (err error) { nic, err = netlink.LinkByName("data0"); return err })
	return n, veth, nic
}

// TestRoutedFrame: what leaves for the network is rewritten as the kernel's
// tables say if they know the neighbour, and otherwise but for the MACs.
func TestRoutedFrame(t *testing.T) {
	n, veth, nic := network(t)
	f := frame{flags: tcpSYN, dst: netip.MustParseAddr("198.18.12.20")}.bytes()
	out := n.wantFrom(veth, f, actRedirect)
	checkForwarded(t, f, out.frame, clientGW, clientMAC)
	wantEntries(t, n, 1)

	known := n.learnNeighbour(nic)
	out = n.wantFrom(veth, f, actRedirect)
	checkForwarded(t, f, out.frame, known, nic.Attrs().HardwareAddr)
	wantEntries(t, n, 1)
}

// learnNeighbour enters the next hop's MAC.
func (r *rig) learnNeighbour(nic netlink.Link) net.HardwareAddr {
	r.t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 9, 9}
	r.must(func() error {
		return netlink.NeighAdd(&netlink.Neigh{LinkIndex: nic.Attrs().Index, IP: net.IPv4(198, 18, 1, 12), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
	})
	return mac
}

// TestLeftToTheStack: what the tables do not route, or not like this.
func TestLeftToTheStack(t *testing.T) {
	n, veth, nic := network(t)
	n.learnNeighbour(nic)
	remote := netip.MustParseAddr("198.18.12.20")
	left := func(f frame) {
		t.Helper()
		checkUntouched(t, f.bytes(), n.wantFrom(veth, f.bytes(), actOK).frame)
	}
	left(frame{dst: elsewhere})                          // no route
	left(frame{dst: netip.MustParseAddr("198.18.1.11")}) // the node's own
	left(frame{dst: remote, ttl: 1})                     // time is up
	left(frame{dst: remote, tags: []uint16{etherVLAN}})  // in a VLAN
	left(frame{dst: remote, l4: make([]byte, 1600)})     // larger than the MTU
	n.wantFrom(veth, frame{dst: remote}.bytes(), actRedirect)
	n.must(func() error { return sysctl("net/ipv4/ip_forward", "0") })
	left(frame{dst: remote}) // the node does not route
}

// wantFrom runs a frame from an endpoint's link, for the network.
func (r *rig) wantFrom(l netlink.Link, f []byte, ret uint32) outcome {
	r.t.Helper()
	got := r.run(ProgFromEndpoint, f, l.Attrs().Index)
	if got.ret != ret || got.stat != int(StatPassed) {
		r.t.Errorf("%v, want return code %d, passed", got, ret)
	}
	return got
}

// TestXDPOnEndpoint: the XDP program at an endpoint's eth0, in native mode.
func TestXDPOnEndpoint(t *testing.T) {
	n := newNode(t, when{}, 0)
	from, to := n.addEndpoint("client", client, false), n.addEndpoint("server", server, false)
	addSource(t, from, stranger)
	x := loadXDP(t, 1)
	x.setRules(onlyClient)
	var attached link.Link
	err := to.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attached, err = link.AttachXDP(link.XDPOptions{Program: x.coll.Programs[ProgXDP], Interface: l.Attrs().Index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		t.Fatalf("attach XDP: %v", err)
	}
	defer attached.Close()
	for _, port := range []uint16{5001, 5002} {
		echo(t, to, netip.AddrPortFrom(server, port))
	}
	checkConnects(t, from, client, netip.AddrPortFrom(server, 5001))
	if s := x.stats(); s[StatDropped].Packets != 0 || s[StatAccepted].Bytes < 3<<20 {
		t.Errorf("stats %+v after 3 MB", s)
	}
	checkSilent(t, from, client, netip.AddrPortFrom(server, 5002))
	checkSilent(t, from, stranger, netip.AddrPortFrom(server, 5001))
	if s := x.stats(); s[StatDropped].Packets < 2 {
		t.Errorf("stats %+v after two denied connections", s)
	}
}
