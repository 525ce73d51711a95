package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/marker"
	"hookbed/driver/plan"
	"hookbed/images"
)

const (
	// beatsPerLimit is how many signs of life a machine gets before it would take
	// its driver for gone.
	beatsPerLimit = 8
	// lockWait is how long a machine may take to clear up after a driver that died,
	// beside the time that it waits for a sign of one.
	lockWait = 40 * time.Second
)

// machines is the ssh provider: existing computers as nodes. Each node is a
// network namespace that an attendant on the machine makes, and to which it
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
	*reached
	borrow bool // the data NIC
	helper *session
}

// reached is a machine that we are logged in to, and our directory on it.
type reached struct {
	plan.Machine
	hostKey string
	ssh     *host.SSH
	become  []string // before the argv of what root is to run
	keep    []string // addresses of the SSH connection, both ends
	root    string   // directory of all runs
	run     string   // name of this run's directory in it
	token   string   // of the markers of both
}

func upMachines(ctx context.Context, cfg Config) (_ *Lab, err error) {
	l := &Lab{Timings: map[string]float64{}}
	p := &machines{cfg: cfg, inv: cfg.Lab.Inventory}
	l.provider = p
	if err := claim(cfg.StateDir, p.state()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(ctx))
		}
	}()
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"images", p.prepare}, {"boot", p.open}} {
		start := time.Now()
		if err := part.do(ctx); err != nil {
			return nil, err
		}
		l.Timings[part.name] = time.Since(start).Seconds()
	}
	return l, l.describeMachines(ctx, p)
}

// state names the machines, for whoever looks at the labs.
func (p *machines) state() State {
	s := begun(p.cfg)
	for i := range p.cfg.Nodes {
		s.Nodes = append(s.Nodes, StateNode{Name: datapath.NodeAt(i + 1).Name, Addr: p.inv.Machines[i].Host})
	}
	return s
}

func (p *machines) prepare(ctx context.Context) error {
	var err error
	p.set, err = p.cfg.Store.Ensure(ctx, images.Want{EndpointDir: true, Peers: p.cfg.Peers})
	return err
}

