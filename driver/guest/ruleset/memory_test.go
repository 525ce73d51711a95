package ruleset

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/guest/cgroup"
)

func TestMountedMemory(t *testing.T) {
	const (
		first = "25 24 0:22 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
		cpu   = "26 24 0:23 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
		both  = "27 24 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		only  = "27 24 0:24 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	)
	for text, want := range map[string]struct {
		dir string
		v1  bool
	}{
		cpu + both + first: {"/sys/fs/cgroup/memory", true},
		first + both:       {"/sys/fs/cgroup/memory", true},
		only:               {"/sys/fs/cgroup", false},
		cpu:                {"", false},
		"nonsense\n":       {"", false},
	} {
		if dir, v1 := mountedMemory(cgroup.Mounts(text)); dir != want.dir || v1 != want.v1 {
			t.Errorf("%q: %q, version 1 %v, want %+v", text, dir, v1, want)
		}
	}
}

func TestKernelBytes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("memory.kmem.usage_in_bytes", "528384\n")
	write("memory.current", "700000\n")
	write("memory.stat", "anon 100000\nfile 200000\nslab 5000\n")
	check := func(v1 bool, want uint64) {
		t.Helper()
		if got, err := (&MemoryCgroup{&cgroup.Group{Dir: dir}, v1}).kernelBytes(); err != nil || got != want {
			t.Errorf("version 1 %v: %d bytes (%v), want %d", v1, got, err, want)
		}
	}
	check(true, 528384)
	check(false, 400000)
	write("memory.stat", "anon 100000\nfile 200000\nkernel 345678\n")
	check(false, 345678)
	write("memory.kmem.usage_in_bytes", "much\n")
	if n, err := (&MemoryCgroup{&cgroup.Group{Dir: dir}, true}).kernelBytes(); err == nil {
		t.Errorf("%q is %d bytes", "much", n)
	}
	if got := unreclaimable("Slab: 9 kB\nSUnreclaim: 2 kB\nVmallocUsed: 3 kB\nPercpu:  4 kB\n"); got != 9<<10 {
		t.Errorf("unreclaimable memory is %d, want %d", got, 9<<10)
	}
}

// TestMeasureMemoryWithoutCgroup: where there is no memory controller the machine's
// memory is read, the load runs once, and the note says what the value is.
func TestMeasureMemoryWithoutCgroup(t *testing.T) {
	runs := 0
	m, err := measureMachine(func(in *MemoryCgroup) error {
		runs++
		if in != nil {
			t.Error("it is in a cgroup")
		}
		return nil
	}, errors.New("no controller"))
	if err != nil || runs != 1 || !m.Known || !strings.Contains(m.Note, "no controller") {
		t.Errorf("%d loads, %+v, %v", runs, m, err)
	}
	if m, err := measureMachine(func(*MemoryCgroup) error { return os.ErrInvalid }, nil); !errors.Is(err, os.ErrInvalid) || m.Known {
		t.Errorf("a load that fails gives %v and %+v", err, m)
	}
}
