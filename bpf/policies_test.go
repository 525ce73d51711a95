package bpf

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// object is one of the two that keep policies, guarding the server.
type object struct {
	name       string
	structures []Structure
	program    string
	admit      uint32
	drop       uint32
	fills      func(Structure, []Policy) ([]Fill, error)
	update     func(Structure, []Policy, Policy) (add, remove []Fill, err error)
	load       func(testing.TB, Structure, []Policy, map[string]any) *rig
}

func objects() []object {
	return []object{
		{"tc", tcStructures(), ProgToEndpoint, actOK, actShot, TCFills, TCUpdate, loadGuard},
		{"xdp", xdpStructures(), ProgXDP, xdpPass, xdpDrop, XDPFills, XDPUpdate, loadXDPStructure},
	}
}

// eachObject runs f for every object, structure and family.
func eachObject(t *testing.T, f func(t *testing.T, o object, s Structure, six bool)) {
	for _, o := range objects() {
		for _, s := range o.structures {
			for _, six := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/v6=%v", o.name, s.name(), six), func(t *testing.T) { f(t, o, s, six) })
			}
		}
	}
}

// filled loads an object and fills it.
func (o object) filled(t *testing.T, s Structure, ps []Policy, vars map[string]any) *rig {
	t.Helper()
	r := o.load(t, s, ps, vars)
	fills, err := o.fills(s, ps)
	if err != nil {
		t.Fatal(err)
	}
	r.apply(fills)
	return r
}

// judges requires that a frame of an unknown connection is admitted or dropped.
func (o object) judges(r *rig, f frame, admitted bool) {
	r.t.Helper()
	if r.coll.Maps[MapConntrack] != nil {
		r.forget()
	}
	if admitted {
		r.want(o.program, f.bytes(), o.admit, StatAccepted)
	} else {
		r.want(o.program, f.bytes(), o.drop, StatDropped)
	}
}

// sources of a family: four that no other test uses.
func someone(i int, six bool) netip.Addr {
	a := netip.AddrFrom4([4]byte{198, 19, 50, byte(i)})
	if six {
		return as6(a)
	}
	return a
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// TestEachKindOfPolicy: N policies that admit, of sources and ports or of
// sources; each is found, whatever its place, and nothing else.
func TestEachKindOfPolicy(t *testing.T) {
	const n = 40 // more than two blocks of a list
	eachObject(t, func(t *testing.T, o object, s Structure, six bool) {
		for _, port := range []uint16{5001, 0} {
			var ps []Policy
			for i := range n {
				p := Policy{Source: host(someone(i, six)), Port: port}
				if port != 0 {
					p.Proto = protoTCP
				}
				ps = append(ps, p)
			}
			r := o.filled(t, s, ps, nil)
			for i := range n {
				f := frame{six: six, src: someone(i, six)}
				o.judges(r, f, true)
				f.dport = 5002
				o.judges(r, f, port == 0)
				f.proto = protoUDP
				o.judges(r, f, port == 0)
			}
			o.judges(r, frame{six: six, src: someone(n, six)}, false)
		}
	})
}

// TestDenyLists: what is named is denied, everything else admitted; what cannot
// be read is dropped all the same.
func TestDenyLists(t *testing.T) {
	const n = 40
	eachObject(t, func(t *testing.T, o object, s Structure, six bool) {
		if s == StructureCilium09 {
			t.Log("cannot deny: TestWhatCannotBeSaid")
			return
		}
		var ps []Policy
		for i := range n {
			ps = append(ps, Policy{Source: host(someone(i, six)), Port: 5001, Proto: protoTCP, Deny: true})
		}
		r := o.filled(t, s, ps, map[string]any{VarDefaultAdmit: uint8(1)})
		for i := range n {
			o.judges(r, frame{six: six, src: someone(i, six)}, false)
			o.judges(r, frame{six: six, src: someone(i, six), dport: 5002}, true)
		}
		o.judges(r, frame{six: six, src: someone(n, six)}, true)
		cut := frame{six: six, src: someone(n, six)}.bytes()
		r.want(o.program, cut[:len(cut)-1], o.drop, StatDropped)
		r.want(o.program, frame{six: six, tags: []uint16{etherVLAN}}.bytes(), o.drop, StatDropped)
	})
}

// TestPrefixes: in a trie the longest prefix decides, wherever it is and
// whether it is about the port or about any; in a list the first.
func TestPrefixes(t *testing.T) {
	for _, o := range objects() {
		for _, s := range []Structure{StructureLinear, StructureLPM} {
			for _, six := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/v6=%v", o.name, s.name(), six), func(t *testing.T) { o.prefixes(t, s, six) })
			}
		}
	}
}

