//go:build vm

package step

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"hookbed/driver/vm"
	"hookbed/images"
)

// machineLimit bounds the machine's life under emulation on a busy computer.
const machineLimit = 20 * time.Minute

// machineTests are those that the kernel decides; most of them also run on this
// computer's own.
const machineTests = "^(TestNetkit|TestBPF|TestTCX.*|TestFillMap.*|TestLoadBPF(TellsMemory|MakesTables)|TestFlow|TestGuard.*|TestRecordedClient)$"

// TestVMKernel runs the tests that depend on the kernel as the first process of
// the pinned 6.12, which has netkit.
func TestVMKernel(t *testing.T) {
	said := bootTests(t, images.DefaultKernel, false)
	for _, name := range []string{"TestNetkit", "TestTCXRunsInOrderOfAttachment", "TestGuardXDP", "TestRecordCalls", "TestRecordDrops", "TestRecover", "TestRecordedClient"} {
		if outcomes(said)[name] != "PASS" {
			t.Errorf("%s did not run in the machine", name)
		}
	}
}

// TestKernelOldest runs them on the oldest kernel alone, with the verdicts of every
// BPF program.
func TestKernelOldest(t *testing.T) {
	oldest := images.Kernels()[0]
	wantVerdicts(t, oldest, outcomes(bootTests(t, oldest, true)))
}

// TestKernels runs them on every locked kernel and prints a table. It takes some
// minutes a kernel under emulation.
func TestKernels(t *testing.T) {
	of := map[string]map[string]string{}
	for _, kernel := range images.Kernels() {
		t.Run(kernel, func(t *testing.T) {
			of[kernel] = outcomes(bootTests(t, kernel, true))
			wantVerdicts(t, kernel, of[kernel])
		})
	}
	names := map[string]bool{}
	for _, o := range of {
		for name := range o {
			names[name] = true
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| test | %s |\n|---|%s\n", strings.Join(images.Kernels(), " | "), strings.Repeat("---|", len(images.Kernels())))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, k := range images.Kernels() {
			fmt.Fprintf(&b, " %s |", cmp.Or(of[k][name], "-"))
		}
		b.WriteString("\n")
	}
	t.Log("\n" + b.String())
	if file := os.Getenv("HOOKBED_KERNELS_TABLE"); file != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// wantVerdicts asks that the suites that matter most really ran.
func wantVerdicts(t *testing.T, kernel string, of map[string]string) {
	t.Helper()
	for _, name := range []string{"TestVerdictsOfTC", "TestVerdictsOfXDP", "TestVerdictsOfGuard", "TestVerdictsOnTheWire", "TestBPF", "TestManyPolicies", "TestRecordCalls", "TestRecordDrops", "TestRecover"} {
		if of[name] != "PASS" {
			t.Errorf("kernel %s: %s is %q, want PASS", kernel, name, of[name])
		}
	}
}

var outcomeLine = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\w+) `)

// outcomes are how tests ended, by name, from what they printed.
func outcomes(said string) map[string]string {
	out := map[string]string{}
	for _, m := range outcomeLine.FindAllStringSubmatch(said, -1) {
		out[m[2]] = m[1]
	}
	return out
}

// bootTests boots a kernel with the tests as its first process, and the verdicts
// of BPF programs if they are wanted, and returns what it printed. It fails
// where a test did.
func bootTests(t *testing.T, kernel string, verdicts bool) string {
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(t.Context(), images.Want{Kernel: kernel, Root: true, Endpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	more := []string{"hookbed/driver/guest/ftrace"}
	if verdicts {
		more = append(more, "hookbed/bpf")
	}
	dir := t.TempDir()
	env := machineTest + "=1 "
	if hasNetkitByName(kernel) {
		env += mustHaveNetkit + "=1 "
	}
	m := vm.Machine{
		Name: "hookbed-t-kernel", VCPUs: 2, MemoryMiB: 1536, Kernel: set.Kernel.Path, Initramfs: testInitramfs(t, dir, set, more), ConsoleLog: filepath.Join(dir, "console"),
		Cmdline: "console=ttyS0 quiet panic=-1 net.ifnames=0 tsc=reliable no_timer_check " + env + "-- -test.v -test.run=" + machineTests,
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
	t.Logf("kernel %s under %s:\n%s", kernel, accel.Name, text)
	if !strings.Contains(text, testsEnded+"<nil>\n") {
		t.Errorf("the tests did not pass on kernel %s", kernel)
	}
	return text
}

// hasNetkitByName says whether a kernel is of 6.7 or newer.
func hasNetkitByName(kernel string) bool { return !slices.Contains([]string{"5.10", "6.1"}, kernel) }

// runMachine boots a machine and waits until it has ended.
func runMachine(t *testing.T, dir string, store *images.Store, m vm.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), machineLimit)
	defer cancel()
	h, err := vm.Connect(ctx, vm.Config{StateDir: dir, Lab: "t", CacheDir: filepath.Join(store.Dir(), "libvirt"), ImagesDir: store.Dir()})
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

// testInitramfs is what a sealed guest has, with this package's tests as its first
// process, and the tests of other packages.
func testInitramfs(t *testing.T, dir string, set images.Set, more []string) string {
	t.Helper()
	files := map[string][]byte{"/init": testProgram(t, dir, "."), builtObject: []byte(counting(t))}
	for _, pkg := range more {
		files[moreTests+"/"+filepath.Base(pkg)] = testProgram(t, dir, pkg)
	}
	path := filepath.Join(dir, "initramfs")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := images.Join(w, set.Sealed, files); err != nil {
		t.Fatal(err)
	}
	return path
}

// testProgram is the static test binary of a package.
func testProgram(t *testing.T, dir, pkg string) []byte {
	t.Helper()
	binary := filepath.Join(dir, "program.test")
	build := exec.Command("go", "test", "-c", "-o", binary, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
