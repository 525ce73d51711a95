package bpf

import (
	"bytes"
	"encoding/hex"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

func TestEntries(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"IPKey", IPKey(addr("198.18.11.20")), "c6120b14"},
		{"IPKey mapped", IPKey(addr("::ffff:198.18.11.20")), "c6120b14"},
		{"IdentityValue", IdentityValue(0x01020304), "04030201"},
		{"PolicyKey", PolicyKey(256, 5001, 6), "0001000013890600"},
		{"PolicyKey any", PolicyKey(IdentityAny, 0, 0), "0000000000000000"},
		{"XDPPolicyKey", XDPPolicyKey(addr("198.18.11.10"), 5001, 17), "c6120b0a13891100"},
		{"XDPPolicyKey any", XDPPolicyKey(netip.Addr{}, 0, 0), "0000000000000000"},
		{"IPKey of IPv6", IPKey(addr("2001:2::1")), "20010002000000000000000000000001"},
		{"XDPPolicyKey of IPv6", XDPPolicyKey(addr("2001:2::1"), 5001, 17), "200100020000000000000000000000011389110000000000"},
		{"PolicyValue index", PolicyValue(true, 0x0102), "0100000002010000"},
		{"PolicyValue", PolicyValue(false, 0), "0000000000000000"},
		{"PolicyValue deny", PolicyValue(true, 0), "0100000000000000"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s = %s, want %s", c.name, got, c.want)
		}
	}
}

func TestEndpointLine(t *testing.T) {
	ip := netip.MustParseAddr("198.18.11.20")
	for _, c := range []struct{ got, want string }{
		{EndpointLine(ip, "hb-server", 2, "02:12:0b:14:00:01", "02:12:0b:14:00:02", true),
			"c6120b14 {ifindex:hb-server}0200000002120b14000102120b14000201000000"},
		{EndpointLine(ip, "peer:server/eth0", 0x10203, "{mac:eth0}", "{mac:peer:server/eth0}", false),
			"c6120b14 {ifindex:peer:server/eth0}03020100{mac:eth0}{mac:peer:server/eth0}00000000"},
		{EndpointLine(ip, "l", 0, "02-12-0B-14-00-01", "nonsense", false),
			"c6120b14 {ifindex:l}0000000002120b140001nonsense00000000"},
		{EndpointLine(as6(ip), "l", 0, "02-12-0B-14-00-01", "02-12-0B-14-00-02", true),
			"200100020000000000000000c6120b14 {ifindex:l}0000000002120b14000102120b14000201000000"},
	} {
		if c.got != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}
}

// mapShape is the type and the sizes of a map.
type mapShape struct {
	kind       ebpf.MapType
	key, value uint32
	entries    uint32
}

// promise is the content of an object.
type promise struct {
	name     string
	object   []byte
	programs map[string]ebpf.ProgramType
	maps     map[string]mapShape
	vars     map[string]uint32 // sizes
}

