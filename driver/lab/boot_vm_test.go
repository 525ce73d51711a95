//go:build vm

package lab

import (
	"bytes"
	"context"
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

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/host"
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

// TestVMHungBoot: a machine that hangs while it boots is ended and booted again. Then it
// is a node as any other.
func TestVMHungBoot(t *testing.T) {
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	hung, ctx := make(chan int, 1), t.Context()
	go func() { hung <- hang(ctx, "guest=hookbed-bench-node1,") }()
	l, err := bootLab(t, store, buildGuest(t), 15*time.Second, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	pid := <-hung
	if !strings.Contains(said.String(), "boot a machine again") || !strings.Contains(said.String(), errHung.Error()) {
		t.Errorf("process %d was stopped, and the log says:\n%s", pid, said.String())
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the machine that hung, process %d, is still there: %v", pid, err)
	}
	t.Run("legacy table", func(t *testing.T) { testLegacyTable(t, l) })
}

// testLegacyTable: a rule set on a node that is a whole machine leaves no table of
// iptables-legacy registered, which later setups would pay for.
func testLegacyTable(t *testing.T, l *Lab) {
	s, err := datapath.Render(plan.Cell{ID: "legacy", Factors: map[string]string{
		plan.FactorArm: "a", plan.FactorDatapath: "bridge+iptables-legacy", plan.FactorFabric: "bridge", plan.FactorFilter: "iptables-legacy", plan.FactorScenario: plan.Localhost,
		plan.FactorPolicies: "3", plan.FactorProvider: plan.ProviderLibvirt, plan.FactorEndpoint: plan.EndpointNetns, plan.FactorCongestion: "reno", plan.FactorClock: plan.ClockWall,
		"policy": "l4", "action": "allow", "family": "ipv4", "match": "last", "state": "as-study", "placement": "forward",
	}})
	if err != nil {
		t.Fatal(err)
	}
	tables := func() string {
		var out strings.Builder
		cmd := host.Cmd{Argv: []string{"sh", "-c", "cat /proc/net/ip_tables_names 2>/dev/null; lsmod | grep iptable_filter || true"}, Stdout: &out}
		if err := l.provider.(*virtual).nodes[0].ssh.Run(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for range 2 {
		if got := tables(); got != "" {
			t.Fatalf("before the setup the node has %q", got)
		}
		if err := l.Begin(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Exec(t.Context(), &bundle.Bundle{Schema: bundle.Schema, Name: "legacy", Files: s.Files, Steps: s.Apply}, bundle.Apply); err != nil {
			t.Fatal(err)
		}
		if got := tables(); !strings.Contains(got, "filter") {
			t.Fatalf("with the setup the node has %q, want the table filter", got)
		}
		if err := l.End(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if got := tables(); got != "" {
		t.Errorf("after the setup the node has %q", got)
	}
}

// hang stops the QEMU process that has a text in its command line, a moment after
// it is there: libvirt has let it go by then. It returns its number, 0 if there
// was none until the context ended. Images may have to be built first, which takes minutes.
func hang(ctx context.Context, text string) int {
	for ctx.Err() == nil {
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
