package computer

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCPUsAreThoseOneCanBePinnedTo: a thread can be pinned to every listed CPU, not to the
// next one, and the mask of this process does not change.
func TestCPUsAreThoseOneCanBePinnedTo(t *testing.T) {
	var before, after unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &before); err != nil {
		t.Fatal(err)
	}
	cpus := CPUs()
	if len(cpus) == 0 || !slices.IsSorted(cpus) {
		t.Fatalf("CPUs are %v", cpus)
	}
	for _, cpu := range cpus {
		if err := pinned(cpu); err != nil {
			t.Errorf("CPU %d: %v", cpu, err)
		}
	}
	if beyond := cpus[len(cpus)-1] + 1; pinned(beyond) == nil {
		t.Errorf("CPU %d is not among %v and takes a thread", beyond, cpus)
	}
	if err := unix.SchedGetaffinity(os.Getpid(), &after); err != nil || after != before {
		t.Errorf("the mask was %v and is %v (%v)", before, after, err)
	}
}

// pinned tries a CPU on a thread that ends with it.
func pinned(cpu int) (err error) {
	onLostThread(func() {
		var set unix.CPUSet
		set.Set(cpu)
		err = unix.SchedSetaffinity(0, &set)
	})
	return err
}

// lost is the thread that was lost when the first one was free to run what is to lose its thread.
var lost int

func TestMain(m *testing.M) {
	processors := runtime.GOMAXPROCS(1)
	onLostThread(func() { lost = unix.Gettid() })
	runtime.GOMAXPROCS(processors)
	os.Exit(m.Run())
}

func TestTheFirstThreadIsKept(t *testing.T) {
	if lost == 0 || lost == os.Getpid() {
		t.Errorf("thread %d was lost, of process %d", lost, os.Getpid())
	}
}

func TestListsOfCPUs(t *testing.T) {
	for text, cpus := range map[string][]int{"0": {0}, "0-1": {0, 1}, "0-3,8,10-11": {0, 1, 2, 3, 8, 10, 11}, "5,7": {5, 7}} {
		if got := List(cpus); got != text {
			t.Errorf("List(%v) = %q, want %q", cpus, got, text)
		}
		if got := ParseList(text); !slices.Equal(got, cpus) {
			t.Errorf("ParseList(%q) = %v, want %v", text, got, cpus)
		}
	}
	for _, text := range []string{"", "x", "0-", "-1", "0-99999999"} {
		if got := ParseList(text); got != nil {
			t.Errorf("ParseList(%q) = %v", text, got)
		}
	}
}

// TestCongestionOfAComputer: namespaces cannot use restricted ones, modules are
// loaded on request, and without the sysctls nothing is known.
func TestCongestionOfAComputer(t *testing.T) {
	files := map[string]string{
		"proc/sys/net/ipv4/tcp_available_congestion_control": "reno cubic bbr\n",
		"proc/sys/net/ipv4/tcp_allowed_congestion_control":   "reno bbr\n",
		"proc/sys/kernel/osrelease":                          "6.0-test\n",
		"lib/modules/6.0-test/modules.dep":                   "kernel/net/ipv4/tcp_vegas.ko.xz: kernel/a.ko\nkernel/net/ipv4/tcp_bbr.ko:\nkernel/net/ipv4/tcp_diag.ko: kernel/net/ipv4/inet_diag.ko\nkernel/net/ipv4/tcp_dctcp.ko.zst:\nkernel/net/smc/tcp_x.ko:\n",
	}
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	usable, restricted := congestionBelow(root)
	if want := []string{"reno", "bbr", "dctcp", "vegas"}; !reflect.DeepEqual(usable, want) {
		t.Errorf("usable are %v, want %v", usable, want)
	}
	if want := []string{"cubic"}; !reflect.DeepEqual(restricted, want) {
		t.Errorf("restricted are %v, want %v", restricted, want)
	}
	if err := os.Remove(filepath.Join(root, "proc/sys/net/ipv4/tcp_allowed_congestion_control")); err != nil {
		t.Fatal(err)
	}
	if usable, restricted = congestionBelow(root); usable != nil || restricted != nil {
		t.Errorf("where the kernel does not tell: %v and %v", usable, restricted)
	}
	if usable, _ = Congestion(); usable != nil && !slices.Contains(usable, "reno") {
		t.Errorf("this computer has %v, and every kernel has reno", usable)
	}
}
