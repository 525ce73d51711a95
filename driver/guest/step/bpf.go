package step

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/bpfmap"
	"hookbed/driver/guest/fault"
)

// verifierLines is how much of the verifier's log goes into a message.
const verifierLines = 30

func doLoadBPF(c *call, a bundle.LoadBPF) error {
	if _, ok := c.x.objects[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("object handle %q is taken", a.Handle)
	}
	data, err := c.file(a.Object)
	if err != nil {
		return err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("parse %s: %w", a.Object, err)
	}
	if err := c.shape(spec, a); err != nil {
		return fmt.Errorf("prepare %s: %w", a.Object, err)
	}
	// Variables are set by now. Were their map shared with this process, it would
	// live until the garbage collector finds that it is not used.
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			m.Flags &^= unix.BPF_F_MMAPABLE
		}
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lift the memory lock limit: %w", err)
	}
	tables, err := c.makeTables(spec, a)
	if err != nil {
		return fmt.Errorf("load %s: %w", a.Object, err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: tables})
	for _, m := range tables {
		_ = m.Close() // the collection has it by a descriptor of its own
	}
	if err != nil {
		return refusedLoad(a.Object, err)
	}
	c.x.objects[a.Handle] = coll
	c.undoHere("object "+a.Handle, func(undoing) error {
		delete(c.x.objects, a.Handle)
		coll.Close()
		coll = nil
		// Package ebpf maps the memory of variables, and only the collector ends
		// that mapping, which keeps its map in the kernel.
		runtime.GC()
		return nil
	})
	c.reportMemory(a.Handle)
	return nil
}

// makeTables makes the maps of policies, and records how long that took: it is part of
// loading policies, and a good part where a map has its entries from the beginning.
func (c *call) makeTables(spec *ebpf.CollectionSpec, a bundle.LoadBPF) (map[string]*ebpf.Map, error) {
	if len(a.Tables) == 0 {
		return nil, nil
	}
	tables := map[string]*ebpf.Map{}
	start := time.Now()
	for _, name := range a.Tables {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			for _, m := range tables {
				_ = m.Close()
			}
			return nil, fmt.Errorf("make map %s: %w", name, err)
		}
		tables[name] = m
	}
	c.value(bundle.MetricLoad, time.Since(start).Seconds())
	return tables, nil
}

// reportMemory records how much kernel memory an object has; nothing where the
// kernel does not show it.
func (c *call) reportMemory(handle string) {
	if n, ok := memoryOf(c.x.objects[handle]); ok {
		c.value(bundle.MetricMemory, float64(n))
	}
}

// memoryOf sums what the kernel charges for the maps and programs of an object:
// memlock of /proc/PID/fdinfo. For maps it is what is really allocated from
// kernel 6.4 (commit 90a5527d7686), an estimate before; for programs it is the
// byte code's pages without the machine code.
func memoryOf(coll *ebpf.Collection) (total uint64, ok bool) {
	for _, m := range coll.Maps {
		info, err := m.Info()
		if err != nil {
			return 0, false
		}
		n, _ := info.Memlock() // 0 is also what an empty LPM trie has
		total += n
	}
	for _, p := range coll.Programs {
		info, err := p.Info()
		if err != nil {
			return 0, false
		}
		n, _ := info.Memlock()
		total += n
	}
	return total, total > 0
}

// shape changes a parsed object to what the step requests, before it is loaded.
func (c *call) shape(spec *ebpf.CollectionSpec, a bundle.LoadBPF) error {
	for _, name := range a.Programs {
		if spec.Programs[name] == nil {
			return fmt.Errorf("no program %q, only %q", name, slices.Sorted(maps.Keys(spec.Programs)))
		}
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(a.Programs, name) })
	for name, n := range a.MaxEntries {
		m := spec.Maps[name]
		if m == nil {
			return fmt.Errorf("no map %q, only %q", name, slices.Sorted(maps.Keys(spec.Maps)))
		}
		m.MaxEntries = n
	}
	for _, name := range a.Tables {
		m := spec.Maps[name]
		if m == nil {
			return fmt.Errorf("no map %q, only %q", name, slices.Sorted(maps.Keys(spec.Maps)))
		}
		if a.Prealloc {
			m.Flags &^= unix.BPF_F_NO_PREALLOC
		}
	}
	for name, text := range a.Vars {
		value, err := hex.DecodeString(text)
		if err != nil {
			return fmt.Errorf("variable %q: %w", name, err)
		}
		if err := setVar(spec, name, value); err != nil {
			return err
		}
	}
	for name, link := range a.LinkVars {
		l, err := c.link(link)
		if err != nil {
			return err
		}
		if err := setVar(spec, name, binary.LittleEndian.AppendUint32(nil, uint32(l.Attrs().Index))); err != nil {
			return err
		}
	}
	return nil
}

