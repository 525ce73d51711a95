package datapath

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// ciliumSetup is the setup of Cilium with N policies.
func ciliumSetup(t *testing.T, scenario string, n int, options map[string]string) Setup {
	t.Helper()
	return render(t, cellOf(t, "cilium", scenario, plan.EndpointNetns, n, options))
}

// stepsOf are the setup's actions of a kind.
func stepsOf[A bundle.Action](steps []bundle.Step) (out []A) {
	for _, st := range steps {
		if a, ok := st.Do.(A); ok {
			out = append(out, a)
		}
	}
	return out
}

func TestCiliumGoesWithNoOtherFilter(t *testing.T) {
	possible := 0
	for _, d := range Catalog() {
		of := d.Fabric == FabricCilium || d.Filter == filterCilium
		if of && d.Impossible == "" {
			possible++
			if d.Fabric != FabricCilium || d.Filter != filterCilium {
				t.Errorf("%s is possible", d.Name)
			}
		}
		for _, o := range d.Options {
			if !of && (o.Key == optRouting || o.Key == optHostRouting || o.Key == optAggregation) {
				t.Errorf("%s has the option %s", d.Name, o.Key)
			}
		}
	}
	if possible != 2 { // by its name, and by its fabric and filter
		t.Errorf("%d datapaths of Cilium are possible, want 2", possible)
	}
}

func TestCiliumRefusals(t *testing.T) {
	good := plan.Lab{Provider: plan.ProviderLibvirt, Clock: plan.ClockWall, Endpoint: plan.EndpointNetns, Memory: CiliumMemory}
	small, virtual, existing := good, good, good
	small.Memory, virtual.Clock = CiliumMemory-1, plan.ClockVirtual
	existing.Provider, existing.Inventory = plan.ProviderSSH, &plan.Inventory{}
	local := plan.Lab{Provider: plan.ProviderLocal, Clock: plan.ClockWall, Endpoint: plan.EndpointNetns}
	for _, c := range []struct {
		lab     plan.Lab
		options map[string]string
		want    string
	}{
		{good, nil, ""},
		{local, nil, ""},
		{small, nil, "memory_mib >= 2048"},
		{virtual, nil, `clock = "wall"`},
		{existing, nil, `provider = "libvirt"`},
		{good, map[string]string{optFamily: familyIPv6}, `family = "ipv4"`},
		{good, map[string]string{optAction: actionDeny}, `action = "allow"`},
		{good, map[string]string{optMatch: matchFirst}, "remove match"},
		{good, map[string]string{optDevice: deviceNetkit}, ""},
		{good, map[string]string{optDevice: deviceNetkit, optHostRouting: hostLegacy}, `host_routing = "bpf"`},
	} {
		d := entryOf(t, "cilium")
		options := map[string]string{}
		for _, o := range d.Options {
			options[o.Key] = o.Allowed[0]
		}
		for k, v := range c.options {
			options[k] = v
		}
		got := d.Refuse(c.lab, plan.Localhost, options)
		if got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%+v with %v: refused with %q, want %q", c.lab, c.options, got, c.want)
		}
	}
}

// TestCiliumPolicies: one spec for each policy that is installed, the clients' by label, and the
// number of entries that is then expected.
func TestCiliumPolicies(t *testing.T) {
	for _, kind := range []string{policyL4, policyL3, policyCIDR} {
		for _, n := range []int{1, 3, 1000} {
			s := ciliumSetup(t, plan.Localhost, n, map[string]string{optPolicy: kind})
			want := n + 1 // and the control connection's
			if kind == policyL3 {
				want = n
			}
			var got ciliumPolicy
			if err := json.Unmarshal(s.Files["policies.yaml"].Data, &got); err != nil {
				t.Fatal(err)
			}
			labels, prefixes := 0, map[string]bool{}
			for _, spec := range got.Specs {
				in := spec.Ingress[0]
				labels += len(in.FromEndpoints)
				for _, p := range in.FromCIDR {
					prefixes[p] = true
				}
				if (len(in.ToPorts) == 0) != (kind == policyL3) {
					t.Errorf("%s: ports are %v", kind, in.ToPorts)
				}
			}
			if len(got.Specs) != want || labels != want-n+1 || len(prefixes) != n-1 {
				t.Errorf("%s, N = %d: %d specs, %d by label, %d prefixes", kind, n, len(got.Specs), labels, len(prefixes))
			}
			entries := slices.DeleteFunc(stepsOf[bundle.Expect](s.Prove), func(e bundle.Expect) bool { return e.Key != bundle.CountPolicyEntries })
			if len(entries) != 1 || entries[0].Op != bundle.Equal || entries[0].Value != uint64(want+1) {
				t.Errorf("%s, N = %d: expects %+v, want exactly %d entries", kind, n, entries, want+1)
			}
		}
	}
}