func (o object) prefixes(t *testing.T, s Structure, six bool) {
	around := func(host int) netip.Prefix {
		a := someone(64, six)
		return netip.PrefixFrom(a, a.BitLen()-host).Masked()
	}
	tcp := func(p netip.Prefix, deny bool) Policy {
		return Policy{Source: p, Port: 5001, Proto: protoTCP, Deny: deny}
	}
	r := o.filled(t, s, []Policy{
		tcp(around(4), false),                            // 64 to 79
		tcp(around(2), true),                             // 64 to 67, by a longer prefix
		{Source: around(1), Deny: false},                 // 64 and 65, any port
		{Source: around(0), Deny: true},                  // 64
		tcp(around(0), false),                            // 64 on the port
		tcp(netip.PrefixFrom(around(0).Addr(), 0), true), // everyone on the port
	}, nil)
	longest := s == StructureLPM
	for i, admitted := range map[int]bool{63: false, 64: true, 65: true, 66: !longest, 67: !longest, 68: true, 79: true, 80: false} {
		o.judges(r, frame{six: six, src: someone(i, six)}, admitted)
	}
	o.judges(r, frame{six: six, src: someone(64, six), dport: 9}, !longest)
	o.judges(r, frame{six: six, src: someone(65, six), dport: 9}, true)
	o.judges(r, frame{six: six, src: someone(66, six), dport: 9}, false)
}

// TestUpdate: one policy more and one less, step by step. No step changes what
// others meet, and the maps hold what is documented.
func TestUpdate(t *testing.T) {
	for _, n := range []int{1, 15, 16, 17} { // around the end of a block
		eachObject(t, func(t *testing.T, o object, s Structure, six bool) {
			var ps []Policy
			for i := range n {
				ps = append(ps, Policy{Source: host(someone(i, six)), Port: 5001, Proto: protoTCP})
			}
			extra := Policy{Source: host(someone(n, six)), Port: 5001, Proto: protoTCP}
			add, remove, err := o.update(s, ps, extra)
			if err != nil || len(add) == 0 || len(add) != len(remove) {
				t.Fatalf("%d and %d steps: %v", len(add), len(remove), err)
			}
			r := o.filled(t, s, ps, nil)
			check := func(f Fill) {
				t.Helper()
				if f.Map == "" {
					return
				}
				if got := r.held(f.Map); got != f.Entries {
					t.Errorf("%s holds %d, want %d", f.Map, got, f.Entries)
				}
			}
			step := func(f Fill, admitted bool) {
				t.Helper()
				r.apply([]Fill{f})
				check(f)
				for i := range n {
					o.judges(r, frame{six: six, src: someone(i, six)}, true)
				}
				o.judges(r, frame{six: six, src: someone(n+1, six)}, false)
				o.judges(r, frame{six: six, src: someone(n, six)}, admitted)
			}
			for range 2 { // it leaves things as they were
				for i, f := range add {
					step(f, i == len(add)-1)
				}
				for _, f := range remove {
					step(f, false)
				}
			}
		})
	}
}

