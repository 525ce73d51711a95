package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/cilium"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
	"hookbed/driver/netdump"
	"hookbed/driver/tail"
)

// agent is a Daemon in a container of its own.
type agent struct {
	container *proc.Container
	process   *proc.Process
	said      *tail.Buffer
	socket    string
	cgroup    string         // its own, in which its endpoints' programs are; "" = the whole hierarchy
	atSockets bool           // it says that it looks services up at sockets, of the node's at least
	endpoints map[string]int // the agent's numbers of endpoints, by name
}

// client talks to the agent's API.
func (a *agent) client() *cilium.Client {
	return cilium.New(a.container.Path(a.socket), a.process.Done)
}

// blame makes what did not happen the subject's fault, with the end of what the agent said.
func (a *agent) blame(what string, err error) error {
	said := strings.TrimSpace(a.said.String())
	return fault.Subject("%s: %w: the agent's output ends with: %s", what, err, said[max(0, len(said)-1200):])
}

// agent finds the daemon of a handle.
func (c *call) agent(handle string) (*agent, error) {
	a := c.x.external.agents[handle]
	if a == nil {
		return nil, fmt.Errorf("no daemon %q runs", handle)
	}
	return a, nil
}

// startAgent runs a daemon in a container with a root file system of its own.
func (c *call) startAgent(d bundle.Daemon) error {
	root, ok := c.x.external.roots[d.Root]
	if !ok {
		return fmt.Errorf("the session named no root file system %q", d.Root)
	}
	if len(d.After) > 0 {
		if err := c.keepNamespace(d.Handle); err != nil {
			return err
		}
	}
	cgroup, err := c.agentCgroup(d)
	if err != nil {
		return err
	}
	at, err := proc.OpenContainer(c.at.Namespace, proc.Room{Root: root, Agent: true, Cgroup: cgroup})
	if err != nil {
		return fmt.Errorf("open the container of %s in %s: %w", d.Argv[0], root, err)
	}
	c.undoHere("container of "+d.Handle, func(undoing) error { return at.Close() })
	for _, dir := range d.Dirs {
		if err := os.MkdirAll(at.Path(filepath.Join("/run", dir)), 0o755); err != nil {
			return fmt.Errorf("make /run/%s for %s: %w", dir, d.Argv[0], err)
		}
	}
	a := &agent{container: at, said: tail.NewBuffer(proc.TailLimit), socket: d.Socket, cgroup: cgroup, endpoints: map[string]int{}}
	a.process, err = c.x.launcher.Start(&proc.Endpoint{Namespace: c.at.Namespace, Root: root, Container: at},
		proc.Program{Argv: d.Argv, Env: environment(d.Env), Stdout: a.said, Stderr: a.said})
	if err != nil {
		return err
	}
	if len(d.After) > 0 {
		c.undoHere("clean up after "+d.Handle, func(u undoing) error { return c.cleanUp(u.ctx, a, root, d) })
	}
	if c.x.external.agents == nil {
		c.x.external.agents = map[string]*agent{}
	}
	c.x.external.agents[d.Handle] = a
	c.keepServer(d.Handle, func(ctx context.Context) error {
		delete(c.x.external.agents, d.Handle)
		return a.process.End(ctx)
	})
	limit := time.Duration(d.Timeout * float64(time.Second))
	switch {
	case d.Later:
		return nil
	case d.Port > 0:
		err = proc.AwaitPort(c.ctx, a.process, d.Port, limit)
	default:
		err = proc.AwaitSocket(c.ctx, a.process, d.Socket, limit)
	}
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	return a.blame("start "+d.Argv[0], err)
}

// agentCgroup makes the cgroup of a daemon that gets one, and returns its directory.
func (c *call) agentCgroup(d bundle.Daemon) (dir string, err error) {
	if !d.Cgroup {
		return "", nil
	}
	group, err := makeCgroup()
	if err != nil {
		return "", err
	}
	c.undoHere("cgroup "+group.Dir, func(undoing) error { return group.Remove() })
	return group.Dir, nil
}

// environment is a map of variables as a process has them.
func environment(of map[string]string) []string {
	var out []string
	for key, value := range of {
		out = append(out, key+"="+value)
	}
	return out
}

