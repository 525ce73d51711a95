package step

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/sysfs"
)

const (
	liveFrames    = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	firstFrames   = 512    // of the call that finds the pace
	callSeconds   = 0.05   // of the later ones, about
	mostFrames    = 1 << 20
	nanosecond    = 1e-9
	generateLimit = 30 * time.Second // of one step, whatever it requests
)

func doGenerate(c *call, a bundle.Generate) error {
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	if a.Frame.FromMAC == "" {
		a.Frame.FromMAC = l.Attrs().HardwareAddr.String()
	}
	if a.Frame.ToMAC == "" {
		hop, err := c.nextHop(l, net.IP(a.Frame.To.AsSlice()))
		if err != nil {
			return err
		}
		a.Frame.ToMAC = hop.String()
	}
	if a.Flow != "" {
		f := c.x.flows[a.Flow]
		if f == nil {
			return fmt.Errorf("no flow %q is open", a.Flow)
		}
		a.Frame.FromPort = f.LocalPort()
	}
	frame, err := a.Frame.Bytes()
	if err != nil {
		return err
	}
	g, err := loadGenerator(frame, l.Attrs().Index)
	if err != nil {
		return err
	}
	defer g.coll.Close()
	put, err := c.enlist(g.coll.Programs[bpf.ProgGenerate])
	if err != nil {
		return err
	}
	defer put()
	return pinned(a.CPU, func() error { return c.generate(g, a) })
}

// nextHop is the Ethernet address to which the namespace would send for ip.
func (c *call) nextHop(l netlink.Link, ip net.IP) (net.HardwareAddr, error) {
	routes, err := c.nl.RouteGet(ip)
	if err != nil || len(routes) == 0 {
		return nil, fmt.Errorf("find the route to %v: %w", ip, err)
	}
	if gw := routes[0].Gw; gw != nil {
		ip = gw
	}
	family := netlink.FAMILY_V4
	if ip.To4() == nil {
		family = netlink.FAMILY_V6
	}
	neighbours, err := c.nl.NeighList(l.Attrs().Index, family)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range neighbours {
		if n.IP.Equal(ip) && len(n.HardwareAddr) == 6 {
			return n.HardwareAddr, nil
		}
	}
	return nil, fmt.Errorf("neighbour %v is not known on %s; send it something first", ip, l.Attrs().Name)
}

// generator is the loaded program and its frame.
type generator struct {
	coll  *ebpf.Collection
	frame []byte
}

func loadGenerator(frame []byte, index int) (*generator, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(bpf.GeneratorObject()))
	if err != nil {
		return nil, fmt.Errorf("parse the generator: %w", err)
	}
	err = errors.Join(
		setVar(spec, bpf.VarHead, frame),
		setVar(spec, bpf.VarLinkIndex, binary.LittleEndian.AppendUint32(nil, uint32(index))),
	)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the generator: %w", withVerifierLog(err))
	}
	return &generator{coll, frame}, nil
}

// enlist attaches a program to a link that nothing uses, for the time until the
// returned function is called. Without it each test run of the program would
// rewrite the kernel's XDP dispatcher and wait for all CPUs, which takes
// milliseconds (bpf_prog_change_xdp in net/core/filter.c).
func (c *call) enlist(prog *ebpf.Program) (put func(), err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "hbgen0"
	scratch := &netlink.Veth{LinkAttrs: attrs, PeerName: "hbgen1"}
	if err := c.nl.LinkAdd(scratch); err != nil {
		return nil, fmt.Errorf("make a link for the generator: %w", err)
	}
	drop := func() { _ = c.nl.LinkDel(scratch) } // it goes with the namespace at the latest
	l, err := c.nl.LinkByName(attrs.Name)
	if err != nil {
		drop()
		return nil, fmt.Errorf("find the generator's link: %w", err)
	}
	attached, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.Attrs().Index, Flags: link.XDPDriverMode})
	if err != nil {
		drop()
		return nil, fmt.Errorf("attach the generator: %w", err)
	}
	return func() {
		_ = attached.Close()
		drop()
	}, nil
}

// send sends n frames by the link.
func (g *generator) send(n uint32) error {
	err := withoutSignals(func() error {
		_, err := g.coll.Programs[bpf.ProgGenerate].Run(&ebpf.RunOptions{Data: g.frame, Repeat: n, Flags: liveFrames})
		return err
	})
	if errors.Is(err, unix.EINVAL) {
		return fault.Unsupported("this kernel has no live frames: %w", err)
	}
	return err
}

// withoutSignals runs fn on the calling thread, which must be locked. A signal ends a
// test run after a batch of frames, and the run is then begun anew, all of it; the Go
// runtime sends such signals, most on a busy machine.
func withoutSignals(fn func() error) error {
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	err := fn()
	return errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}

func (g *generator) sent() (n uint64, err error) {
	return n, g.coll.Variables[bpf.VarGenerated].Get(&n)
}

// generate sends in calls short enough to be interrupted in between.
func (c *call) generate(g *generator, a bundle.Generate) error {
	limit := min(seconds(a.Seconds), generateLimit)
	if a.Frames > 0 {
		limit = generateLimit
	}
	daemon := softirqd(a.CPU)
	before, start := cpuTimes(daemon), time.Now()
	n, left := uint64(firstFrames), a.Frames
	for time.Since(start) < limit && c.ctx.Err() == nil {
		if a.Frames > 0 {
			n = min(n, left)
		}
		began := time.Now()
		if err := g.send(uint32(n)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		if left -= n; a.Frames > 0 && left == 0 {
			break
		}
		pace := float64(n) / time.Since(began).Seconds()
		n = uint64(min(max(pace*callSeconds, 64), mostFrames))
	}
	took, after := time.Since(start).Seconds(), cpuTimes(daemon)
	sent, err := g.sent()
	if err != nil {
		return fmt.Errorf("read what was sent: %w", err)
	}
	c.value("sent", float64(sent))
	c.value("seconds", took)
	c.value("thread_seconds", after.thread-before.thread)
	c.value("softirqd_seconds", after.softirqd-before.softirqd)
	return c.ctx.Err()
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// cpuTime is the CPU time of this thread and of a ksoftirqd, in seconds.
type cpuTime struct{ thread, softirqd float64 }

func cpuTimes(softirqd int) cpuTime {
	var t cpuTime
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) == nil {
		t.thread = float64(ts.Nano()) * nanosecond
	}
	// Time on the CPU, in nanoseconds, is the first field
	// (Documentation/scheduler/sched-stats.rst).
	if f := strings.Fields(sysfs.ReadLine(fmt.Sprintf("/proc/%d/schedstat", softirqd))); len(f) > 0 {
		ns, _ := strconv.ParseFloat(f[0], 64)
		t.softirqd = ns * nanosecond
	}
	return t
}

// softirqd finds the PID of a CPU's ksoftirqd, 0 if it cannot be seen.
func softirqd(cpu int) int {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(comm)) == fmt.Sprintf("ksoftirqd/%d", cpu) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			return pid
		}
	}
	return 0
}
