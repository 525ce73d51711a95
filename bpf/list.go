package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// ListBlock is the number of rules in one value of MapListMatch and MapListMatch6,
// which therefore have fewer elements than MapList by this factor.
const ListBlock = 16

// MaxListRules is the largest number of rules that a program reads of a list:
// MAX_CHUNKS x CHUNK_BLOCKS blocks (headers/list.h).
const MaxListRules = 64 * 64 * ListBlock

const (
	ruleUsed = 1
	ruleDeny = 2
)

// list writes the rules of each family: first what they match, in blocks, then their
// actions, which put them in force.
func (w *writer) list(ps []Policy) []Fill {
	for _, v6 := range []bool{false, true} {
		match, rules := MapListMatch, MapList
		if v6 {
			match, rules = MapListMatch6, MapList6
		}
		var block, actions [][]byte
		for i, p := range ps {
			if p.Source.Addr().Is4() == v6 {
				continue
			}
			block, actions = append(block, listMatch(p)), append(actions, listRule(p, i))
		}
		w.blocks(match, block)
		for i, rule := range actions {
			w.put(rules, listKey(i), rule)
		}
	}
	return w.fills()
}

func (w *writer) blocks(name string, matches [][]byte) {
	for i := 0; i < len(matches); i += ListBlock {
		value := make([]byte, 0, ListBlock*len(matches[0]))
		for _, m := range matches[i:min(i+ListBlock, len(matches))] {
			value = append(value, m...)
		}
		w.put(name, listKey(i/ListBlock), value[:cap(value)])
	}
}

func listKey(i int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(i)) }

// listMatch is a value and the mask of the bits to compare: of source, port,
// protocol and a zero byte. In IPv6, value and mask of the source come first.
func listMatch(p Policy) []byte {
	source, sourceMask := p.Source.Masked().Addr().AsSlice(), maskOf(p.Source)
	l4 := append(binary.BigEndian.AppendUint16(nil, p.Port), p.Proto, 0)
	l4Mask := make([]byte, 4)
	if p.Port != 0 {
		l4Mask[0], l4Mask[1] = 0xff, 0xff
	}
	if p.Proto != 0 {
		l4Mask[2] = 0xff
	}
	if p.Source.Addr().Is4() {
		return slices.Concat(source, l4, sourceMask, l4Mask)
	}
	return slices.Concat(source, sourceMask, l4, l4Mask)
}

func maskOf(p netip.Prefix) []byte {
	out := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		out[i/8] |= 1 << (7 - i%8)
	}
	return out
}

// listRule is an element of MapList: flags and the index of the policy.
func listRule(p Policy, index int) []byte {
	flags := uint32(ruleUsed)
	if p.Deny {
		flags |= ruleDeny
	}
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, flags), uint32(index))
}
