package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// Demand is what an object by someone else must have to take the place of one of
// this package.
type Demand struct {
	Program string // that is attached
	XDP     bool   // to XDP, else to tc
	// Tables are maps laid out as this package's of that name, with room for so many
	// entries.
	Tables map[string]uint32
}

// Fault is what an object lacks, and which part of the Demand that is about.
type Fault struct {
	About string // FaultObject, FaultProgram or FaultType
	What  string // what is wrong and what would be right
}

// What a Fault can be about.
const (
	FaultObject  = "object"  // the file, or its maps
	FaultProgram = "program" // its name
	FaultType    = "type"    // of the program, which does not go where it is attached
)

const (
	statSize    = 16 // of a value of MapStats: packets and bytes, 8 bytes each
	leastStats  = StatDropped + 1
	howToBuild  = "build it with clang -O2 -g -target bpf -c"
	statsHeader = `#include "stats.h" of bpf/headers`
)

// Examine reports what an object lacks, by its file alone. Whether a kernel
// loads it, only that kernel can decide.
func Examine(object []byte, d Demand) []Fault {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return []Fault{{FaultObject, fmt.Sprintf("is no BPF object: %v; %s", err, howToBuild)}}
	}
	if spec.ByteOrder != binary.LittleEndian {
		return []Fault{{FaultObject, "is big endian, and machines here are little endian; build it with -target bpfel"}}
	}
	out := program(spec, d)
	if what := statsFault(spec.Maps[MapStats], named(spec)); what != "" {
		out = append(out, Fault{FaultObject, what})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Tables)) {
		if what := tableFault(spec, name, d); what != "" {
			out = append(out, Fault{FaultObject, what})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if spec.Maps[name].Pinning != ebpf.PinNone {
			out = append(out, Fault{FaultObject, fmt.Sprintf("wants its map %q pinned, and every setup has maps of its own; remove its pinning", name)})
		}
	}
	return out
}

// program reports whether the program is there and of the type of its hook.
func program(spec *ebpf.CollectionSpec, d Demand) []Fault {
	p := spec.Programs[d.Program]
	if p == nil {
		return []Fault{{FaultProgram, fmt.Sprintf("has no program %q, %s", d.Program, only(slices.Sorted(maps.Keys(spec.Programs))))}}
	}
	want, section := ebpf.SchedCLS, "tc"
	if d.XDP {
		want, section = ebpf.XDP, "xdp"
	}
	// Those for entries of devmaps and cpumaps are XDP, and no link takes them.
	elsewhere := p.AttachType == ebpf.AttachXDPDevMap || p.AttachType == ebpf.AttachXDPCPUMap
	if p.Type == want && !elsewhere {
		return nil
	}
	return []Fault{{FaultType, fmt.Sprintf("has the program %q in section %q, which makes it %v, and this hook takes %v; write SEC(%q), or another hook",
		d.Program, p.SectionName, p.Type, want, section)}}
}

// statsFault reports why a map does not count verdicts as stats.h has them.
func statsFault(m *ebpf.MapSpec, names []string) string {
	const want = "want a per-CPU array of {packets, bytes}, 8 bytes each, with accepted and dropped at 0 and 1: " + statsHeader
	switch {
	case m == nil:
		return fmt.Sprintf("has no map %q, %s, and a filter whose packets nobody counts proves nothing; %s", MapStats, only(names), want)
	case m.Type != ebpf.PerCPUArray:
		return fmt.Sprintf("has a map %q that is %v; %s", MapStats, m.Type, want)
	case m.ValueSize != statSize:
		return fmt.Sprintf("has a map %q with values of %d bytes; %s", MapStats, m.ValueSize, want)
	case m.MaxEntries < leastStats:
		return fmt.Sprintf("has a map %q with room for %d values; %s", MapStats, m.MaxEntries, want)
	}
	return ""
}

// tableFault reports why a map cannot be filled as this package's of that name is.
func tableFault(spec *ebpf.CollectionSpec, name string, d Demand) string {
	ours, err := ownMap(name, d.XDP)
	if err != nil {
		return err.Error()
	}
	m, room := spec.Maps[name], d.Tables[name]
	switch {
	case m == nil:
		return fmt.Sprintf("has no map %q to fill, %s", name, only(named(spec)))
	case m.KeySize != ours.KeySize || m.ValueSize != ours.ValueSize:
		return fmt.Sprintf("has a map %q with keys of %d and values of %d bytes, and is filled with keys of %d and values of %d (docs/bpf.md)",
			name, m.KeySize, m.ValueSize, ours.KeySize, ours.ValueSize)
	case m.MaxEntries < room:
		return fmt.Sprintf("has a map %q with room for %d entries, and the policies, the workload and the update need %d; write max_entries of at least that", name, m.MaxEntries, room)
	}
	return ""
}

// ownMap is how a map of this package is laid out.
func ownMap(name string, xdp bool) (*ebpf.MapSpec, error) {
	object := DatapathObject()
	if xdp {
		object = XDPObject()
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	if spec.Maps[name] == nil {
		return nil, fmt.Errorf("asks for a map %q, which is none of ours", name)
	}
	return spec.Maps[name], nil
}

// named are the maps that the source names; the compiler's own begin with a dot.
func named(spec *ebpf.CollectionSpec) []string {
	names := slices.Sorted(maps.Keys(spec.Maps))
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, ".") })
}

// only lists what there is instead.
func only(names []string) string {
	if len(names) == 0 {
		return "and none at all"
	}
	return fmt.Sprintf("only %q", names)
}
