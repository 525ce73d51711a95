package step

import (
	"os"
	"strings"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
)

func linkOf(t *testing.T, ns *netns.Namespace, name string) *netlink.LinkAttrs {
	t.Helper()
	var a *netlink.LinkAttrs
	err := ns.WithNetlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err == nil {
			a = l.Attrs()
		}
		return err
	})
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return a
}

func TestVeth(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "client"},
		bundle.Veth{Link: "c0", MAC: "02:00:00:00:00:01", Peer: "eth0", PeerIn: "client", PeerMAC: "02:00:00:00:00:02", MTU: 1400, Queues: 2})
	near, far := linkOf(t, r.x.node.Namespace, "c0"), linkOf(t, r.x.endpoints["client"].Namespace, "eth0")
	if near.HardwareAddr.String() != "02:00:00:00:00:01" || far.HardwareAddr.String() != "02:00:00:00:00:02" {
		t.Errorf("addresses %s and %s", near.HardwareAddr, far.HardwareAddr)
	}
	for _, l := range []*netlink.LinkAttrs{near, far} {
		if l.MTU != 1400 || l.NumRxQueues != 2 || l.NumTxQueues != 2 || l.OperState != netlink.OperUp {
			t.Errorf("%s: MTU %d, queues %d/%d, state %v", l.Name, l.MTU, l.NumRxQueues, l.NumTxQueues, l.OperState)
		}
	}
	r.fails("", bundle.FaultRig, bundle.Netns{Name: "client"}, "exists already")
	r.fails("", bundle.FaultRig, bundle.Veth{Link: "c0", Peer: "eth1", PeerIn: "client"}, "file exists")
}

func TestNodeVethUndoneWhenAlreadyGone(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"}, bundle.Addr{Link: "a0", CIDR: "198.18.9.1/24"})
	r.output("", "ip", "link", "del", "a0")
}

func TestPeerLink(t *testing.T) {
	r := newRig(t)
	r.pair()
	r.must("", bundle.SetLink{Link: "peer:client/eth0", MTU: 1300})
	if got := linkOf(t, r.x.node.Namespace, "c0").MTU; got != 1300 {
		t.Errorf("MTU of c0 is %d, want 1300", got)
	}
	// The other end lies in the node, not in the server.
	r.fails("server", bundle.FaultRig, bundle.SetLink{Link: "peer:client/eth0", MTU: 1200}, "not in the step's namespace")
	r.fails("", bundle.FaultRig, bundle.SetLink{Link: "peer:client/eth7", MTU: 1200}, "Link not found")
	r.fails("", bundle.FaultRig, bundle.SetLink{Link: "peer:client", MTU: 1200}, "want peer:ENDPOINT/LINK")
	r.fails("", bundle.FaultRig, bundle.SetLink{Link: "peer:client/lo", MTU: 1200}, "not in the step's namespace")
}

func TestPeerLinkBesideOne(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "client"}, bundle.Netns{Name: "server"})
	// Both ends in the client: an ifindex of the client must not be taken for
	// one of the server.
	r.must("client", bundle.Veth{Link: "a0", Peer: "a1", PeerIn: "client"})
	r.must("server", bundle.Veth{Link: "b0", Peer: "b1", PeerIn: "server"})
	r.fails("server", bundle.FaultRig, bundle.SetLink{Link: "peer:client/a0", MTU: 1200}, "not in the step's namespace")
	r.must("client", bundle.SetLink{Link: "peer:client/a0", MTU: 1200})
}

func TestSetLinkUndo(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Bridge{Link: "br0"}, bundle.Veth{Link: "a0", Peer: "a1"})
	r.output("", "ip", "link", "set", "a0", "down")
	before := r.state(r.x.node.Namespace)
	r.x.undo.mark()
	r.must("", bundle.SetLink{Link: "a0", Master: "br0", MTU: 1280, Up: true})
	a := linkOf(t, r.x.node.Namespace, "a0")
	if a.MTU != 1280 || a.MasterIndex != linkOf(t, r.x.node.Namespace, "br0").Index || a.OperState != netlink.OperUp {
		t.Errorf("link is %+v", a)
	}
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	// The bridge's own address follows its ports and is not compared.
	if after := r.state(r.x.node.Namespace); !strings.Contains(after, "link a0 mtu 1500 up false master 0") {
		t.Errorf("undo left\n%s\nit was\n%s", after, before)
	}
}

