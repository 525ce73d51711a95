package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

const (
	allowLimit = 3 * time.Second       // the least an allowed connection is given: two SYN retransmissions
	probeTick  = 50 * time.Millisecond // between looks at the context
)

func doListen(c *call, a bundle.Listen) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // Go's default for listeners is not plain TCP
	l, err := lc.Listen(c.ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", a.Port))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() { acceptAndClose(l) })
	c.keepServer(a.Handle, func(context.Context) error {
		err := l.Close()
		accepting.Wait()
		return err
	})
	return nil
}

func acceptAndClose(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(listenPoll) // out of descriptors, for a moment
			continue
		}
		_ = conn.Close()
	}
}

// outcome of a probe.
type outcome struct {
	established bool
	denied      bool   // silent, or refused by an administrator's ICMP message
	how         string // in words
}

// outcomeOf classifies the error of a connection attempt.
func outcomeOf(errno unix.Errno) outcome {
	switch errno {
	case 0:
		return outcome{established: true, how: "allowed"}
	case unix.EHOSTUNREACH, unix.EACCES, unix.ENETUNREACH, unix.ETIMEDOUT:
		return outcome{denied: true, how: "denied (" + errno.Error() + ")"}
	case unix.ECONNREFUSED, unix.ECONNRESET:
		return outcome{how: "let through and reset (" + errno.Error() + ")"}
	default:
		return outcome{how: "broken (" + errno.Error() + ")"}
	}
}

func doProbes(c *call, a bundle.Probes) error {
	for _, p := range a.Tries {
		if p.Want != bundle.Allow && p.Want != bundle.Deny {
			return fmt.Errorf("probe %q wants %q, not %s or %s", p.What, p.Want, bundle.Allow, bundle.Deny)
		}
	}
	remove, err := c.addSources(a)
	defer remove()
	if err != nil {
		return err
	}
	got, err := c.connectAll(a)
	if err != nil {
		return err
	}
	return c.judgeProbes(a.Tries, got)
}

// judgeProbes counts outcomes, and names every probe that went wrong.
func (c *call) judgeProbes(tries []bundle.Probe, got []outcome) error {
	var wrong []string
	allowed, denied := 0, 0
	for i, p := range tries {
		if got[i].established {
			allowed++
		}
		if got[i].denied {
			denied++
		}
		if ok := p.Want == bundle.Allow && got[i].established || p.Want == bundle.Deny && got[i].denied; !ok {
			wrong = append(wrong, fmt.Sprintf("%s: %s -> %s:%d was %s, want %s", p.What, p.From, p.To, p.Port, got[i].how, p.Want))
		}
	}
	c.value("allowed", float64(allowed))
	c.value("denied", float64(denied))
	if len(wrong) > 0 {
		return subject("%s", strings.Join(wrong, "; "))
	}
	return nil
}

// addSources gives the step's link the source addresses that the namespace
// lacks. remove takes them away again and is never nil.
func (c *call) addSources(a bundle.Probes) (remove func(), err error) {
	var added []*netlink.Addr
	var l netlink.Link
	remove = func() {
		for _, addr := range added {
			_ = c.nl.AddrDel(l, addr)
		}
	}
	have, err := c.nl.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return remove, fmt.Errorf("list addresses: %w", err)
	}
	present := map[string]bool{}
	for _, addr := range have {
		present[addr.IP.String()] = true
	}
	for _, p := range a.Tries {
		if present[p.From] {
			continue
		}
		if l == nil {
			if l, err = c.link(a.Link); err != nil {
				return remove, err
			}
		}
		addr, err := netlink.ParseAddr(p.From + "/32")
		if err != nil {
			return remove, fmt.Errorf("source %q: %w", p.From, err)
		}
		if err := c.nl.AddrAdd(l, addr); err != nil {
			return remove, fmt.Errorf("add source %s to %s: %w", p.From, a.Link, err)
		}
		present[p.From] = true
		added = append(added, addr)
	}
	return remove, nil
}

// attempt is a connection being tried.
type attempt struct {
	fd      int
	until   time.Time
	decided bool
	got     outcome
}

// connectAll tries every probe at once on non-blocking sockets and waits until
// each is decided: by an answer, or by silence.
func (c *call) connectAll(a bundle.Probes) ([]outcome, error) {
	tries := make([]attempt, len(a.Tries))
	for i := range tries {
		tries[i].fd = -1
	}
	defer func() {
		for _, t := range tries {
			hangUp(t.fd)
		}
	}()
	silence := time.Duration(a.Timeout * float64(time.Second))
	for i, p := range a.Tries {
		limit := silence
		if p.Want == bundle.Allow {
			limit = max(silence, allowLimit)
		}
		t, err := dial(p, limit)
		tries[i] = t
		if err != nil {
			return nil, fmt.Errorf("probe %q from %s: %w", p.What, p.From, err)
		}
	}
	if err := settle(c.ctx, tries); err != nil {
		return nil, err
	}
	out := make([]outcome, len(tries))
	for i, t := range tries {
		out[i] = t.got
	}
	return out, nil
}

// dial starts one connection attempt in the thread's namespace.
func dial(p bundle.Probe, limit time.Duration) (attempt, error) {
	t := attempt{fd: -1}
	from, to := net.ParseIP(p.From).To4(), net.ParseIP(p.To).To4()
	if from == nil || to == nil {
		return t, fmt.Errorf("%q or %q is no IPv4 address", p.From, p.To)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return t, os.NewSyscallError("socket", err)
	}
	t.fd = fd
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(from)}); err != nil {
		return t, os.NewSyscallError("bind", err)
	}
	t.until = time.Now().Add(limit)
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: p.Port, Addr: [4]byte(to)})
	switch {
	case err == nil:
		t.decided, t.got = true, outcomeOf(0)
	case !errors.Is(err, unix.EINPROGRESS):
		// Nothing was sent, so nobody denied it: there is no route, say.
		t.decided, t.got = true, outcome{how: "never sent (" + err.Error() + ")"}
	}
	return t, nil
}

// hangUp closes a probe's socket with a reset, which leaves no TIME_WAIT.
func hangUp(fd int) {
	if fd >= 0 {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(fd)
	}
}

// settle polls until every attempt is decided or ctx ends.
func settle(ctx context.Context, tries []attempt) error {
	for {
		var fds []unix.PollFd
		var which []int
		now := time.Now()
		for i := range tries {
			t := &tries[i]
			if !t.decided && now.After(t.until) {
				t.decided, t.got = true, outcome{denied: true, how: "denied (no answer)"}
			}
			if !t.decided {
				fds, which = append(fds, unix.PollFd{Fd: int32(t.fd), Events: unix.POLLOUT}), append(which, i)
			}
		}
		if len(fds) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := unix.Poll(fds, int(probeTick/time.Millisecond)); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		for k, p := range fds {
			if p.Revents == 0 {
				continue
			}
			t := &tries[which[k]]
			errno, err := unix.GetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil {
				return os.NewSyscallError("getsockopt", err)
			}
			t.decided, t.got = true, outcomeOf(unix.Errno(errno))
		}
	}
}
