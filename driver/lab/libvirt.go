package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/lab/engine"
	"hookbed/driver/marker"
	"hookbed/driver/plan"
	"hookbed/driver/tail"
	"hookbed/driver/vm"
	"hookbed/images"
)

const (
	mgmtCIDR   = "198.18.0.1/24" // the driver's side of the management network
	dataNet    = "198.18.1.0/24"
	bootLimit  = 10 * time.Minute // emulated machines on a busy computer take long
	reachLimit = 30 * time.Minute // to connect and to copy images, the first time
	guestDir   = "/run/hookbed"
	guestBlobs = guestDir + "/blobs"
	guestPath  = guestDir + "/guest"
	// guestEndpoint is where the guest's init mounts the endpoint image.
	guestEndpoint = guestDir + "/endpoint"
)

// virtual has libvirt machines as nodes and Docker containers, or bare
// namespaces, as endpoints.
type virtual struct {
	cfg   Config
	begun State // as it is written down first
	// claimed: the state directory is this lab's. Until then it may hold the state of an
	// earlier one that could not be taken down.
	claimed bool
	set     images.Set
	agent   agentImage
	accel   vm.Accel
	name    string // of the lab in the names of machines and networks
	sites   []*site
	login   host.Key
	nodes   []*virtualNode
}

// virtualNode is one VM.
type virtualNode struct {
	datapath.Node
	site    *site
	mgmt    netip.Addr // on the management network
	hostKey host.Key
	domain  string
	ssh     *host.SSH
	helper  *session
	engine  *engine.Engine

	mu         sync.Mutex
	containers map[containerKey]container // that run
	used       []containerKey             // by the present setup
}

// containerKey is what a container was made for.
type containerKey struct{ role, network string }

// container is a running container.
type container struct {
	id  string
	pid int // of its first process, on the node
}

func newVirtual(cfg Config) Provider { return &virtual{cfg: cfg, begun: begun(cfg)} }

// Open boots the machines.
func (p *virtual) Open(ctx context.Context, t Timings) (env Environment, err error) {
	if err := clearRemote(ctx, filepath.Dir(p.cfg.StateDir), p.cfg.Name); err != nil { // what an earlier block left
		return env, err
	}
	if p.name, err = labName(p.cfg); err != nil {
		return env, err
	}
	p.begun.Token = marker.New(p.name, "").Token
	p.sites = sites(p.cfg, p.name, p.begun.Token)
	if err := claim(p.cfg.StateDir, p.state()); err != nil {
		return env, err
	}
	p.claimed = true
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"images", p.prepare}, {"boot", p.boot}, {"engine", p.openEngines}} {
		if err := t.Measure(ctx, part.name, part.do); err != nil {
			return env, err
		}
	}
	return p.describe(ctx)
}

// prepare gets the images and finds out which accelerator works.
func (p *virtual) prepare(ctx context.Context) error {
	var err error
	if p.set, err = p.cfg.Store.Ensure(ctx, images.Want{Kernel: p.cfg.Lab.Kernel, Root: true, Endpoint: true, External: p.cfg.External, HTTP: p.cfg.HTTP, Etcd: p.cfg.needsAgent()}); err != nil {
		return err
	}
	if p.agent, err = ensureAgent(ctx, p.cfg); err != nil {
		return err
	}
	switch p.cfg.Lab.Accel {
	case plan.AccelAuto:
		p.accel, err = vm.ProbeAccel(ctx, p.set.Kernel.Path, p.set.Probe.Path, p.cfg.Store.Dir())
	default:
		p.accel = vm.Accel{Name: p.cfg.Lab.Accel, How: "asked for by the experiment"}
	}
	if err == nil {
		p.cfg.Log.Info("accelerator", "name", p.accel.Name, "how", p.accel.How)
	}
	return err
}

func (p *virtual) network(kind string) string { return networkName(p.name, kind) }