// TestTornRule: a rule of a list that is half written, in any way, changes
// nothing for others and admits no source.
func TestTornRule(t *testing.T) {
	for _, o := range objects() {
		for _, six := range []bool{false, true} {
			ps := []Policy{{Source: host(someone(0, six)), Port: 5001, Proto: protoTCP}}
			add, _, err := o.update(StructureLinear, ps, Policy{Source: host(someone(1, six)), Port: 5001, Proto: protoTCP})
			if err != nil {
				t.Fatal(err)
			}
			r := o.filled(t, StructureLinear, ps, nil)
			key, value, _ := strings.Cut(strings.TrimSuffix(add[0].Lines, "\n"), " ")
			block := unhex(t, value)
			size := len(block) / ListBlock
			for written := range 1 << (size / 4) { // words of the second rule, in any order
				torn := slices.Clone(block)
				for word := range size / 4 {
					if written>>word&1 == 0 {
						clear(torn[size+4*word : size+4*word+4])
					}
				}
				r.put(add[0].Map, unhex(t, key), torn)
				o.judges(r, frame{six: six, src: someone(0, six)}, true)
				o.judges(r, frame{six: six, src: someone(1, six)}, false)
				o.judges(r, frame{six: six, src: someone(2, six)}, false)
			}
		}
	}
}

// TestAccounting: what meets a policy is counted at its index, once, in the map
// that is looked up.
func TestAccounting(t *testing.T) {
	eachObject(t, func(t *testing.T, o object, s Structure, six bool) {
		const n = 5
		var ps []Policy
		for i := range n {
			ps = append(ps, Policy{Source: host(someone(i, six)), Port: 5001, Proto: protoTCP})
		}
		for accounting := range uint8(3) {
			r := loadAccounting(t, o, s, ps, map[string]any{VarAccounting: accounting})
			f := frame{six: six, src: someone(3, six)}
			for range 3 {
				o.judges(r, f, true)
			}
			o.judges(r, frame{six: six, src: someone(n, six)}, false)
			for i := range uint32(n) {
				want := stat{}
				if i == 3 {
					want = stat{3, 3 * uint64(len(f.bytes()))}
				}
				perCPU, shared := r.hits(i)
				if wantPerCPU := accounting == 1; (perCPU == want) != (wantPerCPU || i != 3) || (shared == want) != (accounting == 2 || i != 3) {
					t.Errorf("accounting %d, policy %d: %+v per CPU, %+v shared", accounting, i, perCPU, shared)
				}
			}
		}
	})
}

func loadAccounting(t *testing.T, o object, s Structure, ps []Policy, vars map[string]any) *rig {
	t.Helper()
	vars[roomForHits] = uint32(len(ps))
	r := o.load(t, s, ps, vars)
	fills, err := o.fills(s, ps)
	if err != nil {
		t.Fatal(err)
	}
	r.apply(fills)
	return r
}

// hits reads a policy's counters.
func (r *rig) hits(index uint32) (perCPU, shared stat) {
	r.t.Helper()
	var cpus []stat
	if err := r.coll.Maps[MapHits].Lookup(index, &cpus); err != nil {
		r.t.Fatal(err)
	}
	for _, c := range cpus {
		perCPU.Packets += c.Packets
		perCPU.Bytes += c.Bytes
	}
	if err := r.coll.Maps[MapHitsShared].Lookup(index, &shared); err != nil {
		r.t.Fatal(err)
	}
	return perCPU, shared
}

// TestCilium09: sources by identity, ports for all of them, and those only when
// a connection is opened.
func TestCilium09(t *testing.T) {
	for _, w := range enforceWhen() { // of which the last changes nothing
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/v6=%v", w.name, six), func(t *testing.T) { cilium09(t, w, six) })
		}
	}
}

func cilium09(t *testing.T, w when, six bool) {
	a, b := someone(1, six), someone(2, six)
	ps := []Policy{{Source: host(a), Port: 5001, Proto: protoTCP}, {Source: host(b), Port: 53, Proto: protoUDP}, {Source: host(a), Port: 12865, Proto: protoTCP}}
	o := objects()[0]
	r := loadAccounting(t, o, StructureCilium09, ps, w.with(map[string]any{VarAccounting: uint8(1)}))
	fills, err := TCFills(StructureCilium09, ps)
	if err != nil {
		t.Fatal(err)
	}
	r.holds(fills, TCTables(StructureCilium09, six))
	for _, src := range []netip.Addr{a, b} { // every port is everybody's
		o.judges(r, frame{six: six, src: src}, true)
		o.judges(r, frame{six: six, src: src, dport: 12865}, true)
		o.judges(r, frame{six: six, src: src, proto: protoUDP, dport: 53}, true)
		o.judges(r, frame{six: six, src: src, dport: 53}, false)
	}
	o.judges(r, frame{six: six, src: someone(3, six)}, false)
	before, _ := r.hits(0)
	opened := frame{six: six, src: a, flags: tcpSYN}
	o.judges(r, opened, true)
	r.remove(MapAllowed, IdentityValue(FirstIdentity))
	opened.flags = tcpACK
	if w.newOnly == 1 {
		r.want(ProgToEndpoint, opened.bytes(), actOK, StatAccepted)
	} else {
		r.want(ProgToEndpoint, opened.bytes(), actShot, StatDropped)
	}
	if after, _ := r.hits(0); after.Packets != before.Packets+1 {
		t.Errorf("%d packets counted, want %d", after.Packets, before.Packets+1)
	}
	r.put(MapAllowed, IdentityValue(FirstIdentity), PolicyValue(false, 0))
	r.want(ProgToEndpoint, opened.bytes(), actOK, StatAccepted)
	if after, _ := r.hits(0); after.Packets != before.Packets+2 {
		t.Errorf("%d packets counted, want %d: it asks even if it does not matter", after.Packets, before.Packets+2)
	}
}

