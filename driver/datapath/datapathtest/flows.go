package datapathtest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
)

const (
	endpointLink = "eth0"
	clientPort   = 6001 // on which the client answers
	closedPort   = 5999 // on which no program listens
)

func (b *bench) serverAddr() netip.Addr { return b.set.Topology.Server.Addr }
func (b *bench) clientAddr() netip.Addr { return b.set.Topology.Client.Addr }

// stranger is a source that no policy names and no arm makes up.
func (b *bench) stranger() netip.Addr {
	if b.set.Topology.IPv6 {
		return netip.MustParseAddr("2001:2:0:1319::fffe")
	}
	return netip.MustParseAddr("198.19.255.254")
}

// named is a source and what it is an example of.
type named struct {
	what string
	addr netip.Addr
}

// sourcesOf lists the sources to try: the client, one that no policy names, and of the
// first, middle and last policy about another source its two ends and the addresses
// next to them.
func (b *bench) namedSources() []named {
	out := []named{{"client", b.clientAddr()}, {"nobody", b.stranger()}}
	others := slices.DeleteFunc(slices.Clone(b.policies.installed), func(p bpf.Policy) bool { return p.Source.Contains(b.clientAddr()) })
	for _, i := range slices.Compact([]int{0, len(others) / 2, len(others) - 1}) {
		if i < 0 || i >= len(others) {
			continue
		}
		p := others[i]
		what := fmt.Sprintf("other policy %d", i+1)
		for _, s := range []named{
			{what, firstAddr(p)}, {what + ", its last address", lastAddr(p)},
			{"before " + what, firstAddr(p).Prev()}, {"after " + what, lastAddr(p).Next()},
		} {
			if b.usable(s.addr) && !slices.ContainsFunc(out, func(o named) bool { return o.addr == s.addr }) {
				out = append(out, s)
			}
		}
	}
	return append(out, named{"source of the update", b.policies.extra.Source.Addr()})
}

// usable: there is a way back to it.
func (b *bench) usable(a netip.Addr) bool {
	bits := 16
	if a.Is6() {
		bits = 112
	}
	return netip.PrefixFrom(b.stranger(), bits).Masked().Contains(a)
}

func (b *bench) sources() (out []netip.Addr) {
	for _, s := range b.namedSources() {
		out = append(out, s.addr)
	}
	return out
}

// flows is the matrix of tuples.
func (b *bench) flows() (out []flow) {
	for _, s := range b.namedSources() {
		for _, f := range []flow{
			{proto: tcp, port: datapath.ServicePort}, {proto: tcp, port: datapath.ForbiddenPort}, {proto: tcp, port: datapath.ControlPort},
			{proto: udp, port: datapath.ServicePort}, {proto: udp, port: datapath.ForbiddenPort}, {proto: ping},
		} {
			f.what, f.from = s.what, s.addr
			out = append(out, f)
		}
	}
	return out
}

// split parts flows by the policies' verdict.
func split(ps policySet, fs []flow) (admitted, denied []flow) {
	for _, f := range fs {
		if ps.admits(f) {
			admitted = append(admitted, f)
		} else {
			denied = append(denied, f)
		}
	}
	return admitted, denied
}

// tryAll tries flows at once and lists those whose answer is not the wanted one.
// Silence is believed where an admitted exchange afterwards takes a small part of
// it; on a computer too busy for that all are tried again, for longer. What an exchange took the
// last time says how long to try at first.
func (b *bench) tryAll(fs []flow, want answer) error {
	if want != silent {
		return b.tryFor(fs, want, allowLimit)
	}
	limit := min(max(b.rig.Silence, b.pace*graceTrips*5/4), allowLimit)
	for len(fs) > 0 {
		if err := b.tryFor(fs, silent, limit); err != nil {
			return err
		}
		took, err := b.roundTrip()
		if err != nil {
			return fmt.Errorf("the witness of what must be silent: %w", err)
		}
		b.pace = took
		if took*graceTrips <= limit {
			break
		}
		if limit = took * graceTrips; limit > allowLimit {
			return fmt.Errorf("silence says nothing where an admitted exchange takes %v", took)
		}
	}
	return nil
}

// roundTrip is how long an admitted connection and an echo on it take.
func (b *bench) roundTrip() (time.Duration, error) {
	start := time.Now()
	c, err := b.client.dial(b.clientAddr(), netip.AddrPortFrom(b.serverAddr(), datapath.ServicePort), allowLimit)
	if err != nil {
		return 0, err
	}
	defer hangUp(c)
	err = talk(c, 1)
	return time.Since(start), err
}

