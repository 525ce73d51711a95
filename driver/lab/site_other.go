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
	"strconv"
	"strings"
	"syscall"
	"time"

	"hookbed/driver/host"
	"hookbed/driver/lab/remote"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/images"
)

// otherComputer is a hypervisor that is reached by SSH.
type otherComputer struct {
	at               plan.Hypervisor
	dir              string        // its state directory on this computer
	*remote.Computer               // nil until it is reached
	lab              remote.LabDir // there
	gives            *vm.User      // whom machines run as, if files are to be given to that user
}

// newOther is the i-th hypervisor of a lab, from 0. Its paths become absolute:
// `driver down NAME` may be called anywhere.
func newOther(h plan.Hypervisor, stateDir, name, token string, i int) *otherComputer {
	h.Key, h.KnownHosts = absolute(h.Key), absolute(h.KnownHosts)
	return &otherComputer{at: h, dir: filepath.Join(stateDir, "hypervisor"+strconv.Itoa(i+1)), lab: remote.LabDir{Root: h.Directory, Path: path.Join(h.Directory, "labs", name), Token: token}}
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

func (c *otherComputer) title() string { return c.at.Title() }

func (c *otherComputer) entry() plan.Hypervisor { return c.at }

// reach logs in, connects to libvirt through that, and makes the lab's directory.
func (c *otherComputer) reach(ctx context.Context, cfg vm.Config, accel string, nic plan.NIC) (*vm.Hypervisor, error) {
	if err := c.login(ctx); err != nil {
		return nil, err
	}
	cfg.StateDir, cfg.Remote = c.dir, c.way()
	hv, err := vm.Connect(ctx, cfg)
	if err != nil {
		return hv, fmt.Errorf("use libvirt of %s: %w", c.title(), err)
	}
	if err := hv.Supports(ctx, accel); err != nil {
		return hv, c.mention(err)
	}
	if err := c.makeDir(ctx); err != nil {
		return hv, err
	}
	if err := c.giveDir(ctx, hv); err != nil {
		return hv, err
	}
	return hv, c.checkBridge(ctx, nic)
}

// giveDir lets the user whom machines run as pass the lab's directory, if that is another than the
// one who logs in: root.
func (c *otherComputer) giveDir(ctx context.Context, hv *vm.Hypervisor) error {
	as, err := hv.RunsAs(ctx)
	if err != nil {
		return c.mention(err)
	}
	if c.gives = nil; c.at.User != "root" || as.UID == 0 {
		return nil
	}
	c.gives = &as
	if err := c.lab.LetPass(ctx, c.Computer, as.GID); err != nil {
		return fmt.Errorf("let libvirt's user for QEMU pass to %s on %s: %w", c.lab.Path, c.title(), err)
	}
	return nil
}

// login dials the hypervisor with the key, and the host key, that the experiment names.
func (c *otherComputer) login(ctx context.Context) error {
	computer, err := remote.Login(ctx, plan.Machine{Host: c.at.Host, Port: c.at.Port, User: c.at.User, Key: c.at.Key, KnownHosts: c.at.KnownHosts}, 0)
	if err != nil {
		return fmt.Errorf("reach hypervisor %s (see `driver doctor FILE`): %w", c.title(), err)
	}
	c.Computer = computer
	return nil
}

// way is the one to libvirtd, and to guests, through the SSH connection:
// nothing listens on the hypervisor that did not before.
func (c *otherComputer) way() *vm.Remote {
	return &vm.Remote{
		Name: c.title(),
		Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := c.SSH.Forward(ctx, "unix", c.at.Socket)
			if err != nil {
				err = fmt.Errorf("%w: see that libvirtd runs there (systemctl start libvirtd), that user %s may use %s (root, or one of group libvirt), and that its SSH server forwards (AllowTcpForwarding, AllowStreamLocalForwarding)",
					err, c.at.User, c.at.Socket)
			}
			return conn, err
		},
		Reach: c.forward,
		Run: func(ctx context.Context, argv ...string) ([]byte, error) {
			var out bytes.Buffer
			err := c.SSH.Run(ctx, host.Cmd{Argv: argv, Stdout: &out})
			return out.Bytes(), err
		},
	}
}

// refusedPause is the pause after a refused connection: the SSH server writes every
// refusal into its log, and guests that boot refuse for seconds.
const refusedPause = 500 * time.Millisecond

