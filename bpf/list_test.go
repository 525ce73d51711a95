package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// TestListsLoad: the verifier walks every entry that a list may have.
func TestListsLoad(t *testing.T) {
	for _, n := range []uint32{16, 1024, 16384} {
		for name, object := range map[string][]byte{"tc": DatapathObject(), "xdp": XDPObject()} {
			start := time.Now()
			load(t, object, map[string]any{VarStructure: uint8(StructureLinear), VarListCapacity: n, VarEnforce: uint8(1)}, func(s *ebpf.CollectionSpec) {
				s.Maps[MapList].MaxEntries = n
			})
			t.Logf("%s: a list of %d loads in %v", name, n, time.Since(start))
		}
	}
}
