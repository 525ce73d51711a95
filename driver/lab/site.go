package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/marker"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/images"
)

// site is where nodes run: libvirt on this computer, or on one reached by SSH.
type site struct {
	hv   *vm.Hypervisor
	dir  string           // the hypervisor's state directory on this computer
	mgmt netip.Prefix     // the driver's address on the management network
	at   *plan.Hypervisor // nil: this computer
	*reached
	run  string // directory of the lab there
	own  string // token of its marker
	user string // its number there: "0" is root's
}

// name of a site for messages.
func (s *site) name() string {
	if s.at == nil {
		return "this computer"
	}
	return s.at.Title()
}

// labName is the lab's name in the names of machines and networks. On computers of
// others it must differ from those of drivers elsewhere, whose processes may have
// the same number.
func labName(cfg Config) (string, error) {
	if len(cfg.Lab.Hypervisors) == 0 {
		return cfg.Name, nil
	}
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return cfg.Name + "-" + hex.EncodeToString(b[:]), nil
}

// remoteName is what labName makes. Directories are removed by it.
var remoteName = regexp.MustCompile(`^[A-Za-z0-9]+-([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$`)

// macOf is the hardware address of a node, from 0, on a network of a lab. Networks
// on computers of others may be shared, so there it follows from the lab's name;
// 0x52 is of an address that nobody's card was made with.
func macOf(lab string, network, node int) string {
	if m := remoteName.FindStringSubmatch(lab); m != nil {
		return fmt.Sprintf("52:%s:%s:%s:%s:%x%x", m[1], m[2], m[3], m[4], network, 1+node)
	}
	return fmt.Sprintf("52:54:00:12:%02x:%02x", network, 11+node)
}

// Networks, for macOf.
const (
	mgmtNetwork = iota
	dataNetwork
)

// sites lists where the nodes of a lab run; none of them is reached yet.
func sites(cfg Config, name, token string) []*site {
	if len(cfg.Lab.Hypervisors) == 0 {
		return []*site{{dir: cfg.StateDir, mgmt: netip.MustParsePrefix(mgmtCIDR)}}
	}
	var out []*site
	for _, h := range cfg.Lab.Hypervisors {
		if slices.ContainsFunc(h.Nodes, func(node string) bool { return needs(cfg, node) }) {
			out = append(out, remoteSite(h, cfg.StateDir, name, token, len(out)))
		}
	}
	return out
}

// needs says whether a lab has a node.
func needs(cfg Config, node string) bool {
	for i := range cfg.Nodes {
		if datapath.NodeAt(i+1).Name == node {
			return true
		}
	}
	return false
}

// remoteSite is the i-th hypervisor of a lab, from 0. Its paths become absolute:
// `driver down NAME` may be called anywhere.
func remoteSite(h plan.Hypervisor, stateDir, name, token string, i int) *site {
	h.Key, h.KnownHosts = absolute(h.Key), absolute(h.KnownHosts)
	return &site{at: &h, dir: filepath.Join(stateDir, "hypervisor"+strconv.Itoa(i+1)), run: path.Join(h.Directory, "labs", name), own: token}
}

func absolute(file string) string {
	if strings.HasPrefix(file, "~/") {
		return file
	}
	if abs, err := filepath.Abs(file); err == nil {
		return abs
	}
	return file
}

// connect reaches libvirt.
func (s *site) connect(ctx context.Context, cfg vm.Config) error {
	cfg.StateDir = s.dir
	if s.at != nil {
		if err := s.login(ctx); err != nil {
			return err
		}
		cfg.Remote = s.remote()
	}
	var err error
	if s.hv, err = vm.Connect(ctx, cfg); err != nil {
		return fmt.Errorf("use libvirt of %s: %w", s.name(), err)
	}
	return nil
}

// login dials the hypervisor with the key, and the host key, that the experiment names.
func (s *site) login(ctx context.Context) error {
	r := &reached{Machine: plan.Machine{Host: s.at.Host, Port: s.at.Port, User: s.at.User, Key: s.at.Key, KnownHosts: s.at.KnownHosts}}
	if err := r.login(ctx); err != nil {
		return fmt.Errorf("reach hypervisor %s (see `driver doctor FILE`): %w", s.name(), err)
	}
	s.reached = r
	return nil
}

