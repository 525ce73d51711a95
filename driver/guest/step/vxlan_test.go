package step

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
)

// tunnel joins two namespaces by a data link and a VXLAN device on either end.
func (r *rig) tunnel(sum, external bool) {
	r.t.Helper()
	r.must("", bundle.Netns{Name: "a"}, bundle.Netns{Name: "b"})
	r.must("a", bundle.Veth{Link: "data0", Peer: "data0", PeerIn: "b"})
	for i, name := range []string{"a", "b"} {
		other := 1 - i
		v := bundle.Vxlan{Link: "vx0", MAC: macOf(i), Underlay: "data0", Local: nodeOf(i), VNI: 7, Port: 4789, UDPCsum: sum, External: external, MTU: 1450}
		if external {
			v.VNI = 0
		}
		r.must(name, bundle.Addr{Link: "data0", CIDR: nodeOf(i) + "/24"}, v, bundle.Addr{Link: "vx0", CIDR: innerOf(i) + "/24"})
		if !external {
			r.must(name, bundle.FDB{Link: "vx0", MAC: macOf(other), Dst: nodeOf(other)}, bundle.Neigh{Link: "vx0", IP: innerOf(other), MAC: macOf(other)})
		}
	}
}

func macOf(i int) string   { return fmt.Sprintf("02:12:0%d:00:00:03", i+1) }
func nodeOf(i int) string  { return fmt.Sprintf("198.18.1.%d", i+1) }
func innerOf(i int) string { return fmt.Sprintf("198.18.2.%d", i+1) }

// TestVxlan: a device is made as asked for, and what goes through it is seen on
// the underlay with its network identifier, with a UDP checksum or without.
func TestVxlan(t *testing.T) {
	for _, sum := range []bool{true, false} {
		t.Run(fmt.Sprint("checksum ", sum), func(t *testing.T) {
			r := newRig(t)
			r.tunnel(sum, false)
			l := linkOf(t, r.x.endpoints["a"].Namespace, "vx0")
			if l.MTU != 1450 || l.HardwareAddr.String() != macOf(0) {
				t.Errorf("MTU %d, address %s", l.MTU, l.HardwareAddr)
			}
			fdb := r.output("a", "bridge", "fdb", "show", "dev", "vx0")
			if !strings.Contains(fdb, macOf(1)+" dst "+nodeOf(1)) || !strings.Contains(fdb, "permanent") {
				t.Errorf("forwarding entries: %s", fdb)
			}
			read := func(name string) bundle.Read {
				return bundle.Read{Name: name, From: bundle.Counter{Sniff: &bundle.SniffCounter{Handle: "outer", VNIs: []uint32{7, 8}}}}
			}
			link := func(name string) bundle.Read {
				return bundle.Read{Name: name, From: bundle.Counter{Link: &bundle.LinkCounter{Link: "vx0"}}}
			}
			r.must("b", bundle.Sniff{Handle: "outer", Link: "data0", Port: 4789}, bundle.Listen{Handle: "echo", Port: 5001})
			before := r.must("b", link("before")).Values
			r.must("a", bundle.Probes{Link: "vx0", Timeout: 60, Tries: []bundle.Probe{{What: "through", From: innerOf(0), To: innerOf(1), Port: 5001, Want: bundle.Allow}}})
			// The last segments of the probe may still be on their way.
			var got, after map[string]float64
			guesttest.Await(t, func() bool {
				got, after = r.must("b", read("outer")).Values, r.must("b", link("after")).Values
				return got["in"] >= 2 && after["rx_packets"]-before["rx_packets"] == got["in"] && after["tx_packets"]-before["tx_packets"] == got["out"]
			})
			with, none := "checksum", "no_checksum"
			if !sum {
				with, none = none, with
			}
			if got["in"] < 2 || got["out"] < 1 || got[with] != got["in"]+got["out"] || got[none] != 0 || got["vni.7"] != got["in"] || got["vni.8"] != 0 || got["fragments"] != 0 {
				t.Errorf("on the underlay: %v", got)
			}
			if after["rx_packets"]-before["rx_packets"] != got["in"] || after["tx_packets"]-before["tx_packets"] != got["out"] || after["rx_bytes"] <= before["rx_bytes"] {
				t.Errorf("the device counted %v after %v, the underlay %v", after, before, got)
			}
			r.must("b", bundle.Stop{Handle: "outer"})
			r.fails("b", bundle.FaultRig, read("outer"), "nothing is sniffed")
		})
	}
}

