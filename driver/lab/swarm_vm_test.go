//go:build vm

package lab

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/host"
	"hookbed/driver/plan"
	"hookbed/images"
)

func TestVMSwarmHand(t *testing.T) {
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Up(t.Context(), Config{
		Name: "swarm", Nodes: 2, Store: store, GuestPath: buildGuest(t), StateDir: filepath.Join(t.TempDir(), "lab"), Swarm: true,
		Lab: plan.Lab{Provider: plan.ProviderLibvirt, Endpoint: plan.EndpointDocker, Accel: plan.AccelTCG, Kernel: "6.12", VCPUs: 2, Memory: 2048, Queues: 4},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p := l.provider.(*virtual)
	look := func(n *virtualNode) {
		cmd := host.Cmd{Argv: []string{"sh", "-c", `grep -v "neigh\|raft" /run/hookbed/dockerd.log; ls /run/docker/netns; for n in /run/docker/netns/*; do echo == $n; nsenter --net=$n sh -c "ip -d link; ip addr | grep inet; ip neigh; bridge fdb; sysctl net.bridge.bridge-nf-call-iptables; iptables-legacy -S; ip route"; done; ip -br addr; iptables-legacy -S`}, Stdout: os.Stdout, Stderr: os.Stdout}
		if err := n.ssh.Run(t.Context(), cmd); err != nil {
			t.Error(err)
		}
	}
	c := datapath.Layout(plan.Cell{Factors: map[string]string{plan.FactorScenario: plan.MultiHost, plan.FactorEndpoint: plan.EndpointDocker}})
	for _, e := range c.Endpoints() {
		n := p.node(e.Node.Name)
		inspect := host.Cmd{Argv: []string{"docker", "network", "inspect", "--verbose", "hookbed-overlay"}, Stdout: os.Stdout, Stderr: os.Stdout}
		t.Log(p.nodes[0].ssh.Run(t.Context(), inspect))
		id, pid, err := n.engine.Start(t.Context(), e.Role, e.Addr.String(), datapath.NetworkOverlay)
		t.Log(e.Role, id, pid, err)
	}
	for _, n := range p.nodes {
		look(n)
	}
}
