package datapath

import (
	"strings"
	"testing"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/plan"
)

// TestObjectsOfUsersAreLookedInto: the catalog's entry finds in the object file
// what the setup would need of it, and blames the key that says it.
func TestObjectsOfUsersAreLookedInto(t *testing.T) {
	inspect := entryOf(t, crossName(FabricBridge, filterCustom)).Inspect
	for name, c := range map[string]struct {
		object  []byte
		options map[string]string
		spec    plan.Spec
		key     string
		want    string
	}{
		"ours":                  {bpf.XDPObject(), nil, plan.Spec{}, "", ""},
		"another program":       {bpf.XDPObject(), map[string]string{keyProgram: "nosuch"}, plan.Spec{}, keyProgram, `has no program "nosuch", only ["xdp_pass" "xdp_policy"]`},
		"at tc":                 {bpf.XDPObject(), map[string]string{optHook: bundle.HookTCXEgress}, plan.Spec{}, optHook, "makes it XDP, and this hook takes SchedCLS"},
		"tc, at generic XDP":    {bpf.DatapathObject(), map[string]string{keyProgram: bpf.ProgToEndpoint, optHook: bundle.HookXDPGeneric}, plan.Spec{}, optHook, "makes it SchedCLS, and this hook takes XDP"},
		"no object":             {[]byte("text"), nil, plan.Spec{}, "", "is no BPF object"},
		"filled":                {bpf.XDPObject(), map[string]string{optEntries: entriesHash}, plan.Spec{Policies: []int{0, 100}}, "", ""},
		"filled, IPv6":          {bpf.XDPObject(), map[string]string{optEntries: entriesTrie, optFamily: familyIPv6}, plan.Spec{Policies: []int{100}}, "", ""},
		"filled as tc's":        {bpf.DatapathObject(), map[string]string{keyProgram: bpf.ProgToEndpoint, optHook: bundle.HookTCIngress, optEntries: entriesHash}, plan.Spec{Policies: []int{100}}, "", ""},
		"without tables":        {bpf.ControlObject(), map[string]string{keyProgram: bpf.ProgControl, optHook: bundle.HookTCIngress, optEntries: entriesTrie}, plan.Spec{Policies: []int{1}}, "", `has no map "trie" to fill, only ["stats"]`},
		"more than it has room": {bpf.XDPObject(), map[string]string{optEntries: entriesHash}, plan.Spec{Policies: []int{10, 65520}, Clients: []int{1, 16}}, "", `has a map "policy" with room for 65536 entries, and the policies, the workload and the update need 65537`},
		"whose deny list fits":  {bpf.XDPObject(), map[string]string{optEntries: entriesHash, optAction: actionDeny}, plan.Spec{Policies: []int{65519}, Clients: []int{16}}, "", ""},
	} {
		arm := plan.Arm{Files: map[string]plan.File{keyObject: {Path: "own.o", Data: c.object}}, Options: map[string]string{
			keyProgram: bpf.ProgXDP, optHook: bundle.HookXDPNative, optEntries: entriesNone, optFamily: familyIPv4, optAction: actionAllow, optPolicy: policyL4,
		}}
		for k, v := range c.options {
			arm.Options[k] = v
		}
		got := inspect(c.spec, arm)
		switch {
		case c.want == "" && len(got) > 0:
			t.Errorf("%s: %+v", name, got)
		case c.want != "" && (len(got) != 1 || got[0].Key != c.key || got[0].File != keyObject || !strings.Contains(got[0].What, c.want)):
			t.Errorf("%s: %+v, want one about %q: %q", name, got, c.key, c.want)
		}
	}
	if got := inspect(plan.Spec{}, plan.Arm{Files: map[string]plan.File{keyApply: {Path: "a.sh"}}}); got != nil {
		t.Errorf("scripts have %+v", got)
	}
}

// TestRoomIsWhatASetupFills: the entries that users' maps must hold are
// those that a cell puts in, and one for the update.
func TestRoomIsWhatASetupFills(t *testing.T) {
	for _, action := range []string{actionAllow, actionDeny} {
		for _, kind := range []string{policyL3, policyL4} {
			for entries, tables := range map[string][]string{entriesHash: {bpf.MapPolicy}, entriesTrie: {bpf.MapTrie}, entriesList: {bpf.MapList, bpf.MapListMatch}} {
				o := map[string]string{optAction: action, optPolicy: kind}
				c := cellOf(t, crossName(FabricBridge, "xdp-hash"), plan.Localhost, plan.EndpointNetns, 100, o)
				c.Factors[plan.FactorClients] = "4"
				ps := policiesOf(c, Layout(c))
				fills, err := bpf.XDPFills(structures()[entries], append(ps.installed(Layout(c)), ps.extra(false)))
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range fills {
					room := roomOf(f.Map, plan.Spec{Policies: []int{100, 7}, Clients: []int{4, 1}}, plan.Arm{Options: o})
					if want := strings.Count(f.Lines, "\n"); int(room) != want {
						t.Errorf("%s, %s, map %s of %v: room for %d, want %d", action, kind, f.Map, tables, room, want)
					}
				}
			}
		}
	}
}
