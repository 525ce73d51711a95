package datapathtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol numbers and header sizes.
const (
	protoICMP     = 1
	protoTCP      = 6
	protoICMPv6   = 58
	protoFragment = 44

	ip4Header = 20
	ip6Header = 40
	tcpHeader = 20
	fragUnit  = 8 // bytes in which fragment offsets count
)

// TCP flags.
const (
	flagSYN = 0x02
	flagACK = 0x10
)

// sum adds 16-bit words for the Internet checksum (RFC 1071).
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, p := range parts {
		for i := 0; i < len(p); i += 2 {
			word := uint32(p[i]) << 8
			if i+1 < len(p) {
				word |= uint32(p[i+1])
			}
			s += word
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// pseudoHeader is what TCP and ICMPv6 checksums cover in addition to the message.
func pseudoHeader(from, to netip.Addr, proto byte, n int) []byte {
	out := append(from.AsSlice(), to.AsSlice()...)
	if from.Is4() {
		return binary.BigEndian.AppendUint16(append(out, 0, proto), uint16(n))
	}
	return append(binary.BigEndian.AppendUint32(out, uint32(n)), 0, 0, 0, proto)
}

// segment is a TCP segment of 40 bytes of header: 20 of options, so that a
// first fragment can hold the whole of the fixed header and still not be all.
func segment(from, to netip.AddrPort, seq uint32, flags byte) []byte {
	const options = 20
	b := make([]byte, tcpHeader+options)
	binary.BigEndian.PutUint16(b[0:], from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	b[12], b[13] = byte(len(b)/4)<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	for i := tcpHeader; i < len(b); i++ {
		b[i] = 1 // no operation
	}
	binary.BigEndian.PutUint16(b[16:], sum(pseudoHeader(from.Addr(), to.Addr(), protoTCP, len(b)), b))
	return b
}

// packet4 is an IPv4 packet. offset is in bytes.
func packet4(from, to netip.Addr, proto byte, id uint16, payload []byte, offset int, more bool) []byte {
	b := make([]byte, ip4Header, ip4Header+len(payload))
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(ip4Header+len(payload)))
	binary.BigEndian.PutUint16(b[4:], id)
	frag := uint16(offset / fragUnit)
	if more {
		frag |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], frag)
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], sum(b))
	return append(b, payload...)
}

// packet6 is an IPv6 packet.
func packet6(from, to netip.Addr, next byte, payload []byte) []byte {
	b := make([]byte, ip6Header, ip6Header+len(payload))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return append(b, payload...)
}

// fragments cuts a TCP segment into two packets, the first with n bytes of it.
func fragments(from, to netip.Addr, id uint16, tcp []byte, n int) [][]byte {
	if from.Is4() {
		return [][]byte{
			packet4(from, to, protoTCP, id, tcp[:n], 0, true),
			packet4(from, to, protoTCP, id, tcp[n:], n, false),
		}
	}
	header := func(offset int, more uint16) []byte {
		h := []byte{protoTCP, 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(offset/fragUnit)<<3|more)
		binary.BigEndian.PutUint32(h[4:], uint32(id))
		return h
	}
	return [][]byte{
		packet6(from, to, protoFragment, append(header(0, 1), tcp[:n]...)),
		packet6(from, to, protoFragment, append(header(n, 0), tcp[n:]...)),
	}
}

// sockaddr is an address for a socket of its family.
func sockaddr(a netip.Addr) (family int, sa unix.Sockaddr) {
	if a.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16()}
}

// sendRaw sends whole IP packets.
func (p *netns) sendRaw(to netip.Addr, packets ...[]byte) error {
	return p.do(func() error {
		family, dst := sockaddr(to)
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open raw socket: %w", err)
		}
		defer unix.Close(fd)
		for _, b := range packets {
			if err := unix.Sendto(fd, b, 0, dst); err != nil {
				return fmt.Errorf("send raw packet: %w", err)
			}
		}
		return nil
	})
}

// segments is a raw socket that sees every TCP segment that reaches the
// namespace.
type segments struct {
	fd int
	v6 bool
}