// TestVxlanFaults: what cannot be made is the rig's fault, and says what.
func TestVxlanFaults(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Veth{Link: "data0", Peer: "data1"})
	good := bundle.Vxlan{Link: "vx0", MAC: macOf(0), Underlay: "data0", Local: nodeOf(0), VNI: 7, Port: 4789, MTU: 1450}
	bad := func(change func(*bundle.Vxlan)) bundle.Vxlan {
		v := good
		change(&v)
		return v
	}
	r.fails("", bundle.FaultRig, bad(func(v *bundle.Vxlan) { v.Underlay = "data9" }), "find link data9")
	r.fails("", bundle.FaultRig, bad(func(v *bundle.Vxlan) { v.Local = "2001:2::1" }), "no IPv4 address")
	r.fails("", bundle.FaultRig, bad(func(v *bundle.Vxlan) { v.MAC = "x" }), "make vxlan vx0")
	r.must("", good)
	r.fails("", bundle.FaultRig, bad(func(v *bundle.Vxlan) { v.Link = "vx1" }), "make vxlan vx1", "file exists")
	r.fails("", bundle.FaultRig, bundle.FDB{Link: "vx0", MAC: macOf(1), Dst: "here"}, "no address")
	r.fails("", bundle.FaultVoid, bundle.Guard{Link: "vx0", MTU: 1500}, "the MTU of vx0 is 1450, want 1500")
	r.must("", bundle.Guard{Link: "vx0", MTU: 1450})
	r.must("", bundle.Sniff{Handle: "outer", Link: "data0", Port: 4789})
	r.fails("", bundle.FaultRig, bundle.Sniff{Handle: "outer", Link: "data0", Port: 4789}, "is taken")
}

// TestVxlanSniffFragments: fragments of outer packets are seen, those without a
// UDP header too.
func TestVxlanSniffFragments(t *testing.T) {
	r := newRig(t)
	r.tunnel(true, false)
	for _, name := range []string{"a", "b"} {
		r.must(name, bundle.SetLink{Link: "data0", MTU: 600})
	}
	r.must("b", bundle.Sniff{Handle: "outer", Link: "data0", Port: 4789}, bundle.Listen{Handle: "echo", Port: 5001})
	r.must("a", bundle.Probes{Link: "vx0", Timeout: 60, Tries: []bundle.Probe{{What: "large", From: innerOf(0), To: innerOf(1), Port: 5001, Want: bundle.Allow, Proto: bundle.UDP, Size: 1200}}})
	got := r.awaitCounter("b", bundle.Counter{Sniff: &bundle.SniffCounter{Handle: "outer"}}, func(got map[string]float64) bool { return got["fragments"] >= 3 })
	link := r.must("b", bundle.Read{Name: "y", From: bundle.Counter{Link: &bundle.LinkCounter{Link: "vx0"}}}).Values
	if got["fragments"] < 3 || link["fragments"] < 3 {
		t.Errorf("of a packet in three fragments: %v on the underlay, %v at the node", got, link)
	}
	outer := r.must("b", bundle.Read{Name: "z", From: bundle.Counter{Link: &bundle.LinkCounter{Link: "vx0", Outer: true}}}).Values
	if outer["fragments"] != 0 || outer["rx_packets"] != link["rx_packets"] {
		t.Errorf("of the node, which made no fragments, and the link of another namespace: %v, without the node %v", outer, link)
	}
}