// open logs in to the machines and starts a helper on each.
func (p *machines) open(ctx context.Context) error {
	for i := range p.cfg.Nodes {
		p.nodes = append(p.nodes, &machineNode{Node: datapath.NodeAt(i + 1), borrow: p.cfg.Nodes > 1})
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, n := range p.nodes {
		group.Go(func() error {
			var err error
			if n.reached, err = reach(ctx, p.inv, p.inv.Machines[i], p.cfg.Name); err != nil {
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

// Paths of a run on a machine.
func (m *reached) at(parts ...string) string {
	return path.Join(append([]string{m.root, m.run}, parts...)...)
}
func (m *reached) image(name, digest string) string {
	return path.Join(m.root, "images", name+"-"+digest[:16])
}

// reach logs in to a machine, finds out how to be root there, and makes this
// run's directory. lab is whose it is.
func reach(ctx context.Context, inv *plan.Inventory, machine plan.Machine, lab string) (_ *reached, err error) {
	m := &reached{Machine: machine, root: inv.Directory, run: "run-" + strings.ToLower(rand.Text()[:12])}
	if err := m.login(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = m.ssh.Close()
		}
	}()
	if err := m.beRoot(ctx); err != nil {
		return nil, err
	}
	connection, err := m.ask(ctx, "sh", "-c", `echo "$SSH_CONNECTION"`)
	if err != nil {
		return nil, fmt.Errorf("ask by what address it is reached: %w", err)
	}
	// sshd(8): client address and port, server address and port.
	f := strings.Fields(connection)
	if len(f) != 4 {
		return nil, fmt.Errorf("its SSH server does not say by what address it is reached (SSH_CONNECTION is %q)", connection)
	}
	for _, addr := range []string{f[2], f[0]} {
		addr, _, _ = strings.Cut(addr, "%")
		m.keep = append(m.keep, addr)
	}
	if err := m.makeDir(ctx, lab); err != nil {
		return nil, fmt.Errorf("make %s: %w", m.at(), err)
	}
	return m, nil
}

// makeDir makes the run's directory, with the marker of the directory of all runs.
func (m *reached) makeDir(ctx context.Context, lab string) error {
	made, found := markers(lab)
	var out bytes.Buffer
	if err := m.ssh.Run(ctx, host.Cmd{Argv: m.rootly("sh", "-c", makeRunDir, "sh", m.root, m.run, m.User, made, found), Stdout: &out}); err != nil {
		return err
	}
	own, err := marker.Parse(out.String())
	m.token = own.Token
	return err
}

// login dials the machine with the key, and the host key, that the inventory names.
func (m *reached) login(ctx context.Context) error {
	addr := net.JoinHostPort(m.Host, strconv.Itoa(m.Port))
	known, err := expandHome(m.KnownHosts)
	if err != nil {
		return err
	}
	if m.hostKey, err = host.KnownKey(known, addr); err != nil {
		return err
	}
	file, err := expandHome(m.Key)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the login key: %w", err)
	}
	m.ssh, err = host.DialSSH(ctx, host.SSHConfig{Addr: addr, User: m.User, PrivateKey: key, HostKey: m.hostKey})
	return err
}

// expandHome makes "~/x" a path of this user's.
func expandHome(p string) (string, error) {
	rest, ok := strings.CutPrefix(p, "~/")
	if !ok {
		return p, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory of %s: %w", p, err)
	}
	return filepath.Join(home, rest), nil
}

// errNotRoot is wrapped when the login is not root and cannot become it.
var errNotRoot = errors.New("needs root")

// beRoot learns how commands are run as root: as they are, or by sudo.
func (m *reached) beRoot(ctx context.Context) error {
	id, err := m.ask(ctx, "id", "-u")
	if err != nil {
		return fmt.Errorf("ask who we are: %w", err)
	}
	if id == "0" {
		return nil
	}
	m.become = []string{"sudo", "-n", "--"}
	if err := m.asRoot(ctx, "true"); err != nil {
		return fmt.Errorf("%w: user %s is not root, and may not sudo without a password: %w", errNotRoot, m.User, err)
	}
	return nil
}

// ask runs a command and returns what it prints.
func (m *reached) ask(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	err := m.ssh.Run(ctx, host.Cmd{Argv: argv, Stdout: &out})
	return strings.TrimSpace(out.String()), err
}

// asRoot runs a command as root.
func (m *reached) asRoot(ctx context.Context, argv ...string) error {
	return m.ssh.Run(ctx, host.Cmd{Argv: m.rootly(argv...)})
}

func (m *reached) rootly(argv ...string) []string {
	return append(append([]string{}, m.become...), argv...)
}

// pushGuest sends the helper's program.
func (m *reached) pushGuest(ctx context.Context, local string) error {
	program, err := os.ReadFile(local)
	if err != nil {
		return fmt.Errorf("read the guest helper: %w", err)
	}
	return m.ssh.Push(ctx, program, m.at("guest"), 0o755)
}

// keepFlags are the flags that protect the SSH connection.
func (m *reached) keepFlags() []string {
	var out []string
	for _, addr := range m.keep {
		out = append(out, "--keep", addr)
	}
	return out
}

// start starts the attendant, which waits for the machine to be free and lends
// its NIC, then sends images, then greets the helper. From the attendant's
// first line on, the machine clears up by itself.
func (p *machines) start(ctx context.Context, n *machineNode) error {
	if err := n.pushGuest(ctx, p.cfg.GuestPath); err != nil {
		return err
	}
	limit := p.inv.AbandonAfter
	argv := n.rootly(n.at("guest"), "agent", "--dir", n.root, "--run", n.run, "--token", n.token, "--abandon-after", limit.String(),
		"--lock-wait", (limit + lockWait).String(), "--br-netfilter")
	argv = append(argv, n.keepFlags()...)
	if p.inv.Cache {
		argv = append(argv, "--cache")
	}
	if n.borrow {
		argv = append(argv, "--data", n.Machine.Data, "--cidr", n.DataCIDR())
	}
	n.helper = startSession(ctx, n.Node.Name, n.ssh, argv, n.pushBlobs)
	go n.helper.beat(limit / beatsPerLimit)
	if _, err := n.helper.converse(ctx, []byte("\n")); err != nil {
		return fmt.Errorf("start guest helper: %w", err)
	}
	hello := bundle.Hello{Schema: bundle.Schema, Node: n.Node.Name, Blobs: n.at("blobs"), EndpointRoot: n.image("endpoint", p.set.EndpointDigest)}
	if err := n.pushTree(ctx, p.set.EndpointDir, hello.EndpointRoot); err != nil {
		return err
	}
	if p.cfg.Peers {
		hello.PeersRoot = n.image("peers", p.set.PeersDigest)
		if err := n.pushTree(ctx, p.set.PeersDir, hello.PeersRoot); err != nil {
			return err
		}
	}
	_, err := n.helper.call(ctx, bundle.Request{Hello: &hello})
	return err
}

// pushBlobs sends files in a few round trips however many they are.
func (m *reached) pushBlobs(ctx context.Context, blobs []bundle.File) error {
	var files []host.File
	for _, f := range blobs {
		files = append(files, host.File{Path: m.at("blobs", f.SHA256), Data: f.Data, Mode: 0o600})
	}
	return m.ssh.PushAll(ctx, files...)
}

// pushTree sends the files below local to where they belong on the machine,
// unless an earlier run left them there.
func (m *reached) pushTree(ctx context.Context, local, remote string) error {
	if err := m.asRoot(ctx, "test", "-d", remote); err == nil {
		return nil
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := errors.Join(images.WriteTar(z, local), z.Close()); err != nil {
		return err
	}
	archive := m.at(path.Base(remote) + ".tar.gz")
	if err := m.ssh.Push(ctx, packed.Bytes(), archive, 0o600); err != nil {
		return err
	}
	if err := m.asRoot(ctx, "sh", "-c", unpackTree, "sh", archive, remote); err != nil {
		return fmt.Errorf("unpack %s: %w", remote, err)
	}
	return nil
}

// unpackTree unpacks archive $1 as directory $2, which is there whole or not at all.
const unpackTree = `set -e; umask 022
mkdir -p -m 711 "$(dirname "$2")"
rm -rf "$2.new"; mkdir "$2.new"
tar -xzpf "$1" -C "$2.new"
mv "$2.new" "$2"; rm -f "$1"`

func (p *machines) begin(context.Context, datapath.Setup) error { return nil }

func (p *machines) session(node string) (conversation, error) {
	for _, n := range p.nodes {
		if n.Node.Name == node && n.helper != nil {
			return n.helper, nil
		}
	}
	return nil, fmt.Errorf("no node %q in this lab", node)
}

func (p *machines) end(ctx context.Context, _ datapath.Setup) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range p.nodes {
		group.Go(func() error { return n.helper.undoTo(ctx, 0) })
	}
	return group.Wait()
}

// close ends the helpers, waits until every machine is as it was, and hangs up.
func (p *machines) close(ctx context.Context) error {
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
	if n.reached == nil {
		return nil
	}
	var err error
	if n.helper != nil {
		if err = n.helper.close(ctx); err != nil {
			err = fmt.Errorf("leave %s as it was: %w", n.Node.Name, err)
		}
	} else {
		err = n.forget(ctx)
	}
	return errors.Join(err, n.ssh.Close())
}

// forget removes this run's directory, where no attendant does.
func (m *reached) forget(ctx context.Context) error {
	return m.asRoot(ctx, "sh", "-c", leaveRunDir, "sh", m.root, m.run, m.token)
}

// describeMachines collects what env.json says of the lab.
func (l *Lab) describeMachines(ctx context.Context, p *machines) error {
	l.facts = map[string]map[string]string{}
	about := map[string]any{}
	for _, n := range p.nodes {
		reply, err := n.helper.call(ctx, bundle.Request{Facts: true})
		if err != nil {
			return err
		}
		l.facts[n.Node.Name] = reply.Facts
		m := map[string]string{"host": n.Host, "port": strconv.Itoa(n.Port), "host_key": host.Fingerprint(n.hostKey)}
		if n.borrow {
			m["data_nic"] = n.Machine.Data
		}
		about[n.Node.Name] = m
	}
	l.env = map[string]any{
		"provider": plan.ProviderSSH, "accelerator": "none (existing machines)", "machines": about,
		"kernel_release":  l.facts[p.nodes[0].Node.Name]["kernel.release"],
		"endpoint_sha256": p.set.EndpointDigest, "image_drift": p.set.Drift, "nodes": l.facts,
	}
	if p.cfg.Peers {
		l.env["peers_sha256"] = p.set.PeersDigest
	}
	return nil
}

func (p *machines) detach() error {
	return errors.New("existing machines are left as they were when the driver ends")
}
