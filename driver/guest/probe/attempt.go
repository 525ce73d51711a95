// Package probe tries connections and datagrams from the calling thread's network namespace
// and decides what became of them. It also has what they need at the other end, a server
// that echoes, and a counter of packets between.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

const (
	// AnswerLimit is the least that a probe which must be answered is given. A busy
	// machine takes seconds; only what fails takes so long.
	AnswerLimit = 30 * time.Second
	// graceTrips is how many times what the slowest witness took a denied probe must
	// stay unanswered after it.
	graceTrips = 2
	probeTick  = 50 * time.Millisecond // between looks at the context
)

// Outcome of a probe.
type Outcome struct {
	Established bool
	Denied      bool   // silent, or refused by an administrator's ICMP message
	How         string // in words
}

// outcomeOf classifies the error of a connection attempt.
func outcomeOf(errno unix.Errno) Outcome {
	switch errno {
	case 0:
		return Outcome{Established: true, How: "allowed"}
	case unix.EHOSTUNREACH, unix.EACCES, unix.ENETUNREACH, unix.ETIMEDOUT:
		return Outcome{Denied: true, How: "denied (" + errno.Error() + ")"}
	case unix.ECONNREFUSED, unix.ECONNRESET:
		return Outcome{How: "let through and reset (" + errno.Error() + ")"}
	default:
		return Outcome{How: "broken (" + errno.Error() + ")"}
	}
}

// Route words where a probe goes.
func Route(p bundle.Probe) string {
	to := net.JoinHostPort(p.To, strconv.Itoa(p.Port))
	switch p.Proto {
	case bundle.UDP:
		to = "udp " + to
	case bundle.ICMP:
		to = "icmp " + p.To
	}
	if p.Size > 0 {
		to += fmt.Sprintf(" (%d bytes)", p.Size)
	}
	return p.From + " -> " + to
}

// attempt is a connection being tried, or a datagram waiting for its answer.
type attempt struct {
	probe    bundle.Probe
	fd       int       // -1 between two connections
	due      time.Time // of the next connection
	must     bool      // be answered
	sent     time.Time
	datagram *datagram // nil for TCP
	decided  bool
	at       time.Time // when it was decided
	got      Outcome
}

// decide ends an attempt.
func (t *attempt) decide(got Outcome) {
	t.decided, t.got, t.at = true, got, time.Now()
}

// Waits are how long attempts stay unanswered until that decides.
type Waits struct {
	Answer  time.Duration // those that must be answered
	Silence time.Duration // the others, at least
}

// TryAll tries every probe at once on non-blocking sockets and waits until each
// is decided: by an answer, or by silence. What is to be denied is sent first, so
// that what is to be allowed is its witness; see silentUntil.
func TryAll(ctx context.Context, probes []bundle.Probe, w Waits) ([]Outcome, error) {
	tries := make([]attempt, len(probes))
	for i := range tries {
		tries[i].fd = -1
	}
	defer func() {
		for _, t := range tries {
			hangUp(t.fd)
		}
	}()
	for _, want := range []string{bundle.Deny, bundle.Allow} {
		for i, p := range probes {
			if p.Want != want {
				continue
			}
			t, err := dial(p)
			tries[i] = t
			if err != nil {
				return nil, fmt.Errorf("probe %q from %s: %w", p.What, p.From, err)
			}
		}
	}
	if err := decideAll(ctx, tries, w); err != nil {
		return nil, err
	}
	out := make([]Outcome, len(tries))
	for i, t := range tries {
		out[i] = t.got
	}
	return out, nil
}

