package engine

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
)

const (
	// overlayNetwork is the overlay network of the nodes' engines.
	overlayNetwork = "hookbed-overlay"
	swarmManager   = 2377 // TCP port of a manager, Docker's default
	// swarmPool is where a Swarm takes those subnets from that are not given.
	swarmPool     = "198.18.96.0/19"
	gatewayBridge = "docker_gwbridge"
	ingress       = "ingress" // the network of published ports, which every Swarm begins with
	swarmLimit    = 300 * time.Second
	pollEvery     = 200 * time.Millisecond
	firstAnchor   = 251 // last byte of the address of the first node's container that stays
)

// Member is a node that joins a Swarm.
type Member struct {
	*Engine
	Control netip.Addr // on the network by which engines control the Swarm
}

// controlAddr is where a node's engine listens for others of its Swarm.
func (m Member) controlAddr() string { return netip.AddrPortFrom(m.Control, swarmManager).String() }

// JoinSwarm joins engines in a Swarm, the first its manager, and makes an overlay
// network across them, over a data network with an MTU in bytes. Engines control the
// Swarm on another network: on the data network are outer packets only. The Swarm is
// gone with the machines, which keep all they have in memory. It takes at most 300 s.
func JoinSwarm(ctx context.Context, members []Member, mtu int) error {
	ctx, cancel := context.WithTimeout(ctx, swarmLimit)
	defer cancel()
	manager := members[0]
	token, err := manager.beginSwarm(ctx)
	if err != nil {
		return err
	}
	// Before others join, which would set it up: a bridge and a VXLAN device more on
	// every node, and chains that forwarded packets walk.
	if err := manager.dropIngress(ctx); err != nil {
		return err
	}
	for _, m := range members[1:] {
		if err := m.enterSwarm(ctx, token, manager.controlAddr()); err != nil {
			return err
		}
	}
	if err := manager.makeOverlay(ctx, mtu); err != nil {
		return err
	}
	for i, m := range members {
		if err := m.dropGateway(ctx); err != nil {
			return err
		}
		if err := m.anchor(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// anchor starts the container by which node i, counting from 0, keeps the overlay
// network: an engine drops the network with its last container, and a container that is
// started meanwhile finds none.
func (e *Engine) anchor(ctx context.Context, i int) error {
	addr := datapath.SwarmSubnet().Addr().As4()
	addr[3] = firstAnchor + byte(i)
	_, _, err := e.startOnOverlay(ctx, "anchor", netip.AddrFrom4(addr).String())
	return err
}

// beginSwarm makes a node's engine the manager of a Swarm and returns the secret
// by which others join.
func (m Member) beginSwarm(ctx context.Context) (token string, err error) {
	_, err = m.api.SwarmInit(ctx, swarm.InitRequest{
		ListenAddr: m.controlAddr(), AdvertiseAddr: m.Control.String(), DataPathAddr: m.node.Data.String(), DataPathPort: datapath.SwarmPort,
		DefaultAddrPool: []string{swarmPool}, SubnetSize: 24,
	})
	if err := m.awaitSwarm(ctx, err); err != nil {
		return "", err
	}
	s, err := m.api.SwarmInspect(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the Swarm on %s for its token: %w", m.node.Name, err)
	}
	return s.JoinTokens.Worker, nil
}

func (m Member) enterSwarm(ctx context.Context, token, manager string) error {
	err := m.api.SwarmJoin(ctx, swarm.JoinRequest{
		ListenAddr: m.controlAddr(), AdvertiseAddr: m.Control.String(), DataPathAddr: m.node.Data.String(), JoinToken: token, RemoteAddrs: []string{manager},
	})
	return m.awaitSwarm(ctx, err)
}

// awaitSwarm waits until the engine is a node of a Swarm. joined is its answer to the
// request to be one: after 20 s the answer is that it goes on in the background, and
// on a busy emulated CPU 20 s are not long.
func (e *Engine) awaitSwarm(ctx context.Context, joined error) error {
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
func (e *Engine) dropIngress(ctx context.Context) error {
	err := eventually(ctx, func() (bool, error) {
		list, err := e.api.NetworkList(ctx, network.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, net := range list {
			if net.Ingress {
				return true, e.api.NetworkRemove(ctx, net.ID)
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("remove the Swarm's network %s on %s: %w", ingress, e.node.Name, err)
	}
	return nil
}

// dropGateway removes the bridge that an engine makes for its ingress network, as
// soon as the engine no longer uses it: all that the node forwards would walk its
// chains, in every arm of the run.
func (e *Engine) dropGateway(ctx context.Context) error {
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

// makeOverlay makes the overlay network that endpoints join. It is internal, so that
// they have one link; and unencrypted, as it is by default. Docker takes the
// underlay's MTU and gives links what VXLAN leaves of it.
func (e *Engine) makeOverlay(ctx context.Context, mtu int) error {
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
// moment after the manager, and a container that is started before then has failed for
// good.
const attachTries = 4

// startOnOverlay starts a container on the overlay network.
func (e *Engine) startOnOverlay(ctx context.Context, role, addr string) (id string, pid int, err error) {
	for try := 1; ; try++ {
		id, pid, err = e.start(ctx, role, addr, overlayNetwork)
		if err == nil || id == "" || try == attachTries {
			return id, pid, err
		}
		if gone := e.Remove(ctx, id); gone != nil {
			return id, 0, errors.Join(err, gone)
		}
		select {
		case <-ctx.Done():
			return "", 0, errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// eventually calls ask until it returns true or an error, or ctx ends.
func eventually(ctx context.Context, ask func() (bool, error)) error {
	for {
		ok, err := ask()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}
