package datapathtest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
)

// remove undoes the arm and looks for what is left.
func (b *bench) remove() error {
	objects, err := objectsOf(b.h, append(slices.Clone(b.nodes), b.client, b.server))
	if err != nil {
		return err
	}
	// What the helper has of its own stays.
	objects = slices.DeleteFunc(objects, func(o object) bool { return o.kind == kindProcess })
	for _, s := range []*services{b.echo, b.back} {
		if s != nil {
			s.close()
		}
	}
	if err := b.undo(); err != nil {
		return err
	}
	var errs []error
	// As long as they are held, no other namespaces get their numbers.
	if in := inhabitants(b.client.id, b.server.id); len(in) > 0 {
		errs = append(errs, fmt.Errorf("an endpoint's namespace is still held: %s", strings.Join(in, ", ")))
	}
	b.depopulate()
	if stay := left(objects); len(stay) > 0 {
		errs = append(errs, fmt.Errorf("left: %s", strings.Join(stay, ", ")))
	}
	return errors.Join(append(errs, b.asFound())...)
}

// asFound compares the nodes with how they were.
func (b *bench) asFound() error {
	var errs []error
	for i, p := range b.nodes[:len(b.set.Topology.Nodes)] { // the others are in no step
		now, err := look(p)
		if err != nil {
			return err
		}
		diff := differences(b.before[i], now)
		diff, err = b.allowLeft(p, diff)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
		if len(diff) > 0 {
			errs = append(errs, fmt.Errorf("%s is not as it was found:\n%s", p.name, strings.Join(diff, "\n")))
		}
	}
	return errors.Join(errs...)
}

// allowLeft takes out of a difference the empty table that is declared to stay.
// Of an arm that declares it, it must be there.
func (b *bench) allowLeft(p *netns, diff []string) ([]string, error) {
	promised, reason := b.arm.promises(promiseUnregistered)
	if promised || b.set.Topology.Server.Node.Name != p.name {
		return diff, nil
	}
	n := len(diff)
	diff = slices.DeleteFunc(diff, func(line string) bool {
		name, rest, _ := strings.Cut(line, "-legacy-save: + ")
		empty := []string{"*filter", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT", "COMMIT"}
		return (name == "iptables" || name == "ip6tables") && slices.Contains(empty, strings.TrimSpace(rest))
	})
	if n == len(diff) {
		return diff, fmt.Errorf("no table stayed registered, although declared otherwise: %s", reason)
	}
	return diff, nil
}

// applyAgain applies the removed arm once more in the same namespaces, with as
// many policies as the update begins from, and leaves it there.
func (b *bench) applyAgain() error {
	n := updatePolicies
	if b.arm.NoPolicies {
		n = 0
	}
	if err := b.apply(b.arm, n); err != nil {
		return fmt.Errorf("apply again: %w", err)
	}
	if err := b.populate(); err != nil {
		return err
	}
	b.record(n)
	return b.quick()
}

// record notes what the kernel holds of n policies, and whether it is what the
// arm itself expects.
func (b *bench) record(n int) {
	if b.set.Hook == nil || n == 0 {
		return
	}
	values, err := b.reading()
	if err == nil {
		b.held[n] = values
		err = b.realised(n, values)
	}
	if err != nil {
		b.sizes = append(b.sizes, fmt.Errorf("%d policies: %w", n, err))
	}
}

// realised compares what the kernel holds with N, by the arm's own expectation
// and next to it: some value counts the policies one by one.
func (b *bench) realised(n int, values map[string]float64) error {
	const frame = 8 // rules or entries at most that are no policy
	if !slices.ContainsFunc(slices.Collect(maps.Values(values)), func(v float64) bool { return v >= float64(n) && v <= float64(n+frame) }) {
		return fmt.Errorf("nothing in the kernel counts them: %v", values)
	}
	for _, st := range b.set.Prove {
		e, ok := st.Do.(bundle.Expect)
		if !ok || e.Since != "" {
			continue
		}
		if got := values[e.Key]; e.Op == bundle.Equal && got != float64(e.Value) {
			return fmt.Errorf("%s: %s is %.0f, want %d", e.What, e.Key, got, e.Value)
		}
	}
	return nil
}

// size compares what the kernel held of each number of policies. Between any
// two, some value grew by exactly the policies that came.
func (b *bench) size() error {
	if b.arm.NoPolicies {
		return none("has no policies")
	}
	if b.arm.plain() {
		for _, n := range []int{1, 1000} {
			if err := b.apply(b.arm, n); err != nil {
				return fmt.Errorf("apply %d policies: %w", n, err)
			}
			b.record(n)
			if err := b.undo(); err != nil {
				return err
			}
		}
	}
	errs := b.sizes
	ns := slices.Sorted(maps.Keys(b.held))
	if len(ns) < 2 {
		errs = append(errs, fmt.Errorf("the kernel was seen only with %v policies", ns))
	}
	for i := 1; i < len(ns); i++ {
		was, now, more := b.held[ns[i-1]], b.held[ns[i]], float64(ns[i]-ns[i-1])
		if !slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(k string) bool { return now[k]-was[k] == more }) {
			errs = append(errs, fmt.Errorf("nothing in the kernel grew by %.0f from %d to %d policies: %v, %v", more, ns[i-1], ns[i], was, now))
		}
	}
	return errors.Join(errs...)
}