// cleanUp runs the command that removes what an agent left, and says what is there all the same.
func (c *call) cleanUp(ctx context.Context, a *agent, root string, d bundle.Daemon) error {
	if d.PIDFile != "" {
		if err := os.Remove(a.container.Path(d.PIDFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what a killed %s left: %w", d.Argv[0], err)
		}
	}
	argv := d.After
	said := tail.NewBuffer(proc.TailLimit)
	p, err := c.x.launcher.Start(&proc.Endpoint{Namespace: c.at.Namespace, Root: root, Container: a.container}, proc.Program{Argv: argv, Stdout: said, Stderr: said})
	if err != nil {
		return err
	}
	select {
	case <-p.Done:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.End(context.WithoutCancel(ctx)))
	}
	if p.Err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), p.Err, said)
	}
	return c.at.WithNetlink(func(h *netlink.Handle) error {
		links, err := netdump.Whole(h.LinkList)
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, agentLinks) {
				err = errors.Join(err, fmt.Errorf("%s left link %s", strings.Join(argv, " "), l.Attrs().Name))
			}
		}
		return err
	})
}

// agentLinks begins the names of the links that the agent makes for its node.
const agentLinks = "cilium_"

// within is a context that ends after so many seconds.
func (c *call) within(seconds float64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, time.Duration(seconds*float64(time.Second)))
}

func doCiliumReady(c *call, a bundle.CiliumReady) error {
	of, err := c.agent(a.Agent)
	if err != nil {
		return err
	}
	ctx, cancel := c.within(a.Timeout)
	defer cancel()
	version, err := c.agentVersion(ctx, of, a.Program)
	if err != nil {
		return err
	}
	c.note("%s", version)
	if tooOld(version, bundle.CiliumLeast) {
		return fault.Unsupported("the image has %s %s, and %s is the first that reads policies from a directory", a.Program, version, bundle.CiliumLeast)
	}
	c.value(bundle.MetricAgentVersion, versionNumber(version))
	if !slices.ContainsFunc(a.Tested, func(series string) bool { return strings.HasPrefix(version, series+".") }) {
		c.value(bundle.MetricAgentUntested, 1)
	}
	health, err := of.client().AwaitReady(ctx)
	if err != nil {
		return of.blame("wait until the agent is well", err)
	}
	of.atSockets = health.Services.Features.SocketLB.Enabled
	return otherModes(modes(health), a.Modes)
}

// seesSockets is an error if an agent that has a cgroup of its own says that it looks services up at
// sockets, and has no program there: it would see sockets of others, and not of its endpoints. It
// attaches them before its first endpoint is ready, and after it is well.
func (a *agent) seesSockets() error {
	if a.cgroup == "" || !a.atSockets {
		return nil
	}
	dir, err := os.Open(a.cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	at, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	if err != nil {
		return fmt.Errorf("list the programs of cgroup %s: %w", a.cgroup, err)
	}
	if len(at.Programs) == 0 {
		return fault.Subject("the agent looks services up at sockets, and has no program at cgroup %s, which its endpoints are in", a.cgroup)
	}
	return nil
}

// modes are those that an agent says it is in.
func modes(h cilium.Health) bundle.CiliumModes {
	return bundle.CiliumModes{
		Within: h.Routing.Within, Between: h.Routing.Between, Device: cmp.Or(h.Device, bundle.DeviceVeth),
		SocketLookup: h.SocketLookup(),
	}
}

// otherModes is an error if an agent does other than it should: what is measured then would have
// the name of what is not.
func otherModes(is, want bundle.CiliumModes) error {
	if is == want {
		return nil
	}
	var wrong []string
	for _, m := range []struct{ what, is, want string }{
		{"delivers within its node by", is.Within, want.Within},
		{"reaches other nodes by", is.Between, want.Between},
		{"joins endpoints by", is.Device, want.Device},
		{"looks services up at sockets:", fmt.Sprint(is.SocketLookup), fmt.Sprint(want.SocketLookup)},
	} {
		if m.is != m.want {
			wrong = append(wrong, fmt.Sprintf("it %s %q, and should by its flags %q", m.what, m.is, m.want))
		}
	}
	return fault.Subject("the agent fell back to another mode: %s", strings.Join(wrong, "; "))
}

// versionNumber is a version as one number that grows with it: 1020003 of 1.20.3.
func versionNumber(version string) float64 {
	n, parts := 0, strings.Split(version, ".")
	for _, p := range parts[:3] {
		v, _ := strconv.Atoi(p[:strings.IndexFunc(p+"-", func(r rune) bool { return r < '0' || r > '9' })])
		n = n*1000 + v
	}
	return float64(n)
}

// versionWord is a version as the agent prints it: "Cilium: 1.17.0 1a2b3c 2025-02-04T...".
var versionWord = regexp.MustCompile(`\b[0-9]+\.[0-9]+\.[0-9]+[-+.0-9A-Za-z]*`)

// agentVersion runs a program of the agent's root and finds its version in the first line.
func (c *call) agentVersion(ctx context.Context, of *agent, program string) (string, error) {
	out, said := &proc.Head{Limit: rawLimit}, tail.NewBuffer(proc.TailLimit)
	p, err := c.x.launcher.Start(of.at(c), proc.Program{Argv: []string{program, "--version"}, Stdout: out, Stderr: said})
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done:
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), p.End(c.ctx))
	}
	first, _, _ := strings.Cut(string(out.Data), "\n")
	v := versionWord.FindString(first)
	if p.Err != nil || v == "" {
		return "", fault.Subject("%s --version prints %q and no version: %v: %s", program, first, p.Err, said)
	}
	return v, nil
}

