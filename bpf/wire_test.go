package bpf

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience bounds every wait for the network of a test, and only ends one that hangs.
const patience = 2 * time.Minute

// must runs f in the rig's namespace.
func (r *rig) must(f func() error) {
	r.t.Helper()
	if err := r.ns.do(f); err != nil {
		r.t.Fatal(err)
	}
}

// attach attaches a program to tc ingress of a link in this thread's namespace.
func attach(prog *ebpf.Program, l netlink.Link) error {
	index := l.Attrs().Index
	err := netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	})
	if err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	err = netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
		Fd:           prog.FD(),
		Name:         prog.String(),
		DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("attach program: %w", err)
	}
	return nil
}

func sysctl(path, value string) error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0o644) }

// tap makes a link in the rig's namespace whose incoming frames the test
// writes, and runs a program on them. Each slice of a writev but the first
// becomes a page fragment of the socket buffer.
func (r *rig) tap(program string) *os.File {
	r.t.Helper()
	var f *os.File
	r.must(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		f = os.NewFile(uintptr(fd), "tap0")
		req, err := unix.NewIfreq("tap0")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_NAPI | unix.IFF_NAPI_FRAGS)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return fmt.Errorf("make tap0: %w", err)
		}
		l, err := netlink.LinkByName("tap0")
		if err != nil {
			return err
		}
		if err := attach(r.coll.Programs[program], l); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	r.t.Cleanup(func() { f.Close() })
	return f
}

// wantOnWire writes one frame and waits until it is counted.
func (r *rig) wantOnWire(tap *os.File, stat uint32, parts ...[]byte) {
	r.t.Helper()
	before := r.stats()
	if _, err := unix.Writev(int(tap.Fd()), parts); err != nil {
		r.t.Fatalf("write frame: %v", err)
	}
	want := before
	want[stat].Packets++
	for _, p := range parts {
		want[stat].Bytes += uint64(len(p))
	}
	if tagged(parts[0]) {
		want[stat].Bytes -= 4 // the stack takes it out
	}
	r.waitStats(want)
}

// waitStats waits for the counts that a frame leads to.
func (r *rig) waitStats(want [Stats]stat) {
	r.t.Helper()
	var got [Stats]stat
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got = r.stats(); got != want {
			continue
		}
		return
	}
	r.t.Fatalf("stats are %+v, want %+v", got, want)
}

func tagged(f []byte) bool {
	tag := binary.BigEndian.Uint16(f[12:])
	return tag == etherVLAN || tag == etherQinQ
}

// untestable reports that BPF_PROG_TEST_RUN refuses a frame as a socket buffer
// (Linux 6.18 requires a whole IP header behind those protocols).
func untestable(f []byte) bool {
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherIPv4:
		return len(f) < etherSize+20
	case etherIPv6:
		return len(f) < etherSize+40
	}
	return false
}

// TestVerdictsOnTheWire sends the cases through a real link, the ones that
// BPF_PROG_TEST_RUN refuses among them. Tags leave the frame before tc here.
func TestVerdictsOnTheWire(t *testing.T) {
	for _, program := range []string{ProgFromEndpoint, ProgFromNetdev} {
		r := loadTC(t, when{}, 0)
		r.serverEndpoint(true)
		tap := r.tap(program)
		for _, six := range []bool{false, true} {
			for _, c := range verdictCases(six) {
				if tagged(c.frame) && len(c.frame) < etherSize+6 {
					continue // the stack needs a tag and a bit more, or drops it itself
				}
				t.Run(fmt.Sprintf("%s/v6=%v/%s", program, six, c.name), func(t *testing.T) {
					r := r.with(t)
					r.six = six
					r.setRules(c.rules)
					r.clear(MapConntrack)
					r.clear(MapConntrack6)
					stat := map[verdict]uint32{admit: StatAccepted, drop: StatDropped, pass: StatPassed}[c.want]
					r.wantOnWire(tap, stat, c.frame)
				})
			}
		}
	}
}

// TestScatteredHeaders: headers are found wherever the driver left them.
func TestScatteredHeaders(t *testing.T) {
	r := loadTC(t, when{}, 0)
	r.serverEndpoint(true)
	tap := r.tap(ProgFromNetdev)
	r.setRules([]rule{{src: client, port: 5001, proto: protoTCP}, {src: client, port: 5001, proto: protoUDP}})
	icmp := frame{src: elsewhere, proto: protoICMP, l4: icmpError(3, frame{}.reply())}
	for _, c := range []struct {
		name string
		f    frame
		stat uint32
	}{
		{"TCP", frame{flags: tcpSYN, l4: append(frame{flags: tcpSYN}.filled().transport(), make([]byte, 900)...)}, StatAccepted},
		{"TCP after options", frame{options: make([]byte, 40)}, StatAccepted},
		{"UDP", frame{proto: protoUDP}, StatAccepted},
		{"other port", frame{proto: protoUDP, dport: 9}, StatDropped},
		{"quoted by ICMP", icmp, StatAccepted},
		{"later fragment", frame{frag: 100}, StatDropped},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.with(t)
			whole := c.f.bytes()
			for at := etherSize; at < min(len(whole), 100); at++ {
				r.wantOnWire(tap, c.stat, whole[:at], whole[at:])
			}
		})
	}
}

// TestForeignMAC: a frame addressed to another MAC is routed by its IP address
// all the same, and its endpoint takes it, on either way of delivery.
func TestForeignMAC(t *testing.T) {
	for peer := range uint8(2) {
		t.Run(fmt.Sprintf("use_peer=%d", peer), func(t *testing.T) {
			n := newNode(t, when{}, peer)
			ep := n.addEndpoint("server", server, true)
			n.setRules([]rule{{src: client, port: 5001, proto: protoUDP}})
			tap := n.tap(ProgFromNetdev)
			var conn *net.UDPConn
			err := ep.do(func() (err error) {
				conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: server.AsSlice(), Port: 5001})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			f := frame{proto: protoUDP, l4: udpDatagram(40000, 5001, "hello")}.bytes()
			copy(f, net.HardwareAddr{2, 0xff, 0xff, 0xff, 0xff, 0xff})
			n.wantOnWire(tap, StatAccepted, f)
			buf := make([]byte, 64)
			conn.SetReadDeadline(time.Now().Add(patience))
			got, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:got]) != "hello" || from.Addr() != client || from.Port() != 40000 {
				t.Errorf("received %q from %v: %v", buf[:got], from, err)
			}
		})
	}
}
