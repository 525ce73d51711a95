package bpfmap

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
)

// batchSize is how many entries go into one system call.
const batchSize = 4096

// Fill updates a map in batches where the kernel can (5.6; LPM tries 5.13),
// one by one otherwise. Every CPU of a per-CPU map gets the value.
func Fill(m *ebpf.Map, e Entries) error {
	if PerCPU(m) {
		return fillEach(m, e)
	}
	for done := 0; done < e.N; {
		left := e.from(done)
		n := min(batchSize, left.N)
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

// Remove deletes keys in batches where the kernel can (5.6; LPM tries 5.13),
// one by one otherwise.
func Remove(m *ebpf.Map, e Entries) error {
	for done := 0; done < e.N; {
		left := e.from(done)
		n := min(batchSize, left.N)
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

func removeEach(m *ebpf.Map, e Entries) error {
	for i := range e.N {
		if err := m.Delete(e.key(i)); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return nil
}

func fillEach(m *ebpf.Map, e Entries) error {
	for i := range e.N {
		var value any = e.value(i)
		if PerCPU(m) {
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
