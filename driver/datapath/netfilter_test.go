package datapath

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// nfCase is a section of a filter's golden file.
type nfCase struct {
	state, placement, family, policy string
	deny, docker                     bool
}

func (c nfCase) String() string {
	action, docker := "allow", ""
	if c.deny {
		action = "deny"
	}
	if c.docker {
		docker = " docker"
	}
	return fmt.Sprintf("%s %s %s %s %s%s", c.state, c.placement, c.family, c.policy, action, docker)
}

// nfCases has every level of every option next to the defaults, and every two
// that meet in the text of a rule.
func nfCases() []nfCase {
	var out []nfCase
	for _, state := range []string{stateAsStudy, stateEstablished, stateStateless} {
		for _, placement := range []string{placementInput, placementForward, placementBridge} {
			out = append(out,
				nfCase{state, placement, familyIPv4, policyL4, false, false},
				nfCase{state, placement, familyIPv6, policyL4, false, false})
		}
		out = append(out,
			nfCase{state, placementInput, familyIPv4, policyL4, true, false},
			nfCase{state, placementForward, familyIPv4, policyL3, true, false})
	}
	return append(out,
		nfCase{stateAsStudy, placementInput, familyIPv4, policyL3, false, false},
		nfCase{stateAsStudy, placementInput, familyIPv4, policyCIDR, false, false},
		nfCase{stateStateless, placementInput, familyIPv4, policyCIDR, true, false},
		nfCase{stateStateless, placementBridge, familyIPv4, policyL3, true, false},
		nfCase{stateStateless, placementBridge, familyIPv6, policyCIDR, false, false},
		nfCase{stateEstablished, placementInput, familyIPv6, policyL3, false, false},
		nfCase{stateStateless, placementForward, familyIPv6, policyCIDR, false, false},
		nfCase{stateAsStudy, placementForward, familyIPv4, policyL4, false, true},
		nfCase{stateStateless, placementForward, familyIPv4, policyL4, true, true})
}

// nfEndpoints are the addresses of the golden files, by family: the server, the
// client, two other sources, the one of the update, and the prefixes that
// replace the last four where policies are prefixes.
type nfEndpoints struct {
	server   string
	sources  [4]string
	prefixes [4]string
}

func nfAddresses(family string) nfEndpoints {
	if family == familyIPv6 {
		return nfEndpoints{"2001:2::1:3",
			[4]string{"2001:2::1:2", "2001:2:0:1::1", "2001:2:0:11::1", "2001:2:0:21::1"},
			[4]string{"2001:2::1:2/127", "2001:2:0:1::/64", "2001:2:0:10::/60", "2001:2:0:20::/62"}}
	}
	return nfEndpoints{"198.18.1.3",
		[4]string{"198.18.1.2", "198.19.0.1", "198.19.0.17", "198.19.0.33"},
		[4]string{"198.18.1.2/31", "198.19.0.0/28", "198.19.0.16/30", "198.19.0.32/29"}}
}

// ruleset is the rule set of a case: two policies that name others and the
// client's, or two that deny others.
func (c nfCase) ruleset(filter string) ruleset {
	at := nfAddresses(c.family)
	entryOf := func(i int, port uint16) entry {
		source := netip.PrefixFrom(netip.MustParseAddr(at.sources[i]), netip.MustParseAddr(at.sources[i]).BitLen())
		switch c.policy {
		case policyL3:
			return entry{Source: source}
		case policyCIDR:
			source = netip.MustParsePrefix(at.prefixes[i])
		}
		return entry{Source: source, Port: port, Proto: protoTCP}
	}
	extra := entryOf(3, ServicePort)
	rs := ruleset{
		Filter: filter, State: c.state, Placement: c.placement, Family: c.family, Policy: c.policy, Deny: c.deny, Docker: c.docker,
		Policies: []entry{entryOf(1, ServicePort), entryOf(2, ServicePort)}, Update: &extra, Server: netip.MustParseAddr(at.server),
	}
	if !c.deny {
		rs.Policies = append(rs.Policies, entryOf(0, ServicePort))
		if c.policy != policyL3 {
			rs.Policies = append(rs.Policies, entryOf(0, ControlPort))
		}
	}
	return rs
}