// forward dials from the hypervisor.
func (c *otherComputer) forward(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.SSH.Forward(ctx, network, addr)
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(refusedPause):
		}
	}
	return conn, err
}

// makeDir makes the lab's directory.
func (c *otherComputer) makeDir(ctx context.Context) error {
	if err := c.lab.Make(ctx, c.Computer, whoami()); err != nil {
		return fmt.Errorf("make %s on %s: %w; give the hypervisor's directory a place that user %s can write to", c.lab.Path, c.title(), err, c.at.User)
	}
	return nil
}

// checkBridge looks for the data bridge, which must carry the experiment's frames.
func (c *otherComputer) checkBridge(ctx context.Context, nic plan.NIC) error {
	bridge := c.at.DataBridge
	if bridge == "" {
		return nil
	}
	link := path.Join("/sys/class/net", bridge)
	if err := c.SSH.Run(ctx, host.Cmd{Argv: []string{"test", "-d", path.Join(link, "bridge")}}); err != nil {
		return fmt.Errorf("find data_bridge %q on %s: there is no such bridge; make one there, joined to that of the other hypervisor, as in: ip link add %s type bridge && ip link set NIC master %s && ip link set %s up",
			bridge, c.title(), bridge, bridge, bridge)
	}
	mtu, err := c.Output(ctx, "cat", path.Join(link, "mtu"))
	if err != nil {
		return fmt.Errorf("read the MTU of %s on %s: %w", bridge, c.title(), err)
	}
	if mtu != strconv.Itoa(nic.Bytes()) {
		return fmt.Errorf("data_bridge %q on %s has an MTU of %s bytes, and the data NIC of the experiment %d: write mtu = %s in [lab], or change the bridge's", bridge, c.title(), mtu, nic.Bytes(), mtu)
	}
	return nil
}

// networks takes some range that is free there for the management network: libvirt
// refuses one that has a route, as those of other labs have.
func (c *otherComputer) networks(ctx context.Context, hv *vm.Hypervisor, lab string, mtu int) (mgmt netip.Prefix, err error) {
	for try := 1; ; try++ {
		if mgmt, err = someRange(); err != nil {
			return mgmt, err
		}
		if err = hv.CreateNetwork(ctx, mgmtNetworkOf(lab, mgmt)); err == nil {
			break
		}
		if try == mgmtTries || ctx.Err() != nil {
			return mgmt, c.mention(err)
		}
	}
	data := dataNetworkOf(lab, mtu)
	if c.at.DataBridge != "" {
		data = vm.Network{Name: data.Name, Bridge: c.at.DataBridge, Existing: true}
	}
	return mgmt, c.mention(hv.CreateNetwork(ctx, data))
}

// mgmtTries is how many ranges of addresses are tried on a hypervisor.
const mgmtTries = 8

// mgmtRanges is where management networks on other computers get their addresses, 16
// each. No bundle has an address of it.
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

// mention adds to an error where it happened.
func (c *otherComputer) mention(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("on %s: %w", c.title(), err)
}

func (c *otherComputer) imagePath(a images.Artifact) string {
	return path.Join(c.at.Directory, "images", a.SHA256+"-"+path.Base(a.Path))
}