// background is traffic during an update.
type background struct {
	stop  chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	errs  []error
	turns atomic.Int64 // of connections that must go on
	tries atomic.Int64 // of what is forbidden
}

func (g *background) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.errs = append(g.errs, err)
}

func (g *background) loop(turn func() error) {
	g.wg.Go(func() {
		for {
			select {
			case <-g.stop:
				return
			default:
			}
			if err := turn(); err != nil {
				g.fail(err)
				return
			}
		}
	})
}

// flows waits until there is traffic of both kinds, or something went wrong. A busy
// computer would be through with an update before the first packet.
func (g *background) flows() {
	for end := time.Now().Add(allowLimit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		g.mu.Lock()
		failed := len(g.errs) > 0
		g.mu.Unlock()
		if failed || g.turns.Load() > 0 && g.tries.Load() > 0 {
			return
		}
	}
}

// end stops the traffic and says what went wrong.
func (g *background) end() error {
	close(g.stop)
	g.wg.Wait()
	return joined(g.errs)
}

// Rounds of an update, and the pause between its halves.
const (
	updateRounds = 2
	updatePause  = 10 * time.Millisecond
)

// update adds and removes one policy under traffic.
func (b *bench) update(applied bool) error {
	var err error
	switch {
	case b.arm.NoPolicies:
		err = none("has no policies")
	case !applied && b.echo == nil:
		err = none("not reached")
	default:
		err = b.updateUnderTraffic()
	}
	b.depopulate()
	if left := errors.Join(b.undo(), b.asFound()); left != nil {
		return errors.Join(err, left)
	}
	return err
}

func (b *bench) updateUnderTraffic() error {
	if len(b.set.Update) == 0 || len(b.set.Revert) == 0 {
		return errors.New("the arm has no steps that add or remove one policy")
	}
	before := b.echo.received(datapath.ServicePort)
	g := &background{stop: make(chan struct{})}
	err := b.startBackground(g)
	if err == nil {
		g.flows()
	}
	if err == nil {
		err = b.beforeUpdate()
	}
	for range updateRounds {
		if err == nil {
			err = b.updateRound() // ends as it begins
		}
	}
	turns, tries := g.turns.Load(), g.tries.Load()
	if err = errors.Join(err, g.end()); err != nil {
		return err
	}
	if turns == 0 || tries == 0 {
		return fmt.Errorf("%d turns of admitted and %d of forbidden traffic during the update", turns, tries)
	}
	if got := b.echo.received(datapath.ServicePort) - before; got > 0 && !b.policies.admits(b.blast()) {
		return fmt.Errorf("%d forbidden datagrams reached the server", got)
	}
	values, err := b.reading()
	if err == nil {
		err = b.realised(updatePolicies, values)
	}
	return err
}

// blast is the flow of forbidden datagrams.
func (b *bench) blast() flow {
	return flow{"blast of nobody", b.stranger(), udp, datapath.ServicePort}
}

// startBackground has connections go on that the update is not about, and
// everything forbidden keep trying.
func (b *bench) startBackground(g *background) error {
	same := func(f flow) bool { return b.policies.admits(f) == b.policies.with().admits(f) }
	admitted, denied := split(b.policies, slices.DeleteFunc(b.flows(), func(f flow) bool {
		return !same(f) || f.from == b.policies.extra.Source.Addr() || f.proto == ping || f.port == datapath.ControlPort
	}))
	for _, f := range admitted {
		if f.proto != tcp || f.port != datapath.ServicePort {
			continue
		}
		c, err := b.from(f.from).dial(f.from, netip.AddrPortFrom(b.serverAddr(), uint16(f.port)), allowLimit)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		b.keepTalking(g, f, c)
	}
	blast := b.blast()
	// One of each kind: too many only hinder each other.
	tried := map[string]bool{}
	for _, f := range denied {
		kind := fmt.Sprint(f.port, f.from == b.clientAddr(), f.from == b.stranger())
		if f.proto != tcp || tried[kind] {
			continue
		}
		tried[kind] = true
		g.loop(func() error {
			got, err := b.from(f.from).try(f, b.serverAddr(), 20*time.Millisecond)
			if err == nil && got != silent {
				err = fmt.Errorf("%s is %s during the update", f, got)
			}
			g.tries.Add(1)
			return err
		})
	}
	if !slices.ContainsFunc(denied, func(f flow) bool { return f.from == blast.from && f.proto == udp && f.port == blast.port }) {
		return nil
	}
	return b.keepBlasting(g, blast)
}

