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

// Demand is what a user's object must have to replace an object of this package.
type Demand struct {
	Program string // name of the program to attach
	XDP     bool   // whether it is attached to XDP, else to tc
	// Tables are maps with the layout of this package's map of the same name, and the
	// number of entries that they must have room for.
	Tables map[string]uint32
}

// Fault is one unmet part of a Demand.
type Fault struct {
	About string // FaultObject, FaultProgram or FaultType
	What  string // what is wrong and what is required
}

// Values of Fault.About.
const (
	FaultObject  = "object"  // the file, or its maps
	FaultProgram = "program" // the name of the program
	FaultType    = "type"    // the type of the program, which cannot be attached to the hook
)

const (
	statSize    = 16 // of a value of MapStats: packets and bytes, 8 bytes each
	leastStats  = StatDropped + 1
	howToBuild  = "build it with clang -O2 -g -target bpf -c"
	statsHeader = `#include "stats.h" of bpf/headers`
)

// Inspect lists the faults of an object, by its file alone. Only a kernel can decide
// whether it loads.
func Inspect(object []byte, d Demand) []Fault {
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

// program lists the faults of the program: it is missing, or cannot be attached to
// the hook.
func program(spec *ebpf.CollectionSpec, d Demand) []Fault {
	p := spec.Programs[d.Program]
	if p == nil {
		return []Fault{{FaultProgram, fmt.Sprintf("has no program %q, %s", d.Program, only(slices.Sorted(maps.Keys(spec.Programs))))}}
	}
	want, section := ebpf.SchedCLS, "tc"
	if d.XDP {
		want, section = ebpf.XDP, "xdp"
	}
	// Programs for entries of devmaps and cpumaps are XDP, too, but no link takes them.
	elsewhere := p.AttachType == ebpf.AttachXDPDevMap || p.AttachType == ebpf.AttachXDPCPUMap
	if p.Type == want && !elsewhere {
		return nil
	}
	return []Fault{{FaultType, fmt.Sprintf("has the program %q in section %q, which makes it %v, and this hook takes %v; write SEC(%q), or another hook",
		d.Program, p.SectionName, p.Type, want, section)}}
}

// statsFault says how a map differs from MapStats in stats.h, "" if it does not.
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

// tableFault says why a map cannot be filled like this package's map of that name, ""
// if it can.
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

// ownMap is the layout of a map of this package.
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

// named are the maps of the source; names of the compiler's maps begin with a dot.
func named(spec *ebpf.CollectionSpec) []string {
	names := slices.Sorted(maps.Keys(spec.Maps))
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, ".") })
}

// only lists the names that exist instead.
func only(names []string) string {
	if len(names) == 0 {
		return "and none at all"
	}
	return fmt.Sprintf("only %q", names)
}