func nfFilters() []string {
	return []string{filterIptablesLegacy, filterIptablesNft, filterIpset, filterNftLinear, filterNftSet, filterNftVmap, filterNftInterval}
}

// TestNetfilterGolden fixes the text of every filter's rule sets. The helper's
// tests load them into a kernel.
func TestNetfilterGolden(t *testing.T) {
	for _, filter := range nfFilters() {
		t.Run(filter, func(t *testing.T) {
			var b strings.Builder
			for _, c := range nfCases() {
				if c.docker && strings.HasPrefix(filter, "nft-") {
					continue // the same: it is not in Docker's chains
				}
				fmt.Fprintf(&b, "=== %s\n", c)
				out, err := c.ruleset(filter).render()
				if err != nil {
					fmt.Fprintf(&b, "refused: %v\n", err)
					continue
				}
				out.write(t, &b)
			}
			compareGolden(t, "netfilter-"+filter, b.String())
		})
	}
}

func (out renderedRules) write(t *testing.T, b *strings.Builder) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"counter": out.Counter, "rules": out.Rules, "elements": out.Elements, "admits": out.Admits})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "%s\n", text)
	file := func(role string, f ruleFile) { fmt.Fprintf(b, "--- %s %s %s\n%s", role, f.Tool, f.Name, f.Data) }
	for _, s := range out.Steps {
		file("load", s.Load)
		file("undo", s.Undo)
	}
	file("update", out.Update)
	file("revert", out.Revert)
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from what is rendered (go test ./driver/datapath -update rewrites it):\n%s", path, got)
	}
}

// TestNetfilterSizes: a list has a rule for each policy and the frame; the
// others have one rule for all, and as many elements as there are policies.
func TestNetfilterSizes(t *testing.T) {
	frames := map[string]uint64{filterNftLinear: 2, filterNftSet: 3, filterNftVmap: 3, filterNftInterval: 3, filterIpset: 2, filterIptablesLegacy: 1, filterIptablesNft: 1}
	for _, filter := range nfFilters() {
		for _, n := range []int{1, 100, 10000} {
			rs := nfCase{stateAsStudy, placementInput, familyIPv4, policyL4, false, false}.ruleset(filter)
			rs.Policies = nil
			for i := range n {
				rs.Policies = append(rs.Policies, entry{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i)}), 32), ServicePort, protoTCP, 0})
			}
			rs.Update = nil
			out, err := rs.render()
			if err != nil {
				t.Fatal(err)
			}
			rules, elements := frames[filter], uint64(n)
			if len(out.Elements) == 0 {
				rules, elements = rules+uint64(n), 0
			}
			if out.Rules != rules || sumOf(out.Elements) != elements {
				t.Errorf("%s of %d: %d rules and elements %v, want %d and %d", filter, n, out.Rules, out.Elements, rules, elements)
			}
			if !reflect.DeepEqual(out.Update, ruleFile{}) || !reflect.DeepEqual(out.Revert, ruleFile{}) {
				t.Errorf("%s renders an update that was not asked for", filter)
			}
			load := string(out.Steps[0].Load.Data)
			if got := strings.Count(load, "198.19."); got != n {
				t.Errorf("%s of %d: the file names %d sources", filter, n, got)
			}
		}
	}
}

func sumOf(m map[string]uint64) (sum uint64) {
	for _, v := range m {
		sum += v
	}
	return sum
}

// TestNetfilterOfNothing: no policy, no rule, no table.
func TestNetfilterOfNothing(t *testing.T) {
	for _, filter := range nfFilters() {
		rs := nfCase{stateAsStudy, placementInput, familyIPv4, policyL4, false, false}.ruleset(filter)
		rs.Policies, rs.Update = nil, nil
		out, err := rs.render()
		if err != nil || len(out.Steps) != 0 {
			t.Errorf("%s of no policies has %d steps (%v)", filter, len(out.Steps), err)
		}
	}
}

