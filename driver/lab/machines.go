package lab

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/lab/remote"
	"hookbed/driver/plan"
	"hookbed/images"
)

const (
	// keepalivesPerLimit is how many keepalives a machine gets within the time after
	// which it takes its driver for gone.
	keepalivesPerLimit = 8
	// lockWait is how long a machine may take to clean up after a driver that died, in
	// addition to the time that it waits for a keepalive.
	lockWait = bundle.EndLimit + 25*time.Second
)

// machines is the ssh provider: existing computers as nodes. Each node is a
// network namespace that an agent on the machine makes, and to which it
// lends the data NIC; endpoints are bare namespaces. The machine's own
// namespace, with its firewall, routes and sysctls, is left alone.
type machines struct {
	cfg   Config
	inv   *plan.Inventory
	set   images.Set
	nodes []*machineNode
}

// machineNode is one machine.
type machineNode struct {
	datapath.Node
	machine     plan.Machine
	*remote.Run      // nil until it is reached
	borrow      bool // the data NIC
	helper      *session
}

func newMachines(cfg Config) Provider {
	return &machines{cfg: cfg, inv: cfg.Lab.Inventory}
}

// Open starts an agent with a helper on each machine.
func (p *machines) Open(ctx context.Context, t Timings) (Environment, error) {
	if err := claim(p.cfg.StateDir, p.state()); err != nil {
		return Environment{}, err
	}
	if err := t.Measure(ctx, "images", p.prepare); err != nil {
		return Environment{}, err
	}
	if err := t.Measure(ctx, "boot", p.open); err != nil {
		return Environment{}, err
	}
	facts := map[string]map[string]string{}
	for _, n := range p.nodes {
		reply, err := n.helper.call(ctx, bundle.Request{Facts: true})
		if err != nil {
			return Environment{}, err
		}
		facts[n.Node.Name] = reply.Facts
	}
	return p.environment(facts), nil
}

// state names the machines, for lists of labs.
func (p *machines) state() State {
	s := begun(p.cfg)
	for i := range p.cfg.Nodes {
		s.Nodes = append(s.Nodes, StateNode{Name: datapath.NodeAt(i + 1).Name, Addr: p.inv.Machines[i].Host})
	}
	return s
}

func (p *machines) prepare(ctx context.Context) error {
	var err error
	p.set, err = p.cfg.Store.Ensure(ctx, images.Want{EndpointDir: true, External: p.cfg.External, HTTP: p.cfg.HTTP})
	return err
}

