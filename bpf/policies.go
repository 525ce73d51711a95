package bpf

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Policy is one policy of an endpoint.
type Policy struct {
	Source netip.Prefix // one address is a prefix of its full length
	Port   uint16       // destination port, 0 any
	Proto  uint8        // IANA's protocol number, 0 any
	Deny   bool
}

// Fill is what one map is given.
type Fill struct {
	Map   string
	Lines string // a line "KEYHEX VALUEHEX" for each entry
	// Entries is how many the map must then hold; of an array, how many that are
	// not zero.
	Entries int
	Delete  bool // the keys are taken out, the values mean nothing
}

// FirstIdentity is the identity of the first policy's source; the sources of the
// others follow, as Cilium allocates identities above its reserved ones.
const FirstIdentity uint32 = 256

// entryWriter collects lines.
type entryWriter struct {
	lines   strings.Builder
	entries int
}

func (w *entryWriter) put(key, value []byte) {
	fmt.Fprintf(&w.lines, "%s %s\n", hex.EncodeToString(key), hex.EncodeToString(value))
	w.entries++
}

func (w *entryWriter) fill(m string) Fill {
	return Fill{Map: m, Lines: w.lines.String(), Entries: w.entries}
}

// TCFills writes policies as entries of DatapathObject's maps. An error says what
// the structure cannot express.
func TCFills(s Structure, ps []Policy) ([]Fill, error) {
	switch s {
	case StructureHash:
		return identityFills(ps, hashEntries)
	case StructureCilium09:
		return identityFills(ps, allowedEntries)
	default:
		return XDPFills(s, ps)
	}
}

// XDPFills writes policies as entries of XDPObject's maps. An error says what the
// structure cannot express.
func XDPFills(s Structure, ps []Policy) ([]Fill, error) {
	var w entryWriter
	switch s {
	case StructurePass:
		return nil, nil
	case StructureLinear:
		for i, p := range ps {
			w.put(listKey(i), listRule(p, i))
		}
		return []Fill{w.fill(MapList)}, nil
	case StructureLPM:
		for i, p := range ps {
			w.put(trieKey(p), PolicyValue(p.Deny, uint32(i)))
		}
		return []Fill{w.fill(MapTrie)}, nil
	case StructureHash:
		for i, p := range ps {
			if !p.Source.IsSingleIP() {
				return nil, fmt.Errorf("a hash finds whole addresses, not the prefix %s", p.Source)
			}
			w.put(XDPPolicyKey(p.Source.Addr(), p.Port, p.Proto), PolicyValue(p.Deny, uint32(i)))
		}
		return []Fill{w.fill(MapPolicy)}, nil
	}
	return nil, fmt.Errorf("XDP has no structure %d", s)
}

// identityFills gives each source an identity, and writes policies by identity.
func identityFills(ps []Policy, write func(w *entryWriter, i int, s source, p Policy) (m string, err error)) ([]Fill, error) {
	var ids, w entryWriter
	known := map[netip.Addr]uint32{}
	m := ""
	for i, p := range ps {
		if !p.Source.IsSingleIP() {
			return nil, fmt.Errorf("identities are of whole addresses, not of the prefix %s", p.Source)
		}
		id, old := known[p.Source.Addr()]
		if !old {
			id = FirstIdentity + uint32(len(known))
			known[p.Source.Addr()] = id
			ids.put(IPKey(p.Source.Addr()), IdentityValue(id))
		}
		var err error
		if m, err = write(&w, i, source{id, !old}, p); err != nil {
			return nil, err
		}
	}
	return []Fill{ids.fill(MapIdentities), w.fill(m)}, nil
}

// source is who a policy is about.
type source struct {
	identity uint32
	first    bool // no policy before was about it
}

func hashEntries(w *entryWriter, i int, s source, p Policy) (string, error) {
	w.put(PolicyKey(s.identity, p.Port, p.Proto), PolicyValue(p.Deny, uint32(i)))
	return MapPolicy, nil
}

// allowedEntries writes an identity once, whatever ports its policies name: those
// are in VarL4Ports.
func allowedEntries(w *entryWriter, i int, s source, p Policy) (string, error) {
	if p.Deny {
		return "", fmt.Errorf("the policy of 2017 could only admit, not deny %s", p.Source)
	}
	if s.first {
		w.put(IdentityValue(s.identity), PolicyValue(false, uint32(i)))
	}
	return MapAllowed, nil
}

// MaxL4Ports is how many ports StructureCilium09 holds.
const MaxL4Ports = 16