// at is the agent's container as a place for programs.
func (a *agent) at(c *call) *proc.Endpoint {
	return &proc.Endpoint{Namespace: c.at.Namespace, Root: c.x.external.roots[bundle.RootCilium], Container: a.container}
}

// tooOld compares the major and minor numbers of versions.
func tooOld(version, least string) bool {
	v, w := strings.Split(version, "."), strings.Split(least, ".")
	for i := range 2 {
		a, _ := strconv.Atoi(v[i])
		b, _ := strconv.Atoi(w[i])
		if a != b {
			return a < b
		}
	}
	return false
}

func doCiliumEndpoint(c *call, a bundle.CiliumEndpoint) error {
	of, err := c.agent(a.Agent)
	if err != nil {
		return err
	}
	start := time.Now()
	ctx, cancel := c.within(a.Timeout)
	defer cancel()
	client := of.client()
	router, err := client.Router(ctx)
	if err != nil {
		return of.blame("find the agent's router", err)
	}
	if router == a.Addr { // no fault of the subject's, and the next agent has another
		return fmt.Errorf("make endpoint %s: the agent chose %s, which is the endpoint's, for its router, at random", a.Endpoint, router)
	}
	if a.Netkit {
		err = doNetkit(c, bundle.Netkit{Link: a.Link, MAC: a.MAC, Peer: a.Peer, PeerIn: a.Endpoint, PeerMAC: a.PeerMAC, MTU: a.MTU})
	} else {
		err = doVeth(c, bundle.Veth{Link: a.Link, MAC: a.MAC, Peer: a.Peer, PeerIn: a.Endpoint, PeerMAC: a.PeerMAC, MTU: a.MTU})
	}
	if err != nil {
		return err
	}
	outer, err := c.nl.LinkByName(a.Link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", a.Link, err)
	}
	if err := c.routeThrough(router, a); err != nil {
		return err
	}
	if err := c.joinCgroup(of, a.Endpoint); err != nil {
		return err
	}
	id, err := client.Create(ctx, cilium.Request{Name: a.Endpoint, Labels: a.Labels, Link: a.Link, LinkIndex: outer.Attrs().Index,
		Inner: a.Peer, MAC: a.PeerMAC, HostMAC: a.MAC, IPv4: a.Addr})
	if err != nil {
		return of.blame("make endpoint "+a.Endpoint, err)
	}
	of.endpoints[a.Endpoint] = id
	c.undoHere("the agent's endpoint "+a.Endpoint, func(u undoing) error {
		delete(of.endpoints, a.Endpoint)
		select {
		case <-of.process.Done: // and its endpoints with it
			return nil
		default:
			return client.Delete(u.ctx, id)
		}
	})
	if _, err := client.AwaitRevision(ctx, id, 0); err != nil {
		return of.blame("wait until endpoint "+a.Endpoint+" is ready", err)
	}
	if err := of.seesSockets(); err != nil {
		return err
	}
	c.value("ready_seconds", time.Since(start).Seconds())
	return nil
}

// joinCgroup has the programs of an endpoint run in the cgroup of its agent, if that has its own.
func (c *call) joinCgroup(of *agent, endpoint string) error {
	if of.cgroup == "" {
		return nil
	}
	ep, err := c.x.endpointOf(c.x.where(c.step.Node, endpoint))
	if err != nil {
		return err
	}
	if ep.Cgroup != "" {
		return fmt.Errorf("endpoint %s is in cgroup %s, and its agent's is %s", endpoint, ep.Cgroup, of.cgroup)
	}
	ep.Cgroup = of.cgroup
	c.undoHere("cgroup of "+endpoint, func(undoing) error {
		ep.Cgroup = ""
		return nil
	})
	return nil
}

