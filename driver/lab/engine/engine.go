// Package engine has the Docker Engines of nodes make their endpoints: containers on a
// bridge of the node, on an overlay network of a Swarm, or on no network. It is the
// only package that uses Docker's client.
package engine

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"hookbed/driver/datapath"
	"hookbed/driver/host"
)

const (
	socket = "/run/docker.sock"
	// bridgeNetwork is the bridge network of a node's engine.
	bridgeNetwork = "hookbed"
	// noNetwork gives a container loopback only.
	noNetwork = "none"
	openLimit = 180 * time.Second
)

// Engine is the Docker Engine of one node, reached through its host.
type Engine struct {
	node datapath.Node
	api  *client.Client
	tag  string
}

// Open connects to the node's engine over a forwarded unix socket and waits, at most
// 180 s, until it answers. tag is that of the endpoint image, which Load loads. Close it.
func Open(ctx context.Context, node datapath.Node, h host.Host, tag string) (*Engine, error) {
	api, err := client.NewClientWithOpts(
		client.WithHost("http://docker.invalid"),
		client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return h.Forward(ctx, "unix", socket)
		}),
		client.WithAPIVersionNegotiation(),
	)
	if err != nil {
		return nil, fmt.Errorf("make Docker client: %w", err)
	}
	e := &Engine{node: node, api: api, tag: tag}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	for {
		if _, err = api.Ping(ctx); err == nil {
			return e, nil
		}
		select {
		case <-ctx.Done():
			_ = api.Close()
			return nil, fmt.Errorf("docker engine on %s did not answer within %s: %w", node.Name, openLimit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Load loads the endpoint image from an archive as docker save writes it.
func (e *Engine) Load(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("open endpoint image: %w", err)
	}
	defer f.Close()
	resp, err := e.api.ImageLoad(ctx, f, client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("load endpoint image on %s: %w", e.node.Name, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("load endpoint image on %s: %w", e.node.Name, err)
	}
	if _, err := e.api.ImageInspect(ctx, e.tag); err != nil {
		return fmt.Errorf("load endpoint image on %s: %w (engine said %.200q)", e.node.Name, err, answer)
	}
	return nil
}

// MakeBridge makes the bridge network that endpoints of fabric "bridge" join.
// Masquerading is off: between nodes endpoints are routed under their own
// addresses, or policies by source would see only the node's.
func (e *Engine) MakeBridge(ctx context.Context) error {
	_, err := e.api.NetworkCreate(ctx, bridgeNetwork, network.CreateOptions{
		Driver: "bridge",
		IPAM:   &network.IPAM{Config: []network.IPAMConfig{{Subnet: e.node.Subnet.String(), Gateway: e.node.Gateway.String()}}},
		Options: map[string]string{
			"com.docker.network.bridge.name":                 datapath.BridgeLink,
			"com.docker.network.bridge.enable_ip_masquerade": "false",
		},
	})
	if err != nil {
		return fmt.Errorf("create Docker network on %s: %w", e.node.Name, err)
	}
	return nil
}

// Start makes and starts a fresh container for an endpoint, at an address of a network
// of datapath.Setup. It returns the container's ID and the PID, on the node, of its
// first process. On an error the ID is that of a container that is left, or "".
func (e *Engine) Start(ctx context.Context, role, addr, network string) (id string, pid int, err error) {
	switch network {
	case datapath.NetworkOverlay:
		return e.startOnOverlay(ctx, role, addr)
	case datapath.NetworkBridge:
		return e.start(ctx, role, addr, bridgeNetwork)
	}
	return e.start(ctx, role, addr, noNetwork)
}

// start is Start for a network by the engine's own name of it.
func (e *Engine) start(ctx context.Context, role, addr, netMode string) (id string, pid int, err error) {
	cfg := &container.Config{Image: e.tag, Cmd: []string{"/bin/sleep", "2147483647"}, Hostname: role}
	hostCfg := &container.HostConfig{
		NetworkMode: container.NetworkMode(netMode),
		LogConfig:   container.LogConfig{Type: "none"},
	}
	var nets *network.NetworkingConfig
	if netMode != noNetwork {
		nets = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
			netMode: {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: addr}},
		}}
	}
	made, err := e.api.ContainerCreate(ctx, cfg, hostCfg, nets, nil, "")
	if err != nil {
		return "", 0, fmt.Errorf("create %s container on %s: %w", role, e.node.Name, err)
	}
	if err := e.api.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		return made.ID, 0, fmt.Errorf("start %s container on %s: %w", role, e.node.Name, err)
	}
	info, err := e.api.ContainerInspect(ctx, made.ID)
	if err != nil {
		return made.ID, 0, fmt.Errorf("inspect %s container on %s: %w", role, e.node.Name, err)
	}
	if info.State == nil || info.State.Pid == 0 {
		return made.ID, 0, fmt.Errorf("%s container on %s is not running", role, e.node.Name)
	}
	return made.ID, info.State.Pid, nil
}

// Remove ends and removes a container. One that is gone already is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	if err := e.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true}); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("remove container on %s: %w", e.node.Name, err)
	}
	return nil
}

// Exec runs a command in a container through the engine and returns what it
// printed. It is for facts; measured programs are started by the guest helper
// in the container's namespaces, root and cgroup, so that neither the engine
// nor the driver's link carries their output while they run.
func (e *Engine) Exec(ctx context.Context, id string, argv ...string) (string, error) {
	made, err := e.api.ContainerExecCreate(ctx, id, container.ExecOptions{Cmd: argv, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return "", fmt.Errorf("exec %s in container on %s: %w", argv[0], e.node.Name, err)
	}
	conn, err := e.api.ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	if err != nil {
		return "", fmt.Errorf("exec %s in container on %s: %w", argv[0], e.node.Name, err)
	}
	defer conn.Close()
	var out strings.Builder
	if _, err := stdcopy.StdCopy(&out, &out, conn.Reader); err != nil {
		return "", fmt.Errorf("read output of %s in container on %s: %w", argv[0], e.node.Name, err)
	}
	return strings.TrimSpace(out.String()), nil
}

// Facts describes the engine for env.json.
func (e *Engine) Facts(ctx context.Context) (map[string]string, error) {
	v, err := e.api.ServerVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask Docker version on %s: %w", e.node.Name, err)
	}
	info, err := e.api.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask Docker info on %s: %w", e.node.Name, err)
	}
	return map[string]string{
		"docker.version": v.Version, "docker.api": v.APIVersion, "docker.storage": info.Driver,
		"docker.cgroup": info.CgroupDriver + " v" + info.CgroupVersion, "docker.image": e.tag,
	}, nil
}

// Close closes the connection to the engine, which goes on.
func (e *Engine) Close() { _ = e.api.Close() }
