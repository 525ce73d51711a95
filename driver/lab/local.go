package lab

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/plan"
	"hookbed/images"
)

// local has namespaces as nodes and endpoints. They are anonymous, and one guest helper,
// in namespaces of its own, holds them all: when it ends, in whatever way, the kernel
// drops every link, rule and program with it. Each setup gets a fresh helper, and so
// fresh nodes: no filter inherits another's tables.
type local struct {
	cfg    Config
	here   host.Host
	set    images.Set
	agent  agentImage
	blobs  string // directory of files for the helper
	nodes  []datapath.Node
	helper *session
}

// localPreflight is about namespaces, which only root makes.
func localPreflight() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the local provider makes network namespaces: run it as root")
	}
	return nil
}

func newLocal(cfg Config) Provider {
	return &local{cfg: cfg, here: host.NewLocal(), blobs: filepath.Join(cfg.StateDir, "blobs")}
}

// localGrace is how long a helper whose input has ended may undo what it did. Afterwards it is killed,
// and nothing is lost: the kernel takes its namespaces away.
const localGrace = 20 * time.Second

// Open prepares the images, and starts a helper once for the facts of this kernel.
func (p *local) Open(ctx context.Context, t Timings) (Environment, error) {
	var facts map[string]string
	err := t.Measure(ctx, "images", p.prepare)
	if err == nil {
		err = t.Measure(ctx, "boot", func(ctx context.Context) (err error) {
			facts, err = p.facts(ctx)
			return err
		})
	}
	if err == nil {
		err = p.shut(ctx)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
		defer cancel()
		_ = p.shut(ctx) // err is more precise than how the helper ended
		return Environment{}, err
	}
	nodes := map[string]map[string]string{}
	for _, n := range p.nodes {
		nodes[n.Name] = facts
	}
	return p.environment(nodes), nil
}

// prepare gets the images and claims the state directory.
func (p *local) prepare(ctx context.Context) error {
	var err error
	if p.set, err = p.cfg.Store.Ensure(ctx, images.Want{EndpointDir: true, External: p.cfg.External, HTTP: p.cfg.HTTP, Etcd: p.cfg.needsAgent()}); err != nil {
		return err
	}
	if p.agent, err = ensureAgent(ctx, p.cfg); err != nil {
		return err
	}
	if err := claim(p.cfg.StateDir, begun(p.cfg)); err != nil {
		return err
	}
	if err := os.Mkdir(p.blobs, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := SweepCgroups(ctx, p.cfg.GuestPath); err != nil {
		return err
	}
	for i := range p.cfg.Nodes {
		p.nodes = append(p.nodes, datapath.NodeAt(i+1))
	}
	return nil
}

// facts are what a helper reports of this computer. It goes on running.
func (p *local) facts(ctx context.Context) (map[string]string, error) {
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	reply, err := p.helper.call(ctx, bundle.Request{Facts: true})
	return reply.Facts, err
}

// environment is what env.json has about the lab, with the facts of its nodes.
func (p *local) environment(nodes map[string]map[string]string) Environment {
	env := Environment{
		Provider: plan.ProviderLocal, Accelerator: "none (this computer's kernel)",
		EndpointSHA256: &p.set.Endpoint.SHA256, ImageDrift: ByKernel[[]images.Drift]{One: p.set.Drift}, Nodes: nodes,
	}
	env.Cilium = p.agent.environment()
	if p.set.External != nil {
		env.ExternalSHA256 = &p.set.ExternalDigest
	}
	if p.set.HTTP != nil {
		env.HTTPSHA256 = &p.set.HTTPDigest
	}
	return env
}

// open starts a helper and wires the nodes together in it.
func (p *local) open(ctx context.Context) error {
	argv := []string{p.cfg.GuestPath, "serve", "--node-netns", "--die-with-parent"}
	hello := bundle.Hello{
		Schema: bundle.Schema, Node: "local", Blobs: p.blobs, EndpointRoot: p.set.EndpointDir, ExternalRoot: p.set.ExternalDir, HTTPRoot: p.set.HTTPDir,
		Roots: p.agent.roots(p.agent.image.Dir, p.set.EtcdDir),
	}
	s := startSession(ctx, "this computer", p.here, argv, p.pushBlobs)
	s.grace = localGrace
	if err := s.greet(ctx, hello); err != nil {
		return err
	}
	p.helper = s
	_, err := s.Exec(ctx, "nodes", nil, Wiring(p.nodes))
	return err
}

// Wiring makes a namespace for each node and one data link between the two, in
// a helper that holds them all.
func Wiring(nodes []datapath.Node) []bundle.Step {
	var steps []bundle.Step
	do := func(node string, a bundle.Action) {
		steps = append(steps, bundle.Step{Node: node, Phase: bundle.Apply, Do: a})
	}
	for _, n := range nodes {
		do("", bundle.Netns{Name: n.Name})
	}
	if len(nodes) == 2 {
		a, b := nodes[0], nodes[1]
		do(a.Name, bundle.Veth{Link: datapath.DataLink, Peer: datapath.DataLink, PeerIn: b.Name})
		do(a.Name, bundle.Addr{Link: datapath.DataLink, CIDR: a.DataCIDR()})
		do(b.Name, bundle.Addr{Link: datapath.DataLink, CIDR: b.DataCIDR()})
	}
	return steps
}

// pushBlobs writes files where the helper, which shares this file system,
// reads them.
func (p *local) pushBlobs(ctx context.Context, files []bundle.File) error {
	for _, f := range files {
		if err := p.here.Push(ctx, f.Data, filepath.Join(p.blobs, f.SHA256), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Begin starts a fresh helper, and so has fresh nodes.
func (p *local) Begin(ctx context.Context, _ datapath.Setup) error { return p.open(ctx) }

// Helper is the one helper, which holds all nodes.
func (p *local) Helper(node string) (Helper, error) {
	if p.helper == nil {
		return nil, fmt.Errorf("no helper runs for %s", node)
	}
	return p.helper, nil
}

// End undoes the setup by a request before the helper ends: the reply has the fault if
// something could not be undone.
func (p *local) End(ctx context.Context, _ datapath.Setup) error {
	if p.helper == nil {
		return nil
	}
	var undone error
	if !p.helper.left {
		undone = p.helper.UndoTo(ctx, 0)
	}
	ended := p.shut(ctx)
	if undone != nil {
		return undone
	}
	return ended
}

// shut ends the helper and with it every namespace.
func (p *local) shut(ctx context.Context) error {
	if p.helper == nil {
		return nil
	}
	err := p.helper.close(ctx)
	p.helper = nil
	return err
}

// SweepCgroups removes the control groups that killed helpers left on this computer. It needs root.
func SweepCgroups(ctx context.Context, guest string) error {
	ctx, cancel := context.WithTimeout(ctx, sweepLimit)
	defer cancel()
	here := host.NewLocal()
	defer here.Close()
	if err := here.Run(ctx, host.Cmd{Argv: []string{guest, "sweep"}}); err != nil {
		return fmt.Errorf("have the guest helper remove the cgroups that killed ones left: %w", err)
	}
	return nil
}

// sweepLimit bounds that: it waits for what has just been killed.
const sweepLimit = time.Minute

// Close ends the helper, if one runs, removes what one that was killed left, and gives the state
// directory up.
func (p *local) Close(ctx context.Context) error {
	err := p.shut(ctx)
	if _, there := os.Stat(p.blobs); there == nil { // a helper may have run
		err = cmp.Or(err, SweepCgroups(ctx, p.cfg.GuestPath))
	}
	return cmp.Or(err, release(p.cfg.StateDir))
}