func TestCiliumRefusesPoliciesItCannotSay(t *testing.T) {
	r := &renderer{Setup: Setup{Topology: Layout(cellOf(t, "cilium", plan.Localhost, plan.EndpointNetns, 1, nil))}}
	good := bpf.Policy{Source: netip.MustParsePrefix("198.19.0.0/30"), Port: 80, Proto: protoTCP}
	deny, host, other := good, good, good
	deny.Deny, host.Source, other.Proto = true, netip.MustParsePrefix("198.19.0.1/30"), 1
	for _, p := range []bpf.Policy{deny, host, other, {}} {
		if text, err := r.networkPolicies([]bpf.Policy{good, p}); err == nil {
			t.Errorf("%+v was written as %s", p, text)
		}
	}
}

// TestCiliumProves: with policies and without them the server must be ready, and sources that no
// endpoint has are tried from outside.
func TestCiliumProves(t *testing.T) {
	for _, n := range []int{0, 3} {
		s := ciliumSetup(t, plan.MultiHost, n, nil)
		if !slices.ContainsFunc(stepsOf[bundle.Expect](s.Prove), func(e bundle.Expect) bool { return e.Key == bundle.CountReady && e.Op == bundle.Equal && e.Value == 1 }) {
			t.Errorf("N = %d: nothing expects that the server is ready", n)
		}
		for _, st := range s.Prove {
			probes, ok := st.Do.(bundle.Probes)
			for _, p := range probes.Tries {
				if ok && (p.From == s.Topology.Client.Addr.String()) != (st.In == Client) {
					t.Errorf("N = %d: %q is tried from %s in %s", n, p.What, p.From, st.In)
				}
			}
		}
		if agents := stepsOf[bundle.CiliumReady](s.Apply); len(agents) != 2 {
			t.Errorf("%d agents for two nodes", len(agents))
		}
	}
}

// TestCiliumDevices: every endpoint is joined by what the option says.
func TestCiliumDevices(t *testing.T) {
	for device, want := range map[string]bool{deviceVeth: false, deviceNetkit: true} {
		s := ciliumSetup(t, plan.MultiHost, 0, map[string]string{optDevice: device})
		made := stepsOf[bundle.CiliumEndpoint](s.Apply)
		if len(made) != 2 || made[0].Netkit != want || made[1].Netkit != want {
			t.Errorf("%s: endpoints %+v", device, made)
		}
		if needs := stepsOf[bundle.NeedNetkit](s.Apply); (len(needs) == len(s.Topology.Nodes)) != want {
			t.Errorf("%s: %d of %d nodes must have netkit", device, len(needs), len(s.Topology.Nodes))
		}
	}
}

// TestCiliumOutside: sources that no endpoint has are tried from the client's node, and from the
// server's where a tunnel would lose what they are.
func TestCiliumOutside(t *testing.T) {
	for routing, want := range map[string]string{routingNative: "node1", routingVXLAN: "node2"} {
		s := ciliumSetup(t, plan.MultiHost, 3, map[string]string{optRouting: routing})
		made := slices.IndexFunc(s.Apply, func(st bundle.Step) bool {
			ns, ok := st.Do.(bundle.Netns)
			return ok && ns.Name == Outside
		})
		tried := slices.IndexFunc(s.Prove, func(st bundle.Step) bool { return st.In == Outside })
		if made < 0 || tried < 0 || s.Apply[made].Node != want || s.Prove[tried].Node != want {
			t.Errorf("%s: outside is not made and tried on %s", routing, want)
		}
	}
}

