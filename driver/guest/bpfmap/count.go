package bpfmap

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// PerCPU reports whether a map holds one value per possible CPU.
func PerCPU(m *ebpf.Map) bool {
	switch m.Type() {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		return true
	}
	return false
}

// CountEntries counts the keys that a map really holds. An array holds all of
// its always: there it counts the values that are not zero.
func CountEntries(m *ebpf.Map) (uint64, error) {
	if m.Type() == ebpf.Array {
		return countUsed(m)
	}
	if !PerCPU(m) {
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
