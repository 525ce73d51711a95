package bundle

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

func testFrame(from, to string) Frame {
	return Frame{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to), FromPort: 40000, ToPort: 5001, FromMAC: "02:00:00:00:00:01", ToMAC: "02:00:00:00:00:02"}
}

// tcpSum is the one's complement sum of a segment with its pseudo header: 0xffff
// if its checksum is right (RFC 9293, 3.1).
func tcpSum(f Frame, segment []byte) uint16 {
	pseudo := append(append([]byte{}, f.From.AsSlice()...), f.To.AsSlice()...)
	pseudo = append(pseudo, 0, 6, 0, byte(len(segment)))
	return sum16(append(pseudo, segment...))
}

func TestFrame(t *testing.T) {
	for _, tc := range []struct {
		name      string
		frame     Frame
		etherType uint16
		header    int // bytes of the IP header
	}{
		{"IPv4", testFrame("198.18.11.10", "198.18.11.20"), 0x0800, 20},
		{"IPv6", testFrame("2001:2:0:1218::a", "2001:2:0:1218::14"), 0x86dd, 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := tc.frame.Bytes()
			if err != nil || len(b) != frameSize {
				t.Fatalf("%d bytes: %v", len(b), err)
			}
			if !bytes.HasPrefix(b, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}) || binary.BigEndian.Uint16(b[12:]) != tc.etherType {
				t.Errorf("Ethernet header % x", b[:14])
			}
			ip, segment := b[14:14+tc.header], b[14+tc.header:14+tc.header+20]
			if tc.header == 20 && sum16(ip) != 0xffff {
				t.Errorf("IPv4 checksum of % x is wrong", ip)
			}
			if got := tcpSum(tc.frame, segment); got != 0xffff {
				t.Errorf("TCP checksum is wrong: sum %x", got)
			}
			if binary.BigEndian.Uint16(segment) != 40000 || binary.BigEndian.Uint16(segment[2:]) != 5001 {
				t.Errorf("ports of % x", segment)
			}
			tc.frame.BadSum, tc.frame.TTL = true, 1
			b, err = tc.frame.Bytes()
			if err != nil || tcpSum(tc.frame, b[14+tc.header:14+tc.header+20]) == 0xffff {
				t.Errorf("the checksum is right: %v", err)
			}
			if ttl := b[14+map[int]int{20: 8, 40: 7}[tc.header]]; ttl != 1 {
				t.Errorf("TTL %d", ttl)
			}
		})
	}
}

func TestFrameErrors(t *testing.T) {
	mixed, mac := testFrame("198.18.11.10", "2001:2::1"), testFrame("198.18.11.10", "198.18.11.20")
	mac.ToMAC = "02:00"
	for text, f := range map[string]Frame{"one family": mixed, "no Ethernet address": mac, "two addresses": {}} {
		if _, err := f.Bytes(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want %q", f, err, text)
		}
	}
}