// L4Ports is the value of VarL4Ports: the ports that policies name, whoever they
// name them for. An error says that there are too many.
func L4Ports(ps []Policy) ([]byte, error) {
	out := make([]byte, 4*MaxL4Ports)
	seen := map[uint32]bool{}
	for _, p := range ps {
		if p.Port == 0 && p.Proto == 0 {
			continue
		}
		port := binary.LittleEndian.Uint16(binary.BigEndian.AppendUint16(nil, p.Port))
		word := uint32(p.Proto)<<16 | uint32(port)
		if seen[word] {
			continue
		}
		if len(seen) == MaxL4Ports {
			return nil, fmt.Errorf("more than %d ports", MaxL4Ports)
		}
		binary.LittleEndian.PutUint32(out[4*len(seen):], word)
		seen[word] = true
	}
	return out, nil
}

func listKey(i int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(i)) }

const (
	ruleUsed = 1
	ruleDeny = 2
)

func listRule(p Policy, index int) []byte {
	flags := byte(ruleUsed)
	if p.Deny {
		flags |= ruleDeny
	}
	rule := append(IPKey(p.Source.Addr()), ignoredBits(p.Source)...)
	rule = binary.BigEndian.AppendUint16(rule, p.Port)
	rule = append(rule, p.Proto, flags)
	return binary.LittleEndian.AppendUint32(rule, uint32(index))
}

// ignoredBits is the inverse of a prefix's mask.
func ignoredBits(p netip.Prefix) []byte {
	out := make([]byte, p.Addr().BitLen()/8)
	for i := p.Bits(); i < len(out)*8; i++ {
		out[i/8] |= 1 << (7 - i%8)
	}
	return out
}

// trieFixed are the bits of a trie's key before the address: port, protocol and
// a byte of padding, which always count.
const trieFixed = 32

func trieKey(p Policy) []byte {
	key := binary.LittleEndian.AppendUint32(nil, uint32(trieFixed+p.Source.Bits()))
	key = binary.BigEndian.AppendUint16(key, p.Port)
	key = append(key, p.Proto, 0)
	return append(key, IPKey(p.Source.Addr())...)
}

// TCUpdate adds one policy to those that TCFills wrote, and removes it again,
// while packets are judged: each is one entry of a table, written at once; a source
// that is new gets its identity first. The list takes it at its end.
func TCUpdate(s Structure, ps []Policy, extra Policy) (add, remove []Fill, err error) {
	return update(TCFills, s, ps, extra)
}

// XDPUpdate is TCUpdate for XDPFills.
func XDPUpdate(s Structure, ps []Policy, extra Policy) (add, remove []Fill, err error) {
	return update(XDPFills, s, ps, extra)
}

// update compares the entries with and without the policy. Tables are added to
// in the order in which they are asked, and taken from in the reverse one.
func update(fills func(Structure, []Policy) ([]Fill, error), s Structure, ps []Policy, extra Policy) (add, remove []Fill, err error) {
	before, err := fills(s, ps)
	if err != nil {
		return nil, nil, err
	}
	after, err := fills(s, append(ps[:len(ps):len(ps)], extra))
	if err != nil {
		return nil, nil, err
	}
	for i, f := range after {
		lines := strings.TrimPrefix(f.Lines, before[i].Lines)
		if lines == "" {
			continue
		}
		n := strings.Count(lines, "\n")
		add = append(add, Fill{Map: f.Map, Lines: lines, Entries: n})
		gone := Fill{Map: f.Map, Lines: lines, Entries: n, Delete: true}
		if f.Map == MapList { // an array has no keys to take out
			gone = Fill{Map: f.Map, Lines: zeroed(lines), Entries: 0}
		}
		remove = append([]Fill{gone}, remove...)
	}
	return add, remove, nil
}

// zeroed writes zeros for every value.
func zeroed(lines string) string {
	var out strings.Builder
	for line := range strings.Lines(lines) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		out.WriteString(key + " " + strings.Repeat("0", len(value)) + "\n")
	}
	return out.String()
}

// TCTables are the maps that TCFills fills.
func TCTables(s Structure) []string {
	switch s {
	case StructureCilium09:
		return []string{MapIdentities, MapAllowed}
	case StructureHash:
		return []string{MapIdentities, MapPolicy}
	}
	return XDPTables(s)
}

// XDPTables are the maps that XDPFills fills.
func XDPTables(s Structure) []string {
	switch s {
	case StructureLinear:
		return []string{MapList}
	case StructureLPM:
		return []string{MapTrie}
	case StructureHash:
		return []string{MapPolicy}
	}
	return nil
}