// open logs in to the machines and starts a helper on each.
func (p *machines) open(ctx context.Context) error {
	for i := range p.cfg.Nodes {
		p.nodes = append(p.nodes, &machineNode{Node: datapath.NodeAt(i + 1), machine: p.inv.Machines[i], borrow: p.cfg.Nodes > 1})
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range p.nodes {
		group.Go(func() error {
			var err error
			if n.Run, err = remote.Reach(ctx, p.inv, n.machine, p.cfg.Name, whoami(), p.cfg.Silence); err != nil {
				return fmt.Errorf("%s: %w", n.Node.Name, err)
			}
			if err := p.start(ctx, n); err != nil {
				return fmt.Errorf("%s: %w", n.Node.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// start starts the agent, which waits for the machine to be free and lends its NIC,
// then sends images, then greets the helper. From the agent's first line on, the
// machine cleans up by itself.
func (p *machines) start(ctx context.Context, n *machineNode) error {
	program, err := n.PushProgram(ctx, p.cfg.GuestPath)
	if err != nil {
		return err
	}
	limit := max(p.inv.AbandonAfter, p.cfg.Silence) // it hears no driver while it does not answer
	argv := append(n.RootArgv(program, "agent"), n.DirFlags()...)
	argv = append(argv, "--abandon-after", limit.String(), "--lock-wait", (limit + lockWait).String(), "--br-netfilter")
	argv = append(argv, n.KeepFlags()...)
	if p.inv.Cache {
		argv = append(argv, "--cache")
	}
	if n.borrow {
		argv = append(argv, "--data", n.machine.Data, "--cidr", n.DataCIDR())
	}
	n.helper = startSession(ctx, n.Node.Name, n.SSH, argv, n.pushBlobs)
	n.helper.attended, n.helper.grace = true, teardownLimit
	n.helper.silence = max(n.helper.silence, p.cfg.Silence+bundle.BeatEvery)
	go n.helper.keepalive(limit / keepalivesPerLimit)
	if _, err := n.helper.converse(ctx, []byte("\n"), limit+2*lockWait); err != nil {
		return fmt.Errorf("start guest helper: %w", err)
	}
	hello := bundle.Hello{Schema: bundle.Schema, Node: n.Node.Name, Blobs: n.Path("blobs"), EndpointRoot: n.Image("endpoint", p.set.EndpointDigest)}
	if err := n.PushTree(ctx, p.set.EndpointDir, hello.EndpointRoot); err != nil {
		return err
	}
	if p.cfg.External {
		hello.ExternalRoot = n.Image("peers", p.set.ExternalDigest)
		if err := n.PushTree(ctx, p.set.ExternalDir, hello.ExternalRoot); err != nil {
			return err
		}
	}
	if p.cfg.HTTP {
		hello.HTTPRoot = n.Image("http", p.set.HTTPDigest)
		if err := n.PushTree(ctx, p.set.HTTPDir, hello.HTTPRoot); err != nil {
			return err
		}
	}
	return n.helper.hello(ctx, hello)
}

// pushBlobs sends files in a few round trips however many they are.
func (n *machineNode) pushBlobs(ctx context.Context, blobs []bundle.File) error {
	var files []host.File
	for _, f := range blobs {
		files = append(files, host.File{Path: n.Path("blobs", f.SHA256), Data: f.Data, Mode: 0o600, Below: n.Path()})
	}
	return n.SSH.PushAll(ctx, files...)
}

// Begin has nothing to do: steps of the setup make the endpoints.
func (p *machines) Begin(context.Context, datapath.Setup) error { return nil }

// Helper is the helper of a node's machine.
func (p *machines) Helper(node string) (Helper, error) {
	for _, n := range p.nodes {
		if n.Node.Name == node && n.helper != nil {
			return n.helper, nil
		}
	}
	return nil, fmt.Errorf("no node %q in this lab", node)
}

// End undoes the setup on every machine.
func (p *machines) End(ctx context.Context, _ datapath.Setup) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range p.nodes {
		group.Go(func() error { return n.helper.UndoTo(ctx, 0) })
	}
	return group.Wait()
}

// Close ends the helpers, waits until every machine is as it was, and ends the
// connections.
func (p *machines) Close(ctx context.Context) error {
	errs := make([]error, len(p.nodes)+1)
	group := new(errgroup.Group)
	for i, n := range p.nodes {
		group.Go(func() error {
			errs[i] = n.leave(ctx)
			return nil
		})
	}
	_ = group.Wait() // errors are in errs, all of them
	errs[len(p.nodes)] = release(p.cfg.StateDir)
	return errors.Join(errs...)
}

func (n *machineNode) leave(ctx context.Context) error {
	if n.Run == nil {
		return nil
	}
	var err error
	if n.helper != nil {
		if err = n.helper.close(ctx); err != nil {
			err = fmt.Errorf("leave %s as it was: %w", n.Node.Name, err)
		}
	}
	// The agent may not have come so far as to remove the run's directory.
	if left := n.Run.Leave(ctx); err == nil {
		err = left
	}
	return errors.Join(err, n.SSH.Close())
}

// environment is what env.json has about the lab, with the facts of its nodes.
func (p *machines) environment(facts map[string]map[string]string) Environment {
	about := map[string]Machine{}
	for _, n := range p.nodes {
		m := Machine{Host: n.machine.Host, Port: strconv.Itoa(n.machine.Port), HostKey: host.Fingerprint(n.HostKey)}
		if n.borrow {
			m.DataNIC = n.machine.Data
		}
		about[n.Node.Name] = m
	}
	env := Environment{
		Provider: plan.ProviderSSH, Accelerator: "none (existing machines)", Machines: about,
		KernelRelease:  &ByKernel[string]{One: facts[p.nodes[0].Node.Name]["kernel.release"]},
		EndpointSHA256: &p.set.EndpointDigest, ImageDrift: ByKernel[[]images.Drift]{One: p.set.Drift}, Nodes: facts,
	}
	if p.cfg.External {
		env.ExternalSHA256 = &p.set.ExternalDigest
	}
	if p.cfg.HTTP {
		env.HTTPSHA256 = &p.set.HTTPDigest
	}
	return env
}
