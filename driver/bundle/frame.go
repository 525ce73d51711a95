package bundle

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// frameSize is the length of every frame in bytes: enough for the headers of
// TCP over IPv6, and the same for both families.
const frameSize = 80

// Frame is an Ethernet frame with a TCP segment of an open connection (ACK),
// over IPv4 or IPv6 as its addresses are. Padding after the headers is zero and
// no part of the packet.
type Frame struct {
	From     netip.Addr `json:"from"`
	To       netip.Addr `json:"to"`
	FromPort uint16     `json:"from_port"`
	ToPort   uint16     `json:"to_port"`
	// FromMAC and ToMAC are written with colons; "" is all zeros.
	FromMAC string `json:"from_mac,omitempty"`
	ToMAC   string `json:"to_mac,omitempty"`
	TTL     uint8  `json:"ttl,omitempty"` // IPv6: hop limit; 0 is 64
	// BadSum makes the TCP checksum wrong: the receiver's TCP counts the segment
	// as InCsumErrors and drops it without an answer.
	BadSum bool `json:"bad_sum,omitempty"`
}

const (
	etherIPv4, etherIPv6 = 0x0800, 0x86dd
	defaultTTL           = 64
	protocolTCP          = 6
	tcpHeader, flagACK   = 20, 0x10
)

// Bytes builds the frame (RFC 791, 8200, 9293). An error says that the
// addresses are of two families or that a MAC cannot be read.
func (f Frame) Bytes() ([]byte, error) {
	if !f.From.IsValid() || !f.To.IsValid() || f.From.Is4() != f.To.Is4() {
		return nil, fmt.Errorf("frame from %v to %v: want two addresses of one family", f.From, f.To)
	}
	var out []byte
	for _, mac := range []string{f.ToMAC, f.FromMAC} {
		b, err := macBytes(mac)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	tcp := f.segment()
	if f.From.Is4() {
		out = binary.BigEndian.AppendUint16(out, etherIPv4)
		out = append(out, f.header4(len(tcp))...)
	} else {
		out = binary.BigEndian.AppendUint16(out, etherIPv6)
		out = append(out, f.header6(len(tcp))...)
	}
	out = append(out, tcp...)
	return append(out, make([]byte, frameSize-len(out))...), nil
}

func macBytes(mac string) ([]byte, error) {
	if mac == "" {
		return make([]byte, 6), nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(mac, ":", ""))
	if err != nil || len(b) != 6 {
		return nil, fmt.Errorf("frame: %q is no Ethernet address", mac)
	}
	return b, nil
}

func (f Frame) ttl() byte {
	if f.TTL == 0 {
		return defaultTTL
	}
	return f.TTL
}

func (f Frame) header4(payload int) []byte {
	h := make([]byte, 20)
	h[0] = 4<<4 | 5
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+payload))
	h[8], h[9] = f.ttl(), protocolTCP
	copy(h[12:], f.From.AsSlice())
	copy(h[16:], f.To.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^sum16(h))
	return h
}

func (f Frame) header6(payload int) []byte {
	h := make([]byte, 8, 40)
	h[0] = 6 << 4
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	h[6], h[7] = protocolTCP, f.ttl()
	return append(append(h, f.From.AsSlice()...), f.To.AsSlice()...)
}

func (f Frame) segment() []byte {
	t := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(t, f.FromPort)
	binary.BigEndian.PutUint16(t[2:], f.ToPort)
	binary.BigEndian.PutUint32(t[4:], 1)
	binary.BigEndian.PutUint32(t[8:], 1)
	t[12], t[13] = tcpHeader/4<<4, flagACK
	binary.BigEndian.PutUint16(t[14:], 0xffff)
	pseudo := append(append([]byte{}, f.From.AsSlice()...), f.To.AsSlice()...)
	pseudo = append(pseudo, 0, protocolTCP, 0, tcpHeader)
	sum := ^sum16(append(pseudo, t...))
	if f.BadSum {
		sum++
	}
	binary.BigEndian.PutUint16(t[16:], sum)
	return t
}

// sum16 is the one's complement sum of RFC 1071 over an even number of bytes.
func sum16(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
