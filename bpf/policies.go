package bpf

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Policy is one policy of an endpoint.
type Policy struct {
	Source netip.Prefix // one address is a prefix of full length; length 0 is any source of the family
	Port   uint16       // destination port, 0 any
	Proto  uint8        // IANA's protocol number, 0 any
	Deny   bool
	// LastPort is the end of a range of ports that begins at Port; 0 is Port alone. No
	// table of these objects holds ranges.
	LastPort uint16
}

// Fill is a change of one map.
type Fill struct {
	Map   string
	Lines string // one line "KEYHEX VALUEHEX" per entry
	// Entries is the number of entries of the map afterwards; of an array, the number
	// of elements that are not zero.
	Entries int
	Delete  bool // removes the keys; the values are not used
}

// FirstIdentity is the identity of the first policy's source; those of the other
// sources follow, as Cilium allocates identities above its reserved ones.
const FirstIdentity uint32 = 256

// TCFills writes policies of IPv4 and IPv6 as entries of DatapathObject's maps. An
// error says what the structure cannot express. The maps must be filled in this
// order, so that no policy is in force before it is complete.
func TCFills(s Structure, ps []Policy) ([]Fill, error) {
	w := writer{structure: s}
	switch s {
	case StructureHash:
		return w.each(ps, w.byIdentity)
	case StructureCilium09:
		return w.each(ps, w.allowed)
	default:
		return XDPFills(s, ps)
	}
}

// XDPFills is TCFills for XDPObject's maps.
func XDPFills(s Structure, ps []Policy) ([]Fill, error) {
	w := writer{structure: s}
	switch s {
	case StructurePass:
		return nil, nil
	case StructureLinear:
		for i, p := range ps {
			if p.LastPort != 0 {
				return nil, fmt.Errorf("policy %d: %w", i+1, errRange)
			}
		}
		return w.list(ps), nil
	case StructureHash:
		return w.each(ps, w.byAddress)
	case StructureLPM:
		return w.each(ps, w.byPrefix)
	}
	return nil, fmt.Errorf("XDP has no structure %d", s)
}

// ofFamily is one of two map names.
func ofFamily(p netip.Prefix, v4, v6 string) string {
	if p.Addr().Is4() {
		return v4
	}
	return v6
}

// table is the entries of one map.
type table struct {
	name   string
	keys   []string
	values map[string]string
}

func (t *table) fill() Fill {
	f := Fill{Map: t.name}
	var lines strings.Builder
	for _, k := range t.keys {
		v := t.values[k]
		lines.WriteString(k + " " + v + "\n")
		if !isArray(t.name) || strings.Trim(v, "0") != "" {
			f.Entries++
		}
	}
	f.Lines = lines.String()
	return f
}

// isArray reports whether all elements of a map always exist; unused ones are zero.
func isArray(name string) bool {
	return slices.Contains([]string{MapList, MapList6, MapListMatch, MapListMatch6}, name)
}

// writer collects entries of maps.
type writer struct {
	structure  Structure
	tables     []*table // in the order of their first entries
	identities map[netip.Addr]uint32
}

// table is the table of a name, made if it is new.
func (w *writer) table(name string) *table {
	for _, t := range w.tables {
		if t.name == name {
			return t
		}
	}
	t := &table{name: name, values: map[string]string{}}
	w.tables = append(w.tables, t)
	return t
}

// put adds an entry. ok is false if the key exists.
func (w *writer) put(name string, key, value []byte) (ok bool) {
	t, k := w.table(name), hex.EncodeToString(key)
	if _, taken := t.values[k]; taken {
		return false
	}
	t.keys = append(t.keys, k)
	t.values[k] = hex.EncodeToString(value)
	return true
}

func (w *writer) fills() []Fill {
	var out []Fill
	for _, t := range w.tables {
		out = append(out, t.fill())
	}
	return out
}

// each writes policies one by one.
func (w *writer) each(ps []Policy, write func(i int, p Policy) (ok bool, err error)) ([]Fill, error) {
	for i, p := range ps {
		if err := expressible(p); err != nil {
			return nil, fmt.Errorf("policy %d: %w", i+1, err)
		}
		ok, err := write(i, p)
		if err != nil {
			return nil, fmt.Errorf("policy %d: %w", i+1, err)
		}
		if !ok {
			return nil, fmt.Errorf("policy %d is about what another is about already", i+1)
		}
	}
	return w.fills(), nil
}

var errRange = errors.New("it has a range of ports, and the program compares single ones")