// routeThrough gives the endpoint its address, and routes through the agent's router.
func (c *call) routeThrough(router string, a bundle.CiliumEndpoint) error {
	ep, err := c.x.endpointOf(c.x.where(c.step.Node, a.Endpoint))
	if err != nil {
		return err
	}
	return ep.WithNetlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(a.Peer)
		if err != nil {
			return fmt.Errorf("find link %s in %s: %w", a.Peer, a.Endpoint, err)
		}
		addr, err := netns.ParseAddr(a.Addr + "/32")
		if err != nil {
			return fmt.Errorf("address %q: %w", a.Addr, err)
		}
		if err := h.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("add %s to %s in %s: %w", a.Addr, a.Peer, a.Endpoint, err)
		}
		via, err := netns.ParseAddr(router + "/32")
		if err != nil {
			return fmt.Errorf("address %q of the agent's router: %w", router, err)
		}
		index := l.Attrs().Index
		if err := h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: via.IPNet, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route to %s in %s: %w", router, a.Endpoint, err)
		}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: via.IP}); err != nil {
			return fmt.Errorf("default route in %s: %w", a.Endpoint, err)
		}
		return nil // all of it goes with the link
	})
}

// endpoint finds the agent's number of an endpoint.
func (a *agent) endpoint(name string) (int, error) {
	id, ok := a.endpoints[name]
	if !ok {
		return 0, fmt.Errorf("the agent was given no endpoint %q", name)
	}
	return id, nil
}

func doCiliumPolicies(c *call, a bundle.CiliumPolicies) error {
	of, err := c.agent(a.Agent)
	if err != nil {
		return err
	}
	id, err := of.endpoint(a.Endpoint)
	if err != nil {
		return err
	}
	data, err := c.file(a.File)
	if err != nil {
		return err
	}
	ctx, cancel := c.within(a.Timeout)
	defer cancel()
	client := of.client()
	before, err := client.Endpoint(ctx, id)
	if err != nil {
		return of.blame("read endpoint "+a.Endpoint, err)
	}
	// Made elsewhere in the same file system: the agent ends if it reads half a file.
	to := of.container.Path(a.To)
	whole := filepath.Join(filepath.Dir(filepath.Dir(to)), filepath.Base(to)+".new")
	if err := os.WriteFile(whole, data, 0o600); err != nil {
		return fmt.Errorf("write the policies' file: %w", err)
	}
	start := time.Now()
	if err := os.Rename(whole, to); err != nil {
		return fmt.Errorf("put the policies' file into place: %w", err)
	}
	after, err := client.AwaitRevision(ctx, id, before.Revision())
	if err != nil {
		return of.blame("wait until the policies are in force", err)
	}
	metric := a.Metric
	if metric == "" {
		metric = bundle.MetricLoad
	}
	c.value(metric, time.Since(start).Seconds())
	c.note("%s", after)
	return nil
}

// readCilium reads what the agent says of an endpoint, and what its programs count.
func (c *call) readCilium(from bundle.CiliumCounter) (counters, error) {
	of, err := c.agent(from.Agent)
	if err != nil {
		return nil, err
	}
	id, err := of.endpoint(from.Endpoint)
	if err != nil {
		return nil, err
	}
	e, err := of.client().Endpoint(c.ctx, id)
	if err != nil {
		return nil, of.blame("read endpoint "+from.Endpoint, err)
	}
	pins := of.container.Path(cilium.Pins)
	entries, err := cilium.PolicyEntries(pins, id)
	if err != nil {
		return nil, fault.Subject("%w", err)
	}
	p, err := cilium.ReadPackets(pins)
	if err != nil {
		return nil, fault.Subject("%w", err)
	}
	ready := uint64(0)
	if e.Ready() {
		ready = 1
	}
	return counters{
		bundle.CountReady: ready, bundle.CountRevision: uint64(max(e.Revision(), 0)), bundle.CountPolicyEntries: entries,
		bundle.CountPackets: p.Forwarded + p.Denied, bundle.CountBytes: p.ForwardedBytes,
		bundle.CountAccepted: p.Forwarded, bundle.CountDropped: p.Denied, "errors": p.Other,
	}, nil
}