func TestCiliumFlags(t *testing.T) {
	argv := func(scenario string, options map[string]string, node int) []string {
		agents := slices.DeleteFunc(stepsOf[bundle.Daemon](ciliumSetup(t, scenario, 0, options).Apply), func(d bundle.Daemon) bool { return d.Root != bundle.RootCilium })
		return agents[node].Argv
	}
	for _, c := range []struct {
		argv []string
		want string
	}{
		{argv(plan.Localhost, nil, 0), "--devices=hb-out"},
		{argv(plan.MultiHost, nil, 0), "--devices=data0,hb-out"},
		{argv(plan.MultiHost, nil, 1), "--devices=data0"},
		{argv(plan.MultiHost, nil, 1), "--kvstore-opt=etcd.address=http://198.18.1.11:2379"},
		{argv(plan.Localhost, nil, 0), "--monitor-aggregation=medium"},
		{argv(plan.Localhost, map[string]string{optAggregation: "none"}, 0), "--monitor-aggregation=none"},
		{argv(plan.Localhost, map[string]string{optPolicyAccounting: switchOff}, 0), "--policy-accounting=false"},
		{argv(plan.Localhost, map[string]string{optHostRouting: hostLegacy}, 0), "--enable-host-legacy-routing=true"},
		{argv(plan.MultiHost, map[string]string{optRouting: routingVXLAN}, 0), "--routing-mode=tunnel"},
		{argv(plan.MultiHost, nil, 0), "--routing-mode=native"},
		{argv(plan.Localhost, nil, 0), "--datapath-mode=veth"},
		{argv(plan.Localhost, map[string]string{optDevice: deviceNetkit}, 0), "--datapath-mode=netkit-l2"},
		{argv(plan.Localhost, nil, 0), "--kube-proxy-replacement=true"},
		{argv(plan.Localhost, nil, 0), "--bpf-lb-sock-hostns-only=true"},
		{argv(plan.Localhost, map[string]string{optServiceLookup: lookupSocket}, 0), "--bpf-lb-sock-hostns-only=false"},
		{argv(plan.Localhost, map[string]string{optHostRouting: hostLegacy}, 0), "--kube-proxy-replacement=false"},
		{argv(plan.Localhost, map[string]string{optHostRouting: hostLegacy}, 0), "--bpf-lb-sock=false"},
		{argv(plan.Localhost, map[string]string{optHostRouting: hostLegacy, optServiceLookup: lookupSocket}, 0), "--bpf-lb-sock=true"},
	} {
		if !slices.Contains(c.argv, c.want) {
			t.Errorf("%s is not among %v", c.want, c.argv)
		}
	}
}

// TestCiliumCgroup: where nodes are namespaces of one computer, each agent has a cgroup of its own,
// and attaches there. A machine's root is its node's.
func TestCiliumCgroup(t *testing.T) {
	for provider, own := range map[string]bool{plan.ProviderLocal: true, plan.ProviderLibvirt: false} {
		cell := cellOf(t, "cilium", plan.MultiHost, plan.EndpointNetns, 0, nil)
		cell.Factors[plan.FactorProvider] = provider
		agents := slices.DeleteFunc(stepsOf[bundle.Daemon](render(t, cell).Apply), func(d bundle.Daemon) bool { return d.Root != bundle.RootCilium })
		for _, a := range agents {
			if a.Cgroup != own || slices.Contains(a.Argv, "--cgroup-root=/sys/fs/cgroup") != own {
				t.Errorf("%s: an agent has a cgroup of its own: %t, and %v", provider, a.Cgroup, a.Argv)
			}
		}
		if len(agents) != 2 {
			t.Errorf("%s: %d agents", provider, len(agents))
		}
	}
}

// TestCiliumModes: every agent must say that it is in the mode of each factor.
func TestCiliumModes(t *testing.T) {
	usual := bundle.CiliumModes{Within: bundle.HostBPF, Between: bundle.RoutedNative, Device: bundle.DeviceVeth}
	legacy, tunnel, netkit, socket := usual, usual, usual, usual
	legacy.Within, tunnel.Between, netkit.Device, socket.SocketLookup = bundle.HostStack, bundle.RoutedTunnel, bundle.DeviceNetkitL2, true
	for _, c := range []struct {
		key, level string
		want       bundle.CiliumModes
	}{
		{optHostRouting, hostBPF, usual},
		{optHostRouting, hostLegacy, legacy},
		{optRouting, routingVXLAN, tunnel},
		{optDevice, deviceNetkit, netkit},
		{optServiceLookup, lookupSocket, socket},
	} {
		for _, got := range stepsOf[bundle.CiliumReady](ciliumSetup(t, plan.MultiHost, 0, map[string]string{c.key: c.level}).Apply) {
			if got.Modes != c.want {
				t.Errorf("%s = %q: the agent must be in %+v, want %+v", c.key, c.level, got.Modes, c.want)
			}
		}
	}
}