// expressible refuses policies that only a list can express: with a port of any
// protocol, or a protocol with any port. Protocols without ports have port 0.
func expressible(p Policy) error {
	const tcp, udp = 6, 17
	switch {
	case !p.Source.IsValid():
		return fmt.Errorf("it has no source; any is a prefix of length 0")
	case p.LastPort != 0:
		return errRange
	case p.Port != 0 && p.Proto == 0:
		return fmt.Errorf("a table finds ports of a protocol, not port %d of any", p.Port)
	case p.Port == 0 && (p.Proto == tcp || p.Proto == udp):
		return fmt.Errorf("a table finds whole pairs of port and protocol, not any port of protocol %d", p.Proto)
	}
	return nil
}

// isAny reports whether a policy matches every source of a family.
func isAny(p netip.Prefix) bool { return p.Bits() == 0 }

// whole is the address of a policy's source, which must be a single address or any.
func whole(p netip.Prefix) (netip.Addr, error) {
	if !p.IsSingleIP() && !isAny(p) {
		return netip.Addr{}, fmt.Errorf("a hash finds whole addresses, not the prefix %s", p)
	}
	return p.Masked().Addr(), nil
}

// identity is the identity of a policy's source. A new one is added.
func (w *writer) identity(p netip.Prefix) (id uint32, known bool, err error) {
	addr, err := whole(p)
	if err != nil || isAny(p) {
		return IdentityAny, false, err
	}
	if id, known = w.identities[addr]; known {
		return id, true, nil
	}
	if w.identities == nil {
		w.identities = map[netip.Addr]uint32{}
	}
	id = FirstIdentity + uint32(len(w.identities))
	w.identities[addr] = id
	w.put(ofFamily(p, MapIdentities, MapIdentities6), IPKey(addr), IdentityValue(id))
	return id, false, nil
}

// Identities are the identities that TCFills gives to the sources of policies; nil
// for a structure that matches addresses.
func Identities(s Structure, ps []Policy) (map[netip.Addr]uint32, error) {
	w := writer{structure: s}
	if s != StructureHash && s != StructureCilium09 {
		return nil, nil
	}
	for i, p := range ps {
		if _, _, err := w.identity(p.Source); err != nil {
			return nil, fmt.Errorf("policy %d: %w", i+1, err)
		}
	}
	return w.identities, nil
}

func (w *writer) byIdentity(i int, p Policy) (bool, error) {
	id, _, err := w.identity(p.Source)
	if err != nil {
		return false, err
	}
	return w.put(MapPolicy, PolicyKey(id, p.Port, p.Proto), PolicyValue(p.Deny, uint32(i))), nil
}

// allowed writes each identity once: the ports of its policies are in VarL4Ports.
func (w *writer) allowed(i int, p Policy) (bool, error) {
	if p.Deny {
		return false, fmt.Errorf("the policy of 2017 could only admit, not deny %s", p.Source)
	}
	if isAny(p.Source) {
		return false, fmt.Errorf("the policy of 2017 names identities, not any source")
	}
	id, known, err := w.identity(p.Source)
	if err != nil || known {
		return known, err
	}
	return w.put(MapAllowed, IdentityValue(id), PolicyValue(false, uint32(i))), nil
}

func (w *writer) byAddress(i int, p Policy) (bool, error) {
	addr, err := whole(p.Source)
	if err != nil {
		return false, err
	}
	return w.put(ofFamily(p.Source, MapPolicy, MapPolicy6), XDPPolicyKey(addr, p.Port, p.Proto), PolicyValue(p.Deny, uint32(i))), nil
}

func (w *writer) byPrefix(i int, p Policy) (bool, error) {
	value := PolicyValue(p.Deny, uint32(i))
	value[1] = byte(p.Source.Bits())
	return w.put(ofFamily(p.Source, MapTrie, MapTrie6), trieKey(p), value), nil
}

// trieFixed is the number of bits of a trie's key before the address, which are
// always compared: port, protocol and a byte of padding.
const trieFixed = 32

func trieKey(p Policy) []byte {
	key := binary.LittleEndian.AppendUint32(nil, uint32(trieFixed+p.Source.Bits()))
	key = binary.BigEndian.AppendUint16(key, p.Port)
	key = append(key, p.Proto, 0)
	return append(key, p.Source.Masked().Addr().AsSlice()...)
}

// MaxL4Ports is the number of ports that StructureCilium09 has room for.
const MaxL4Ports = 16

// L4Ports is the value of VarL4Ports: the ports of all policies, for any source. It
// refuses more than MaxL4Ports.
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

