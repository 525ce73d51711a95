package probe

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

const (
	datagramSize  = 16                     // payload of a probe that names no size, bytes
	datagramAgain = 500 * time.Millisecond // until an unanswered one is repeated
	mostPayload   = 65000                  // what a datagram can carry, with any header

	icmpEcho, icmpEchoReply   = 8, 0     // types, RFC 792
	icmp6Echo, icmp6EchoReply = 128, 129 // types, RFC 4443
	icmpHeader                = 8        // bytes, of an echo message
)

// datagram is a probe by UDP or ICMP: what it sends, and what answers it.
type datagram struct {
	kind, proto int // of the socket
	message     []byte
	answer      func(got []byte) bool
	insist      bool // repeat while it is not answered
	again       time.Time
}

// datagramOf prepares the datagram of a probe, nil for TCP.
func datagramOf(p bundle.Probe, to netip.Addr) (*datagram, error) {
	if p.Size < 0 || p.Size > mostPayload {
		return nil, fmt.Errorf("payload of %d bytes, want at most %d", p.Size, mostPayload)
	}
	size := p.Size
	if size == 0 {
		size = datagramSize
	}
	d := &datagram{insist: p.Want == bundle.Allow}
	payload := make([]byte, size)
	_, _ = rand.Read(payload) // never fails
	switch p.Proto {
	case "", bundle.TCP:
		if p.Size != 0 {
			return nil, errors.New("only datagrams have a size")
		}
		return nil, nil
	case bundle.UDP:
		d.kind, d.message = unix.SOCK_DGRAM, payload
		d.answer = func(got []byte) bool { return bytes.Equal(got, payload) }
	case bundle.ICMP:
		d.kind = unix.SOCK_RAW
		d.echoRequest(payload, to)
	default:
		return nil, fmt.Errorf("unknown protocol %q, want %s, %s or %s", p.Proto, bundle.TCP, bundle.UDP, bundle.ICMP)
	}
	return d, nil
}

// echoRequest makes the datagram an ICMP echo request. The payload, which is
// random, distinguishes its answer from the answers to others.
func (d *datagram) echoRequest(payload []byte, to netip.Addr) {
	d.proto = unix.IPPROTO_ICMP
	kind, reply := byte(icmpEcho), byte(icmpEchoReply)
	if to.Is6() {
		d.proto = unix.IPPROTO_ICMPV6
		kind, reply = icmp6Echo, icmp6EchoReply
	}
	d.message = append(make([]byte, icmpHeader), payload...)
	d.message[0] = kind
	if to.Is4() { // the kernel fills in that of ICMPv6
		binary.BigEndian.PutUint16(d.message[2:], internetChecksum(d.message))
	}
	d.answer = func(got []byte) bool {
		if to.Is4() { // a raw socket of IPv4 passes the header too
			if len(got) == 0 {
				return false
			}
			got = got[min(len(got), 4*int(got[0]&0x0f)):]
		}
		return len(got) > icmpHeader && got[0] == reply && bytes.Equal(got[icmpHeader:], payload)
	}
}

// internetChecksum is that of RFC 1071.
func internetChecksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// first lets the socket fragment, whatever it knows of the path, and sends.
func (d *datagram) first(fd int, six bool) error {
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if six {
		level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT
	}
	if err := unix.SetsockoptInt(fd, level, option, value); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	d.again = time.Now().Add(datagramAgain)
	_, err := unix.Write(fd, d.message)
	return err
}

// repeat sends again when it is due. The number is an error that the network
// reported meanwhile, if any.
func (d *datagram) repeat(fd int, now time.Time) unix.Errno {
	if !d.insist || now.Before(d.again) {
		return 0
	}
	d.again = now.Add(datagramAgain)
	_, err := unix.Write(fd, d.message)
	var errno unix.Errno
	if errors.As(err, &errno) && errno != unix.EAGAIN && errno != unix.ENOBUFS {
		return errno
	}
	return 0
}

// answered reads what has arrived, up to the answer or an error.
func (d *datagram) answered(fd int) (bool, Outcome) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := unix.Read(fd, buf)
		var errno unix.Errno
		switch {
		case errors.As(err, &errno) && (errno == unix.EAGAIN || errno == unix.EINTR):
			return false, Outcome{}
		case errors.As(err, &errno):
			return true, outcomeOf(errno)
		case d.answer(buf[:n]):
			return true, outcomeOf(0)
		}
	}
}
