package bpf

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherVLAN  = 0x8100
	etherIPv6  = 0x86dd
	etherQinQ  = 0x88a8
	etherSize  = 14
	tcpSYN     = 0x02
	tcpACK     = 0x10
	moreFrags  = 0x2000
	defaultTTL = 64

	protoHopByHop    = 0
	protoRouting     = 43
	protoFragment    = 44
	protoAH          = 51
	protoDestination = 60
)

// frame describes an Ethernet frame with an IP packet. Zero fields get what an
// ordinary TCP data segment from client to server has.
type frame struct {
	six          bool // IPv6: addresses are turned into its like, and ICMP into ICMPv6
	src, dst     netip.Addr
	sport, dport uint16
	proto        uint8
	flags        uint8 // TCP
	ttl          int   // -1 for 0
	frag         uint16
	options      []byte // IPv4's, a multiple of 4 bytes
	extensions   []extension
	tags         []uint16
	l4           []byte // replaces the transport header and payload
	totLen       int    // replaces the true one
}

var (
	client    = netip.MustParseAddr("198.18.11.10")
	server    = netip.MustParseAddr("198.18.11.20")
	stranger  = netip.MustParseAddr("198.19.7.7")
	elsewhere = netip.MustParseAddr("198.18.99.1")

	server6 = as6(server)

	clientMAC = net.HardwareAddr{2, 0x12, 11, 10, 0, 1}
	serverMAC = net.HardwareAddr{2, 0x12, 11, 20, 0, 1}
	serverGW  = net.HardwareAddr{2, 0x12, 11, 20, 0, 2}
	clientGW  = net.HardwareAddr{2, 0x12, 11, 10, 0, 2}
)

// bytes builds the frame, with valid checksums of IPv4 only: none of the
// programs looks at others.
func (f frame) bytes() []byte {
	b := slices.Concat(clientGW, clientMAC)
	for _, tag := range f.tags {
		b = binary.BigEndian.AppendUint16(b, tag)
		b = binary.BigEndian.AppendUint16(b, 42)
	}
	if f.six {
		b = binary.BigEndian.AppendUint16(b, etherIPv6)
	} else {
		b = binary.BigEndian.AppendUint16(b, etherIPv4)
	}
	return append(b, f.packet()...)
}

// as6 is the IPv6 address that takes the place of one of IPv4 here.
func as6(a netip.Addr) netip.Addr {
	if !a.Is4() {
		return a
	}
	four, b := a.As4(), netip.MustParseAddr("2001:2::").As16()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}

// extension is an IPv6 extension header: its protocol, and what it holds but for
// the protocol of the next one.
type extension struct {
	proto uint8
	rest  []byte
}

// options6 is a header of hop-by-hop or destination options, or of routing, of
// 8 x (1 + n) bytes.
func options6(proto uint8, n int) extension {
	return extension{proto, append([]byte{byte(n)}, make([]byte, 6+8*n)...)}
}

// auth is an authentication header of 4 x (2 + n) bytes.
func auth(n int) extension {
	return extension{protoAH, append([]byte{byte(n)}, make([]byte, 6+4*n)...)}
}

// fragment6 is a fragment header; offset in units of 8 bytes.
func fragment6(offset uint16, more bool) extension {
	word := offset << 3
	if more {
		word |= 1
	}
	return extension{protoFragment, append(binary.BigEndian.AppendUint16([]byte{0}, word), 0, 0, 0, 1)}
}

// packet6 builds the IPv6 packet alone.
func (f frame) packet6() []byte {
	l4, next := f.transport(), f.proto
	var chain []byte
	for _, x := range slices.Backward(f.extensions) {
		chain = slices.Concat([]byte{next}, x.rest, chain)
		next = x.proto
	}
	total := len(chain) + len(l4)
	if f.totLen != 0 {
		total = f.totLen
	}
	ip := binary.BigEndian.AppendUint16([]byte{6 << 4, 0, 0, 0}, uint16(total))
	ip = append(ip, next, byte(max(f.ttl, 0)))
	return slices.Concat(ip, IPKey(f.src), IPKey(f.dst), chain, l4)
}

