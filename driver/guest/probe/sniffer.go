package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Sniffer counts VXLAN packets on one link, from their IPv4 header on.
type Sniffer struct {
	fd   int
	seen map[string]uint64
}

// NewSniffer opens a packet socket in the thread's namespace. It takes packets
// only once it is bound, when the filter is there.
func NewSniffer(link int, port uint16) (*Sniffer, error) {
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
	return &Sniffer{fd: fd, seen: map[string]uint64{"in": 0, "out": 0, "checksum": 0, "no_checksum": 0, "fragments": 0}}, nil
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
func (s *Sniffer) read() (map[string]uint64, error) {
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
func (s *Sniffer) lost() error {
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
func (s *Sniffer) count(p []byte, out bool) {
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

// Close ends the sniffing.
func (s *Sniffer) Close() error { return unix.Close(s.fd) }

// Counts is what has come since the beginning: all counts that do not depend on a network
// identifier, and vni.N for each of those wanted.
func (s *Sniffer) Counts(vnis []uint32) (map[string]uint64, error) {
	seen, err := s.read()
	if err != nil {
		return nil, err
	}
	got := map[string]uint64{}
	for k, v := range seen {
		if !strings.HasPrefix(k, "vni.") {
			got[k] = v
		}
	}
	for _, vni := range vnis {
		got[vniKey(vni)] = seen[vniKey(vni)]
	}
	return got, nil
}

func vniKey(vni uint32) string { return "vni." + strconv.FormatUint(uint64(vni), 10) }