// remote is the way to libvirtd, and to guests, through the SSH connection:
// nothing listens on the hypervisor that did not before.
func (s *site) remote() *vm.Remote {
	return &vm.Remote{
		Name: s.name(),
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := s.ssh.Forward(ctx, "unix", s.at.Socket)
			if err != nil {
				err = fmt.Errorf("%w: see that libvirtd runs there (systemctl start libvirtd), that user %s may use %s (root, or one of group libvirt), and that its SSH server forwards (AllowTcpForwarding, AllowStreamLocalForwarding)",
					err, s.at.User, s.at.Socket)
			}
			return conn, err
		},
		Reach: s.forward,
		Run: func(ctx context.Context, argv ...string) ([]byte, error) {
			var out bytes.Buffer
			err := s.ssh.Run(ctx, host.Cmd{Argv: argv, Stdout: &out})
			return out.Bytes(), err
		},
	}
}

// refusedPause is how long one waits who was refused: the SSH server writes every
// refusal into its log, and guests that boot refuse for seconds.
const refusedPause = 500 * time.Millisecond

// forward dials from the hypervisor.
func (s *site) forward(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := s.ssh.Forward(ctx, network, addr)
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(refusedPause):
		}
	}
	return conn, err
}

// prepare makes what machines need beside their images.
func (s *site) prepare(ctx context.Context, nic plan.NIC) error {
	if s.at == nil {
		return nil
	}
	var err error
	if s.user, err = s.ask(ctx, "id", "-u"); err != nil {
		return fmt.Errorf("ask who we are on %s: %w", s.name(), err)
	}
	made, found := markers(path.Base(s.run))
	mine := marker.Marker{Token: s.own, Made: true, Lab: path.Base(s.run), Owner: owner()}
	if err := s.ssh.Run(ctx, host.Cmd{Argv: []string{"sh", "-c", makeLabDir, "sh", s.at.Directory, s.run, made, found, mine.Text()}}); err != nil {
		return fmt.Errorf("make %s on %s: %w; give the hypervisor's directory a place that user %s can write to", s.run, s.name(), err, s.at.User)
	}
	return s.checkBridge(ctx, nic)
}

// checkBridge looks for the data bridge, which must carry the experiment's frames.
func (s *site) checkBridge(ctx context.Context, nic plan.NIC) error {
	bridge := s.at.DataBridge
	if bridge == "" {
		return nil
	}
	link := path.Join("/sys/class/net", bridge)
	if err := s.ssh.Run(ctx, host.Cmd{Argv: []string{"test", "-d", path.Join(link, "bridge")}}); err != nil {
		return fmt.Errorf("find data_bridge %q on %s: there is no such bridge; make one there, joined to that of the other hypervisor, as in: ip link add %s type bridge && ip link set NIC master %s && ip link set %s up",
			bridge, s.name(), bridge, bridge, bridge)
	}
	mtu, err := s.ask(ctx, "cat", path.Join(link, "mtu"))
	if err != nil {
		return fmt.Errorf("read the MTU of %s on %s: %w", bridge, s.name(), err)
	}
	if mtu != strconv.Itoa(nic.Bytes()) {
		return fmt.Errorf("data_bridge %q on %s has an MTU of %s bytes, and the data NIC of the experiment %d: write mtu = %s in [lab], or change the bridge's", bridge, s.name(), mtu, nic.Bytes(), mtu)
	}
	return nil
}

// networks makes the lab's networks: a data network of its own where all nodes are
// here, else the bridge that leads to the others.
func (s *site) networks(ctx context.Context, lab string, mtu int) error {
	if err := s.manage(ctx, lab); err != nil {
		return err
	}
	data := vm.Network{Name: networkName(lab, "data"), Bridge: bridgeName(lab, "d"), MTU: mtu}
	if s.at != nil && s.at.DataBridge != "" {
		data = vm.Network{Name: data.Name, Bridge: s.at.DataBridge, Existing: true}
	}
	if err := s.hv.CreateNetwork(ctx, data); err != nil {
		return s.mention(err)
	}
	return nil
}

