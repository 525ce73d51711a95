package datapath

import (
	"slices"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// swarmCell is a cell between containers that a Docker Swarm joins.
func swarmCell(t *testing.T, name string, n int, options map[string]string) plan.Cell {
	t.Helper()
	o := map[string]string{OptOverlay: OverlayDocker, optUDPcsum: "", optWhere: whereEndpoint}
	for k, v := range options {
		o[k] = v
	}
	return cellOf(t, name, plan.MultiHost, plan.EndpointDocker, n, o)
}

// TestGoldenSwarm fixes what nodes get where engines make the overlay.
func TestGoldenSwarm(t *testing.T) {
	golden(t, "overlay-bridge-swarm", written(t, render(t, swarmCell(t, "iptables", 3, nil))))
}

// TestSwarmLeavesTheNodeAlone: with any filter that is not refused, the engines
// make the links, nothing is attached to the node's own, and packets are counted in
// the engine's namespace, fragments at the node.
func TestSwarmLeavesTheNodeAlone(t *testing.T) {
	for _, d := range possible(true) {
		cell := swarmCell(t, d.Name, some(d), nil)
		if d.Refuse(vmLab(), plan.MultiHost, cell.Factors) != "" {
			continue
		}
		s := render(t, cell)
		if s.Network != NetworkOverlay {
			t.Errorf("%s: containers join %q", d.Name, s.Network)
		}
		if h := s.Tunnel; h == nil || h.In != sandbox || h.From.Link.Link != sandboxLink || !h.From.Link.Outer {
			t.Errorf("%s: the overlay is counted at %+v", d.Name, h)
		}
		for _, st := range s.Apply {
			switch do := st.Do.(type) {
			case bundle.Veth, bundle.Bridge, bundle.Vxlan, bundle.Addr, bundle.SetLink, bundle.Netns:
				t.Errorf("%s: step %+v makes what is the engine's", d.Name, st)
			case bundle.Route:
				if st.In != Server || do.Dst != otherSources4 {
					t.Errorf("%s: route %+v in %q", d.Name, do, st.In)
				}
			case bundle.AttachBPF:
				if st.In == "" {
					t.Errorf("%s: a program at link %s of the node", d.Name, do.Link)
				}
			}
		}
	}
}

// TestSwarmProof: outer packets are looked for at the Swarm's port and under its
// identifier, both engines are asked for the way to the other's endpoints, and the
// MTU of all is that of the cards less what VXLAN takes.
func TestSwarmProof(t *testing.T) {
	s := render(t, swarmCell(t, "iptables", 3, map[string]string{plan.FactorMTU: "1400", plan.FactorClients: "2"}))
	ways := map[string]int{}
	for _, st := range s.Apply {
		if do, ok := st.Do.(bundle.OverlayNetns); ok {
			ways[st.Node+" "+st.In] = len(do.Ways)
		}
	}
	if len(ways) != 2 || ways["node1 client"] != 1 || ways["node2 server"] != 2 {
		t.Errorf("engines are asked for %v", ways)
	}
	guarded := map[string]bool{}
	vni := false
	for _, st := range s.Prove {
		switch do := st.Do.(type) {
		case bundle.Sniff:
			if do.Port != SwarmPort || do.Link != DataLink || st.In != "" {
				t.Errorf("looks for %+v in %q", do, st.In)
			}
		case bundle.Expect:
			vni = vni || do.Key == "vni.4097" && do.Value == uint64(len(s.tries(t)))
			if strings.Contains(do.Key, "checksum") {
				t.Errorf("expects %+v, and an engine has no such option", do)
			}
		case bundle.Guard:
			if do.MTU != 0 {
				guarded[st.Node+" "+st.In+" "+do.Link] = do.MTU == map[bool]int{true: 1400, false: 1350}[do.Link == DataLink]
			}
		}
	}
	if !vni {
		t.Error("no probes are expected under the Swarm's identifier")
	}
	for _, at := range []string{"node1  data0", "node2  data0", "node1 sandbox vxlan0", "node2 sandbox vxlan0", "node1 client eth0", "node1 client2 eth0", "node2 server eth0"} {
		if !guarded[at] {
			t.Errorf("the MTU of %q is not guarded, or another: %v", at, guarded)
		}
	}
}

// tries are the probes of a setup.
func (s Setup) tries(t *testing.T) (out []bundle.Probe) {
	t.Helper()
	for _, st := range s.Prove {
		switch do := st.Do.(type) {
		case bundle.Probes:
			out = append(out, do.Tries...)
		case bundle.Parallel:
			for _, one := range do.Steps {
				out = append(out, one.Do.(bundle.Probes).Tries...)
			}
		}
	}
	return out
}

// TestSwarmSubnet: all endpoints are in the overlay network's subnet, each under
// an address of its own, and nothing else of a lab is.
func TestSwarmSubnet(t *testing.T) {
	subnet := SwarmSubnet()
	seen := map[string]bool{subnet.Addr().Next().String(): true} // the gateway's
	top := Layout(swarmCell(t, "iptables", 100, map[string]string{plan.FactorClients: "16"}))
	for _, e := range top.Endpoints() {
		if !subnet.Contains(e.Addr) || seen[e.Addr.String()] {
			t.Errorf("%s has %s, which is not in %s or taken", e.Role, e.Addr, subnet)
		}
		seen[e.Addr.String()] = true
	}
	for _, n := range []Node{NodeAt(1), NodeAt(2)} {
		if subnet.Overlaps(n.Subnet) || subnet.Contains(n.Data) {
			t.Errorf("%s holds addresses of %s", subnet, n.Name)
		}
	}
	if subnet != subnet.Masked() || subnet.Overlaps(otherSources(false)) {
		t.Errorf("%s is no prefix, or holds sources that policies name", subnet)
	}
}

func vmLab() plan.Lab {
	return plan.Lab{Provider: plan.ProviderLibvirt, Endpoint: plan.EndpointDocker, Clock: plan.ClockWall, VCPUs: 2, Queues: 4}
}

func TestSwarmRefusals(t *testing.T) {
	local, ssh, virtual, bare, apart, one := vmLab(), vmLab(), vmLab(), vmLab(), vmLab(), vmLab()
	apart.Hypervisors, one.Hypervisors = make([]plan.Hypervisor, 2), make([]plan.Hypervisor, 1)
	local.Provider, ssh.Provider, virtual.Clock, bare.Endpoint = plan.ProviderLocal, plan.ProviderSSH, plan.ClockVirtual, plan.EndpointNetns
	for _, tc := range []struct {
		datapath, scenario string
		lab                plan.Lab
		options            map[string]string
		want               string
	}{
		{"iptables", plan.MultiHost, vmLab(), nil, ""},
		{"docker", plan.MultiHost, vmLab(), nil, ""},
		{crossName(fabricBridge, filterIpset), plan.MultiHost, vmLab(), nil, ""},
		{crossName(fabricBridge, filterNftVmap), plan.MultiHost, vmLab(), nil, ""},
		{"xdp", plan.MultiHost, vmLab(), map[string]string{optWhere: whereEndpoint}, ""},
		{"iptables", plan.MultiHost, local, nil, `write provider = "libvirt", or overlay = "vxlan"`},
		{"iptables", plan.MultiHost, ssh, nil, `nodes of provider "ssh"`},
		{"iptables", plan.MultiHost, virtual, nil, `write clock = "wall"`},
		{"iptables", plan.MultiHost, one, nil, ""},
		{"iptables", plan.MultiHost, apart, nil, "place all nodes on one hypervisor"},
		{"iptables", plan.MultiHost, bare, nil, `write endpoint = "docker"`},
		{"iptables", plan.Localhost, vmLab(), nil, `scenarios = ["multi-host"]`},
		{"iptables", plan.MultiHost, vmLab(), map[string]string{optFamily: familyIPv6}, `family = "ipv4"`},
		{"iptables", plan.MultiHost, vmLab(), map[string]string{optPlacement: placementForward}, `write placement = "input"`},
		{crossName(fabricBridge, filterNftLinear), plan.MultiHost, vmLab(), map[string]string{optPlacement: placementBridge}, `write placement = "input"`},
		{"cilium-like", plan.MultiHost, vmLab(), nil, `write fabric = "bridge"`},
		{crossName(fabricRouted, "none"), plan.MultiHost, vmLab(), nil, `write fabric = "bridge"`},
		{"xdp", plan.MultiHost, vmLab(), nil, "UDP port 4788"},
		{crossName(fabricBridge, filterBPFilter), plan.MultiHost, vmLab(), map[string]string{optHook: hookForward}, `write hook = "input"`},
		{crossName(fabricBridge, filterCustom), plan.MultiHost, vmLab(), map[string]string{keyApply: "a", keyCounters: "c", keyRemove: "r", optIn: inNode}, `write in = "server"`},
	} {
		d := entryOf(t, tc.datapath)
		o := map[string]string{OptOverlay: OverlayDocker}
		for k, v := range tc.options {
			o[k] = v
		}
		got := d.Refuse(tc.lab, tc.scenario, cellOf(t, d.Name, tc.scenario, plan.EndpointDocker, 3, o).Factors)
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s %s %+v %v: %q, want %q", tc.datapath, tc.scenario, tc.lab, tc.options, got, tc.want)
		}
	}
}

// TestSwarmIsOnEveryFabricsList: where it is refused, the reason is told.
func TestSwarmIsOnEveryFabricsList(t *testing.T) {
	for _, d := range possible(true) {
		for _, o := range d.Options {
			if o.Key == OptOverlay && !slices.Contains(o.Allowed, OverlayDocker) {
				t.Errorf("%s does not know overlay = %q", d.Name, OverlayDocker)
			}
		}
	}
}
