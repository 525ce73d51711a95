package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// tcStructures and xdpStructures are those that keep policies.
func tcStructures() []Structure {
	return []Structure{StructureLinear, StructureHash, StructureLPM, StructureCilium09}
}

func xdpStructures() []Structure { return []Structure{StructureLinear, StructureHash, StructureLPM} }

func (s Structure) name() string {
	return []string{"pass", "linear", "hash", "lpm", "cilium09"}[s]
}

// apply fills maps as the helper in a guest does: in batches where the kernel
// can, else one by one.
func (r *rig) apply(fills []Fill) {
	r.t.Helper()
	for _, f := range fills {
		m := r.coll.Maps[f.Map]
		keys, values := entriesOf(r.t, f, m)
		if f.Delete {
			for i := range keys.Len() {
				r.remove(f.Map, keys.Index(i).Bytes())
			}
			continue
		}
		k, v := packedBytes(keys, int(m.KeySize())), packedBytes(values, int(m.ValueSize()))
		_, err := m.BatchUpdate(k, v, nil)
		if errors.Is(err, ebpf.ErrNotSupported) { // tries before 5.13
			err = putEach(m, keys, values)
		}
		if err != nil {
			r.t.Fatalf("fill %s: %v", f.Map, err)
		}
	}
}

func putEach(m *ebpf.Map, keys, values reflect.Value) error {
	for i := range keys.Len() {
		if err := m.Put(keys.Index(i).Bytes(), values.Index(i).Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func entriesOf(t testing.TB, f Fill, m *ebpf.Map) (keys, values reflect.Value) {
	t.Helper()
	var ks, vs [][]byte
	for line := range strings.Lines(f.Lines) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		k, v := unhex(t, key), unhex(t, value)
		if len(k) != int(m.KeySize()) || len(v) != int(m.ValueSize()) {
			t.Fatalf("%s: an entry of %d and %d bytes, the map has %d and %d", f.Map, len(k), len(v), m.KeySize(), m.ValueSize())
		}
		ks, vs = append(ks, k), append(vs, v)
	}
	return reflect.ValueOf(ks), reflect.ValueOf(vs)
}

func packedBytes(items reflect.Value, size int) any {
	out := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(size, reflect.TypeFor[byte]())), items.Len(), items.Len())
	for i := range items.Len() {
		reflect.Copy(out.Index(i), items.Index(i))
	}
	return out.Interface()
}

// held counts what a map holds, as the helper does: of an array, the values that
// are not zero.
func (r *rig) held(name string) int {
	r.t.Helper()
	m := r.coll.Maps[name]
	if m.Type() != ebpf.Array {
		return r.entries(name)
	}
	n, value := 0, make([]byte, m.ValueSize())
	for i := range m.MaxEntries() {
		if err := m.Lookup(i, &value); err != nil {
			r.t.Fatalf("read %s: %v", name, err)
		}
		if slices.ContainsFunc(value, func(b byte) bool { return b != 0 }) {
			n++
		}
	}
	return n
}

// manyPolicies are n policies about others than the client, who is in the last.
func manyPolicies(n int, v6 bool) []Policy {
	ps := make([]Policy, n)
	for i := range ps {
		a := netip.AddrFrom4([4]byte{198, 19, byte(i >> 8), byte(i)})
		if v6 {
			b := netip.MustParseAddr("2001:2:0:19::").As16()
			b[14], b[15] = byte(i>>8), byte(i)
			a = netip.AddrFrom16(b)
		}
		if i == n-1 {
			a = frame{six: v6}.filled().src
		}
		ps[i] = Policy{Source: netip.PrefixFrom(a, a.BitLen()), Port: 5001, Proto: protoTCP}
	}
	return ps
}

// TestManyPolicies: every structure loads, takes 10 000 policies, holds them, and
// finds the last.
func TestManyPolicies(t *testing.T) {
	const n = 10000
	for _, v6 := range []bool{false, true} {
		for _, s := range tcStructures() {
			t.Run(fmt.Sprintf("tc/%s/v6=%v", s.name(), v6), func(t *testing.T) {
				ps := manyPolicies(n, v6)
				fills, err := TCFills(s, ps)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				r := loadGuard(t, s, ps, nil)
				loaded := time.Since(start)
				start = time.Now()
				r.apply(fills)
				t.Logf("loaded in %v, filled in %v", loaded, time.Since(start))
				r.holds(fills, TCTables(s, v6))
				r.want(ProgToEndpoint, frame{six: v6}.bytes(), actOK, StatAccepted)
				r.want(ProgToEndpoint, frame{six: v6, src: elsewhere}.bytes(), actShot, StatDropped)
			})
		}
		for _, s := range xdpStructures() {
			t.Run(fmt.Sprintf("xdp/%s/v6=%v", s.name(), v6), func(t *testing.T) {
				ps := manyPolicies(n, v6)
				fills, err := XDPFills(s, ps)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				r := loadXDPStructure(t, s, ps, nil)
				loaded := time.Since(start)
				start = time.Now()
				r.apply(fills)
				t.Logf("loaded in %v, filled in %v", loaded, time.Since(start))
				r.holds(fills, XDPTables(s, v6))
				r.want(ProgXDP, frame{six: v6}.bytes(), xdpPass, StatAccepted)
				r.want(ProgXDP, frame{six: v6, src: elsewhere}.bytes(), xdpDrop, StatDropped)
			})
		}
	}
}

// holds checks what maps hold against what fills promise.
func (r *rig) holds(fills []Fill, tables []string) {
	r.t.Helper()
	var names []string
	for _, f := range fills {
		names = append(names, f.Map)
		if got := r.held(f.Map); got != f.Entries {
			r.t.Errorf("map %s holds %d, want %d", f.Map, got, f.Entries)
		}
	}
	if !slices.Equal(names, tables) {
		r.t.Errorf("maps %q are filled, want %q", names, tables)
	}
}

// guardVars are what programs need of the server and its policies.
func guardVars(s Structure, ps []Policy, more map[string]any) map[string]any {
	vars := map[string]any{
		VarStructure: uint8(s), VarEnforce: uint8(1), VarWildcards: Wildcards(ps...),
		VarEndpointIP: [4]byte(IPKey(server)), VarEndpointIP6: [16]byte(IPKey(server6)),
	}
	for k, v := range more {
		vars[k] = v
	}
	delete(vars, roomForHits)
	return vars
}

// roomForHits is no variable, but how many policies are counted.
const roomForHits = "room for hits"

func room(more map[string]any) func(*ebpf.CollectionSpec) {
	return func(s *ebpf.CollectionSpec) {
		if n, ok := more[roomForHits].(uint32); ok {
			s.Maps[MapHits].MaxEntries, s.Maps[MapHitsShared].MaxEntries = n, n
		}
	}
}

func loadGuard(t testing.TB, s Structure, ps []Policy, more map[string]any) *rig {
	t.Helper()
	vars := guardVars(s, ps, more)
	if s == StructureCilium09 {
		ports, err := L4Ports(ps)
		if err != nil {
			t.Fatal(err)
		}
		vars[VarL4Ports] = [4 * MaxL4Ports]byte(ports)
	}
	return load(t, DatapathObject(), vars, smallConntrack, room(more))
}

func loadXDPStructure(t testing.TB, s Structure, ps []Policy, more map[string]any) *rig {
	t.Helper()
	return load(t, XDPObject(), guardVars(s, ps, more), room(more))
}

func smallConntrack(s *ebpf.CollectionSpec) {
	s.Maps[MapConntrack].MaxEntries = 8192
	s.Maps[MapConntrack6].MaxEntries = 8192
}
