//go:build vm

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hookbed/driver/vm"
	"hookbed/images"
)

// machineLimit bounds the machine's life under emulation on a busy computer.
const machineLimit = 5 * time.Minute

// machineTests are those that the kernel decides; most of them also run on this
// computer's own.
const machineTests = "^(TestNetkit|TestBPF|TestTCX.*|TestFillMap.*|TestLoadBPFTellsMemory|TestFlow|TestGuard.*)$"

// TestVMKernel runs the tests that depend on the kernel as the first process of
// the pinned 6.12, which has netkit.
func TestVMKernel(t *testing.T) {
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(t.Context(), images.Want{Kernel: "6.12", Root: true, Endpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := vm.Machine{
		Name: "hookbed-t-kernel", VCPUs: 2, MemoryMiB: 1536, Kernel: set.Kernel.Path, Initramfs: testInitramfs(t, dir, set), ConsoleLog: filepath.Join(dir, "console"),
		Cmdline: "console=ttyS0 quiet panic=-1 net.ifnames=0 tsc=reliable no_timer_check " + mustHaveNetkit + "=1 -- -test.v -test.run=" + machineTests,
	}
	accel, err := vm.ProbeAccel(t.Context(), set.Kernel.Path, set.Probe.Path, store.Dir())
	if err != nil {
		t.Fatal(err)
	}
	m.Accel = accel.Name
	runMachine(t, dir, store, m)
	said, err := os.ReadFile(m.ConsoleLog)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(said), "\r", "")
	t.Logf("under %s:\n%s", accel.Name, text)
	if !strings.Contains(text, testsEnded+"<nil>\n") {
		t.Error("the tests did not pass in the machine")
	}
	for _, name := range []string{"TestNetkit", "TestTCXRunsInOrderOfAttachment", "TestGuardXDP"} {
		if !strings.Contains(text, "--- PASS: "+name+" ") {
			t.Errorf("%s did not run in the machine", name)
		}
	}
}

// runMachine boots a machine and waits until it has ended.
func runMachine(t *testing.T, dir string, store *images.Store, m vm.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), machineLimit)
	defer cancel()
	h, err := vm.Connect(ctx, vm.Config{StateDir: filepath.Join(dir, "lab"), Lab: "t", CacheDir: filepath.Join(store.Dir(), "libvirt")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := h.Start(ctx, m); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(ctx, m.Name, vm.Gone); err != nil {
		said, _ := os.ReadFile(m.ConsoleLog)
		t.Fatalf("%v; its console:\n%s", err, said)
	}
}

// testInitramfs is what a sealed guest has, with this package's tests as its
// first process.
func testInitramfs(t *testing.T, dir string, set images.Set) string {
	t.Helper()
	binary := filepath.Join(dir, "guest.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests: %v\n%s", err, out)
	}
	init, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initramfs")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := images.Join(w, set.Sealed, map[string][]byte{"/init": init, builtObject: []byte(counting(t))}); err != nil {
		t.Fatal(err)
	}
	return path
}
