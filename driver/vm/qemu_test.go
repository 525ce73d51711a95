package vm

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseQEMUVersion(t *testing.T) {
	for out, want := range map[string]string{
		"QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c)": "10.0.2",
		"QEMU emulator version 8.2.0\n":                                      "8.2.0",
		"something else":                                                     "",
	} {
		got, err := parseQEMUVersion(out)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", out, got, err, want)
		}
	}
}

func TestOldQEMUIsRefused(t *testing.T) {
	for version, ok := range map[string]bool{"7.2.15": false, "8.1.9": false, "8.2.0": true, "9.0": true, "10.0.2": true, "x": false} {
		if err := supported(version); (err == nil) != ok {
			t.Errorf("%s: %v, want ok %v", version, err, ok)
		}
	}
}

func TestInstalledQEMUIsSupported(t *testing.T) {
	if version, err := QEMUVersion(t.Context()); err != nil {
		t.Errorf("QEMU %q: %v", version, err)
	}
}

// rig is a prober whose boots take no time, with the files that it needs.
type rig struct {
	prober
	kernel, initramfs, cache string
	boots                    int
}

func newRig(t *testing.T, boot func(ctx context.Context) (float64, error)) *rig {
	dir := t.TempDir()
	r := &rig{kernel: filepath.Join(dir, "kernel"), initramfs: filepath.Join(dir, "initramfs"), cache: filepath.Join(dir, "cache")}
	device := filepath.Join(dir, "kvm")
	for _, path := range []string{r.kernel, r.initramfs, device} {
		if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.prober = prober{
		device: device, limit: 20 * time.Millisecond,
		version: func(context.Context) (string, error) { return "10.0.2", nil },
		boot: func(ctx context.Context, accel, _, _ string) (float64, error) {
			r.boots++
			if accel != KVM {
				t.Errorf("probe booted under %q", accel)
			}
			return boot(ctx)
		},
	}
	return r
}

func (r *rig) want(t *testing.T, name, how string, boots int) {
	t.Helper()
	a, err := r.probe(t.Context(), r.kernel, r.initramfs, r.cache)
	if err != nil {
		t.Fatal(err)
	}
	if a.Name != name || !strings.Contains(a.How, how) {
		t.Errorf("got %+v, want %s because of %q", a, name, how)
	}
	if r.boots != boots {
		t.Errorf("booted %d times, want %d", r.boots, boots)
	}
}

func works(context.Context) (float64, error) { return 0.8, nil }

func hangs(ctx context.Context) (float64, error) { <-ctx.Done(); return 0, ctx.Err() }

func TestProbeDecides(t *testing.T) {
	newRig(t, works).want(t, KVM, "after 0.8 s", 1)
	newRig(t, hangs).want(t, TCG, "did not reach user space within", 1)
	newRig(t, func(context.Context) (float64, error) { return 0, errors.New("no such CPU") }).want(t, TCG, "no such CPU", 1)
	r := newRig(t, works)
	r.device = filepath.Join(r.cache, "none")
	r.want(t, TCG, "KVM does not open", 0)
}

func TestProbeAnswerIsKept(t *testing.T) {
	r := newRig(t, works)
	r.want(t, KVM, "user space", 1)
	r.want(t, KVM, "user space", 1)
	if err := os.WriteFile(r.kernel, []byte("another kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(t, KVM, "user space", 2)
	r.version = func(context.Context) (string, error) { return "10.1.0", nil }
	r.want(t, KVM, "user space", 3)
	r.want(t, KVM, "user space", 3)
	if err := os.WriteFile(filepath.Join(r.cache, accelCache), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(t, KVM, "user space", 4)
}

func TestProbeAnswerOfAnotherBootIsNotUsed(t *testing.T) {
	r := newRig(t, works)
	r.want(t, KVM, "user space", 1)
	path := filepath.Join(r.cache, accelCache)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(data), strings.TrimSpace(string(boot)), "another-boot", 1)
	if other == string(data) {
		t.Fatal("the cache does not name the boot")
	}
	if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(t, KVM, "user space", 2)
}

func TestInterruptedProbeDecidesNothing(t *testing.T) {
	r := newRig(t, hangs)
	r.limit = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if a, err := r.probe(ctx, r.kernel, r.initramfs, r.cache); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v, want the context's error", a, err)
	}
	if _, err := os.Stat(filepath.Join(r.cache, accelCache)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an answer was kept (%v)", err)
	}
}

func TestWatcherSeesASplitMarker(t *testing.T) {
	w := &watcher{marker: []byte("READY"), seen: make(chan struct{})}
	for _, part := range []string{"boot REA", "D", "not yet RE", "A", "DY and more READY"} {
		if w.hasSeen() {
			t.Errorf("saw the marker before %q", part)
		}
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if !w.hasSeen() {
		t.Error("did not see the marker")
	}
}

func TestBootProbeReportsQEMU(t *testing.T) {
	_, err := BootProbe(t.Context(), TCG, "/nonexistent/vmlinuz", "/nonexistent/initramfs")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/vmlinuz") {
		t.Errorf("error is %v, want QEMU's about the kernel", err)
	}
}