// TestAbsentKinds: a kind of policies that is declared absent is not looked for.
func TestAbsentKinds(t *testing.T) {
	eachObject(t, func(t *testing.T, o object, s Structure, six bool) {
		if s == StructureLinear || s == StructureCilium09 {
			return // they look at everything they hold
		}
		exact := Policy{Source: host(someone(1, six)), Port: 5001, Proto: protoTCP}
		anyPort := Policy{Source: host(someone(2, six))}
		for _, kinds := range []byte{Wildcards(exact), Wildcards(anyPort), Wildcards(exact, anyPort)} {
			r := o.filled(t, s, []Policy{exact, anyPort}, map[string]any{VarWildcards: kinds})
			o.judges(r, frame{six: six, src: someone(1, six)}, kinds&kindExact != 0)
			o.judges(r, frame{six: six, src: someone(2, six)}, kinds&kindAnyPort != 0)
		}
	})
}

func TestWildcards(t *testing.T) {
	any4, one := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("198.18.0.1/32")
	for _, c := range []struct {
		ps   []Policy
		want byte
	}{
		{nil, 0},
		{[]Policy{{Source: one, Port: 1, Proto: 6}}, 1},
		{[]Policy{{Source: one}}, 2},
		{[]Policy{{Source: any4, Port: 1, Proto: 6}}, 4},
		{[]Policy{{Source: any4}}, 8},
		{[]Policy{{Source: one, Proto: 1}, {Source: any4}}, 9},
	} {
		if got := Wildcards(c.ps...); got != c.want {
			t.Errorf("Wildcards(%v) = %d, want %d", c.ps, got, c.want)
		}
	}
}

// TestLines holds what a helper is given.
func TestLines(t *testing.T) {
	one, net6 := netip.MustParsePrefix("198.18.11.10/32"), netip.MustParsePrefix("2001:2::ff/124")
	ps := []Policy{{Source: one, Port: 5001, Proto: 6}, {Source: one, Deny: true}, {Source: net6, Port: 53, Proto: 17}}
	zeros := func(n int) string { return strings.Repeat("0", 2*n) }
	for _, c := range []struct {
		s    Structure
		ps   []Policy
		want []Fill
	}{
		{StructureHash, ps[:2], []Fill{
			{Map: MapIdentities, Lines: "c6120b0a 00010000\n", Entries: 1},
			{Map: MapPolicy, Lines: "0001000013890600 0000000000000000\n0001000000000000 0100000001000000\n", Entries: 2},
		}},
		{StructureLPM, ps, []Fill{
			{Map: MapTrie, Lines: "4000000013890600c6120b0a 0020000000000000\n4000000000000000c6120b0a 0120000001000000\n", Entries: 2},
			{Map: MapTrie6, Lines: "9c00000000351100200100020000000000000000000000f0 007c000002000000\n", Entries: 1},
		}},
		{StructureLinear, ps, []Fill{
			{Map: MapListMatch, Lines: "00000000 c6120b0a13890600ffffffffffffff00c6120b0a00000000ffffffff00000000" + zeros(14*16) + "\n", Entries: 1},
			{Map: MapList, Lines: "00000000 0100000000000000\n01000000 0300000001000000\n", Entries: 2},
			{Map: MapListMatch6, Lines: "00000000 200100020000000000000000000000f0fffffffffffffffffffffffffffffff000351100ffffff00" + zeros(15*40) + "\n", Entries: 1},
			{Map: MapList6, Lines: "00000000 0100000002000000\n", Entries: 1},
		}},
		{StructureCilium09, []Policy{ps[0], {Source: one, Port: 12865, Proto: 6}}, []Fill{
			{Map: MapIdentities, Lines: "c6120b0a 00010000\n", Entries: 1},
			{Map: MapAllowed, Lines: "00010000 0000000000000000\n", Entries: 1},
		}},
	} {
		got, err := TCFills(c.s, c.ps)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", c.s.name(), err, got, c.want)
		}
	}
	got, err := XDPFills(StructureHash, ps[:1])
	if want := []Fill{{Map: MapPolicy, Lines: "c6120b0a13890600 0000000000000000\n", Entries: 1}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("xdp hash: %v\ngot  %+v\nwant %+v", err, got, want)
	}
	ports, err := L4Ports(ps)
	if want := "13890600" + "00351100" + zeros(56); err != nil || hex.EncodeToString(ports) != want {
		t.Errorf("L4Ports = %x, want %s: %v", ports, want, err)
	}
}

