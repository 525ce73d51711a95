package datapathtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// allowLimit is how long a packet that must arrive may take: a lost first SYN
// is sent again after one second, three and seven, and the computer may be busy.
// Only what fails takes so long.
const allowLimit = 2 * time.Minute

// graceTrips is how many times an admitted exchange's time a packet must stay
// unanswered that must be dropped.
const graceTrips = 8

// answer is what came back of a packet.
type answer string

const (
	answered answer = "answered"
	silent   answer = "silent"
	refused  answer = "refused" // reached the other end's stack, which wants none
)

// protocol of a try.
type protocol string

const (
	tcp  protocol = "tcp"
	udp  protocol = "udp"
	ping protocol = "ping"
)

// flow is what a packet says of itself.
type flow struct {
	what  string // for messages
	from  netip.Addr
	proto protocol
	port  int // 0 for ping
}

func (f flow) String() string {
	if f.proto == ping {
		return fmt.Sprintf("ping from %s (%s)", f.from, f.what)
	}
	return fmt.Sprintf("%s from %s to port %d (%s)", f.proto, f.from, f.port, f.what)
}

func network(p protocol, a netip.Addr) string {
	if a.Is4() {
		return string(p) + "4"
	}
	return string(p) + "6"
}

// try sends a flow's first packet to an address and waits for the answer.
func (p *netns) try(f flow, to netip.Addr, limit time.Duration) (answer, error) {
	switch f.proto {
	case tcp:
		return p.tryTCP(f, to, limit)
	case udp:
		return p.tryUDP(f, to, limit)
	default:
		return patiently(limit, func(limit time.Duration) (answer, error) { return p.tryPing(f.from, to, limit) })
	}
}

// answerOf says whether an error is silence, a refusal, or a broken test.
func answerOf(err error) (answer, error) {
	var timeout net.Error
	switch {
	case err == nil:
		return answered, nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return refused, nil
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES):
		return silent, nil
	default:
		return "", err
	}
}

// dial connects within a limit.
func (p *netns) dial(from netip.Addr, to netip.AddrPort, limit time.Duration) (*net.TCPConn, error) {
	var conn net.Conn
	err := p.do(func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: limit, KeepAlive: -1}
		d.SetMultipathTCP(false)
		var err error
		conn, err = d.Dial(network(tcp, to.Addr()), to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// hangUp closes with a reset, which leaves no TIME_WAIT.
func hangUp(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// tryTCP connects, and once more where a neighbour was not found: a busy computer's
// may answer after the kernel gave it up.
func (p *netns) tryTCP(f flow, to netip.Addr, limit time.Duration) (answer, error) {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		conn, err := p.dial(f.from, netip.AddrPortFrom(to, uint16(f.port)), max(time.Until(end), time.Millisecond))
		if err == nil {
			hangUp(conn)
		}
		if !errors.Is(err, syscall.EHOSTUNREACH) || !time.Now().Before(end) {
			return answerOf(err)
		}
	}
}

func (p *netns) tryUDP(f flow, to netip.Addr, limit time.Duration) (answer, error) {
	c, err := p.udpTo(f.from, netip.AddrPortFrom(to, uint16(f.port)))
	if err != nil {
		return "", err
	}
	defer c.Close()
	return patiently(limit, func(limit time.Duration) (answer, error) { return exchange(c, 16, limit) })
}

// patiently tries until there is an answer or the limit is over.
func patiently(limit time.Duration, try func(time.Duration) (answer, error)) (answer, error) {
	for end := time.Now().Add(limit); ; {
		got, err := try(min(again, time.Until(end)))
		if err != nil || got != silent || !time.Now().Before(end) {
			return got, err
		}
	}
}

func (p *netns) udpTo(from netip.Addr, to netip.AddrPort) (c *net.UDPConn, err error) {
	err = p.do(func() error {
		var err error
		c, err = net.DialUDP(network(udp, to.Addr()), net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
		return err
	})
	return c, err
}

// exchange sends a message of n bytes and waits for it to come back.
func exchange(c net.Conn, n int, limit time.Duration) (answer, error) {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	if _, err := c.Write(make([]byte, n)); err != nil {
		return answerOf(err)
	}
	_, err := io.ReadAtLeast(c, make([]byte, n), 1)
	return answerOf(err)
}

// again is after how long what the kernel does not send again by itself, a datagram or a
// ping, is sent once more: one may get lost while addresses are resolved. What
// must be dropped is sent once.
const again = time.Second

// services are what the server answers by: echoes over TCP and UDP.
type services struct {
	closers []io.Closer
	wg      sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool
	// datagrams counts those that reached a UDP socket, by port.
	datagrams map[int]int
}

// serve opens echoes on the given ports of an address.
func (p *netns) serve(addr netip.Addr, ports ...int) (*services, error) {
	s := &services{conns: map[net.Conn]bool{}, datagrams: map[int]int{}}
	err := p.do(func() error {
		for _, port := range ports {
			if err := s.open(addr, port); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("serve in %s: %w", p.name, err)
	}
	return s, nil
}

func (s *services) open(addr netip.Addr, port int) error {
	at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, uint16(port)))
	l, err := net.ListenTCP(network(tcp, addr), at)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l)
	s.wg.Go(func() { s.accept(l) })
	c, err := net.ListenUDP(network(udp, addr), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, uint16(port))))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c)
	s.wg.Go(func() { s.echoUDP(c, port) })
	return nil
}

func (s *services) accept(l *net.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func (s *services) echoUDP(c *net.UDPConn, port int) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		s.mu.Lock()
		s.datagrams[port]++
		s.mu.Unlock()
		_, _ = c.WriteToUDPAddrPort(buf[:n], from)
	}
}

// received is how many datagrams reached a port.
func (s *services) received(port int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.datagrams[port]
}

// accepted finds the server's end of a client's connection.
func (s *services) accepted(client net.Addr) (*net.TCPConn, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.RemoteAddr().String() == client.String() {
			return c.(*net.TCPConn), true
		}
	}
	return nil, false
}

func (s *services) close() {
	for _, c := range s.closers {
		_ = c.Close()
	}
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// adopt gives a link the addresses that it lacks, so that packets can be sent
// from them.
func (p *netns) adopt(linkName string, addrs []netip.Addr) error {
	return p.do(func() error {
		l, err := netlink.LinkByName(linkName)
		if err != nil {
			return fmt.Errorf("find %s of %s: %w", linkName, p.name, err)
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(netip.PrefixFrom(a, a.BitLen()).String())
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, addr); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("add %s to %s of %s: %w", a, linkName, p.name, err)
			}
		}
		return nil
	})
}