// bring copies an image to another computer, for this lab and later ones, unless
// it is there already with the digest that is in its name. It gets that name when it is
// whole: until then it is in the lab's directory, which is removed in any case.
func (c *otherComputer) bring(ctx context.Context, a images.Artifact) (copied bool, err error) {
	to := c.imagePath(a)
	// One that is not there has no digest either.
	if line, err := c.Output(ctx, "sha256sum", "--", to); err == nil && strings.HasPrefix(line, a.SHA256+" ") {
		return false, nil
	}
	data, err := os.ReadFile(a.Path)
	if err != nil {
		return false, fmt.Errorf("read image %s: %w", a.Name, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != a.SHA256 {
		return false, fmt.Errorf("image %s in %s has not the digest %s any more: run `driver images verify`", a.Name, a.Path, a.SHA256)
	}
	part := path.Join(c.lab.Path, path.Base(to))
	if err := c.push(ctx, part, data, 0o644); err != nil {
		return false, err
	}
	if err := c.SSH.Run(ctx, host.Cmd{Argv: []string{"mv", "-f", "--", part, to}}); err != nil {
		return false, fmt.Errorf("name image %s on %s: %w", a.Name, c.title(), err)
	}
	return true, nil
}

// file has keys: QEMU runs as its owner, and no other user may read it.
func (c *otherComputer) file(ctx context.Context, name string, data []byte) (string, error) {
	to := path.Join(c.lab.Path, name)
	if err := c.push(ctx, to, data, 0o600); err != nil || c.gives == nil {
		return to, err
	}
	if err := c.SSH.Run(ctx, host.Cmd{Argv: []string{"chown", fmt.Sprintf("%d:%d", c.gives.UID, c.gives.GID), to}}); err != nil {
		return to, fmt.Errorf("give QEMU's user its file on %s: %w", c.title(), err)
	}
	return to, nil
}

// consoleFile makes the file beforehand: libvirt takes it for root, and would let no other user read
// one that it makes. Others cannot enter its directory.
func (c *otherComputer) consoleFile(ctx context.Context, name string) (string, error) {
	to := path.Join(c.lab.Path, name)
	return to, c.push(ctx, to, nil, 0o644)
}

func (c *otherComputer) push(ctx context.Context, to string, data []byte, mode uint32) error {
	err := c.SSH.Push(ctx, data, to, mode)
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("copy %d MiB to %s: no space is left there; give the hypervisor's directory another file system: %w", len(data)>>20, c.title(), err)
	}
	if err != nil {
		return fmt.Errorf("copy to %s: %w", c.title(), err)
	}
	return nil
}

func (c *otherComputer) console(ctx context.Context, log string) string {
	text, err := c.Output(ctx, "tail", "-c", "1500", log)
	if err != nil {
		return err.Error()
	}
	return text
}

// siteFacts prints facts of a hypervisor for env.json, one a line.
const siteFacts = `echo "kernel=$(uname -r)"; echo "cpus=$(getconf _NPROCESSORS_ONLN)"
sed -n 's/^model name[[:space:]]*: /cpu=/p' /proc/cpuinfo | head -n 1
echo "bridge_nf_call_iptables=$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0)"`

// facts describe a hypervisor for env.json.
func (c *otherComputer) facts(ctx context.Context, hv *vm.Hypervisor) (map[string]string, error) {
	v, err := hv.Versions(ctx)
	if err != nil {
		return nil, c.mention(err)
	}
	out, err := c.Output(ctx, "sh", "-c", siteFacts)
	if err != nil {
		return nil, fmt.Errorf("ask %s what it is: %w", c.title(), err)
	}
	facts := map[string]string{"uri": c.at.URI, "host_key": host.Fingerprint(c.HostKey), "libvirt": v.Libvirt, "qemu": v.QEMU}
	if c.at.DataBridge != "" {
		facts["data_bridge"] = c.at.DataBridge
	}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		facts[key] = value
	}
	return facts, nil
}

// close removes the lab's directory, too. If the connection is lost it makes another.
func (c *otherComputer) close(ctx context.Context, hv *vm.Hypervisor) error {
	if c.Computer == nil {
		return nil // it was never reached
	}
	var err error
	if hv != nil {
		err = hv.Close(ctx)
	}
	if err == nil {
		err = c.leave(ctx)
	}
	_ = c.SSH.Close()
	if err != nil {
		return c.clear(ctx)
	}
	return nil
}

func (c *otherComputer) detach(hv *vm.Hypervisor) error {
	err := hv.Detach()
	if c.Computer != nil {
		_ = c.SSH.Close()
	}
	return err
}

// leave removes what is left of the lab on another computer.
func (c *otherComputer) leave(ctx context.Context) error {
	if !remoteName.MatchString(path.Base(c.lab.Path)) {
		return fmt.Errorf("remove %s on %s: that is no lab's name", c.lab.Path, c.title())
	}
	if err := c.lab.Leave(ctx, c.Computer); err != nil {
		return fmt.Errorf("remove %s on %s: %w", c.lab.Path, c.title(), err)
	}
	return nil
}

// clearLimit bounds the taking down of a lab on one other computer.
const clearLimit = 40 * time.Second

// clear takes down what a lab left on another computer.
func (c *otherComputer) clear(ctx context.Context) error {
	if !remoteName.MatchString(path.Base(c.lab.Path)) {
		return nil // of a lab that never got so far as to have a name
	}
	ctx, cancel := context.WithTimeout(ctx, clearLimit)
	defer cancel()
	if err := c.login(ctx); err != nil {
		return err
	}
	defer c.SSH.Close()
	if err := vm.CleanupRemote(ctx, c.dir, c.way()); err != nil {
		return err
	}
	return c.leave(ctx)
}