// tryFor tries flows at once, each for a time.
func (b *bench) tryFor(fs []flow, want answer, limit time.Duration) error {
	errs := make([]error, len(fs))
	var wg sync.WaitGroup
	for i, f := range fs {
		wg.Go(func() {
			got, err := b.from(f.from).try(f, b.serverAddr(), limit)
			if err == nil && got != want {
				err = fmt.Errorf("%s, want %s", got, want)
			}
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", f, err)
			}
		})
	}
	wg.Wait()
	return joined(errs)
}

// joined puts errors on one line each, at most a few.
func joined(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	const most = 8
	if n := len(errs); n > most {
		errs = append(errs[:most:most], fmt.Errorf("and %d more", n-most))
	}
	return errors.Join(errs...)
}

// tuples compares the verdict on every tuple with the policies'.
func (b *bench) tuples() error {
	admitted, denied := split(b.policies, b.flows())
	return errors.Join(b.tryAll(admitted, answered), b.tryAll(denied, silent))
}

// quick is the matrix of the client and the unnamed source only.
func (b *bench) quick() error {
	fs := slices.DeleteFunc(b.flows(), func(f flow) bool { return f.from != b.clientAddr() && f.from != b.stranger() })
	admitted, denied := split(b.policies, fs)
	return errors.Join(b.tryAll(admitted, answered), b.tryAll(denied, silent))
}

// admittedTCP is a source from which the service is reached.
func (b *bench) admittedTCP() flow {
	return flow{what: "client", from: b.clientAddr(), proto: tcp, port: datapath.ServicePort}
}

// Traffic of the counters' check.
const (
	exchanges = 20
	forbidden = 10
)

// counters sends a known number of packets each way and compares.
func (b *bench) counters() error {
	before, err := b.reading()
	if err != nil {
		return err
	}
	sent, err := b.converse()
	if err != nil {
		return err
	}
	f := flow{what: "nobody", from: b.stranger(), proto: udp, port: datapath.ForbiddenPort}
	dropped := 0
	if !b.policies.admits(f) {
		dropped = forbidden
	} else if f.from = b.policies.extra.Source.Addr(); b.policies.deny && len(b.policies.installed) > 0 {
		// Only what the policies name is dropped.
		f = flow{what: "first policy", from: firstAddr(b.policies.installed[0]), proto: tcp, port: datapath.ServicePort}
		dropped = forbidden
	}
	if err := b.knock(f, dropped); err != nil {
		return err
	}
	// A busy computer may take a moment to look at what was sent.
	for end := time.Now().Add(allowLimit); ; time.Sleep(100 * time.Millisecond) {
		after, err := b.reading()
		if err == nil {
			err = b.grew(before, after, sent, dropped)
		}
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// grew: counters grew by at least the packets sent, of which some had to be
// dropped.
func (b *bench) grew(before, after map[string]float64, sent, dropped int) error {
	var errs []error
	atLeast := func(key string, n int) {
		if grew := after[key] - before[key]; grew < float64(n) {
			errs = append(errs, fmt.Errorf("counter %q grew by %.0f, want at least %d (counters: %v)", key, grew, n, after))
		}
	}
	atLeast(bundle.CountPackets, sent+dropped)
	atLeast(bundle.CountDropped, dropped)
	if len(b.policies.installed) > 0 && !b.policies.deny {
		atLeast(bundle.CountAccepted, 1)
	}
	return errors.Join(errs...)
}

// converse exchanges messages over one admitted connection and returns how many
// segments the client sent.
func (b *bench) converse() (int, error) {
	c, err := b.client.dial(b.clientAddr(), netip.AddrPortFrom(b.serverAddr(), datapath.ServicePort), allowLimit)
	if err != nil {
		return 0, err
	}
	defer hangUp(c)
	for range exchanges {
		if err := talk(c, 1); err != nil {
			return 0, err
		}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	sent := 0
	cerr := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			sent = int(info.Segs_out)
		}
	})
	return sent, errors.Join(cerr, err)
}

// talk exchanges one message of n bytes over an admitted connection.
func talk(c net.Conn, n int) error {
	got, err := exchange(c, n, allowLimit)
	if err == nil && got != answered {
		err = fmt.Errorf("an admitted connection is %s", got)
	}
	return err
}

// knock sends n first packets of a forbidden flow, and does not wait for what
// must not come.
func (b *bench) knock(f flow, n int) error {
	if f.proto == udp {
		c, err := b.from(f.from).udpTo(f.from, netip.AddrPortFrom(b.serverAddr(), uint16(f.port)))
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			if _, err := c.Write([]byte("knock")); err != nil {
				return err
			}
		}
		return nil
	}
	var packets [][]byte
	for i := range n {
		from, to := netip.AddrPortFrom(f.from, uint16(60000+i)), netip.AddrPortFrom(b.serverAddr(), uint16(f.port))
		syn := segment(from, to, 1000, flagSYN)
		if f.from.Is4() {
			packets = append(packets, packet4(f.from, to.Addr(), protoTCP, uint16(i+1), syn, 0, false))
		} else {
			packets = append(packets, packet6(f.from, to.Addr(), protoTCP, syn))
		}
	}
	return b.from(f.from).sendRaw(b.serverAddr(), packets...)
}

