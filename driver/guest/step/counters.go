package step

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf"

	"hookbed/bpf"
	"hookbed/driver/bundle"
	"hookbed/driver/guest/bpfmap"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/ruleset"
)

// counters is a snapshot: values by key.
type counters map[string]uint64

func doRead(c *call, a bundle.Read) error {
	var got counters
	var err error
	switch from := a.From; {
	case counterKinds(from) != 1:
		err = errors.New("exactly one of rules, bpf, script, link, proxy, cpu, sniff and cilium must be set")
	case from.Rules != nil:
		got, err = ruleset.Read(c.ctx, *from.Rules)
	case from.BPF != nil:
		got, err = c.x.readBPF(*from.BPF)
	case from.Script != nil:
		got, err = c.readScript(*from.Script)
	case from.Link != nil:
		got, err = c.readLink(*from.Link)
	case from.Cilium != nil:
		got, err = c.readCilium(*from.Cilium)
	case from.CPU != nil:
		got, err = c.x.readCPU(*from.CPU)
	case from.Proxy != nil:
		got, err = readProxy(c.ctx, *from.Proxy)
	default:
		got, err = c.x.readSniff(*from.Sniff)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", a.Name, err)
	}
	old, had := c.x.snapshots[a.Name]
	c.x.snapshots[a.Name] = got
	c.undoHere("snapshot "+a.Name, func(undoing) error {
		if had {
			c.x.snapshots[a.Name] = old
		} else {
			delete(c.x.snapshots, a.Name)
		}
		return nil
	})
	for k, v := range got {
		c.value(k, float64(v))
	}
	return nil
}

// verdictNames are the values' names by index of a stats map.
func verdictNames() map[uint32]string {
	return map[uint32]string{bpf.StatAccepted: "accepted", bpf.StatDropped: "dropped", bpf.StatPassed: "passed"}
}

// statValue is one verdict's count on one CPU.
type statValue struct {
	Packets uint64
	Bytes   uint64
}

func (x *executor) readBPF(b bundle.BPFCounter) (counters, error) {
	got := counters{"packets": 0, "bytes": 0}
	if x.objects[b.Handle] == nil {
		return nil, fmt.Errorf("no BPF object %q is loaded", b.Handle)
	}
	if b.Stats != "" {
		m, err := x.loadedMap(b.Handle, b.Stats)
		if err != nil {
			return nil, err
		}
		add := got.addStats
		if len(b.Ranges) > 0 {
			add = func(m *ebpf.Map) error { return got.addRanges(m, b.Ranges) }
		}
		if err := add(m); err != nil {
			return nil, fmt.Errorf("map %s: %w", b.Stats, err)
		}
	}
	for _, name := range b.Maps {
		m, err := x.loadedMap(b.Handle, name)
		if err != nil {
			return nil, err
		}
		if got["entries."+name], err = bpfmap.CountEntries(m); err != nil {
			return nil, fmt.Errorf("count map %s: %w", name, err)
		}
	}
	if n, ok := memoryOf(x.objects[b.Handle]); ok {
		got["memory"] = n
	}
	return got, nil
}

// addStats sums a stats map over CPUs.
func (k counters) addStats(m *ebpf.Map) error {
	if m.Type() != ebpf.PerCPUArray || m.ValueSize() != 16 {
		return fmt.Errorf("is a %v with values of %d bytes, not a per-CPU array of {packets, bytes}", m.Type(), m.ValueSize())
	}
	names := verdictNames()
	for i := range m.MaxEntries() {
		sum, err := statAt(m, i)
		if err != nil {
			return err
		}
		k["packets"] += sum.Packets
		k["bytes"] += sum.Bytes
		if name, ok := names[i]; ok {
			k[name] = sum.Packets
		}
	}
	return nil
}

// statAt is one index of a stats map, summed over CPUs if each has its own.
func statAt(m *ebpf.Map, i uint32) (sum statValue, err error) {
	if !bpfmap.PerCPU(m) {
		err = m.Lookup(i, &sum)
	} else {
		var each []statValue
		err = m.Lookup(i, &each)
		for _, v := range each {
			sum.Packets += v.Packets
			sum.Bytes += v.Bytes
		}
	}
	if err != nil {
		return sum, fmt.Errorf("read index %d: %w", i, err)
	}
	return sum, nil
}

// addRanges sums indices of a map of {packets, bytes} whose meaning is not ours.
func (k counters) addRanges(m *ebpf.Map, ranges []bundle.StatRange) error {
	if t := m.Type(); t != ebpf.Array && t != ebpf.PerCPUArray || m.ValueSize() != 16 {
		return fmt.Errorf("is a %v with values of %d bytes, not an array of {packets, bytes}", t, m.ValueSize())
	}
	k["slots"] = uint64(m.MaxEntries())
	for _, r := range ranges {
		k[r.Key] += 0
		for i := r.First; i < r.First+r.Count; i++ {
			v, err := statAt(m, i)
			if err != nil {
				return err
			}
			k[r.Key] += v.Packets
			k["packets"] += v.Packets
			k["bytes"] += v.Bytes
		}
	}
	return nil
}

func doExpect(c *call, a bundle.Expect) error {
	now, ok := c.x.snapshots[a.Read]
	if !ok {
		return fmt.Errorf("expect %q: no snapshot %q was read", a.What, a.Read)
	}
	value, ok := now[a.Key]
	if !ok {
		return fmt.Errorf("expect %q: snapshot %q has no %q", a.What, a.Read, a.Key)
	}
	compared, told := value, ""
	if a.Since != "" {
		before, ok := c.x.snapshots[a.Since]
		if !ok {
			return fmt.Errorf("expect %q: no snapshot %q was read", a.What, a.Since)
		}
		if before[a.Key] > value {
			return fault.Subject("%s: %s.%s fell from %d to %d since %s", a.What, a.Read, a.Key, before[a.Key], value, a.Since)
		}
		compared = value - before[a.Key]
		told = fmt.Sprintf(" (since %s: +%d)", a.Since, compared)
	}
	c.value("value", math.Min(float64(compared), math.MaxInt64))
	switch a.Op {
	case bundle.Equal:
		ok = compared == a.Value
	case bundle.AtLeast:
		ok = compared >= a.Value
	default:
		return fmt.Errorf("expect %q: unknown comparison %q", a.What, a.Op)
	}
	if !ok {
		return fault.Subject("%s: %s.%s = %d%s, want %s %d", a.What, a.Read, a.Key, value, told, a.Op, a.Value)
	}
	return nil
}

// counterKinds says how many of the sources of a counter are set.
func counterKinds(f bundle.Counter) int {
	set := []bool{f.Rules != nil, f.BPF != nil, f.Script != nil, f.Link != nil, f.Proxy != nil, f.CPU != nil, f.Sniff != nil, f.Cilium != nil}
	return len(slices.DeleteFunc(set, func(on bool) bool { return !on }))
}