// TestStatelessHasNoState: no rule looks at conntrack.
func TestStatelessHasNoState(t *testing.T) {
	for _, filter := range nfFilters() {
		for _, c := range nfCases() {
			out, err := c.ruleset(filter).render()
			if err != nil {
				continue
			}
			all := string(out.Update.Data)
			for _, s := range out.Steps {
				all += string(s.Load.Data)
			}
			tracked := strings.Contains(all, "conntrack") || strings.Contains(all, "ct state")
			if tracked != (c.state != stateStateless) {
				t.Errorf("%s, %s: asks for a connection's state: %v", filter, c, tracked)
			}
		}
	}
}

func TestNetfilterRefuses(t *testing.T) {
	base := func(filter string) ruleset {
		return nfCase{stateAsStudy, placementInput, familyIPv4, policyL4, false, false}.ruleset(filter)
	}
	cidrOf := func(filter string) ruleset {
		return nfCase{stateAsStudy, placementInput, familyIPv4, policyCIDR, false, false}.ruleset(filter)
	}
	with := func(rs ruleset, change func(*ruleset)) ruleset {
		change(&rs)
		return rs
	}
	host := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	for _, tc := range []struct {
		what string
		rs   ruleset
		want string
	}{
		{"prefixes in a set", cidrOf(filterNftSet), `write filter = "nft-interval"`},
		{"prefixes in a map", cidrOf(filterNftVmap), `write filter = "nft-interval"`},
		{"iptables at the bridge", with(base(filterIptablesLegacy), func(rs *ruleset) { rs.Placement = placementBridge }), `write placement = "forward"`},
		{"ipset at the bridge", with(base(filterIpset), func(rs *ruleset) { rs.Placement = placementBridge }), "bridge family"},
		{"overlap in ranges", with(cidrOf(filterNftInterval), func(rs *ruleset) {
			rs.Policies = append(rs.Policies, entry{host("198.19.0.0/16"), ServicePort, protoTCP, 0})
		}), "198.19.0.0/16 contains"},
		{"length 0 in an ipset", with(cidrOf(filterIpset), func(rs *ruleset) { rs.Policies[0].Source = host("0.0.0.0/0") }), "length 0"},
		{"a prefix where hosts are", with(base(filterIpset), func(rs *ruleset) { rs.Policies[0].Source = host("198.19.0.0/24") }), "single addresses"},
		{"bits behind the prefix", with(cidrOf(filterIpset), func(rs *ruleset) { rs.Policies[0].Source = host("198.19.0.1/24") }), "bits set behind"},
		{"another family", with(base(filterIpset), func(rs *ruleset) { rs.Policies[0].Source = host("2001:2::1/128") }), "family ipv4"},
		{"a server of another family", with(base(filterIpset), func(rs *ruleset) { rs.Family = familyIPv6 }), "server 198.18.1.3"},
		{"no port", with(base(filterIpset), func(rs *ruleset) { rs.Policies[0].Port = 0 }), "a port and its protocol"},
		{"no protocol", with(base(filterIpset), func(rs *ruleset) { rs.Policies[0].Proto = 1 }), "a port and its protocol"},
		{"two protocols in a set", with(base(filterNftSet), func(rs *ruleset) { rs.Policies[0].Proto = protoUDP }), "ports of one protocol, and the policies name udp and tcp"},
		{"a port in l3", with(base(filterNftSet), func(rs *ruleset) { rs.Policy = policyL3 }), "no port"},
		{"the update twice", with(base(filterNftSet), func(rs *ruleset) { rs.Update = &rs.Policies[1] }), "twice"},
		{"no such filter", base("nft-tree"), `filter "nft-tree", want one of iptables-legacy`},
		{"no such state", with(base(filterNftSet), func(rs *ruleset) { rs.State = "new" }), `state "new"`},
	} {
		if _, err := tc.rs.render(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.what, err, tc.want)
		}
	}
}

// TestOverlapAtAnotherPortIsNone: ranges of different ports are apart.
func TestOverlapAtAnotherPortIsNone(t *testing.T) {
	rs := nfCase{stateAsStudy, placementInput, familyIPv4, policyCIDR, false, false}.ruleset(filterNftInterval)
	rs.Policies = append(rs.Policies, entry{netip.MustParsePrefix("198.19.0.0/16"), 80, protoTCP, 0})
	if _, err := rs.render(); err != nil {
		t.Error(err)
	}
}
