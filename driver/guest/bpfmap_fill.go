package main

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
)

// batchSize is how many entries go into one system call.
const batchSize = 4096

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