// packet builds the IP packet alone.
func (f frame) packet() []byte {
	f.fill()
	if f.six {
		return f.packet6()
	}
	l4 := f.transport()
	ip := make([]byte, 20, 20+len(f.options)+len(l4))
	ip[0] = 4<<4 | byte(5+len(f.options)/4)
	total := len(ip) + len(f.options) + len(l4)
	if f.totLen != 0 {
		total = f.totLen
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(total))
	binary.BigEndian.PutUint16(ip[6:], f.frag)
	ip[8] = byte(max(f.ttl, 0))
	ip[9] = f.proto
	copy(ip[12:], IPKey(f.src))
	copy(ip[16:], IPKey(f.dst))
	ip = append(ip, f.options...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, l4...)
}

func (f *frame) fill() {
	if !f.src.IsValid() {
		f.src = client
	}
	if !f.dst.IsValid() {
		f.dst = server
	}
	if f.six {
		f.src, f.dst = as6(f.src), as6(f.dst)
		if f.proto == protoICMP {
			f.proto = protoICMPv6
		}
	}
	if f.proto == 0 {
		f.proto = protoTCP
	}
	if f.sport == 0 {
		f.sport = 40000
	}
	if f.dport == 0 {
		f.dport = 5001
	}
	if f.flags == 0 {
		f.flags = tcpACK
	}
	if f.ttl == 0 {
		f.ttl = defaultTTL
	}
}

func (f frame) transport() []byte {
	if f.l4 != nil {
		return f.l4
	}
	ports := binary.BigEndian.AppendUint16(nil, f.sport)
	ports = binary.BigEndian.AppendUint16(ports, f.dport)
	switch f.proto {
	case protoTCP:
		return append(ports, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, f.flags, 0xff, 0xff, 0, 0, 0, 0)
	case protoUDP:
		return append(ports, 0, 8, 0, 0)
	case protoICMP:
		return []byte{8, 0, 0, 0, 0, 1, 0, 1} // echo request
	case protoICMPv6:
		return []byte{128, 0, 0, 0, 0, 1, 0, 1}
	}
	return make([]byte, 8)
}

// reply turns the frame's direction round, and an echo request into its answer.
func (f frame) reply() frame {
	f.fill()
	f.src, f.dst, f.sport, f.dport = f.dst, f.src, f.dport, f.sport
	switch f.proto {
	case protoICMP:
		f.l4 = []byte{0, 0, 0, 0, 0, 1, 0, 1}
	case protoICMPv6:
		f.l4 = []byte{129, 0, 0, 0, 0, 1, 0, 1}
	}
	return f
}

// icmpError is the ICMP message of a type about a packet: as little of it as
// RFC 792 requires, or, in IPv6, all.
func icmpError(kind byte, about frame) []byte {
	quoted := about.packet()
	if !about.six {
		quoted = quoted[:min(len(quoted), 20+len(about.options)+8)]
	}
	return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, quoted...)
}

// ethernet builds a frame of another protocol.
func ethernet(proto uint16, payload []byte, tags ...uint16) []byte {
	b := slices.Concat(clientGW, clientMAC)
	for _, tag := range tags {
		b = binary.BigEndian.AppendUint16(b, tag)
		b = binary.BigEndian.AppendUint16(b, 42)
	}
	return append(binary.BigEndian.AppendUint16(b, proto), payload...)
}

// checksum is the Internet checksum (RFC 1071): 0 over data that holds a right
// one.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// filled is the frame with its defaults.
func (f frame) filled() frame {
	f.fill()
	return f
}

// udpDatagram is a UDP header, without checksum, and its payload.
func udpDatagram(sport, dport uint16, payload string) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}