func setVar(spec *ebpf.CollectionSpec, name string, value []byte) error {
	v := spec.Variables[name]
	if v == nil {
		return fmt.Errorf("no variable %q, only %q", name, slices.Sorted(maps.Keys(spec.Variables)))
	}
	if int(v.Size()) != len(value) {
		return fmt.Errorf("variable %q has %d bytes, got %d", name, v.Size(), len(value))
	}
	return v.Set(value)
}

// refusedLoad classifies a failed load: a program that the verifier refuses is
// refused every time.
func refusedLoad(object string, err error) error {
	told := withVerifierLog(err)
	if ve := (*ebpf.VerifierError)(nil); errors.As(err, &ve) && !errors.Is(err, ebpf.ErrNotSupported) {
		return fault.Subject("load %s: the kernel refuses it: %w", object, told)
	}
	return fmt.Errorf("load %s: %w", object, told)
}

// withVerifierLog adds the end of the verifier's log to a load error.
func withVerifierLog(err error) error {
	var ve *ebpf.VerifierError
	if !errors.As(err, &ve) || len(ve.Log) == 0 {
		return err
	}
	lines := ve.Log[max(0, len(ve.Log)-verifierLines):]
	return fmt.Errorf("%w\n%s", err, strings.Join(lines, "\n"))
}

// loadedMap finds a map of a loaded object.
func (x *executor) loadedMap(handle, name string) (*ebpf.Map, error) {
	coll := x.objects[handle]
	if coll == nil {
		return nil, fmt.Errorf("no BPF object %q is loaded", handle)
	}
	m := coll.Maps[name]
	if m == nil {
		return nil, fmt.Errorf("object %q has no map %q, only %q", handle, name, slices.Sorted(maps.Keys(coll.Maps)))
	}
	return m, nil
}

func doFillMap(c *call, a bundle.FillMap) error {
	m, err := c.x.loadedMap(a.Handle, a.Map)
	if err != nil {
		return err
	}
	data, err := c.file(a.File)
	if err != nil {
		return err
	}
	if a.Delete {
		err = c.deleteFrom(m, a, data)
	} else {
		err = c.updateFrom(m, a, data)
	}
	if err != nil {
		return err
	}
	c.reportMemory(a.Handle)
	return nil
}

func (c *call) updateFrom(m *ebpf.Map, a bundle.FillMap, text []byte) error {
	start := time.Now()
	e, err := bpfmap.ParseEntries(text, int(m.KeySize()), int(m.ValueSize()), c.expand)
	if err != nil {
		return fmt.Errorf("file %q: %w", a.File, err)
	}
	if err := bpfmap.Fill(m, e); err != nil {
		return fmt.Errorf("fill map %s: %w", a.Map, err)
	}
	c.tookFor(a, start, e.N)
	return nil
}

func (c *call) deleteFrom(m *ebpf.Map, a bundle.FillMap, text []byte) error {
	start := time.Now()
	e, err := bpfmap.ParseEntries(text, int(m.KeySize()), 0, c.expand)
	if err != nil {
		return fmt.Errorf("file %q: %w", a.File, err)
	}
	if err := bpfmap.Remove(m, e); err != nil {
		return fmt.Errorf("delete from map %s: %w", a.Map, err)
	}
	c.tookFor(a, start, e.N)
	return nil
}

func (c *call) tookFor(a bundle.FillMap, start time.Time, entries int) {
	c.value(cmp.Or(a.Metric, bundle.MetricLoad), time.Since(start).Seconds())
	c.value("entries", float64(entries))
}
