package vm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/analysis/durable"
)

// sealed is a machine in virtual time.
func sealed() Machine {
	m := node()
	m.VCPUs, m.Disks, m.NICs, m.MemoryMiB = 1, nil, nil, 1024
	m.Virtual = &Virtual{Seed: "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0", Results: "/state/a,b.results"}
	return m
}

func TestArgumentsOfASealedMachine(t *testing.T) {
	args, err := sealed().arguments()
	if err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "arguments-virtual.txt", strings.Join(args, "\n"))
	if _, err := node().arguments(); err == nil {
		t.Error("a machine with disks and networks runs without libvirt")
	}
}

// What QEMU refuses is the error, with what it said; nothing is left.
func TestDirectSaysWhatQEMUSays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	d, err := ConnectDirect(t.Context(), Config{StateDir: dir, Lab: "l"})
	if err != nil {
		t.Fatal(err)
	}
	m := sealed()
	m.Kernel, m.ConsoleLog, m.Virtual.Results = filepath.Join(dir, "no kernel"), filepath.Join(dir, "console"), filepath.Join(dir, "results")
	if err := d.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context(), m); !errors.Is(err, errOthers) {
		t.Errorf("started twice: error %v", err)
	}
	if err := d.Wait(t.Context(), m.Name, Gone); err == nil || !strings.Contains(err.Error(), "could not") && !strings.Contains(err.Error(), "no kernel") {
		t.Errorf("error %v, want QEMU's message", err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{recordFile, m.Name + ".log"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left (%v)", name, err)
		}
	}
}

// A guest that runs has no capability, is recorded, and is found and ended by Cleanup, as after a
// driver that was killed where its guests were not.
func TestDirectIsConfinedAndCleanedUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	d, err := ConnectDirect(t.Context(), Config{StateDir: dir, Lab: "l"})
	if err != nil {
		t.Fatal(err)
	}
	m := sealed()
	// Its firmware waits for a kernel that never comes: the file is no kernel, but long enough.
	m.Kernel, m.Initramfs, m.ConsoleLog, m.Virtual.Results = filepath.Join(dir, "kernel"), filepath.Join(dir, "initramfs"), filepath.Join(dir, "console"), filepath.Join(dir, "results")
	for _, f := range []string{m.Kernel, m.Initramfs} {
		if err := os.WriteFile(f, bootSector(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(t.Context()) })
	c := d.running[m.Name]
	status, err := os.ReadFile(c.process.path("status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if os.Geteuid() == 0 && !slices.Contains(strings.Split(string(status), "\n"), want) {
			t.Errorf("QEMU's status lacks %q:\n%s", want, status)
		}
	}
	if err := Cleanup(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	<-c.done
	if err := syscall.Kill(c.process.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("QEMU %d is left (%v)", c.process.PID, err)
	}
}

// A guest that cannot be recorded, since the disk is full, is not left running.
func TestDirectOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a file system: run it as root")
	}
	dir, disk := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	d, err := ConnectDirect(t.Context(), Config{StateDir: disk, Lab: "l"})
	if err != nil {
		t.Fatal(err)
	}
	m := sealed()
	m.Name += "-full"
	m.Kernel, m.Initramfs, m.ConsoleLog, m.Virtual.Results = filepath.Join(dir, "kernel"), filepath.Join(dir, "initramfs"), filepath.Join(dir, "console"), filepath.Join(dir, "results")
	for _, f := range []string{m.Kernel, m.Initramfs} {
		if err := os.WriteFile(f, bootSector(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(disk, "filler"), make([]byte, 1<<20), 0o600); !durable.NoRoom(err) {
		t.Fatalf("error %v, want a full disk", err)
	}
	var start *StartError
	if err := d.Start(t.Context(), m); !durable.NoRoom(err) || !errors.As(err, &start) || !strings.Contains(err.Error(), disk) {
		t.Errorf("error %v, want that of a full disk, with its path", err)
	}
	if left := running(t, m.Name); left != "" {
		t.Errorf("QEMU is left: %s", left)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// running is the command line of the QEMU of a machine, "" if there is none.
func running(t *testing.T, machine string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		argv, _ := os.ReadFile(file) // it may have ended
		if strings.Contains(string(argv), "guest="+machine+",") {
			return string(argv)
		}
	}
	return ""
}

// bootSector is a kernel for QEMU's loader that only loops, by the boot protocol 2.02 (the kernel's
// Documentation/arch/x86/boot.rst): with an older one QEMU refuses an initramfs, and ends.
func bootSector() []byte {
	b := make([]byte, 8192)
	b[0x1f1] = 4 // setup sectors
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	b[0x200], b[0x201] = 0xeb, 0xfe // jmp to itself
	copy(b[0x202:], "HdrS\x02\x02")
	return b
}
