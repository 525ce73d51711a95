package verdict

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// table is the entries of one map: values by keys, and the line of each.
type table struct {
	values map[string][]byte
	lines  map[string]int
	keys   []string
}

func readTable(name, text string) (table, error) {
	t := table{values: map[string][]byte{}, lines: map[string]int{}}
	number := 0
	for line := range strings.Lines(text) {
		number++
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		key, err := hex.DecodeString(k)
		value, err2 := hex.DecodeString(v)
		if err != nil || err2 != nil || len(key) == 0 || len(value) == 0 {
			return t, fmt.Errorf("map %s, line %d: %q is no entry", name, number, strings.TrimSpace(line))
		}
		if _, twice := t.values[string(key)]; !twice {
			t.keys = append(t.keys, string(key))
		}
		t.values[string(key)], t.lines[string(key)] = value, number
	}
	return t, nil
}

// maps are hookbed's maps, looked up as headers/policy.h and headers/list.h do.
type maps struct {
	tables    map[string]table
	wildcards []byte // kinds of policies that are searched for
	ports     []byte // of the policy of 2017
}

// Decide looks a flow up.
func (m maps) Decide(f Flow) Verdict {
	six := ""
	if f.From.Is6() {
		six = "6"
	}
	has := func(name string) bool { _, ok := m.tables[name]; return ok }
	switch {
	case has("list" + six):
		return m.list(f, six)
	case has("trie" + six):
		return m.trie(f, six)
	case has("allowed"):
		return m.allowed(f, six)
	case has("identities") || has("identities6"):
		return m.hash("policy", f, binary.LittleEndian.AppendUint32(nil, m.identity(f.From, six)), nil)
	case has("policy" + six):
		var pad []byte
		if six != "" {
			pad = make([]byte, 4)
		}
		return m.hash("policy"+six, f, f.From.AsSlice(), pad)
	}
	return m.tcHash(f)
}

// tcHash is the hash of tc without identities: of policies of every source alone.
func (m maps) tcHash(f Flow) Verdict {
	return m.hash("policy", f, binary.LittleEndian.AppendUint32(nil, world), nil)
}

// world is the identity of a source that has none.
const world = 2

func (m maps) identity(a netip.Addr, six string) uint32 {
	if v, ok := m.tables["identities"+six].values[string(a.AsSlice())]; ok {
		return binary.LittleEndian.Uint32(v)
	}
	return world
}

// hash searches four keys: peer and port, peer, port, nothing.
func (m maps) hash(name string, f Flow, peer, pad []byte) Verdict {
	t := m.tables[name]
	none := make([]byte, len(peer))
	l4 := append(binary.BigEndian.AppendUint16(nil, f.Port), f.Proto, 0)
	for kind, key := range [][]byte{join(peer, l4, pad), join(peer, make([]byte, 4), pad), join(none, l4, pad), join(none, make([]byte, 4), pad)} {
		v, ok := t.values[string(key)]
		if !ok || m.wildcards[0]&(1<<kind) == 0 {
			continue
		}
		return m.entry(name, t, string(key), v[0] == 0)
	}
	return Verdict{Where: "map " + name + ": no entry"}
}

func (m maps) entry(name string, t table, key string, allowed bool) Verdict {
	return Verdict{Allowed: allowed, Where: fmt.Sprintf("map %s, entry %d", name, t.lines[key]), Text: fmt.Sprintf("%x %x", key, t.values[key])}
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// trie finds the longest prefix at the port, or else at every port.
func (m maps) trie(f Flow, six string) Verdict {
	name := "trie" + six
	t := m.tables[name]
	l4 := append(binary.BigEndian.AppendUint16(nil, f.Port), f.Proto, 0)
	for kind, fixed := range [][]byte{l4, make([]byte, 4)} {
		if m.wildcards[0]&(5<<kind) == 0 { // kinds 1 and 4 name a port, 2 and 8 none
			continue
		}
		for bits := f.From.BitLen(); bits >= 0; bits-- {
			p := netip.PrefixFrom(f.From, bits).Masked()
			key := join(binary.LittleEndian.AppendUint32(nil, uint32(32+bits)), fixed, p.Addr().AsSlice())
			if v, ok := t.values[string(key)]; ok {
				return m.entry(name, t, string(key), v[0] == 0)
			}
		}
	}
	return Verdict{Where: "map " + name + ": no entry"}
}

// allowed is the policy of 2017: the source's identity, and one of the ports, if there are any.
func (m maps) allowed(f Flow, six string) Verdict {
	t := m.tables["allowed"]
	key := string(binary.LittleEndian.AppendUint32(nil, m.identity(f.From, six)))
	if _, ok := t.values[key]; !ok {
		return Verdict{Where: "map allowed: no entry"}
	}
	some := false
	for i := 0; i+4 <= len(m.ports); i += 4 {
		word := m.ports[i : i+4]
		if word[0]|word[1]|word[2] == 0 {
			break
		}
		some = true
		if binary.BigEndian.Uint16(word) == f.Port && word[2] == f.Proto {
			return m.entry("allowed", t, key, true)
		}
	}
	if !some {
		return m.entry("allowed", t, key, true)
	}
	return Verdict{Where: "variable l4_ports: the port is not among them"}
}

// list scans the rules of blocks of 16; the first match whose action is in use decides.
func (m maps) list(f Flow, six string) Verdict {
	actions, blocks := m.tables["list"+six], m.tables["list_match"+six]
	l4 := append(binary.BigEndian.AppendUint16(nil, f.Port), f.Proto, 0)
	size := 16
	if six != "" {
		size = 40
	}
	for block := range uint32(len(blocks.keys)) {
		b := blocks.values[string(binary.LittleEndian.AppendUint32(nil, block))]
		for i := 0; i+size <= len(b); i += size {
			if !matchOf(b[i:i+size]).equal(f.From.AsSlice(), l4) {
				continue
			}
			key := string(binary.LittleEndian.AppendUint32(nil, block*16+uint32(i/size)))
			action, ok := actions.values[key]
			if !ok || action[0]&1 == 0 {
				return Verdict{Where: "map list" + six + ": the end"}
			}
			return m.entry("list"+six, actions, key, action[0]&2 == 0)
		}
	}
	return Verdict{Where: "map list" + six + ": the end"}
}

// match is what one rule of a list compares.
type match struct{ source, sourceMask, l4, l4Mask []byte }

func matchOf(b []byte) match {
	if len(b) == 16 {
		return match{b[0:4], b[8:12], b[4:8], b[12:16]}
	}
	return match{b[0:16], b[16:32], b[32:36], b[36:40]}
}

func (m match) equal(source, l4 []byte) bool {
	for i := range source {
		if source[i]&m.sourceMask[i] != m.source[i] {
			return false
		}
	}
	for i := range l4 {
		if l4[i]&m.l4Mask[i] != m.l4[i] {
			return false
		}
	}
	return true
}
