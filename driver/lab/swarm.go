package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

const (
	// overlayNetwork is the overlay network of the nodes' engines.
	overlayNetwork = "hookbed-overlay"
	swarmManager   = 2377 // TCP port of a manager, Docker's default
	// swarmPool is where a Swarm takes subnets from that nobody named.
	swarmPool     = "198.18.96.0/19"
	gatewayBridge = "docker_gwbridge"
	ingress       = "ingress" // the network of published ports, which every Swarm begins with
	swarmStart    = 300 * time.Second
	askedEvery    = 200 * time.Millisecond
	firstAnchor   = 251  // last byte of the address of the first node's container that stays
	cardMTU       = 1500 // of a data network that is not given another
)

// joinSwarm joins the nodes' engines in a Swarm, the first its manager, and makes
// an overlay network across them. Engines speak with each other on the management
// network; on the data network are outer packets only. The Swarm is gone with the
// machines, which keep all they have in memory.
func (p *virtual) joinSwarm(ctx context.Context) error {
	if !p.cfg.Swarm {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, swarmStart)
	defer cancel()
	manager := p.nodes[0]
	token, err := manager.beginSwarm(ctx)
	if err != nil {
		return err
	}
	// Before others join, which would set it up: a bridge and a VXLAN device more on
	// every node, and chains that forwarded packets walk.
	if err := manager.dropIngress(ctx); err != nil {
		return err
	}
	for _, n := range p.nodes[1:] {
		if err := n.enterSwarm(ctx, token, manager.controlAddr()); err != nil {
			return err
		}
	}
	if err := manager.engine.overlay(ctx, p.cfg.Lab); err != nil {
		return err
	}
	for i, n := range p.nodes {
		if err := n.engine.dropGateway(ctx); err != nil {
			return err
		}
		if err := n.engine.anchor(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// anchor starts the container by which node i, counting from 0, keeps the overlay
// network: an engine lets go of it with its last container, and a container that is
// started meanwhile finds none.
func (e *engine) anchor(ctx context.Context, i int) error {
	addr := datapath.SwarmSubnet().Addr().As4()
	addr[3] = firstAnchor + byte(i)
	_, _, err := e.attach(ctx, "anchor", netip.AddrFrom4(addr).String())
	return err
}

// controlAddr is where a node's engine hears others of its Swarm.
func (n *virtualNode) controlAddr() string { return netip.AddrPortFrom(n.mgmt, swarmManager).String() }

// beginSwarm makes a node's engine the manager of a Swarm and returns the secret
// by which others join.
func (n *virtualNode) beginSwarm(ctx context.Context) (token string, err error) {
	_, err = n.engine.api.SwarmInit(ctx, swarm.InitRequest{
		ListenAddr: n.controlAddr(), AdvertiseAddr: n.mgmt.String(), DataPathAddr: n.Data.String(), DataPathPort: datapath.SwarmPort,
		DefaultAddrPool: []string{swarmPool}, SubnetSize: 24,
	})
	if err := n.engine.inSwarm(ctx, err); err != nil {
		return "", err
	}
	s, err := n.engine.api.SwarmInspect(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the Swarm on %s for its token: %w", n.Name, err)
	}
	return s.JoinTokens.Worker, nil
}

func (n *virtualNode) enterSwarm(ctx context.Context, token, manager string) error {
	err := n.engine.api.SwarmJoin(ctx, swarm.JoinRequest{
		ListenAddr: n.controlAddr(), AdvertiseAddr: n.mgmt.String(), DataPathAddr: n.Data.String(), JoinToken: token, RemoteAddrs: []string{manager},
	})
	return n.engine.inSwarm(ctx, err)
}

// inSwarm waits until the engine is a node of a Swarm. joined is what it said when
// it was asked to be: after 20 s it says that it goes on in the background, and on
// a busy emulated CPU that is not long.
func (e *engine) inSwarm(ctx context.Context, joined error) error {
	var info swarm.Info
	err := eventually(ctx, func() (bool, error) {
		all, err := e.api.Info(ctx)
		info = all.Swarm
		if joined != nil && info.LocalNodeState == swarm.LocalNodeStateInactive {
			return false, joined
		}
		return info.LocalNodeState == swarm.LocalNodeStateActive, err
	})
	if err != nil {
		return fmt.Errorf("join %s in a Swarm (%s %s): %w", e.node.Name, info.LocalNodeState, info.Error, err)
	}
	return nil
}

// dropIngress removes the network of published ports, which the manager makes a
// moment after its Swarm.
func (n *virtualNode) dropIngress(ctx context.Context) error {
	err := eventually(ctx, func() (bool, error) {
		list, err := n.engine.api.NetworkList(ctx, network.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, net := range list {
			if net.Ingress {
				return true, n.engine.api.NetworkRemove(ctx, net.ID)
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("remove the Swarm's network %s on %s: %w", ingress, n.Name, err)
	}
	return nil
}

// dropGateway removes the bridge that an engine makes for its ingress network, as
// soon as it has let go of it: its chains would be walked by all that the node
// forwards, in every arm of the run.
func (e *engine) dropGateway(ctx context.Context) error {
	err := eventually(ctx, func() (bool, error) {
		err := e.api.NetworkRemove(ctx, gatewayBridge)
		switch {
		case err == nil, cerrdefs.IsNotFound(err):
			return true, nil
		case cerrdefs.IsPermissionDenied(err), cerrdefs.IsConflict(err): // it is in use
			return false, nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("remove network %s on %s: %w", gatewayBridge, e.node.Name, err)
	}
	return nil
}

// overlay makes the overlay network that endpoints join. It is an internal one,
// so that they have one link; and unencrypted, as it is by default. Docker takes
// the underlay's MTU and gives links what VXLAN leaves of it.
func (e *engine) overlay(ctx context.Context, lab plan.Lab) error {
	mtu := lab.NIC.MTU
	if mtu == 0 {
		mtu = cardMTU
	}
	subnet := datapath.SwarmSubnet()
	_, err := e.api.NetworkCreate(ctx, overlayNetwork, network.CreateOptions{
		Driver: "overlay", Scope: "swarm", Attachable: true, Internal: true,
		IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet.String(), Gateway: subnet.Addr().Next().String()}}},
		Options: map[string]string{
			"com.docker.network.driver.mtu":                  strconv.Itoa(mtu),
			"com.docker.network.driver.overlay.vxlanid_list": strconv.Itoa(datapath.SwarmVNI),
		},
	})
	if err != nil {
		return fmt.Errorf("create Docker's overlay network on %s: %w", e.node.Name, err)
	}
	return nil
}

// attachTries is how often a container is started that an engine cannot attach to
// the overlay network. Nodes learn of a network, and of their own addresses in it, a
// moment after the manager, and a container that comes before that has failed for good.
const attachTries = 4

// attach starts a container on the overlay network.
func (e *engine) attach(ctx context.Context, role, addr string) (id string, pid int, err error) {
	for try := 1; ; try++ {
		id, pid, err = e.start(ctx, role, addr, overlayNetwork)
		if err == nil || id == "" || try == attachTries {
			return id, pid, err
		}
		if gone := e.remove(ctx, id); gone != nil {
			return id, 0, errors.Join(err, gone)
		}
		select {
		case <-ctx.Done():
			return "", 0, errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// eventually asks until the answer is yes, an error, or ctx ends.
func eventually(ctx context.Context, ask func() (bool, error)) error {
	for {
		ok, err := ask()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askedEvery):
		}
	}
}
