package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

const (
	batchSize     = 4096 // map entries per system call
	verifierLines = 30   // lines of the verifier's log in a message
)

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
	// live until the garbage collector finds that nobody looks at it.
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

// makeTables makes the maps of policies, and tells how long that took: it is part of
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

// reportMemory tells how much kernel memory an object has; nothing where the
// kernel does not tell.
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

// shape makes a parsed object what the step asks for, before it is loaded.
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
// refused every time, whoever wrote it.
func refusedLoad(object string, err error) error {
	told := withVerifierLog(err)
	if ve := (*ebpf.VerifierError)(nil); errors.As(err, &ve) && !errors.Is(err, ebpf.ErrNotSupported) {
		return subject("load %s: the kernel refuses it: %w", object, told)
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
	e, err := c.parseEntries(text, int(m.KeySize()), int(m.ValueSize()))
	if err != nil {
		return fmt.Errorf("file %q: %w", a.File, err)
	}
	if err := fill(m, e); err != nil {
		return fmt.Errorf("fill map %s: %w", a.Map, err)
	}
	c.tookFor(a, start, e.n)
	return nil
}

func (c *call) deleteFrom(m *ebpf.Map, a bundle.FillMap, text []byte) error {
	start := time.Now()
	e, err := c.parseEntries(text, int(m.KeySize()), 0)
	if err != nil {
		return fmt.Errorf("file %q: %w", a.File, err)
	}
	if err := remove(m, e); err != nil {
		return fmt.Errorf("delete from map %s: %w", a.Map, err)
	}
	c.tookFor(a, start, e.n)
	return nil
}

func (c *call) tookFor(a bundle.FillMap, start time.Time, entries int) {
	c.value(cmp.Or(a.Metric, bundle.MetricLoad), time.Since(start).Seconds())
	c.value("entries", float64(entries))
}

// entries are a map's keys and values, each one behind the other as system calls
// take them.
type entries struct {
	n                  int
	keys, values       []byte
	keySize, valueSize int
}

// key and value are those of one entry.
func (e entries) key(i int) []byte   { return e.keys[i*e.keySize:][:e.keySize] }
func (e entries) value(i int) []byte { return e.values[i*e.valueSize:][:e.valueSize] }

// from is what is left behind the first n.
func (e entries) from(n int) entries {
	return entries{e.n - n, e.keys[n*e.keySize:], e.values[n*e.valueSize:], e.keySize, e.valueSize}
}

// parseEntries reads lines "KEYHEX VALUEHEX" of exact sizes. With a value size
// of 0 it reads keys, and leaves alone what is behind them.
func (c *call) parseEntries(text []byte, keySize, valueSize int) (entries, error) {
	most := bytes.Count(text, []byte("\n")) + 1
	e := entries{keys: make([]byte, most*keySize), values: make([]byte, most*valueSize), keySize: keySize, valueSize: valueSize}
	for number := 1; len(text) > 0; number++ {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		key, value, two := bytes.Cut(line, []byte(" "))
		if valueSize > 0 && (!two || bytes.ContainsRune(value, ' ')) {
			return e, fmt.Errorf("line %d: want KEYHEX VALUEHEX", number)
		}
		if err := exactHex(e.key(e.n), key); err != nil {
			return e, fmt.Errorf("line %d: key: %w", number, err)
		}
		if valueSize > 0 {
			value, err := c.expand(value)
			if err == nil {
				err = exactHex(e.value(e.n), value)
			}
			if err != nil {
				return e, fmt.Errorf("line %d: value: %w", number, err)
			}
		}
		e.n++
	}
	return e, nil
}

// exactHex decodes hex digits for all of a place, and no more.
func exactHex(to, digits []byte) error {
	if len(digits)%2 == 1 {
		return hex.ErrLength
	}
	if n := hex.DecodedLen(len(digits)); n != len(to) {
		return fmt.Errorf("%d bytes, want %d", n, len(to))
	}
	_, err := hex.Decode(to, digits)
	return err
}

// expand replaces "{ifindex:LINK}" and "{mac:LINK}" by the hex of what the
// link has.
func (c *call) expand(value []byte) ([]byte, error) {
	if bytes.IndexByte(value, '{') < 0 {
		return value, nil
	}
	var failed error
	out := regexp.MustCompile(`\{(\w+):([^}]*)\}`).ReplaceAllStringFunc(string(value), func(s string) string {
		what, name, _ := strings.Cut(s[1:len(s)-1], ":")
		l, err := c.link(name)
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
		case what == "ifindex":
			return hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, uint32(l.Attrs().Index)))
		case what == "mac":
			return hex.EncodeToString(l.Attrs().HardwareAddr)
		default:
			failed = errors.Join(failed, fmt.Errorf("unknown placeholder %s", s))
		}
		return ""
	})
	return []byte(out), failed
}