// fragmented is an opening segment and what is to become of it.
type fragmented struct {
	flow
	cut  int // bytes of TCP in the first fragment
	want answer
}

// fragmented sends opening segments in two fragments.
func (b *bench) fragmented() error {
	promised, reason := b.arm.promises(promiseFragments)
	var admitted, denied []fragmented
	for _, f := range b.flows() {
		switch {
		case f.proto != tcp || f.port == datapath.ControlPort:
		case !b.policies.admits(f): // with the whole fixed header in the first, or just its ports
			denied = append(denied, fragmented{f, 24, silent}, fragmented{f, fragUnit, silent})
		case f.from == b.clientAddr() && promised:
			admitted = append(admitted, fragmented{f, 24, answered})
		case f.from == b.clientAddr():
			admitted = append(admitted, fragmented{f, 24, silent})
		}
	}
	if err := b.tryAllFragments(admitted, 40000, b.rig.Silence); err != nil {
		return err
	}
	closed, why := b.arm.promises(promiseClosed)
	leak := b.tryAllFragments(denied, 50000, b.rig.Silence)
	for limit := 4 * b.rig.Silence; !closed && leak == nil && limit < allowLimit; limit *= 4 {
		leak = b.tryAllFragments(denied, 50000, limit) // it may come late on a busy computer
	}
	switch {
	case closed && leak != nil:
		return leak
	case !closed && leak == nil:
		return fmt.Errorf("no fragment of what policies deny got in, although declared otherwise: %s", why)
	case !closed:
		return &declaredError{why}
	case !promised:
		return &declaredError{reason}
	}
	return nil
}

// tryAllFragments sends all at once, from source ports of their own.
func (b *bench) tryAllFragments(tries []fragmented, port int, silence time.Duration) error {
	errs := make([]error, len(tries))
	var wg sync.WaitGroup
	for i, f := range tries {
		wg.Go(func() { errs[i] = b.tryFragments(f, uint16(port+i), silence) })
	}
	wg.Wait()
	return joined(errs)
}

func (b *bench) tryFragments(f fragmented, port uint16, silence time.Duration) error {
	at := b.from(f.from)
	s, err := at.listenSegments(f.from.Is6())
	if err != nil {
		return err
	}
	defer s.close()
	from, to := netip.AddrPortFrom(f.from, port), netip.AddrPortFrom(b.serverAddr(), uint16(f.port))
	if err := at.sendRaw(to.Addr(), fragments(from.Addr(), to.Addr(), port, segment(from, to, 1000, flagSYN), f.cut)...); err != nil {
		return err
	}
	limit := silence
	if f.want == answered {
		limit = allowLimit
	}
	_, ok := s.await(limit, func(g seen) bool { return g.sport == to.Port() && g.dport == port })
	if ok != (f.want == answered) {
		return fmt.Errorf("%s, in fragments of which the first has %d bytes of TCP: answered %v, want %v", f.flow, f.cut, ok, f.want == answered)
	}
	return nil
}

// Path MTUs that a router claims, in bytes: above what Linux takes at least
// (min_pmtu 552; IPv6 1280).
const (
	smallMTU4 = 1000
	smallMTU6 = 1280
)

// errors reports to the server by ICMP that an admitted connection's path is
// narrower, and sends to a port on which no program listens.
func (b *bench) errors() error {
	if err := b.closed(); err != nil {
		return err
	}
	promised, reason := b.arm.promises(promiseErrors)
	limit := b.rig.Silence
	if promised {
		limit = allowLimit
	}
	mtu, err := b.narrow(limit)
	if err != nil {
		return err
	}
	small := mtu == smallMTU4 || mtu == smallMTU6
	switch {
	case promised && !small:
		return fmt.Errorf("the server did not hear that a router cannot forward its segments: its path MTU is %d", mtu)
	case !promised && small:
		return fmt.Errorf("the error reached the server, although declared otherwise: %s", reason)
	case !promised:
		return &declaredError{reason}
	}
	return nil
}

// closed: where policies let a datagram in, the answer that no program listens
// gets out.
func (b *bench) closed() error {
	f := flow{what: "closed port", from: b.clientAddr(), proto: udp, port: closedPort}
	want := silent
	if b.policies.admits(f) {
		want = refused
	}
	return b.tryAll([]flow{f}, want)
}