func TestAddressing(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"})
	before := r.state(r.x.node.Namespace)
	r.x.undo.mark()
	res := r.must("", bundle.Addr{Link: "a0", CIDR: "198.18.5.1/24"},
		bundle.Route{Dst: "198.19.0.0/16", Link: "a0"},
		bundle.Route{Dst: "default", Via: "198.18.5.2", Link: "a0"},
		bundle.Route{Dst: "198.18.7.0/24", Via: "198.18.200.1", Link: "a1", OnLink: true},
		bundle.Neigh{Link: "a0", IP: "198.18.5.2", MAC: "02:00:00:00:00:09"},
		bundle.Addr{Link: "a0", CIDR: "198.18.5.1/24"})
	if !strings.Contains(res.Note, "was there before") {
		t.Errorf("note %q of an address that was there", res.Note)
	}
	got := r.output("", "ip", "route") + r.output("", "ip", "neigh")
	for _, want := range []string{"default via 198.18.5.2 dev a0", "198.19.0.0/16 dev a0 scope link", "198.18.7.0/24 via 198.18.200.1 dev a1 onlink", "198.18.5.2 dev a0 lladdr 02:00:00:00:00:09 PERMANENT"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	r.fails("", bundle.FaultRig, bundle.Route{Dst: "198.19.0.0/16", Link: "a1"}, "file exists")
	r.fails("", bundle.FaultRig, bundle.Addr{Link: "a9", CIDR: "198.18.5.1/24"}, "find link a9")
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if after := r.state(r.x.node.Namespace); after != before {
		t.Errorf("undo left\n%s\nit was\n%s", after, before)
	}
}

func TestIPv6Addressing(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"})
	before := r.state(r.x.node.Namespace)
	r.x.undo.mark()
	res := r.must("", bundle.Addr{Link: "a0", CIDR: "2001:2:0:5::1/64"},
		bundle.Route{Dst: "2001:2:0:7::/64", Link: "a0"},
		bundle.Route{Dst: "default", Via: "2001:2:0:5::2", Link: "a0"},
		bundle.Route{Dst: "2001:2:0:8::/64", Via: "2001:2:0:200::1", Link: "a1", OnLink: true},
		bundle.Neigh{Link: "a0", IP: "2001:2:0:5::2", MAC: "02:00:00:00:00:09"},
		bundle.Addr{Link: "a0", CIDR: "2001:2:0:5::1/64"})
	if !strings.Contains(res.Note, "was there before") {
		t.Errorf("note %q of an address that was there", res.Note)
	}
	got := r.output("", "ip", "-6", "addr", "show", "dev", "a0") + r.output("", "ip", "-6", "route") + r.output("", "ip", "-6", "neigh")
	for _, want := range []string{"inet6 2001:2:0:5::1/64 scope global nodad", "default via 2001:2:0:5::2 dev a0", "2001:2:0:7::/64 dev a0", "2001:2:0:8::/64 via 2001:2:0:200::1 dev a1", "2001:2:0:5::2 dev a0 lladdr 02:00:00:00:00:09 PERMANENT"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	if after := r.state(r.x.node.Namespace); after != before {
		t.Errorf("undo left\n%s\nit was\n%s", after, before)
	}
}

// TestDefaultRouteFamily: without a gateway, the default route's family has to
// be told.
func TestDefaultRouteFamily(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"}, bundle.Route{Dst: "default", Link: "a0", Family: bundle.IPv6})
	if got := r.output("", "ip", "-6", "route", "show", "default"); !strings.Contains(got, "default dev a0") {
		t.Errorf("IPv6 default route is %q", got)
	}
	if got := r.output("", "ip", "-4", "route", "show", "default"); got != "" {
		t.Errorf("IPv4 default route is %q, want none", got)
	}
	r.must("", bundle.Route{Dst: "default", Link: "a0"})
	if got := r.output("", "ip", "-4", "route", "show", "default"); !strings.Contains(got, "default dev a0") {
		t.Errorf("IPv4 default route is %q", got)
	}
	r.fails("", bundle.FaultRig, bundle.Route{Dst: "default", Link: "a0", Family: "ipx"}, `unknown family "ipx"`)
	r.must("", bundle.Sysctl{Key: "net/ipv6/conf/a0/forwarding", Value: "1"})
	if got := r.output("", "cat", "/proc/sys/net/ipv6/conf/a0/forwarding"); got != "1\n" {
		t.Errorf("IPv6 forwarding is %q", got)
	}
}

func TestSysctl(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	r.must("server", bundle.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}, bundle.Sysctl{Key: "net/ipv4/tcp_congestion_control", Value: "reno"})
	if got := r.output("server", "sh", "-c", "cat /proc/sys/net/ipv4/ip_forward"); got != "1\n" {
		t.Errorf("forwarding in the endpoint is %q", got)
	}
	if got := r.output("", "cat", "/proc/sys/net/ipv4/ip_forward"); got != "0\n" {
		t.Errorf("forwarding in the node is %q, want untouched", got)
	}
	r.must("", bundle.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}) // close checks its undo
	res := r.must("server", bundle.Sysctl{Key: "net.ipv4.no_such_key", Value: "1", Optional: true})
	if res.Note != "absent" {
		t.Errorf("note of an optional key is %q, want absent", res.Note)
	}
	r.fails("server", bundle.FaultUnsupported, bundle.Sysctl{Key: "net.ipv4.no_such_key", Value: "1"}, "no_such_key")
	r.fails("server", bundle.FaultUnsupported, bundle.Sysctl{Key: "net.ipv4.tcp_congestion_control", Value: "warp"}, "warp")
	// Any that this computer restricts is as good as the one named here.
	for value, err := range map[string]error{"restricted": unix.EPERM, "none": unix.ENOENT} {
		if err := refusedSysctl(bundle.Sysctl{Key: "net.ipv4.tcp_congestion_control", Value: value}, &os.PathError{Op: "write", Err: err}); fault.Of(err) != bundle.FaultUnsupported || !strings.Contains(err.Error(), value) {
			t.Errorf("%s: %s, %v", value, fault.Of(err), err)
		}
	}
	if err := refusedSysctl(bundle.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}, unix.EPERM); fault.Of(err) != bundle.FaultRig {
		t.Errorf("another key: %s, %v", fault.Of(err), err)
	}
	r.fails("server", bundle.FaultRig, bundle.Sysctl{Key: "../../etc/x", Value: "1"}, "leads out")
	if _, err := os.Stat("/etc/x"); err == nil {
		t.Error("a sysctl step made a file")
	}
}