// TestWhatCannotBeSaid: a structure refuses what it cannot express.
func TestWhatCannotBeSaid(t *testing.T) {
	one, net := netip.MustParsePrefix("198.18.11.10/32"), netip.MustParsePrefix("198.18.11.0/24")
	everything := []Structure{StructureHash, StructureLPM, StructureCilium09}
	for _, c := range []struct {
		name    string
		ps      []Policy
		refused []Structure
	}{
		{"a prefix", []Policy{{Source: net}}, []Structure{StructureHash, StructureCilium09}},
		{"deny", []Policy{{Source: one, Deny: true}}, []Structure{StructureCilium09}},
		{"no source", []Policy{{Port: 5001, Proto: 6}}, everything},
		{"a port of any protocol", []Policy{{Source: one, Port: 5001}}, everything},
		{"any port of TCP", []Policy{{Source: one, Proto: 6}}, everything},
		{"anyone", []Policy{{Source: netip.MustParsePrefix("0.0.0.0/0")}}, []Structure{StructureCilium09}},
		{"the same twice", []Policy{{Source: one}, {Source: one, Deny: true}}, everything},
	} {
		for _, s := range everything {
			_, err := TCFills(s, c.ps)
			if refused := slices.Contains(c.refused, s); (err != nil) != refused {
				t.Errorf("%s in %s: error %v, want one: %v", c.name, s.name(), err, refused)
			}
		}
	}
	if _, err := XDPFills(StructureCilium09, nil); err == nil {
		t.Error("XDP takes the structure of 2017")
	}
	tcp := []Policy{{Source: one, Port: 5001, Proto: 6}}
	if _, _, err := TCUpdate(StructureCilium09, tcp, Policy{Source: netip.MustParsePrefix("198.18.11.11/32"), Port: 5002, Proto: 6}); err == nil {
		t.Error("an update takes a port that is not in the program")
	}
	if _, _, err := TCUpdate(StructureHash, tcp, tcp[0]); err == nil {
		t.Error("an update takes a policy that is there")
	}
}

// TestListOfAnything: any port of a protocol, a port of any protocol: only a list
// can say that.
func TestListOfAnything(t *testing.T) {
	for _, o := range objects() {
		for _, six := range []bool{false, true} {
			r := o.filled(t, StructureLinear, []Policy{
				{Source: host(someone(1, six)), Port: 5001},
				{Source: host(someone(2, six)), Proto: protoTCP},
			}, nil)
			o.judges(r, frame{six: six, src: someone(1, six), proto: protoUDP}, true)
			o.judges(r, frame{six: six, src: someone(1, six), dport: 9}, false)
			o.judges(r, frame{six: six, src: someone(2, six), dport: 9}, true)
			o.judges(r, frame{six: six, src: someone(2, six), proto: protoUDP}, false)
		}
	}
}