// rest pauses after a turn of traffic that began at start, at least for a time: on
// an emulated computer the traffic alone would take all of it, and the update wait.
func rest(start time.Time, least time.Duration) { time.Sleep(max(least, 4*time.Since(start))) }

// keepTalking exchanges messages over a connection.
func (b *bench) keepTalking(g *background, f flow, c *net.TCPConn) {
	g.loop(func() error {
		start := time.Now()
		if err := talk(c, 8); err != nil {
			return fmt.Errorf("the connection of %s broke during the update: %w", f, err)
		}
		g.turns.Add(1)
		rest(start, 200*time.Microsecond)
		return nil
	})
	go func() { <-g.stop; g.wg.Wait(); hangUp(c) }()
}

// keepBlasting sends datagrams, a few thousand a second.
func (b *bench) keepBlasting(g *background, f flow) error {
	c, err := b.from(f.from).udpTo(f.from, netip.AddrPortFrom(b.serverAddr(), uint16(f.port)))
	if err != nil {
		return err
	}
	g.loop(func() error {
		start := time.Now()
		for range 8 {
			_, _ = c.Write([]byte("forbidden")) // an ICMP error about an earlier one is no answer
		}
		g.tries.Add(1)
		rest(start, time.Millisecond)
		return nil
	})
	go func() { <-g.stop; g.wg.Wait(); _ = c.Close() }()
	return nil
}

// updated is the flow that the update is about.
func (b *bench) updated() flow {
	return flow{"source of the update", b.policies.extra.Source.Addr(), tcp, datapath.ServicePort}
}

// expectUpdated: the flow that the update is about is judged by the given policies.
func (b *bench) expectUpdated(when string, ps policySet) error {
	want := silent
	if ps.admits(b.updated()) {
		want = answered
	}
	if err := b.tryAll([]flow{b.updated()}, want); err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	return nil
}

func (b *bench) beforeUpdate() error {
	if b.policies.admits(b.updated()) == b.policies.with().admits(b.updated()) {
		return fmt.Errorf("the update changes nothing for %s", b.updated())
	}
	return b.expectUpdated("before the update", b.policies)
}

// updateRound: the source that the update is about is judged the other way as
// soon as the update is done, and as before once it is reverted.
func (b *bench) updateRound() error {
	f := b.updated()
	change := func(steps []bundle.Step) error {
		time.Sleep(updatePause)
		_, err := b.h.exec(b.set.Files, steps)
		return err
	}
	var conn *net.TCPConn
	defer func() {
		if conn != nil {
			hangUp(conn)
		}
	}()
	open := func() (err error) {
		conn, err = b.from(f.from).dial(f.from, netip.AddrPortFrom(b.serverAddr(), uint16(f.port)), allowLimit)
		return err
	}
	if b.policies.deny {
		if err := open(); err != nil {
			return err
		}
	}
	if err := change(b.set.Update); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := b.expectUpdated("after the update", b.policies.with()); err != nil {
		return err
	}
	if !b.policies.deny {
		if err := open(); err != nil {
			return err
		}
		if err := change(b.set.Revert); err != nil {
			return fmt.Errorf("revert: %w", err)
		}
	}
	if err := b.kept(conn); err != nil {
		return err
	}
	if b.policies.deny {
		if err := change(b.set.Revert); err != nil {
			return fmt.Errorf("revert: %w", err)
		}
	}
	return b.expectUpdated("after the revert", b.policies)
}

// kept: a connection whose policy went, or was denied since, goes on or not, as
// promised.
func (b *bench) kept(c *net.TCPConn) error {
	promised, reason := b.arm.promises(promiseKept)
	limit := b.rig.Silence
	if promised {
		limit = allowLimit
	}
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("still there?")); err != nil {
		return err
	}
	_, err := io.ReadAtLeast(c, make([]byte, 16), 1)
	switch {
	case promised && err != nil:
		return fmt.Errorf("a connection broke when its policy went: %w", err)
	case !promised && err == nil:
		return fmt.Errorf("a connection went on when its policy went, although declared otherwise: %s", reason)
	}
	return nil
}