// Kinds of policies: the bits of VarWildcards.
const (
	kindExact   = 1 // a source on a port
	kindAnyPort = 2 // a source on any port
	kindAnyPeer = 4 // any source on a port
	kindAny     = 8 // any source on any port
)

// Wildcards is the value of VarWildcards for policies, which must include those
// that are added while the program runs.
func Wildcards(ps ...Policy) byte {
	var kinds byte
	for _, p := range ps {
		anyPort := p.Port == 0 && p.Proto == 0
		switch {
		case isAny(p.Source) && anyPort:
			kinds |= kindAny
		case isAny(p.Source):
			kinds |= kindAnyPeer
		case anyPort:
			kinds |= kindAnyPort
		default:
			kinds |= kindExact
		}
	}
	return kinds
}

// TCUpdate adds one policy to those that TCFills wrote, and removes it again, while
// the program handles packets: the last write of add puts the policy in force, and
// the first write of remove ends that. A list takes it at its end. Entries are those
// of the whole map afterwards.
func TCUpdate(s Structure, ps []Policy, extra Policy) (add, remove []Fill, err error) {
	return update(TCFills, s, ps, extra)
}

// XDPUpdate is TCUpdate for XDPFills.
func XDPUpdate(s Structure, ps []Policy, extra Policy) (add, remove []Fill, err error) {
	return update(XDPFills, s, ps, extra)
}

// update compares the entries with and without the policy. It adds to tables in the
// order in which they are filled, and removes in the reverse order.
func update(fills func(Structure, []Policy) ([]Fill, error), s Structure, ps []Policy, extra Policy) (add, remove []Fill, err error) {
	before, err := fills(s, ps)
	if err != nil {
		return nil, nil, err
	}
	after, err := fills(s, append(ps[:len(ps):len(ps)], extra))
	if err != nil {
		return nil, nil, err
	}
	if s == StructureCilium09 {
		if err := samePorts(ps, extra); err != nil {
			return nil, nil, err
		}
	}
	for _, f := range after {
		i := slices.IndexFunc(before, func(b Fill) bool { return b.Map == f.Map })
		if i < 0 {
			before, i = append(before, Fill{Map: f.Map}), len(before)
		}
		if to, back := difference(before[i], f); to.Lines != "" {
			add, remove = append(add, to), slices.Insert(remove, 0, back)
		}
	}
	return add, remove, nil
}

// samePorts refuses a policy whose port is not among the endpoint's ports, which are
// part of the program.
func samePorts(ps []Policy, extra Policy) error {
	for _, p := range ps {
		if p.Port == extra.Port && p.Proto == extra.Proto {
			return nil
		}
	}
	if len(ps) == 0 {
		return nil
	}
	return fmt.Errorf("the policy of 2017 has its ports in the program, and port %d is not among them", extra.Port)
}

// difference is the changes from one content of a map to another, and back. Both
// change the same keys: new ones, or one block of a list.
func difference(before, after Fill) (to, back Fill) {
	old := map[string]string{}
	for line := range strings.Lines(before.Lines) {
		key, value, _ := strings.Cut(line, " ")
		old[key] = value
	}
	to, back = Fill{Map: after.Map, Entries: after.Entries}, Fill{Map: after.Map, Entries: before.Entries}
	for line := range strings.Lines(after.Lines) {
		key, value, _ := strings.Cut(line, " ")
		was, known := old[key]
		if known && was == value {
			continue
		}
		if !known && isArray(after.Map) {
			was = strings.Repeat("0", len(value)-1) + "\n"
		} else if !known {
			was, back.Delete = value, true
		}
		to.Lines += key + " " + value
		back.Lines += key + " " + was
	}
	return to, back
}

// TCTables are the maps that TCFills fills for policies of IPv4, or of IPv6.
func TCTables(s Structure, v6 bool) []string {
	switch {
	case s == StructureCilium09 && v6:
		return []string{MapIdentities6, MapAllowed}
	case s == StructureCilium09:
		return []string{MapIdentities, MapAllowed}
	case s == StructureHash && v6:
		return []string{MapIdentities6, MapPolicy}
	case s == StructureHash:
		return []string{MapIdentities, MapPolicy}
	}
	return XDPTables(s, v6)
}

// XDPTables are the maps that XDPFills fills.
func XDPTables(s Structure, v6 bool) []string {
	tables := map[Structure][2][]string{
		StructureLinear: {{MapListMatch, MapList}, {MapListMatch6, MapList6}},
		StructureLPM:    {{MapTrie}, {MapTrie6}},
		StructureHash:   {{MapPolicy}, {MapPolicy6}},
	}[s]
	if v6 {
		return tables[1]
	}
	return tables[0]
}