// mgmtTries is how many ranges of addresses are tried on a hypervisor, on which
// other labs have theirs.
const mgmtTries = 8

// manage makes the management network. On another computer it takes some range
// that is free there: libvirt refuses one that has a route.
func (s *site) manage(ctx context.Context, lab string) error {
	network := vm.Network{Name: networkName(lab, "mgmt"), Bridge: bridgeName(lab, "m"), HostCIDR: s.mgmt.String()}
	if s.at == nil {
		return s.hv.CreateNetwork(ctx, network)
	}
	for try := 1; ; try++ {
		var err error
		if s.mgmt, err = someRange(); err != nil {
			return err
		}
		network.HostCIDR = s.mgmt.String()
		if err = s.hv.CreateNetwork(ctx, network); err == nil || try == mgmtTries || ctx.Err() != nil {
			return s.mention(err)
		}
	}
}

// mgmtRanges is what management networks on other computers are taken from, in
// pieces of 16 addresses. No bundle has an address of it.
const mgmtRanges = "198.18.128.0/17"

func someRange() (netip.Prefix, error) {
	all := netip.MustParsePrefix(mgmtRanges)
	n, err := rand.Int(rand.Reader, big.NewInt(1<<(28-all.Bits())))
	if err != nil {
		return netip.Prefix{}, err
	}
	a := all.Addr().As4()
	at := int(n.Int64())<<4 | 1
	a[2], a[3] = a[2]|byte(at>>8), byte(at)
	return netip.PrefixFrom(netip.AddrFrom4(a), 28), nil
}

// address of a node, from 0, on the management network.
func (s *site) address(node int) netip.Addr {
	a := s.mgmt.Addr()
	steps := 10 + node // as labs here always had
	if s.at != nil {
		steps = 1 + node
	}
	for range steps {
		a = a.Next()
	}
	return a
}

// mention adds to an error where it happened, if that is elsewhere.
func (s *site) mention(err error) error {
	if err == nil || s.at == nil {
		return err
	}
	return fmt.Errorf("on %s: %w", s.name(), err)
}

func networkName(lab, kind string) string { return "hookbed-" + lab + "-" + kind }

// imagePath is where the hypervisor finds an image.
func (s *site) imagePath(a images.Artifact) string {
	if s.at == nil {
		return a.Path
	}
	return path.Join(s.at.Directory, "images", a.SHA256+"-"+path.Base(a.Path))
}