// ends are the addresses of a probe, of one family.
func ends(p bundle.Probe) (from, to netip.Addr, err error) {
	from, err = netip.ParseAddr(p.From)
	to, err2 := netip.ParseAddr(p.To)
	if err := errors.Join(err, err2); err != nil {
		return from, to, err
	}
	if from.Is4() != to.Is4() {
		return from, to, fmt.Errorf("%s and %s are of two families", from, to)
	}
	return from, to, nil
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

// dial starts one attempt in the thread's namespace.
func dial(p bundle.Probe) (attempt, error) {
	t, to, err := open(p)
	if err != nil {
		return t, err
	}
	t.sent = time.Now()
	err = unix.Connect(t.fd, to)
	if t.datagram != nil && err == nil {
		_, six := to.(*unix.SockaddrInet6)
		err = t.datagram.first(t.fd, six)
	}
	t.connected(err)
	return t, nil
}

// open makes the socket of an attempt, bound to its source; to is where it has to connect to.
func open(p bundle.Probe) (t attempt, to unix.Sockaddr, err error) {
	t = attempt{probe: p, fd: -1, must: p.Want == bundle.Allow}
	from, addr, err := ends(p)
	if err != nil {
		return t, nil, err
	}
	if t.datagram, err = datagramOf(p, addr); err != nil {
		return t, nil, err
	}
	family, kind, proto := unix.AF_INET, unix.SOCK_STREAM, 0
	if addr.Is6() {
		family = unix.AF_INET6
	}
	if t.datagram != nil {
		kind, proto = t.datagram.kind, t.datagram.proto
	}
	if t.fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto); err != nil {
		return attempt{probe: p, fd: -1}, nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(t.fd, sockaddr(from, 0)); err != nil {
		return t, nil, os.NewSyscallError("bind", err)
	}
	port := p.Port
	if p.Proto == bundle.ICMP {
		port = 0
	}
	return t, sockaddr(addr, port), nil
}

// connected decides what the call that connects has decided.
func (t *attempt) connected(err error) {
	switch {
	case err == nil && t.datagram == nil:
		t.decide(outcomeOf(0))
	case err != nil && !errors.Is(err, unix.EINPROGRESS):
		// Nothing was sent, so nothing denied it. There is no route, for example.
		t.decide(Outcome{How: "never sent (" + err.Error() + ")"})
	}
}

// hangUp closes a probe's socket with a reset, which leaves no TIME_WAIT.
func hangUp(fd int) {
	if fd >= 0 {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(fd)
	}
}

// decideAll polls until every attempt is decided or ctx ends. Time decides only what
// was due before a look at its socket that found nothing: a process that was kept
// waiting finds the answers that came meanwhile.
func decideAll(ctx context.Context, tries []attempt, w Waits) error {
	for {
		var fds []unix.PollFd
		var open []*attempt
		for i := range tries {
			if t := &tries[i]; !t.decided {
				fds, open = append(fds, unix.PollFd{Fd: int32(t.fd), Events: t.events()}), append(open, t)
			}
		}
		if len(open) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		now := time.Now()
		denied, known := w.silentUntil(tries)
		if _, err := unix.Poll(fds, int(probeTick/time.Millisecond)); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		for i, t := range open {
			if fds[i].Revents != 0 {
				if err := t.wake(); err != nil {
					return err
				}
			}
			switch {
			case t.decided:
			case t.must && t.fd < 0 && now.After(t.due) && now.Before(t.sent.Add(w.Answer)):
				if err := t.reconnect(); err != nil {
					return err
				}
			case t.must:
				t.pass(now, t.sent.Add(w.Answer))
			case known:
				t.pass(now, denied)
			}
		}
	}
}

// silentUntil is when silence will have denied what must not be answered; it is
// not known while a witness is on its way. Witnesses are the attempts that must be
// answered. They were sent after the others and by the same way, so once they are
// answered the others had their chance; several times what the slowest of them took
// is for ways that are not quite the same, such as another queue of a NIC or
// another socket of the server's. Attempts without a witness have silence alone.
func (w Waits) silentUntil(tries []attempt) (until time.Time, known bool) {
	var last time.Time
	var slowest time.Duration
	for _, t := range tries {
		from := t.sent
		if t.must {
			if !t.decided {
				return time.Time{}, false
			}
			if from = t.at; t.got.Established {
				slowest = max(slowest, t.at.Sub(t.sent))
			}
		}
		if from.After(last) {
			last = from
		}
	}
	return last.Add(max(w.Silence, graceTrips*slowest)), true
}

func (t *attempt) events() int16 {
	if t.datagram != nil {
		return unix.POLLIN
	}
	return unix.POLLOUT
}

// pass decides what time decides, and repeats a datagram that is due.
func (t *attempt) pass(now, until time.Time) {
	switch {
	case now.After(until) && t.fd < 0:
		t.decide(outcomeOf(unix.EHOSTUNREACH))
	case now.After(until):
		t.decide(Outcome{Denied: true, How: "denied (no answer)"})
	case t.datagram != nil:
		if errno := t.datagram.repeat(t.fd, now); errno != 0 {
			t.decide(outcomeOf(errno))
		}
	}
}

// wake looks at what happened to a socket.
func (t *attempt) wake() error {
	if t.datagram != nil {
		if answered, got := t.datagram.answered(t.fd); answered {
			t.decide(got)
		}
		return nil
	}
	errno, err := unix.GetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if t.must && unix.Errno(errno) == unix.EHOSTUNREACH {
		hangUp(t.fd)
		t.fd, t.due = -1, time.Now().Add(datagramAgain)
		return nil
	}
	t.decide(outcomeOf(unix.Errno(errno)))
	return nil
}

// reconnect tries once more what must be answered and did not find its way. The
// kernel gives a neighbour three seconds to answer, and a busy machine's may take
// longer.
func (t *attempt) reconnect() error {
	next, err := dial(t.probe)
	next.sent = t.sent
	*t = next
	return err
}
