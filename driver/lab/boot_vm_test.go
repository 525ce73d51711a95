//go:build vm

package lab

import (
	"os/exec"
	"path/filepath"
	"testing"

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
		l, err := Up(b.Context(), Config{
			Name: "bench", Nodes: 1, Store: store, GuestPath: guest, StateDir: filepath.Join(b.TempDir(), "lab"),
			Lab: plan.Lab{Provider: plan.ProviderLibvirt, Endpoint: plan.EndpointNetns, Accel: plan.AccelAuto, Kernel: "6.12", VCPUs: 2, Memory: 2048, Queues: 4},
		})
		if err != nil {
			b.Fatal(err)
		}
		accel, _ := l.Environment()["accelerator"].(string)
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