// TestObjectsAreAsPromised checks the names and sizes on which the renderer of
// bundles and the guest helper depend.
func TestObjectsAreAsPromised(t *testing.T) {
	array := func(value, entries uint32) mapShape { return mapShape{ebpf.Array, 4, value, entries} }
	hash := func(key, value uint32) mapShape { return mapShape{ebpf.Hash, key, value, 65536} }
	stats := mapShape{ebpf.PerCPUArray, 4, 16, Stats}
	tables := func(more map[string]mapShape) map[string]mapShape {
		all := map[string]mapShape{
			MapStats: stats, MapPolicy: hash(8, 8),
			MapTrie: {ebpf.LPMTrie, 12, 8, 65536}, MapTrie6: {ebpf.LPMTrie, 24, 8, 65536},
			MapList: array(8, 16384), MapList6: array(8, 16384),
			MapListMatch: array(16*ListBlock, 16384/ListBlock), MapListMatch6: array(40*ListBlock, 16384/ListBlock),
			MapHits: {ebpf.PerCPUArray, 4, 16, 1}, MapHitsShared: array(16, 1),
		}
		maps.Copy(all, more)
		return all
	}
	policyVars := map[string]uint32{
		VarStructure: 1, VarDefaultAdmit: 1, VarAccounting: 1, VarWildcards: 1,
		VarEndpointIP: 4, VarEndpointIP6: 16, VarEnforce: 1,
	}
	tcVars := map[string]uint32{VarEnforceNewOnly: 1, VarPolicyFirst: 1, VarUsePeer: 1, VarL4Ports: 4 * MaxL4Ports}
	maps.Copy(tcVars, policyVars)
	for _, c := range []promise{
		{"datapath", DatapathObject(),
			map[string]ebpf.ProgramType{
				ProgFromEndpoint: ebpf.SchedCLS, ProgFromNetdev: ebpf.SchedCLS, ProgToEndpoint: ebpf.SchedCLS, ProgTrack: ebpf.SchedCLS,
			},
			tables(map[string]mapShape{
				MapEndpoints: {ebpf.Hash, 4, 24, 1024}, MapEndpoints6: {ebpf.Hash, 16, 24, 1024},
				MapIdentities: hash(4, 4), MapIdentities6: hash(16, 4), MapAllowed: hash(4, 8),
				MapConntrack: {ebpf.LRUHash, 16, 16, 262144}, MapConntrack6: {ebpf.LRUHash, 40, 16, 262144},
			}),
			tcVars},
		{"xdp", XDPObject(),
			map[string]ebpf.ProgramType{ProgXDP: ebpf.XDP, ProgXDPPass: ebpf.XDP},
			tables(map[string]mapShape{MapPolicy6: hash(24, 8)}),
			policyVars},
		{"control", ControlObject(),
			map[string]ebpf.ProgramType{ProgControl: ebpf.SchedCLS},
			map[string]mapShape{MapStats: stats},
			map[string]uint32{VarSpin: 4}},
	} {
		t.Run(c.name, c.check)
	}
}

func (c promise) check(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(c.object))
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Programs) != len(c.programs) || len(spec.Variables) != len(c.vars) {
		t.Errorf("%d programs, %d variables, want %d and %d", len(spec.Programs), len(spec.Variables), len(c.programs), len(c.vars))
	}
	for name, kind := range c.programs {
		if p := spec.Programs[name]; p == nil || p.Type != kind {
			t.Errorf("program %s is %v, want a %v", name, p, kind)
		}
	}
	for name := range spec.Maps {
		if _, want := c.maps[name]; !want && !strings.HasPrefix(name, ".") {
			t.Errorf("map %s is not promised", name)
		}
	}
	for name, want := range c.maps {
		m := spec.Maps[name]
		if m == nil {
			t.Errorf("no map %s", name)
		} else if got := (mapShape{m.Type, m.KeySize, m.ValueSize, m.MaxEntries}); got != want {
			t.Errorf("map %s is %+v, want %+v", name, got, want)
		}
	}
	for name, size := range c.vars {
		if v := spec.Variables[name]; v == nil || v.Size() != size {
			t.Errorf("variable %s is %v, want %d bytes", name, v, size)
		}
	}
}

func TestTunnelLine(t *testing.T) {
	got := TunnelLine(netip.MustParsePrefix("198.18.12.7/24"), netip.MustParseAddr("198.18.1.12"))
	if want := "18000000c6120c00 0c0112c6"; got != want { // prefix length, network order; the CPU's order
		t.Errorf("%q, want %q", got, want)
	}
}

func TestIdentities(t *testing.T) {
	a, b := netip.MustParsePrefix("198.19.0.1/32"), netip.MustParsePrefix("198.19.0.2/32")
	ps := []Policy{{Source: a, Port: 1, Proto: 6}, {Source: b, Port: 1, Proto: 6}, {Source: a, Port: 2, Proto: 6}}
	for s, want := range map[Structure]int{StructureHash: 2, StructureCilium09: 2, StructureLinear: 0, StructureLPM: 0, StructurePass: 0} {
		got, err := Identities(s, ps)
		if err != nil || len(got) != want {
			t.Errorf("structure %d: %v, %v, want %d", s, got, err, want)
		}
		if want > 0 && (got[a.Addr()] != FirstIdentity || got[b.Addr()] != FirstIdentity+1) {
			t.Errorf("structure %d: %v", s, got)
		}
	}
	if _, err := Identities(StructureHash, []Policy{{Source: netip.MustParsePrefix("198.19.0.0/24")}}); err == nil {
		t.Error("a prefix has an identity")
	}
}
