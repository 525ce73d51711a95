package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// SilentLimit is for the first bytes on an accepted connection. It only spares
	// descriptors that are not needed, so it is longer than a busy client takes to send.
	SilentLimit = time.Minute
	maxDatagram = 1 << 16              // bytes
	againDelay  = 5 * time.Millisecond // after an error that passes
)

type closer interface{ Close() error }

// NewEchoServer opens a port in the thread's namespace, for TCP and UDP. An accepted
// connection on which nothing comes for silent is closed.
func NewEchoServer(ctx context.Context, port int, silent time.Duration) (*EchoServer, error) {
	e := &EchoServer{open: map[closer]bool{}, silent: silent}
	if err := e.listen(ctx, port); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// EchoServer sends back whatever it is sent.
type EchoServer struct {
	silent time.Duration // see SilentLimit
	busy   sync.WaitGroup

	mu     sync.Mutex
	open   map[closer]bool // listeners and connections
	closed bool
}

// listen opens the port in the thread's namespace: for TCP and UDP, of IPv4 and
// of IPv6 unless the kernel is without.
func (e *EchoServer) listen(ctx context.Context, port int) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // Go's default for listeners is not plain TCP
	for _, family := range []string{"4", "6"} {
		addr := net.JoinHostPort(map[string]string{"4": "0.0.0.0", "6": "::"}[family], fmt.Sprint(port))
		l, err := lc.Listen(ctx, "tcp"+family, addr)
		if family == "6" && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			return nil
		}
		if err != nil {
			return err
		}
		e.keep(l)
		e.busy.Go(func() { e.accept(l) })
		p, err := lc.ListenPacket(ctx, "udp"+family, addr)
		if err != nil {
			return err
		}
		e.keep(p)
		e.busy.Go(func() { echoDatagrams(p) })
	}
	return nil
}

// keep files what close has to close; it is closed at once if it comes too late.
func (e *EchoServer) keep(c closer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		_ = c.Close()
		return
	}
	e.open[c] = true
}

func (e *EchoServer) drop(c closer) {
	_ = c.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.open, c)
}

// Close ends everything and waits for it.
func (e *EchoServer) Close() {
	e.mu.Lock()
	e.closed = true
	for c := range e.open {
		_ = c.Close()
	}
	e.mu.Unlock()
	e.busy.Wait()
}

func (e *EchoServer) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(againDelay) // out of descriptors, for a moment
			continue
		}
		e.keep(conn)
		e.busy.Go(func() {
			defer e.drop(conn)
			echoBytes(conn, e.silent)
		})
	}
}

// echoBytes serves one connection until its other end is done with it.
func echoBytes(conn net.Conn, silent time.Duration) {
	buf := make([]byte, maxDatagram)
	_ = conn.SetReadDeadline(time.Now().Add(silent))
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			_ = conn.SetReadDeadline(time.Time{})
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func echoDatagrams(p net.PacketConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(againDelay) // an ICMP error about an earlier answer
			continue
		}
		_, _ = p.WriteTo(buf[:n], from) // a lost answer is what probes look for
	}
}
