package datapath

import (
	"slices"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// overlayArms are one arm of each fabric that has overlays.
func overlayArms() map[string]string {
	return map[string]string{FabricBridge: "iptables", FabricRouted: crossName(FabricRouted, "tc-hash"), FabricBPF: "cilium-like"}
}

// TestGoldenOverlay fixes what nodes get with an overlay between them.
func TestGoldenOverlay(t *testing.T) {
	for fabric, name := range overlayArms() {
		for _, endpoint := range []string{plan.EndpointNetns, plan.EndpointDocker} {
			for _, sum := range []string{udpcsumOn, udpcsumOff} {
				if (sum == udpcsumOff) != (endpoint == plan.EndpointDocker) {
					continue // one of each is enough
				}
				o := map[string]string{OptOverlay: overlayVXLAN, optUDPcsum: sum}
				golden(t, strings.Join([]string{"overlay", fabric, endpoint}, "-"), written(t, render(t, cellOf(t, name, plan.MultiHost, endpoint, 3, o))))
			}
		}
	}
}

// TestOverlayLeavesOthersAlone: an arm without an overlay is rendered as if there
// were none, whether it says so or not.
func TestOverlayLeavesOthersAlone(t *testing.T) {
	for _, d := range possible(true) {
		with := cellOf(t, d.Name, plan.MultiHost, plan.EndpointNetns, some(d), nil)
		without := plan.Cell{ID: with.ID, Factors: map[string]string{}, Files: with.Files}
		for k, v := range with.Factors {
			if k != OptOverlay && k != optUDPcsum {
				without.Factors[k] = v
			}
		}
		a, b := render(t, with), render(t, without)
		if written(t, a) != written(t, b) {
			t.Errorf("%s: %s = %q changes what is rendered", d.Name, OptOverlay, overlayNone)
		}
		if a.Tunnel != nil {
			t.Errorf("%s counts an overlay that it does not have", d.Name)
		}
	}
}

// TestOverlayIsNoFactorUnlessWritten: cells from before there were overlays keep
// their IDs.
func TestOverlayIsNoFactorUnlessWritten(t *testing.T) {
	for _, d := range possible(true) {
		for _, o := range d.Options {
			if o.Key == OptOverlay && !o.Silent || o.Key == optUDPcsum && o.Needs.Level != overlayVXLAN {
				t.Errorf("%s: option %s is a factor of every cell", d.Name, o.Key)
			}
		}
	}
}

// TestOverlayHasNoDirectPath: no step leads to the other node's endpoints but
// through the VXLAN device, and no link is larger than fits it.
func TestOverlayHasNoDirectPath(t *testing.T) {
	for _, d := range possible(true) {
		if !slices.ContainsFunc(d.Options, func(o plan.Option) bool { return o.Key == OptOverlay }) {
			continue
		}
		for _, endpoint := range []string{plan.EndpointNetns, plan.EndpointDocker} {
			// Where a filter is not refused.
			o := map[string]string{OptOverlay: overlayVXLAN, optUDPcsum: udpcsumOn, optWhere: whereEndpoint}
			s := render(t, cellOf(t, d.Name, plan.MultiHost, endpoint, some(d), o))
			sized := map[string]bool{}
			for _, st := range s.Apply {
				switch do := st.Do.(type) {
				case bundle.Route:
					if do.Link == DataLink {
						t.Errorf("%s: route to %s by the NIC", d.Name, do.Dst)
					}
				case bundle.AttachBPF:
					if do.Link == DataLink {
						t.Errorf("%s: a program at the NIC", d.Name)
					}
				case bundle.Veth:
					sized[do.PeerIn] = do.MTU == 1450
				case bundle.SetLink:
					if do.MTU == 1450 && st.In != "" {
						sized[st.In] = true
					}
				}
			}
			if !sized[Client] || !sized[Server] {
				t.Errorf("%s with %s endpoints: links have the overlay's MTU: %v", d.Name, endpoint, sized)
			}
			if s.Tunnel == nil || s.Tunnel.Node != s.Topology.Server.Node.Name {
				t.Errorf("%s: the overlay is counted at %+v", d.Name, s.Tunnel)
			}
		}
	}
}

// TestOverlayFitsTheCard: the endpoints' MTU follows that of the data network.
func TestOverlayFitsTheCard(t *testing.T) {
	for level, want := range map[string]int{"": 1450, "1400": 1350, "9000": 8950} {
		o := map[string]string{OptOverlay: overlayVXLAN, optUDPcsum: udpcsumOn, plan.FactorMTU: level}
		s := render(t, cellOf(t, "iptables", plan.MultiHost, plan.EndpointNetns, 0, o))
		for _, st := range s.Prove {
			if g, ok := st.Do.(bundle.Guard); ok && g.MTU != 0 && (g.Link == DataLink && g.MTU != want+50 || g.Link != DataLink && g.MTU != want) {
				t.Errorf("cards of MTU %q: %s is guarded to have MTU %d", level, g.Link, g.MTU)
			}
		}
	}
}

// TestOverlayOfManyClients: each client's probes are looked for under its own
// identity, and each endpoint's link is looked at.
func TestOverlayOfManyClients(t *testing.T) {
	o := map[string]string{OptOverlay: overlayVXLAN, optUDPcsum: udpcsumOn, plan.FactorClients: "3"}
	s := render(t, cellOf(t, "cilium-like", plan.MultiHost, plan.EndpointNetns, 10, o))
	vnis, guarded := map[string]bool{}, map[string]bool{}
	for _, st := range s.Prove {
		switch do := st.Do.(type) {
		case bundle.Expect:
			if strings.HasPrefix(do.Key, "vni.") {
				vnis[do.Key] = true
			}
		case bundle.Guard:
			if do.MTU != 0 && st.In != "" {
				guarded[st.In] = true
			}
		}
	}
	if len(vnis) != 5 { // three clients, a policy's source, and one that none names
		t.Errorf("the proof looks for identifiers %v, want 5", vnis)
	}
	if len(guarded) != 4 {
		t.Errorf("guarded endpoints %v, want 4", guarded)
	}
}

// TestTunnelCarriesIdentities: the proof expects the probes of each source under
// the identity that the policies have for it, and the sender's node has it too.
func TestTunnelCarriesIdentities(t *testing.T) {
	o := map[string]string{OptOverlay: overlayVXLAN, optUDPcsum: udpcsumOff}
	s := render(t, cellOf(t, "cilium-like", plan.MultiHost, plan.EndpointNetns, 3, o))
	want := map[string]uint64{"vni.258": 2, "vni.2": 1, "vni.257": 2} // client, unlisted, policy 2
	for _, st := range s.Prove {
		if e, ok := st.Do.(bundle.Expect); ok && strings.HasPrefix(e.Key, "vni.") {
			if e.Value != want[e.Key] {
				t.Errorf("proof expects %d of %s, want %d", e.Value, e.Key, want[e.Key])
			}
			delete(want, e.Key)
		}
	}
	if len(want) > 0 {
		t.Errorf("the proof does not look for %v", want)
	}
	filled := map[string]int{}
	for _, st := range s.Apply {
		if f, ok := st.Do.(bundle.FillMap); ok && f.Map == "identities" {
			filled[f.Handle]++ // the table, one more, one less
		}
	}
	if filled["tc@node1"] != 3 || filled["tc@node2"] != 3 {
		t.Errorf("tables of identities filled: %v", filled)
	}
}

func TestOverlayRefusals(t *testing.T) {
	for _, tc := range []struct {
		datapath, scenario string
		options            map[string]string
		want               string
	}{
		{"iptables", plan.Localhost, nil, `scenarios = ["multi-host"]`},
		{"iptables", plan.MultiHost, map[string]string{optFamily: familyIPv6}, `family = "ipv4"`},
		{"xdp", plan.MultiHost, nil, `where = "endpoint"`},
		{"xdp", plan.MultiHost, map[string]string{optWhere: whereNIC}, "outer packets only"},
		{"xdp", plan.MultiHost, map[string]string{optWhere: whereEndpoint}, ""},
		{"xdp-pass", plan.MultiHost, nil, "outer packets only"},
		{crossName(FabricBridge, "offloads-off"), plan.MultiHost, nil, "outer packets only"},
		{crossName(FabricBridge, filterXDPFilter), plan.MultiHost, nil, "outer packets only"},
		{crossName(FabricBridge, filterCustom), plan.MultiHost, map[string]string{keyApply: "a", keyCounters: "c", keyLink: DataLink}, "another link"},
		{"iptables", plan.MultiHost, map[string]string{optPlacement: placementForward}, ""},
		{"cilium-like", plan.MultiHost, nil, ""},
		{crossName(FabricVeth, "none"), plan.MultiHost, nil, "one link between two endpoints"},
	} {
		d := entryOf(t, tc.datapath)
		o := map[string]string{OptOverlay: overlayVXLAN, optUDPcsum: udpcsumOn}
		for k, v := range tc.options {
			o[k] = v
		}
		got := d.Refuse(plan.Lab{Provider: plan.ProviderLocal}, tc.scenario, cellOf(t, d.Name, tc.scenario, plan.EndpointNetns, 3, o).Factors)
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s %s %v: %q, want %q", tc.datapath, tc.scenario, tc.options, got, tc.want)
		}
	}
}
