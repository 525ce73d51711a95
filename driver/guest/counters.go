package main

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"hookbed/bpf"
	"hookbed/driver/bundle"
)

// counters is a snapshot: values by key.
type counters map[string]uint64

func doRead(c *call, a bundle.Read) error {
	var got counters
	var err error
	switch {
	case a.From.Rules != nil && a.From.BPF == nil && a.From.Script == nil:
		got, err = c.readRules(*a.From.Rules)
	case a.From.BPF != nil && a.From.Rules == nil && a.From.Script == nil:
		got, err = c.x.readBPF(*a.From.BPF)
	case a.From.Script != nil && a.From.Rules == nil && a.From.BPF == nil:
		got, err = c.readScript(*a.From.Script)
	default:
		err = errors.New("exactly one of rules, bpf and script must be set")
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

func (c *call) readRules(r bundle.RuleCounter) (counters, error) {
	switch r.Tool {
	case "iptables-legacy", "iptables-nft":
	case "nft":
		return nil, unsupported("counters of nft rule sets cannot be read")
	default:
		return nil, fmt.Errorf("unknown rule-set tool %q", r.Tool)
	}
	out, err := runTool(c.ctx, []string{r.Tool + "-save", "-c", "-t", r.Table}, nil)
	if err != nil {
		return nil, err
	}
	return parseRules(string(out), r.Chain)
}

// savedRule is a rule line of iptables-save -c: counters, chain, the rest.
var savedRule = regexp.MustCompile(`^\[(\d+):(\d+)\] -A (\S+)(.*)$`)

// savedChain is a chain line: name, policy, counters.
var savedChain = regexp.MustCompile(`^:(\S+) (\S+) \[(\d+):(\d+)\]$`)

// savedTarget is the target in the rest of a rule line.
var savedTarget = regexp.MustCompile(` -[jg] (\S+)`)

// parseRules reads the output of iptables-save -c for one table. See
// bundle.Counter for the values. A chain that is not there is an error, but a
// table that is not holds no rules: its built-in chains are simply not
// registered yet, which counts as zero of everything.
func parseRules(text, chain string) (counters, error) {
	got := counters{"rules": 0, "rules_hook": 0, "packets": 0, "bytes": 0, "dropped": 0, "accepted": 0}
	found, any := false, false
	for _, line := range strings.Split(text, "\n") {
		if m := savedChain.FindStringSubmatch(line); m != nil {
			any = true
			if m[1] == chain {
				found = true
				if err := got.add(m[3], m[4], m[2] == "-", ""); err != nil {
					return nil, err
				}
			}
		}
		m := savedRule.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		got["rules_hook"]++
		if m[3] != chain {
			continue
		}
		got["rules"]++
		target := savedTarget.FindStringSubmatch(m[4])
		name := ""
		if target != nil {
			name = target[1]
		}
		if err := got.add(m[1], m[2], target == nil, name); err != nil {
			return nil, err
		}
	}
	if any && !found {
		return nil, fmt.Errorf("no chain %q in the table", chain)
	}
	return got, nil
}

// add counts a rule or a policy, unless it has no verdict.
func (k counters) add(packets, bytes string, silent bool, target string) error {
	p, err := strconv.ParseUint(packets, 10, 64)
	b, err2 := strconv.ParseUint(bytes, 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("parse counters [%s:%s]: %w", packets, bytes, err)
	}
	if silent {
		return nil
	}
	k["packets"] += p
	k["bytes"] += b
	switch target {
	case "DROP":
		k["dropped"] += p
	case "ACCEPT":
		k["accepted"] += p
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
		if got["entries."+name], err = countEntries(m); err != nil {
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
	if !perCPU(m) {
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
			return subject("%s: %s.%s fell from %d to %d since %s", a.What, a.Read, a.Key, before[a.Key], value, a.Since)
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
		return subject("%s: %s.%s = %d%s, want %s %d", a.What, a.Read, a.Key, value, told, a.Op, a.Value)
	}
	return nil
}