// siteOf is where a node runs.
func (p *virtual) siteOf(node string) (*site, error) {
	for _, s := range p.sites {
		if s.has(node) {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no hypervisor has %s", node)
}

// boot starts the machines and waits until each one's helper answers.
func (p *virtual) boot(ctx context.Context) error {
	if err := p.reach(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	var err error
	if p.login, err = host.NewKey(); err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	for i := range p.cfg.Nodes {
		n := &virtualNode{Node: datapath.NodeAt(i + 1), domain: fmt.Sprintf("hookbed-%s-node%d", p.name, i+1), containers: map[containerKey]container{}}
		if n.hostKey, err = host.NewKey(); err != nil {
			return err
		}
		if n.site, err = p.siteOf(n.Name); err != nil {
			return err
		}
		n.mgmt = n.site.address(i)
		p.nodes = append(p.nodes, n)
		group.Go(func() error { return p.bootNode(gctx, n, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := p.tryData(ctx); err != nil {
		return err
	}
	return p.keepState()
}

// reach connects to libvirt at each site, and copies what the nodes need there.
func (p *virtual) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range p.sites {
		group.Go(func() error { return p.reachSite(ctx, s) })
	}
	return group.Wait()
}

func (p *virtual) reachSite(ctx context.Context, s *site) error {
	cfg := vm.Config{Lab: p.name, Detached: p.cfg.Detached, CacheDir: filepath.Join(p.cfg.Store.Dir(), "libvirt"), ImagesDir: p.cfg.Store.Dir()}
	if err := s.prepare(ctx, cfg, p.accel.Name, p.cfg.Lab.NIC); err != nil {
		return err
	}
	for _, a := range p.images() {
		copied, err := s.bring(ctx, a)
		if err != nil {
			return err
		}
		if copied {
			p.cfg.Log.Info("image copied", "image", a.Name, "hypervisor", s.title())
		}
	}
	return nil
}

// images are those that machines boot from.
func (p *virtual) images() []images.Artifact {
	out := []images.Artifact{p.set.Kernel, p.set.Initramfs, p.set.Root, p.set.Modules, p.set.Endpoint}
	for _, e := range p.extras() {
		out = append(out, e.image)
	}
	return out
}

// bridgeName is a Linux interface name (at most 15 characters) of this lab's.
func bridgeName(lab, kind string) string {
	if len(lab) > 9 {
		lab = strings.TrimPrefix(lab[len(lab)-9:], "-")
	}
	return "hb" + kind + "-" + lab
}

func (p *virtual) bootNode(ctx context.Context, n *virtualNode, i int) error {
	machine, err := p.machine(ctx, n, i)
	if err != nil {
		return err
	}
	if err := p.start(ctx, n, machine); err != nil {
		return err
	}
	if err := p.joinData(ctx, n, i); err != nil {
		return err
	}
	if !p.docker() {
		// The engine would have loaded it; fabric "bridge" sets its sysctl.
		if err := n.ssh.Run(ctx, host.Cmd{Argv: []string{"modprobe", "br_netfilter"}}); err != nil {
			return fmt.Errorf("load br_netfilter on %s: %w", n.Name, err)
		}
	}
	if err := p.mountExtras(ctx, n); err != nil {
		return err
	}
	helper, err := os.ReadFile(p.cfg.GuestPath)
	if err != nil {
		return fmt.Errorf("read the guest helper: %w", err)
	}
	if err := n.ssh.Push(ctx, helper, guestPath, 0o755); err != nil {
		return err
	}
	n.helper, err = openSession(ctx, n.Name, n.ssh, []string{guestPath, "serve"},
		bundle.Hello{Schema: bundle.Schema, Node: n.Name, Blobs: guestBlobs, EndpointRoot: guestEndpoint, ExternalRoot: images.SealedExternal, HTTPRoot: images.SealedHTTP, Roots: p.agent.roots(guestCilium, guestEtcd), Machine: true},
		n.pushBlobs)
	if err == nil {
		n.helper.silence = max(n.helper.silence, p.cfg.Silence+bundle.BeatEvery)
	}
	return err
}

// dataLimit is how long the data network may take to carry frames from one
// hypervisor to another: a bridge with the spanning tree protocol listens and learns
// for 15 s each before it forwards.
const dataLimit = 40 * time.Second

// tryData proves that whole frames get from one hypervisor to the other.
func (p *virtual) tryData(ctx context.Context) error {
	if len(p.sites) < 2 {
		return nil
	}
	a, b := p.nodes[0], p.nodes[1]
	size := strconv.Itoa(p.cfg.Lab.NIC.Bytes() - 28) // IPv4 and ICMP headers
	var err error
	for limit := time.Now().Add(dataLimit); time.Now().Before(limit) && ctx.Err() == nil; {
		if err = a.ssh.Run(ctx, host.Cmd{Argv: []string{"ping", "-c", "1", "-W", "2", "-s", size, b.Data.String()}}); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s on %s does not reach %s on %s by whole frames: see that the bridges %s and %s are joined, that everything between them has an MTU of %d bytes or more, and that no firewall filters bridged frames (net.bridge.bridge-nf-call-iptables = 0): %w",
		a.Name, a.site.title(), b.Name, b.site.title(), p.bridgeOf(a), p.bridgeOf(b), p.cfg.Lab.NIC.Bytes(), errors.Join(err, ctx.Err()))
}

// bridgeOf is the bridge of a node's hypervisor that the data network goes through.
func (p *virtual) bridgeOf(n *virtualNode) string {
	for _, h := range p.cfg.Lab.Hypervisors {
		if slices.Contains(h.Nodes, n.Name) {
			return h.DataBridge
		}
	}
	return ""
}

// extra is a root file system that only some experiments need: a disk, by its serial, and where
// nodes mount it.
type extra struct {
	image       images.Artifact
	serial, dir string
}

// Where nodes have the images of agents.
const (
	guestCilium = "/run/hookbed/cilium"
	guestEtcd   = "/run/hookbed/etcd"
)

// extras are those that this experiment needs.
func (p *virtual) extras() []extra {
	var out []extra
	if p.set.External != nil {
		out = append(out, extra{*p.set.External, "peers", images.SealedExternal})
	}
	if p.set.HTTP != nil {
		out = append(out, extra{*p.set.HTTP, "http", images.SealedHTTP})
	}
	if p.cfg.needsAgent() {
		// By names of their own in env.json: the files are called like that of External.
		agent, etcd := p.agent.image.Packed, *p.set.Etcd
		agent.Name, etcd.Name = "cilium.squashfs", "etcd.squashfs"
		out = append(out, extra{agent, "cilium", guestCilium}, extra{etcd, "etcd", guestEtcd})
	}
	return out
}

func (p *virtual) mountExtras(ctx context.Context, n *virtualNode) error {
	for _, e := range p.extras() {
		if err := n.ssh.Run(ctx, host.Cmd{Argv: []string{"sh", "-c", mountBySerial, "sh", e.dir, e.serial}}); err != nil {
			return fmt.Errorf("mount disk %q on %s: %w", e.serial, n.Name, err)
		}
	}
	return nil
}

// mountBySerial finds the disk with the serial $2 and mounts it at $1.
const mountBySerial = `mkdir -p "$1" && for disk in /sys/block/vd*; do
	if [ "$(cat "$disk/serial")" = "$2" ]; then exec mount -t squashfs -o ro "/dev/${disk##*/}" "$1"; fi
done; echo "no disk has the serial $2" >&2; exit 1`

// pushBlobs sends files in a few round trips however many they are: each one
// costs an emulated guest tens of milliseconds.
func (n *virtualNode) pushBlobs(ctx context.Context, blobs []bundle.File) error {
	var files []host.File
	for _, f := range blobs {
		files = append(files, host.File{Path: guestBlobs + "/" + f.SHA256, Data: f.Data, Mode: 0o600})
	}
	return n.ssh.PushAll(ctx, files...)
}

// bootTries is how often a machine is booted that ends or hangs before the driver can
// log in. An emulated machine now and then dies before its kernel prints anything, or
// one of its processors never gets its timer's interrupts.
const bootTries = 2

// hangLimit is how long a machine may not answer before it counts as hung. An emulated
// one on a busy computer boots in a fraction of that time. The last try may take all
// that is left of bootLimit.
const hangLimit = 75 * time.Second

var (
	errEnded = errors.New("the machine ended while booting")
	errHung  = errors.New("the machine hangs while booting")
)

// start boots a node's machine and logs in to it.
func (p *virtual) start(ctx context.Context, n *virtualNode, m vm.Machine) error {
	for try := 1; ; try++ {
		if err := n.site.hv.Start(ctx, m); err != nil {
			return err
		}
		limit := cmp.Or(p.cfg.HangLimit, hangLimit)
		if try == bootTries {
			limit = bootLimit
		}
		err := p.dial(ctx, n, limit)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("reach %s: %w; its console: %s; QEMU: %s", n.Name, err, n.site.console(ctx, m.ConsoleLog), n.site.hv.Log(ctx, m.Name))
		if try == bootTries || !errors.Is(err, errEnded) && !errors.Is(err, errHung) {
			return err
		}
		p.cfg.Log.Warn("boot a machine again", "err", err)
		if err := n.site.hv.Destroy(ctx, m.Name); err != nil {
			return err
		}
		if err := n.site.hv.AwaitEnd(ctx, m.Name); err != nil {
			return err
		}
	}
}

// dial logs in to a node that boots. It gives up after a time, and at once when the
// machine ends, as one does whose kernel panics.
func (p *virtual) dial(ctx context.Context, n *virtualNode, limit time.Duration) error {
	ctx, stop := context.WithTimeoutCause(ctx, limit, errHung)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		switch err := n.site.hv.Wait(ctx, n.domain, vm.Gone); {
		case err == nil:
			cancel(errEnded)
		case ctx.Err() == nil:
			cancel(err)
		}
	}()
	var err error
	n.ssh, err = host.DialSSH(ctx, host.SSHConfig{
		Addr: netip.AddrPortFrom(n.mgmt, 22).String(), User: "root", PrivateKey: p.login.PrivatePEM,
		HostKey: n.hostKey.AuthorizedKey, Dial: n.site.hv.Dialer(), Retry: bootLimit, Silence: p.silence(),
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// emulatedSilence is how long an emulated machine may not answer: on a busy computer starting
// containers alone has held one for more than the 10 s of others. Libvirt says at once if it ends.
const emulatedSilence = 30 * time.Second

func (p *virtual) silence() time.Duration {
	if p.cfg.Silence == 0 && p.accel.Name == vm.TCG {
		return emulatedSilence
	}
	return p.cfg.Silence
}

// machine is the VM of a node, with its identity written to a config disk.
func (p *virtual) machine(ctx context.Context, n *virtualNode, i int) (vm.Machine, error) {
	nics := []vm.NIC{
		{Network: p.network("mgmt"), MAC: macOf(p.name, mgmtNetwork, i), Queues: 1},
		p.dataNIC(i),
	}
	config := vm.ConfigDisk{
		Hostname: n.Name, HostKeyPEM: n.hostKey.PrivatePEM, HostKeyPub: []byte(n.hostKey.AuthorizedKey),
		AuthorizedKeys: []byte(p.login.AuthorizedKey),
		NICs: []vm.ConfigNIC{
			{Name: "mgmt0", MAC: nics[0].MAC, CIDR: netip.PrefixFrom(n.mgmt, n.site.mgmt.Bits()).String()},
			{Name: datapath.DataLink, MAC: nics[1].MAC, CIDR: n.DataCIDR()},
		},
	}
	if !p.cfg.Lab.NIC.Plain() {
		config.NICs = config.NICs[:1] // joinData sees to the other
	}
	if p.docker() {
		config.Services = []string{"docker"}
	}
	disk, console := "", ""
	data, err := config.Bytes()
	if err == nil {
		disk, err = n.site.file(ctx, n.Name+".config", data)
	}
	if err == nil {
		console, err = n.site.consoleFile(ctx, n.Name+".console")
	}
	if err != nil {
		return vm.Machine{}, fmt.Errorf("write the files of %s: %w", n.Name, err)
	}
	image := n.site.imagePath
	disks := []vm.Disk{
		{Path: image(p.set.Root), ReadOnly: true, Serial: "root"}, {Path: image(p.set.Modules), ReadOnly: true, Serial: "modules"},
		{Path: image(p.set.Endpoint), ReadOnly: true, Serial: "endpoint"}, {Path: disk, ReadOnly: true, Serial: "config"},
	}
	for _, e := range p.extras() {
		disks = append(disks, vm.Disk{Path: image(e.image), ReadOnly: true, Serial: e.serial})
	}
	uuid, err := randomUUID()
	return vm.Machine{
		Name: n.domain, UUID: uuid, VCPUs: p.cfg.Lab.VCPUs, MemoryMiB: p.cfg.Lab.Memory, Accel: p.accel.Name,
		Kernel: image(p.set.Kernel), Initramfs: image(p.set.Initramfs), Cmdline: images.Cmdline,
		Disks: disks, NICs: nics, ConsoleLog: console,
	}, err
}

func (p *virtual) docker() bool { return p.cfg.Lab.Endpoint == plan.EndpointDocker }

func randomUUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return formatUUID(b), nil
}

// formatUUID makes a version 4 UUID (RFC 9562) of 16 bytes.
func formatUUID(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// consoleTail is the end of a console's log, or why it cannot be read.
func consoleTail(path string) string {
	said, err := tail.File(path, 1500)
	if err != nil {
		return err.Error()
	}
	return said
}

// openEngines waits for the Docker Engines and gives each the endpoint image
// and the bridge network.
func (p *virtual) openEngines(ctx context.Context) error {
	if !p.docker() {
		return nil
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, n := range p.nodes {
		group.Go(func() error {
			var err error
			if n.engine, err = engine.Open(gctx, n.Node, n.ssh, p.set.EndpointTag); err != nil {
				return err
			}
			if err := n.engine.Load(gctx, p.set.EndpointArchive.Path); err != nil {
				return err
			}
			return n.engine.MakeBridge(gctx)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return p.joinSwarm(ctx)
}

// joinSwarm joins the nodes' engines in a Swarm where an arm needs one. They control it
// on the management network.
func (p *virtual) joinSwarm(ctx context.Context) error {
	if !p.cfg.Swarm {
		return nil
	}
	var members []engine.Member
	for _, n := range p.nodes {
		members = append(members, engine.Member{Engine: n.engine, Control: n.mgmt})
	}
	return engine.JoinSwarm(ctx, members, p.cfg.Lab.NIC.Bytes())
}

// containerFacts are the versions of the tools inside a container of the node. The
// container serves as an endpoint afterwards.
func (n *virtualNode) containerFacts(ctx context.Context) (map[string]string, error) {
	at := containerKey{datapath.Client, datapath.NetworkNone}
	id, pid, err := n.engine.Start(ctx, at.role, "", at.network)
	if id != "" {
		n.containers[at] = container{id, pid}
	}
	if err != nil {
		return nil, err
	}
	facts := map[string]string{}
	for tool, argv := range map[string][]string{"iperf3": {"iperf3", "--version"}, "netperf": {"netperf", "-V"}} {
		out, err := n.engine.Exec(ctx, id, argv...)
		if err != nil {
			return nil, err
		}
		facts["container."+tool], _, _ = strings.Cut(out, "\n")
	}
	return facts, nil
}

// Begin starts a container for each endpoint, where there are engines.
func (p *virtual) Begin(ctx context.Context, s datapath.Setup) error {
	if !p.docker() {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(startsAtOnce)
	for _, e := range s.Topology.Endpoints() {
		group.Go(func() error { return p.node(e.Node.Name).giveContainer(ctx, e, s.Network) })
	}
	return group.Wait()
}

// startsAtOnce is how many containers start in parallel: an emulated engine gets no
// faster with more.
const startsAtOnce = 4

// giveContainer gives an endpoint its container, and the helper the container's
// process. A container that no rule set has been in is used again: its namespace is as
// new.
func (n *virtualNode) giveContainer(ctx context.Context, e datapath.Endpoint, network string) error {
	at := containerKey{e.Role, network}
	n.mu.Lock()
	c, running := n.containers[at]
	n.used = append(n.used, at)
	n.mu.Unlock()
	if !running {
		var err error
		c.id, c.pid, err = n.engine.Start(ctx, e.Role, e.Addr.String(), network)
		if c.id != "" {
			n.mu.Lock()
			n.containers[at] = c
			n.mu.Unlock()
		}
		if err != nil {
			return err
		}
	}
	_, err := n.helper.call(ctx, bundle.Request{Bind: &bundle.Bind{Endpoint: e.Role, PID: c.pid}})
	return err
}

func (p *virtual) node(name string) *virtualNode {
	for _, n := range p.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Helper is the helper of a node.
func (p *virtual) Helper(node string) (Helper, error) {
	if n := p.node(node); n != nil && n.helper != nil {
		return n.helper, nil
	}
	return nil, fmt.Errorf("no node %q in this lab", node)
}

// End undoes the datapath, then removes the containers in which the setup leaves traces:
// a flushed legacy table stays registered in its namespace and costs time.
func (p *virtual) End(ctx context.Context, s datapath.Setup) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range p.nodes {
		group.Go(func() error { return n.end(ctx, s) })
	}
	return group.Wait()
}

func (n *virtualNode) end(ctx context.Context, s datapath.Setup) error {
	err := n.helper.UndoTo(ctx, 0)
	for _, at := range n.used {
		_, unbind := n.helper.call(ctx, bundle.Request{Bind: &bundle.Bind{Endpoint: at.role}})
		err = errors.Join(err, unbind)
		if err == nil && !s.Marks(at.role) {
			continue
		}
		if c, running := n.containers[at]; running {
			err = errors.Join(err, n.engine.Remove(ctx, c.id))
			delete(n.containers, at)
		}
	}
	n.used = nil
	return err
}

// Close ends machines and hypervisor. Guests are not shut down first, since all they
// have is in memory.
func (p *virtual) Close(ctx context.Context) error {
	for _, n := range p.nodes {
		if n.engine != nil {
			n.engine.Close()
		}
		if n.ssh != nil {
			_ = n.ssh.Close() // ends the helper too
		}
	}
	var err error
	for _, s := range p.sites {
		err = errors.Join(err, mayLive(p.name, s.close(ctx, s.hv)))
	}
	if err != nil && len(p.cfg.Lab.Hypervisors) > 0 {
		return fmt.Errorf("take the lab down: %w; `driver down NAME` tries again", err)
	}
	if !p.claimed {
		return err
	}
	return errors.Join(err, release(p.cfg.StateDir))
}

func (p *virtual) state() State {
	s := p.begun
	for _, at := range p.sites {
		if h, ok := at.hypervisor.(described); ok {
			s.Hypervisors, s.Remote = append(s.Hypervisors, h.entry()), p.name
		}
	}
	if hv := p.sites[0].hv; hv != nil {
		s.NetNS = hv.NetNS()
		s.Key = filepath.Join(p.cfg.StateDir, "login_key")
		s.Known = filepath.Join(p.cfg.StateDir, "known_hosts")
	}
	for _, n := range p.nodes {
		s.Nodes = append(s.Nodes, StateNode{Name: n.Name, Addr: n.mgmt.String()})
	}
	return s
}

// keepState writes down how to reach the lab, for `driver ssh`.
func (p *virtual) keepState() error {
	s := p.state()
	if err := os.WriteFile(s.Key, p.login.PrivatePEM, 0o600); err != nil {
		return fmt.Errorf("write login key: %w", err)
	}
	known := ""
	for _, n := range p.nodes {
		known += n.mgmt.String() + " " + n.hostKey.AuthorizedKey + "\n"
	}
	if err := os.WriteFile(s.Known, []byte(known), 0o600); err != nil {
		return fmt.Errorf("write known hosts: %w", err)
	}
	return saveState(p.cfg.StateDir, s)
}

// describe collects what env.json has about the lab.
func (p *virtual) describe(ctx context.Context) (env Environment, err error) {
	facts, machines := map[string]map[string]string{}, map[string]Machine{}
	for i, n := range p.nodes {
		if facts[n.Name], err = n.facts(ctx, i == 0); err != nil {
			return env, err
		}
		line, err := n.site.hv.CommandLine(ctx, n.domain)
		if err != nil {
			return env, err
		}
		machines[n.Name] = Machine{CommandLine: line}
	}
	versions, err := p.sites[0].hv.Versions(ctx)
	if err != nil {
		return env, err
	}
	env = p.environment(versions, machines, facts)
	others := map[string]map[string]string{}
	for _, n := range p.nodes {
		if h, ok := n.site.hypervisor.(described); ok {
			if others[n.Name], err = h.facts(ctx, n.site.hv); err != nil {
				return env, err
			}
		}
	}
	env.Hypervisors = others
	return env, nil
}

// facts are those of the node, of its engine, and, if wanted, of a container.
func (n *virtualNode) facts(ctx context.Context, withContainer bool) (map[string]string, error) {
	reply, err := n.helper.call(ctx, bundle.Request{Facts: true})
	if err != nil || n.engine == nil {
		return reply.Facts, err
	}
	facts, err := n.engine.Facts(ctx)
	if err != nil {
		return nil, err
	}
	maps.Copy(reply.Facts, facts)
	if !withContainer {
		return reply.Facts, nil
	}
	if facts, err = n.containerFacts(ctx); err != nil {
		return nil, err
	}
	maps.Copy(reply.Facts, facts)
	return reply.Facts, nil
}

// environment is what env.json has about the lab, without facts of other hypervisors.
func (p *virtual) environment(versions vm.Version, machines map[string]Machine, facts map[string]map[string]string) Environment {
	artifacts := map[string]string{}
	for _, a := range append(p.images(), p.set.EndpointArchive) {
		artifacts[a.Name] = a.SHA256
	}
	env := Environment{
		Provider: plan.ProviderLibvirt, Accelerator: p.accel.Name, AcceleratorHow: p.accel.How,
		Hypervisor: &versions, KernelRelease: &ByKernel[string]{One: p.set.KernelRelease},
		ImageSHA256: &ByKernel[map[string]string]{One: artifacts}, ImageDrift: ByKernel[[]images.Drift]{One: p.set.Drift},
		Machines: machines, Nodes: facts, Cilium: p.agent.environment(),
		VCPUs: p.cfg.Lab.VCPUs, MemoryMiB: p.cfg.Lab.Memory, DataNICQueues: p.cfg.Lab.Queues,
	}
	if !p.cfg.Lab.NIC.Plain() {
		env.DataNIC = p.cfg.Lab.NIC.String()
	}
	return env
}

// Detach ends the connections to the machines, and leaves the machines running.
func (p *virtual) Detach() error {
	for _, n := range p.nodes {
		if n.engine != nil {
			n.engine.Close()
		}
		if n.ssh != nil {
			_ = n.ssh.Close()
		}
	}
	var err error
	for _, s := range p.sites {
		err = errors.Join(err, s.detach(s.hv))
	}
	return err
}
