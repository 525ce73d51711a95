package lab

import (
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

// local has namespaces as nodes and endpoints, all of them anonymous and held
// by one guest helper in namespaces of its own: when it ends, however it ends,
// the kernel drops every link, rule and program with it. A fresh helper for
// each setup means fresh nodes too, so no filter inherits another's tables.
type local struct {
	cfg    Config
	here   host.Host
	root   string // endpoint root file system
	peers  string // root file system of the peers, "" for none
	blobs  string
	nodes  []datapath.Node
	helper *session
}

// Refuse says why this process can bring no such lab up, as far as that can be
// told without trying; nil if nothing is known against it.
func Refuse(l plan.Lab) error {
	if l.Provider == plan.ProviderLocal && os.Geteuid() != 0 {
		return fmt.Errorf("the local provider makes network namespaces: run it as root")
	}
	return nil
}

func upLocal(ctx context.Context, cfg Config) (*Lab, error) {
	if err := Refuse(cfg.Lab); err != nil {
		return nil, err
	}
	start := time.Now()
	set, err := cfg.Store.Ensure(ctx, images.Want{EndpointDir: true, Peers: cfg.Peers})
	if err != nil {
		return nil, err
	}
	p := &local{cfg: cfg, here: host.NewLocal(), root: set.EndpointDir, peers: set.PeersDir, blobs: filepath.Join(cfg.StateDir, "blobs")}
	if err := claim(cfg.StateDir, begun(cfg)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.blobs, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	for i := range cfg.Nodes {
		p.nodes = append(p.nodes, datapath.NodeAt(i+1))
	}
	l := &Lab{provider: p, Timings: map[string]float64{"images": time.Since(start).Seconds()}}
	if err := l.describeLocal(ctx, p, set); err != nil {
		_ = l.Close(ctx)
		return nil, err
	}
	return l, nil
}

// describeLocal asks a helper for the facts of this kernel.
func (l *Lab) describeLocal(ctx context.Context, p *local, set images.Set) error {
	start := time.Now()
	if err := p.open(ctx); err != nil {
		return err
	}
	reply, err := p.helper.call(ctx, bundle.Request{Facts: true})
	if err != nil {
		return err
	}
	l.Timings["boot"] = time.Since(start).Seconds()
	l.facts = map[string]map[string]string{}
	for _, n := range p.nodes {
		l.facts[n.Name] = reply.Facts
	}
	l.env = map[string]any{
		"provider": "local", "accelerator": "none (this computer's kernel)",
		"endpoint_sha256": set.Endpoint.SHA256, "image_drift": set.Drift, "nodes": l.facts,
	}
	if set.Peers != nil {
		l.env["peers_sha256"] = set.PeersDigest
	}
	return p.shut(ctx)
}

// open starts a helper and wires the nodes together in it.
func (p *local) open(ctx context.Context) error {
	argv := []string{p.cfg.GuestPath, "serve", "--node-netns", "--die-with-parent"}
	hello := bundle.Hello{Schema: bundle.Schema, Node: "local", Blobs: p.blobs, EndpointRoot: p.root, ExternalRoot: p.peers}
	s, err := openSession(ctx, "this computer", p.here, argv, hello, p.pushBlobs)
	if err != nil {
		return err
	}
	p.helper = s
	_, err = s.exec(ctx, "nodes", nil, Wiring(p.nodes))
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

func (p *local) begin(ctx context.Context, _ datapath.Setup) error { return p.open(ctx) }

func (p *local) session(node string) (conversation, error) {
	if p.helper == nil {
		return nil, fmt.Errorf("no helper runs for %s", node)
	}
	return p.helper, nil
}

// end undoes the setup by a request before the helper ends: its reply says whose
// fault it is that something could not be undone.
func (p *local) end(ctx context.Context, _ datapath.Setup) error {
	if p.helper == nil {
		return nil
	}
	var undone error
	if !p.helper.left {
		undone = p.helper.undoTo(ctx, 0)
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

func (p *local) close(ctx context.Context) error {
	err := p.shut(ctx)
	if rm := release(p.cfg.StateDir); err == nil {
		err = rm
	}
	return err
}

func (p *local) detach() error {
	return fmt.Errorf("the local provider's nodes end with the driver")
}
