//go:build vm

package lab

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hookbed/driver/plan"
	"hookbed/driver/vm"
	"hookbed/images"
)

func buildGuest(tb testing.TB) string {
	tb.Helper()
	guest := filepath.Join(tb.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-o", guest, "hookbed/driver/guest")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	return guest
}

// bootLab brings up a lab of one node.
func bootLab(tb testing.TB, store *images.Store, guest string, hang time.Duration, log *slog.Logger) (*Lab, error) {
	return Up(tb.Context(), Config{
		Name: "bench", Nodes: 1, Store: store, GuestPath: guest, StateDir: filepath.Join(tb.TempDir(), "lab"), HangLimit: hang, Log: log,
		Lab: plan.Lab{Provider: plan.ProviderLibvirt, Endpoint: plan.EndpointNetns, Accel: plan.AccelAuto, Kernel: "6.12", VCPUs: 2, Memory: 2048, Queues: 4},
	})
}

// TestVMHungBoot: a machine that hangs while it boots is ended and booted again.
func TestVMHungBoot(t *testing.T) {
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	hung := make(chan int, 1)
	go func() { hung <- hang("guest=hookbed-bench-node1,") }()
	l, err := bootLab(t, store, buildGuest(t), 30*time.Second, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	pid := <-hung
	if !strings.Contains(said.String(), "boot a machine again") || !strings.Contains(said.String(), errHung.Error()) {
		t.Errorf("process %d was stopped, and the log says:\n%s", pid, said.String())
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the machine that hung, process %d, is still there: %v", pid, err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// hang stops the QEMU process that has a text in its command line, a moment after
// it is there: libvirt has let it go by then. It returns its number, 0 if there
// was none.
func hang(text string) int {
	for range 600 {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range files {
			argv, _ := os.ReadFile(file)
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && strings.Contains(string(argv), text) && strings.Contains(string(argv), "qemu-system") {
				time.Sleep(time.Second)
				if syscall.Kill(pid, syscall.SIGSTOP) == nil {
					return pid
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return 0
}

// BenchmarkVMBootToCommand compares, in one run, bringing up a lab of one node
// - private libvirtd, networks, machine, first SSH commands, helper answering -
// with the bare pinned kernel and an initramfs reaching user space.
func BenchmarkVMBootToCommand(b *testing.B) {
	guest := buildGuest(b)
	store, err := images.Open("", images.Options{})
	if err != nil {
		b.Fatal(err)
	}
	set, err := store.Ensure(b.Context(), images.Want{Kernel: "6.12", Root: true, Endpoint: true})
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		l, err := bootLab(b, store, guest, 0, nil)
		if err != nil {
			b.Fatal(err)
		}
		accel := l.Environment().Accelerator
		if err := l.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		bare, err := vm.BootProbe(b.Context(), accel, set.Kernel.Path, set.Probe.Path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(bare, "bare-kernel-s")
		b.ReportMetric(l.Timings["boot"], "lab-boot-s")
		b.ReportMetric(l.Timings["boot"]/bare, "lab-boot/bare-kernel")
	}
}