// narrow sends the error and returns the server's path MTU once it is narrow, or a
// limit is over.
func (b *bench) narrow(limit time.Duration) (int, error) {
	to := netip.AddrPortFrom(b.serverAddr(), datapath.ServicePort)
	s, err := b.client.listenSegments(to.Addr().Is6())
	if err != nil {
		return 0, err
	}
	defer s.close()
	c, err := b.client.dial(b.clientAddr(), to, allowLimit)
	if err != nil {
		return 0, err
	}
	defer hangUp(c)
	if err := talk(c, 100); err != nil {
		return 0, err
	}
	from := netip.MustParseAddrPort(c.LocalAddr().String())
	last, ok := s.await(allowLimit, func(g seen) bool { return g.sport == to.Port() && g.dport == from.Port() && g.payload > 0 })
	far, known := b.echo.accepted(c.LocalAddr())
	if !ok || !known {
		return 0, errors.New("the server's segments or its end of the connection are not seen")
	}
	mtu := smallMTU4
	if to.Addr().Is6() {
		mtu = smallMTU6
	}
	packet := tooBig(from, to, from, last.seq+uint32(last.payload), mtu)
	if err := b.client.sendRaw(to.Addr(), packet); err != nil {
		return 0, err
	}
	var got int
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		over := time.Now().After(end)
		if got, err = pathMTU(far, to.Addr().Is6()); err != nil || got == mtu || over {
			break
		}
	}
	return got, err
}

// unrelated is what policies about packets to the server say nothing of.
func (b *bench) unrelated() error {
	if err := b.node(); err != nil {
		return err
	}
	if err := b.neighbours(); err != nil {
		return err
	}
	promised, reason := b.arm.promises(promiseReplies)
	want := answered
	if !promised {
		want = silent
	}
	limit := b.rig.Silence
	if promised {
		limit = allowLimit
	}
	arrived := b.back.received(clientPort)
	for _, f := range []flow{
		{"the server's own", b.serverAddr(), tcp, clientPort},
		{"the server's own", b.serverAddr(), udp, clientPort},
		{"the server's own", b.serverAddr(), ping, 0},
	} {
		got, err := b.server.try(f, b.clientAddr(), limit)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		if got != want {
			return fmt.Errorf("%s towards the client is %s, want %s", f, got, want)
		}
	}
	for end := time.Now().Add(allowLimit); b.back.received(clientPort) == arrived; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("a datagram of the server's did not reach the client")
		}
	}
	if !promised {
		return &declaredError{reason}
	}
	return nil
}

// node: the client talks to its node, of which no policy says anything.
func (b *bench) node() error {
	to := b.set.Topology.Client.Node.Gateway
	switch b.arm.Fabric {
	case datapath.FabricVeth: // has no node
		return nil
	case datapath.FabricBPF, datapath.FabricCilium: // no link has the gateway's address
		if to = b.set.Topology.Client.Node.Data; to.Is6() && !b.set.Topology.MultiHost() {
			return nil // the node has none of IPv6
		}
	}
	got, err := b.client.try(flow{"the client", b.clientAddr(), ping, 0}, to, allowLimit)
	if err != nil {
		return err
	}
	if got != answered {
		return fmt.Errorf("the client's ping to its node %s is %s", to, got)
	}
	return nil
}

// neighbours: endpoints find each other anew once they forgot the other's
// address.
func (b *bench) neighbours() error {
	for _, p := range []*netns{b.client, b.server} {
		if _, err := p.run("ip", "neigh", "flush", "all"); err != nil {
			return err
		}
	}
	return b.tryAll([]flow{b.admittedTCP()}, answered)
}

// ipv6: the endpoints' addresses are IPv6, so that all checks were of it.
func (b *bench) ipv6() error {
	if !b.arm.Is(optFamily, levelIPv6) {
		return none("the arm is of IPv4")
	}
	if !b.serverAddr().Is6() || !b.clientAddr().Is6() {
		return fmt.Errorf("family = %q, and the endpoints are %s and %s", levelIPv6, b.clientAddr(), b.serverAddr())
	}
	return errors.Join(b.neighbours(), b.quick())
}

// applyOver applies the arm over itself: refused by its first step, and what
// was there stays whole.
func (b *bench) applyOver() error {
	mark, err := b.h.mark()
	if err != nil {
		return err
	}
	_, err = b.h.exec(b.set.Files, b.set.Apply)
	var f *fault
	switch {
	case err == nil:
		return errors.New("applied over itself without a word")
	case !errors.As(err, &f):
		return err
	case !strings.Contains(f.text, "exist") && !strings.Contains(f.text, "taken"):
		return fmt.Errorf("applied over itself: the error does not say what is there already: %w", err)
	}
	if err := b.h.undoTo(mark); err != nil {
		return fmt.Errorf("undo what was applied twice: %w", err)
	}
	if err := b.quick(); err != nil {
		return fmt.Errorf("after it was applied over itself: %w", err)
	}
	return nil
}
