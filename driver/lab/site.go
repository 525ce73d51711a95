package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/images"
)

// site is where nodes run: libvirt on this computer, or on one reached by SSH.
type site struct {
	hypervisor
	storage
	nodes []string // that run there; nil: all
	first int      // from the driver's address on the management network to the first node's
	// hv and mgmt are there when the site is reached.
	hv   *vm.Hypervisor
	mgmt netip.Prefix // the driver's address on the management network
}

// hypervisor is the computer of a site.
type hypervisor interface {
	// title names it in messages.
	title() string
	// reach connects to libvirt, which must have the accelerator, and makes what machines
	// need in addition to images and networks. On an error it returns what it connected to.
	reach(ctx context.Context, cfg vm.Config, accel string, nic plan.NIC) (*vm.Hypervisor, error)
	// networks makes the lab's networks, and returns the driver's address on the
	// management network. Data goes over a network of the lab's own where all nodes are
	// on this hypervisor, else over the bridge that leads to the others.
	networks(ctx context.Context, hv *vm.Hypervisor, lab string, mtu int) (netip.Prefix, error)
	// close ends machines and networks. hv is nil where libvirt was not reached.
	close(ctx context.Context, hv *vm.Hypervisor) error
	// detach ends the connection and leaves machines and networks.
	detach(hv *vm.Hypervisor) error
}

// storage is where a hypervisor has the files of its machines.
type storage interface {
	imagePath(a images.Artifact) string
	// bring copies an image to where imagePath says, unless it is there already.
	bring(ctx context.Context, a images.Artifact) (copied bool, err error)
	// file writes a file of this lab alone, and returns its path.
	file(ctx context.Context, name string, data []byte) (string, error)
	// consoleFile is where a machine's console goes.
	consoleFile(ctx context.Context, name string) (string, error)
	// console is the end of what is in such a file.
	console(ctx context.Context, log string) string
}

// described is a hypervisor that is written down: in the lab's state as the experiment
// has it, and in env.json by its facts.
type described interface {
	entry() plan.Hypervisor
	facts(ctx context.Context, hv *vm.Hypervisor) (map[string]string, error)
}

// labName is the lab's name in the names of machines and networks. On another computer
// it must differ from those of drivers elsewhere, whose processes may have the same
// number.
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
// on other computers may be shared, so there it follows from the lab's name. With 0x52
// it is a locally administered address, with which no card is made.
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
		here := &thisComputer{dir: cfg.StateDir}
		return []*site{{hypervisor: here, storage: here, first: firstHere}}
	}
	var out []*site
	for _, h := range cfg.Lab.Hypervisors {
		if slices.ContainsFunc(h.Nodes, func(node string) bool { return needs(cfg, node) }) {
			other := newOther(h, cfg.StateDir, name, token, len(out))
			out = append(out, &site{hypervisor: other, storage: other, nodes: h.Nodes, first: 1})
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

// has says whether a node runs there.
func (s *site) has(node string) bool { return s.nodes == nil || slices.Contains(s.nodes, node) }

// prepare reaches the site, and makes the lab's networks there.
func (s *site) prepare(ctx context.Context, cfg vm.Config, accel string, nic plan.NIC) error {
	var err error
	if s.hv, err = s.reach(ctx, cfg, accel, nic); err != nil {
		return err
	}
	s.mgmt, err = s.networks(ctx, s.hv, cfg.Lab, nic.MTU)
	return err
}

// address of a node, from 0, on the management network.
func (s *site) address(node int) netip.Addr {
	a := s.mgmt.Addr()
	for range s.first + node {
		a = a.Next()
	}
	return a
}

func networkName(lab, kind string) string { return "hookbed-" + lab + "-" + kind }

func mgmtNetworkOf(lab string, driver netip.Prefix) vm.Network {
	return vm.Network{Name: networkName(lab, "mgmt"), Bridge: bridgeName(lab, "m"), HostCIDR: driver.String()}
}

func dataNetworkOf(lab string, mtu int) vm.Network {
	return vm.Network{Name: networkName(lab, "data"), Bridge: bridgeName(lab, "d"), MTU: mtu}
}
