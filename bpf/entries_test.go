package bpf

import (
	"bytes"
	"encoding/hex"
	"net/netip"
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
	} {
		if c.got != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}
}

// TestObjectsAreAsPromised holds the names and sizes that the renderer of
// bundles and the guest helper rely on.
func TestObjectsAreAsPromised(t *testing.T) {
	type table struct {
		kind       ebpf.MapType
		key, value uint32
		entries    uint32
	}
	policy, stats := table{ebpf.Hash, 8, 8, 16384}, table{ebpf.PerCPUArray, 4, 16, Stats}
	for _, c := range []struct {
		name     string
		object   []byte
		programs map[string]ebpf.ProgramType
		maps     map[string]table
		vars     map[string]uint32
	}{
		{"datapath", DatapathObject(),
			map[string]ebpf.ProgramType{ProgFromEndpoint: ebpf.SchedCLS, ProgFromNetdev: ebpf.SchedCLS},
			map[string]table{
				MapStats: stats, MapPolicy: policy,
				MapEndpoints:  {ebpf.Hash, 4, 24, 1024},
				MapIdentities: {ebpf.Hash, 4, 4, 16384},
				MapConntrack:  {ebpf.LRUHash, 16, 16, 262144},
			},
			map[string]uint32{VarEnforceNewOnly: 1, VarUsePeer: 1}},
		{"xdp", XDPObject(),
			map[string]ebpf.ProgramType{ProgXDP: ebpf.XDP, ProgXDPPass: ebpf.XDP},
			map[string]table{MapStats: stats, MapPolicy: policy},
			map[string]uint32{VarEndpointIP: 4, VarEnforce: 1}},
		{"control", ControlObject(),
			map[string]ebpf.ProgramType{ProgControl: ebpf.SchedCLS},
			map[string]table{MapStats: stats},
			map[string]uint32{VarSpin: 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
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
			for name, want := range c.maps {
				m := spec.Maps[name]
				if m == nil {
					t.Errorf("no map %s", name)
				} else if got := (table{m.Type, m.KeySize, m.ValueSize, m.MaxEntries}); got != want {
					t.Errorf("map %s is %+v, want %+v", name, got, want)
				}
			}
			for name, size := range c.vars {
				if v := spec.Variables[name]; v == nil || v.Size() != size {
					t.Errorf("variable %s is %v, want %d bytes", name, v, size)
				}
			}
		})
	}
}