// perCPU reports whether a map holds one value per possible CPU.
func perCPU(m *ebpf.Map) bool {
	switch m.Type() {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		return true
	}
	return false
}

// fill updates a map in batches where the kernel can (5.6; LPM tries 5.13),
// one by one otherwise. Every CPU of a per-CPU map gets the value.
func fill(m *ebpf.Map, e entries) error {
	if perCPU(m) {
		return fillEach(m, e)
	}
	for done := 0; done < e.n; {
		left := e.from(done)
		n := min(batchSize, left.n)
		_, err := m.BatchUpdate(packed(left.keys, n, e.keySize), packed(left.values, n, e.valueSize), nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return fillEach(m, left)
		}
		if err != nil {
			return fmt.Errorf("batch of %d at entry %d: %w", n, done, err)
		}
		done += n
	}
	return nil
}

// remove deletes keys in batches where the kernel can (5.6; LPM tries 5.13),
// one by one otherwise.
func remove(m *ebpf.Map, e entries) error {
	for done := 0; done < e.n; {
		left := e.from(done)
		n := min(batchSize, left.n)
		_, err := m.BatchDelete(packed(left.keys, n, e.keySize), nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return removeEach(m, left)
		}
		if err != nil {
			return fmt.Errorf("batch of %d at entry %d: %w", n, done, err)
		}
		done += n
	}
	return nil
}

func removeEach(m *ebpf.Map, e entries) error {
	for i := range e.n {
		if err := m.Delete(e.key(i)); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return nil
}

func fillEach(m *ebpf.Map, e entries) error {
	for i := range e.n {
		var value any = e.value(i)
		if perCPU(m) {
			all := make([][]byte, ebpf.MustPossibleCPU())
			for cpu := range all {
				all[cpu] = e.value(i)
			}
			value = all
		}
		if err := m.Put(e.key(i), value); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return nil
}

// packed is the first n items as a slice of byte arrays, the form in which package
// ebpf takes a batch whose element type is known at run time only. Nothing is copied.
func packed(items []byte, n, size int) any {
	return reflect.SliceAt(arrayOf(size), unsafe.Pointer(unsafe.SliceData(items)), n).Interface()
}

func arrayOf(size int) reflect.Type { return reflect.ArrayOf(size, reflect.TypeFor[byte]()) }

func blank(n, size int) reflect.Value {
	return reflect.MakeSlice(reflect.SliceOf(arrayOf(size)), n, n)
}

// countEntries counts the keys that a map really holds. An array holds all of
// its always: there it counts the values that are not zero.
func countEntries(m *ebpf.Map) (uint64, error) {
	if m.Type() == ebpf.Array {
		return countUsed(m)
	}
	if !perCPU(m) {
		// Errors include "not supported" and a batch too small for a bucket.
		if n, err := countBatched(m); err == nil {
			return n, nil
		}
	}
	key, next := []byte(nil), make([]byte, m.KeySize())
	// A map that changes meanwhile can send the walk back to its start.
	for n := uint64(0); n <= 2*uint64(m.MaxEntries()); n++ {
		var from any
		if key != nil {
			from = key
		}
		err := m.NextKey(from, next)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("walk keys: %w", err)
		}
		key = append(key[:0], next...)
	}
	return 0, errors.New("the map changes too fast to count")
}

func countUsed(m *ebpf.Map) (uint64, error) {
	n, value, zero := uint64(0), make([]byte, m.ValueSize()), make([]byte, m.ValueSize())
	for i := range m.MaxEntries() {
		if err := m.Lookup(i, &value); err != nil {
			return n, fmt.Errorf("read element %d: %w", i, err)
		}
		if !bytes.Equal(value, zero) {
			n++
		}
	}
	return n, nil
}

func countBatched(m *ebpf.Map) (uint64, error) {
	keys, values := blank(batchSize, int(m.KeySize())).Interface(), blank(batchSize, int(m.ValueSize())).Interface()
	var cursor ebpf.MapBatchCursor
	total := uint64(0)
	for total <= 2*uint64(m.MaxEntries()) {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		total += uint64(n)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("look up a batch: %w", err)
		}
	}
	return 0, errors.New("the map changes too fast to count")
}