func (p *netns) listenSegments(v6 bool) (s segments, err error) {
	err = p.do(func() error {
		family := unix.AF_INET
		if v6 {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		s = segments{fd, v6}
		return err
	})
	return s, err
}

func (s segments) close() { _ = unix.Close(s.fd) }

// seen is a TCP segment that arrived.
type seen struct {
	sport, dport uint16
	seq          uint32
	flags        byte
	payload      int
}

// await returns the first segment that fits, or false once the limit is over.
func (s segments) await(limit time.Duration, fits func(seen) bool) (seen, bool) {
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(limit); ; {
		wait := time.Until(end)
		if wait <= 0 {
			return seen{}, false
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(wait/time.Millisecond)+1); err != nil && !errors.Is(err, unix.EINTR) {
			return seen{}, false
		}
		n, _, err := unix.Recvfrom(s.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			continue
		}
		if got, ok := s.parse(buf[:n]); ok && fits(got) {
			return got, true
		}
	}
}

func (s segments) parse(b []byte) (seen, bool) {
	if !s.v6 { // IPv4 raw sockets pass on the IP header too
		if len(b) < ip4Header || len(b) < int(b[0]&15)*4 {
			return seen{}, false
		}
		b = b[int(b[0]&15)*4:]
	}
	if len(b) < tcpHeader {
		return seen{}, false
	}
	return seen{
		sport: binary.BigEndian.Uint16(b[0:]), dport: binary.BigEndian.Uint16(b[2:]), seq: binary.BigEndian.Uint32(b[4:]),
		flags: b[13], payload: len(b) - int(b[12]>>4)*4,
	}, true
}

// tooBig is the ICMP error by which a router says that a TCP segment does not
// fit: fragmentation needed (RFC 1191), packet too big (RFC 8201). It quotes
// the segment's headers.
func tooBig(router, from, to netip.AddrPort, seq uint32, mtu int) []byte {
	quoted := segment(from, to, seq, flagACK)
	if from.Addr().Is4() {
		body := make([]byte, 8, 64)
		body[0], body[1] = 3, 4
		binary.BigEndian.PutUint16(body[6:], uint16(mtu))
		inner := packet4(from.Addr(), to.Addr(), protoTCP, 1, quoted, 0, false)
		body = append(body, inner[:ip4Header+8]...)
		binary.BigEndian.PutUint16(body[2:], sum(body))
		return packet4(router.Addr(), from.Addr(), protoICMP, 2, body, 0, false)
	}
	body := make([]byte, 8, 128)
	body[0] = 2
	binary.BigEndian.PutUint32(body[4:], uint32(mtu))
	body = append(body, packet6(from.Addr(), to.Addr(), protoTCP, quoted)...)
	binary.BigEndian.PutUint16(body[2:], sum(pseudoHeader(router.Addr(), from.Addr(), protoICMPv6, len(body)), body))
	return packet6(router.Addr(), from.Addr(), protoICMPv6, body)
}

// tryPing sends an echo request from an address.
func (p *netns) tryPing(from, to netip.Addr, limit time.Duration) (answer, error) {
	got := silent
	err := p.do(func() error {
		proto, request, reply := unix.IPPROTO_ICMP, byte(8), byte(0)
		if from.Is6() {
			proto, request, reply = unix.IPPROTO_ICMPV6, 128, 129
		}
		family, src := sockaddr(from)
		_, dst := sockaddr(to)
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return fmt.Errorf("open ICMP socket: %w", err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, src); err != nil {
			return fmt.Errorf("bind ICMP socket to %s: %w", from, err)
		}
		id := uint16(fd)<<8 | uint16(time.Now().UnixNano()&0xff)
		echo := []byte{request, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
		binary.BigEndian.PutUint16(echo[2:], sum(echo)) // the kernel fills in ICMPv6's
		// Of what a program on a netkit device drops, the sender hears by ENOBUFS
		// (NET_XMIT_DROP in drivers/net/netkit.c): silence from the other end all the same.
		if err := unix.Sendto(fd, echo, 0, dst); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("ping from %s: %w", from, err)
		}
		got = awaitEcho(fd, from.Is4(), reply, id, limit)
		return nil
	})
	return got, err
}

func awaitEcho(fd int, v4 bool, reply byte, id uint16, limit time.Duration) answer {
	buf := make([]byte, 4096)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(end)/time.Millisecond)+1); err != nil && !errors.Is(err, unix.EINTR) {
			return silent
		}
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			continue
		}
		b := buf[:n]
		if v4 && n > ip4Header {
			b = b[int(b[0]&15)*4:]
		}
		if len(b) >= 8 && b[0] == reply && binary.BigEndian.Uint16(b[4:]) == id {
			return answered
		}
	}
	return silent
}

// pathMTU is what a connected TCP socket believes of its path, in bytes.
func pathMTU(c *net.TCPConn, v6 bool) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	mtu := 0
	cerr := raw.Control(func(fd uintptr) {
		if v6 {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		} else {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		}
	})
	return mtu, errors.Join(cerr, err)
}