// other puts another arm in the same namespaces afterwards.
func (b *bench) other() error {
	o := b.rig.Other
	if !b.arm.plain() || o.Datapath == "" {
		return none("only of arms with all options at their defaults")
	}
	n := mainPolicies
	if o.NoPolicies {
		n = 0
	}
	err := b.apply(o, n)
	if err == nil {
		err = b.verify()
		if values, rerr := b.reading(); err == nil && rerr == nil {
			err = fresh(values)
		}
	}
	if unsupported(err) || errors.Is(err, datapath.ErrNotSupported) {
		err = none("%s is not supported here", o.Name())
	}
	if uerr := errors.Join(b.undo(), b.asFound()); uerr != nil {
		return errors.Join(err, uerr)
	}
	if err != nil {
		return fmt.Errorf("%s after %s: %w", o.Name(), b.arm.Name(), err)
	}
	return nil
}

// fresh: counters begin at 0, so after one proof they are small.
func fresh(values map[string]float64) error {
	const most = 10000
	for _, key := range []string{bundle.CountPackets, bundle.CountDropped, bundle.CountAccepted} {
		if values[key] > most {
			return fmt.Errorf("counter %q is %.0f after one proof", key, values[key])
		}
	}
	return nil
}

// crash kills the helper in the middle of applying, and once all is applied
// and a server runs.
func (b *bench) crash() error {
	if !b.arm.plain() {
		return none("only of arms with all options at their defaults")
	}
	b.end()
	n := mainPolicies
	if b.arm.NoPolicies {
		n = 0
	}
	set, err := render(b.arm.Cell(n))
	if err != nil {
		return err
	}
	return errors.Join(b.crashAt("in the middle of applying", set, true), b.crashAt("once applied", set, false))
}

func (b *bench) crashAt(when string, set datapath.Setup, middle bool) error {
	h, err := startHelper(b.rig)
	if err != nil {
		return err
	}
	defer h.kill()
	if _, err := h.exec(nil, lab.Wiring([]datapath.Node{datapath.NodeAt(1), datapath.NodeAt(2)})); err != nil {
		return err
	}
	half := len(set.Apply)
	if middle {
		half /= 2
	}
	if _, err := h.exec(set.Files, set.Apply[:half]); err != nil {
		return err
	}
	var namespaces []*netns
	for _, name := range []string{"node1", "node2", datapath.Client, datapath.Server} {
		p, err := openNetns(h, name)
		if err != nil && !middle {
			return err
		}
		if err == nil {
			defer p.close()
			namespaces = append(namespaces, p)
		}
	}
	var rest bundle.Request
	if middle {
		rest, err = h.chunk(set.Files, set.Apply[half:])
	} else {
		rest, err = h.chunk(nil, []bundle.Step{{Node: set.Topology.Server.Node.Name, Phase: bundle.Run, In: datapath.Server,
			Do: bundle.Exec{Argv: []string{"sh", "-c", "sleep 3600 & sleep 3600"}, Timeout: 3600}}})
	}
	if err = errors.Join(err, h.send(rest)); err != nil {
		return err
	}
	time.Sleep(crashDelay)
	objects, err := objectsOf(h, namespaces)
	if err != nil {
		return err
	}
	h.kill()
	return nothingLeft(when, objects, namespaces)
}

// crashDelay is how long the helper may go on with the step that it is
// killed in.
const crashDelay = 5 * time.Millisecond

// nothingLeft waits until the kernel took everything of a killed helper away. It
// closes the namespaces, which it must hold until no process is in them.
func nothingLeft(when string, objects []object, namespaces []*netns) error {
	var errs []error
	if len(objects) < 2 {
		errs = append(errs, fmt.Errorf("killed %s: only %v was seen of the helper", when, objects))
	}
	var ids []string
	for _, p := range namespaces {
		ids = append(ids, p.id)
	}
	if in := inhabitants(ids...); len(in) > 0 {
		errs = append(errs, fmt.Errorf("killed %s, a namespace is held: %s", when, strings.Join(in, ", ")))
	}
	for _, p := range namespaces {
		p.close()
	}
	if stay := left(objects); len(stay) > 0 {
		errs = append(errs, fmt.Errorf("killed %s, stay: %s", when, strings.Join(stay, ", ")))
	}
	return errors.Join(errs...)
}