// TestTunnelIdentity: the network identifier of a packet that came through the
// tunnel is the source's identity for the policy, whatever its address says.
func TestTunnelIdentity(t *testing.T) {
	r := newRig(t)
	r.tunnel(true, true)
	server := netip.MustParseAddr("198.18.12.20")
	r.must("b", bundle.Netns{Name: "server"}, bundle.Veth{Link: "s0", MAC: "02:12:0c:14:00:02", Peer: "eth0", PeerIn: "server", PeerMAC: "02:12:0c:14:00:01"})
	r.file("overlay.o", string(bpf.OverlayObject()))
	r.file("endpoints", bpf.EndpointLine(server, "s0", 2, "02:12:0c:14:00:01", "02:12:0c:14:00:02", true)+"\n")
	r.file("policy", fmt.Sprintf("%x %x\n", bpf.PolicyKey(300, 5001, 6), bpf.PolicyValue(false, 0)))
	r.file("identities", fmt.Sprintf("%x %x\n", bpf.IPKey(netip.MustParseAddr("198.18.11.10")), bpf.IdentityValue(300)))
	r.must("b", bundle.LoadBPF{Handle: "tc", Object: "overlay.o", Programs: []string{bpf.ProgFromTunnel}, LinkVars: map[string]string{bpf.VarTunnelLink: "vx0"}},
		bundle.FillMap{Handle: "tc", Map: bpf.MapEndpoints, File: "endpoints"}, bundle.FillMap{Handle: "tc", Map: bpf.MapPolicy, File: "policy"},
		bundle.FillMap{Handle: "tc", Map: bpf.MapIdentities, File: "identities"},
		bundle.AttachBPF{Handle: "tc", Program: bpf.ProgFromTunnel, Link: "vx0", Hook: bundle.HookTCIngress})
	counted := func() map[string]float64 {
		return r.must("b", bundle.Read{Name: "stats", From: bundle.Counter{BPF: &bundle.BPFCounter{Handle: "tc", Stats: bpf.MapStats}}}).Values
	}
	for _, tc := range []struct {
		what, from string
		vni        uint32
		want       string
	}{
		{"known identity, its address", "198.18.11.10", 300, "accepted"},
		{"known identity, unknown address", "198.18.11.77", 300, "accepted"},
		{"unknown identity, known address", "198.18.11.10", 301, "dropped"},
		{"the world, known address", "198.18.11.10", bpf.IdentityWorld, "dropped"},
		{"no identity, known address", "198.18.11.10", 0, "dropped"},
	} {
		before := counted()
		r.sendOuter(tc.vni, bundle.Frame{From: netip.MustParseAddr(tc.from), To: server, FromPort: 40000, ToPort: 5001, FromMAC: "02:12:0b:0a:00:01", ToMAC: "02:12:0b:0a:00:02"})
		after := before
		guesttest.Await(t, func() bool { after = counted(); return after["packets"] > before["packets"] })
		if after[tc.want]-before[tc.want] != 1 || after["packets"]-before["packets"] != 1 {
			t.Errorf("%s: counters went from %v to %v, want one %s", tc.what, before, after, tc.want)
		}
	}
}

// sendOuter sends a frame from a's side of the underlay to b in VXLAN. Links are
// veths, so the frame is judged when the call returns, or soon after.
func (r *rig) sendOuter(vni uint32, f bundle.Frame) {
	r.t.Helper()
	frame, err := f.Bytes()
	if err != nil {
		r.t.Fatal(err)
	}
	header := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, vni<<8)
	rx := func() uint64 { return linkOf(r.t, r.x.endpoints["b"].Namespace, "vx0").Statistics.RxPackets }
	before := rx()
	err = r.x.endpoints["a"].WithNetlink(func(*netlink.Handle) error {
		c, err := net.Dial("udp4", nodeOf(1)+":4789")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(append(header, frame...))
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	guesttest.Await(r.t, func() bool { return rx() > before })
}