// bring copies an image to another computer, for this lab and later ones, unless
// it is there already with the digest that its name tells. It gets that name when
// it is whole: until then it is in the lab's directory, which goes whatever happens.
func (s *site) bring(ctx context.Context, a images.Artifact) (copied bool, err error) {
	if s.at == nil {
		return false, nil
	}
	to := s.imagePath(a)
	// One that is not there has no digest either.
	if line, err := s.ask(ctx, "sha256sum", "--", to); err == nil && strings.HasPrefix(line, a.SHA256+" ") {
		return false, nil
	}
	data, err := os.ReadFile(a.Path)
	if err != nil {
		return false, fmt.Errorf("read image %s: %w", a.Name, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != a.SHA256 {
		return false, fmt.Errorf("image %s in %s has not the digest %s any more: run `driver images verify`", a.Name, a.Path, a.SHA256)
	}
	part := path.Join(s.run, path.Base(to))
	if err := s.push(ctx, part, data, 0o644); err != nil {
		return false, err
	}
	if err := s.ssh.Run(ctx, host.Cmd{Argv: []string{"mv", "-f", "--", part, to}}); err != nil {
		return false, fmt.Errorf("name image %s on %s: %w", a.Name, s.name(), err)
	}
	return true, nil
}

// file is where the hypervisor finds a file of this lab alone.
func (s *site) file(ctx context.Context, name string, data []byte) (string, error) {
	if s.at == nil {
		local := filepath.Join(s.dir, name)
		return local, os.WriteFile(local, data, 0o600)
	}
	to := path.Join(s.run, name)
	return to, s.push(ctx, to, data, s.mode(0o644))
}

// consoleFile is where a machine's console goes. On another computer it is there
// beforehand, since not everybody may read what libvirt makes.
func (s *site) consoleFile(ctx context.Context, name string) (string, error) {
	if s.at == nil {
		return filepath.Join(s.dir, name), nil
	}
	to := path.Join(s.run, name)
	return to, s.push(ctx, to, nil, s.mode(0o666))
}

// mode of a file that QEMU must get at, which is root without privileges.
func (s *site) mode(ofOthers uint32) uint32 {
	if s.user == "0" {
		return 0o600
	}
	return ofOthers
}

func (s *site) push(ctx context.Context, to string, data []byte, mode uint32) error {
	err := s.ssh.Push(ctx, data, to, mode)
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("copy %d MiB to %s: no space is left there; give the hypervisor's directory another file system: %w", len(data)>>20, s.name(), err)
	}
	if err != nil {
		return fmt.Errorf("copy to %s: %w", s.name(), err)
	}
	return nil
}

// console is the end of a machine's console.
func (s *site) console(ctx context.Context, log string) string {
	if s.at == nil {
		return consoleTail(log)
	}
	text, err := s.ask(ctx, "tail", "-c", "1500", log)
	if err != nil {
		return err.Error()
	}
	return text
}

// siteFacts prints what env.json says of a hypervisor.
const siteFacts = `echo "kernel=$(uname -r)"; echo "cpus=$(getconf _NPROCESSORS_ONLN)"
sed -n 's/^model name[[:space:]]*: /cpu=/p' /proc/cpuinfo | head -n 1
echo "bridge_nf_call_iptables=$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0)"`

// facts describe a hypervisor for env.json.
func (s *site) facts(ctx context.Context) (map[string]string, error) {
	v, err := s.hv.Versions(ctx)
	if err != nil {
		return nil, s.mention(err)
	}
	out, err := s.ask(ctx, "sh", "-c", siteFacts)
	if err != nil {
		return nil, fmt.Errorf("ask %s what it is: %w", s.name(), err)
	}
	facts := map[string]string{"uri": s.at.URI, "host_key": host.Fingerprint(s.hostKey), "libvirt": v.Libvirt, "qemu": v.QEMU}
	if s.at.DataBridge != "" {
		facts["data_bridge"] = s.at.DataBridge
	}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		facts[key] = value
	}
	return facts, nil
}

// close ends the machines and networks, and removes the lab's directory. Where the
// connection is lost it takes another.
func (s *site) close(ctx context.Context) error {
	if s.at == nil {
		if s.hv == nil {
			return nil
		}
		return s.hv.Close(ctx)
	}
	if s.reached == nil {
		return nil // never got there
	}
	var err error
	if s.hv != nil {
		err = s.hv.Close(ctx)
	}
	if err == nil {
		err = s.leave(ctx)
	}
	_ = s.ssh.Close()
	if err != nil {
		return s.clear(ctx)
	}
	return nil
}

// leave removes what is left of the lab on another computer.
func (s *site) leave(ctx context.Context) error {
	name := path.Base(s.run)
	if !remoteName.MatchString(name) {
		return fmt.Errorf("remove %s on %s: that is no lab's name", s.run, s.name())
	}
	if err := s.ssh.Run(ctx, host.Cmd{Argv: []string{"sh", "-c", leaveLabDir, "sh", s.run, name, s.own}}); err != nil {
		return fmt.Errorf("remove %s on %s: %w", s.run, s.name(), err)
	}
	return nil
}

// clearLimit bounds the taking down of a lab on one other computer.
const clearLimit = 40 * time.Second

// clear takes down what a lab left on another computer.
func (s *site) clear(ctx context.Context) error {
	if !remoteName.MatchString(path.Base(s.run)) {
		return nil // of a lab that never got so far as to have a name
	}
	ctx, cancel := context.WithTimeout(ctx, clearLimit)
	defer cancel()
	if err := s.login(ctx); err != nil {
		return err
	}
	defer s.ssh.Close()
	if err := vm.CleanupRemote(ctx, s.dir, s.remote()); err != nil {
		return err
	}
	return s.leave(ctx)
}