func offloadsOf(t *testing.T, ns *netns.Namespace, dev string) map[string]ethtool.FeatureState {
	t.Helper()
	var got map[string]ethtool.FeatureState
	err := ns.Do(func() error {
		et, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer et.Close()
		got, err = et.FeaturesWithState(dev)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestOffload(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "a0", Peer: "a1"})
	before := offloadsOf(t, r.x.node.Namespace, "a0")
	r.x.undo.mark()
	r.must("", bundle.Offload{Link: "a0", Features: map[string]bool{"tx-checksumming": false, "gro": true, "tx-tcp-segmentation": false}})
	got := offloadsOf(t, r.x.node.Namespace, "a0")
	if got["tx-checksum-ip-generic"].Active || got["tx-tcp-segmentation"].Active || !got["rx-gro"].Active {
		t.Errorf("offloads are %+v", got)
	}
	if err := r.x.undoTo(1); err != nil {
		t.Fatal(err)
	}
	for name, want := range before {
		if now := offloadsOf(t, r.x.node.Namespace, "a0")[name]; now != want {
			t.Errorf("undo left %s as %+v, it was %+v", name, now, want)
		}
	}
	r.fails("", bundle.FaultUnsupported, bundle.Offload{Link: "a0", Features: map[string]bool{"warp": true}}, `no offload "warp"`)
	r.fails("", bundle.FaultUnsupported, bundle.Offload{Link: "a0", Features: map[string]bool{"rx-hashing": true}}, "rx-hashing")
}
