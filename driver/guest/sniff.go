package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// sniffer counts VXLAN packets on one link, from their IPv4 header on.
type sniffer struct {
	fd   int
	seen counters
}

func doSniff(c *call, a bundle.Sniff) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	s, err := newSniffer(l.Attrs().Index, uint16(a.Port))
	if err != nil {
		return fmt.Errorf("look at the packets of %s: %w", a.Link, err)
	}
	c.x.sniffers[a.Handle] = s
	c.keepServer(a.Handle, func(context.Context) error {
		delete(c.x.sniffers, a.Handle)
		return unix.Close(s.fd)
	})
	return nil
}

// newSniffer opens a packet socket in the thread's namespace. It takes packets
// only once it is bound, when the filter is there.
func newSniffer(link int, port uint16) (*sniffer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	program := outerPackets(port)
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err == nil {
		// All protocols: the others are not shown what goes out.
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link})
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &sniffer{fd: fd, seen: counters{"in": 0, "out": 0, "checksum": 0, "no_checksum": 0, "fragments": 0}}, nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// outerPackets is a classic BPF program (bpf(4) of BSD) that admits IPv4 packets
// by UDP to a port, and later fragments of any UDP.
func outerPackets(port uint16) []unix.SockFilter {
	const protocol = 0xfffff000 // SKF_AD_OFF + SKF_AD_PROTOCOL
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: protocol},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 9, K: unix.ETH_P_IP},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 7, K: unix.IPPROTO_UDP},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 4, K: fragmentOffset},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: uint32(port)},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: sniffed},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

const (
	sniffed        = 128    // bytes of a packet that are kept
	fragmentOffset = 0x1fff // of the word at 6 of an IPv4 header (RFC 791)
	moreFragments  = 0x2000
	mostSniffed    = 100_000 // packets of one Read
)

// read counts what has come since the last time.
func (s *sniffer) read() (counters, error) {
	buf := make([]byte, sniffed)
	for range mostSniffed {
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return s.seen, s.lost()
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok {
			s.count(buf[:n], at.Pkttype == unix.PACKET_OUTGOING)
		}
	}
	return nil, fmt.Errorf("more than %d packets", mostSniffed)
}

// lost is an error if the kernel had no room for a packet.
func (s *sniffer) lost() error {
	var stats *unix.TpacketStats
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("ask for lost packets: %w", err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("%d packets were not read in time", stats.Drops)
	}
	return nil
}

// count takes one packet into account, which begins with an IPv4 header.
func (s *sniffer) count(p []byte, out bool) {
	if len(p) < 20 {
		return
	}
	if binary.BigEndian.Uint16(p[6:])&(fragmentOffset|moreFragments) != 0 {
		s.seen["fragments"]++
	}
	udp := int(p[0]&0xf) * 4
	if binary.BigEndian.Uint16(p[6:])&fragmentOffset != 0 || len(p) < udp+16 {
		return
	}
	if binary.BigEndian.Uint16(p[udp+6:]) == 0 {
		s.seen["no_checksum"]++
	} else {
		s.seen["checksum"]++
	}
	if out {
		s.seen["out"]++
		return
	}
	s.seen["in"]++
	s.seen[vniKey(binary.BigEndian.Uint32(p[udp+12:])>>8)]++ // RFC 7348, section 5
}

func vniKey(vni uint32) string { return "vni." + strconv.FormatUint(uint64(vni), 10) }

func (x *executor) readSniff(a bundle.SniffCounter) (counters, error) {
	s, ok := x.sniffers[a.Handle]
	if !ok {
		return nil, fmt.Errorf("nothing is sniffed as %q", a.Handle)
	}
	seen, err := s.read()
	if err != nil {
		return nil, err
	}
	got := counters{}
	for k, v := range seen {
		if !strings.HasPrefix(k, "vni.") {
			got[k] = v
		}
	}
	for _, vni := range a.VNIs {
		got[vniKey(vni)] = seen[vniKey(vni)]
	}
	return got, nil
}

// readLink reads the counters of a link, and how much its namespace fragments.
func (c *call) readLink(a bundle.LinkCounter) (counters, error) {
	l, err := c.link(a.Link)
	if err != nil {
		return nil, err
	}
	s := l.Attrs().Statistics
	if s == nil {
		return nil, fmt.Errorf("link %s has no counters", a.Link)
	}
	got := counters{"rx_packets": s.RxPackets, "rx_bytes": s.RxBytes, "tx_packets": s.TxPackets, "tx_bytes": s.TxBytes}
	count := func() error { return got.addFragments() }
	if a.Outer {
		return got, c.x.node.do(count)
	}
	return got, count()
}

// addFragments adds how much the thread's namespace fragments.
func (got counters) addFragments() error {
	snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return err
	}
	ip := parseSNMP(string(snmp), "Ip")
	got["fragments"] = ip["FragCreates"] + ip["ReasmReqds"]
	return nil
}

// counterKinds says how many of the sources of a counter are set.
func counterKinds(f bundle.Counter) int {
	set := []bool{f.Rules != nil, f.BPF != nil, f.Script != nil, f.Link != nil, f.Sniff != nil}
	return len(slices.DeleteFunc(set, func(on bool) bool { return !on }))
}
