package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	qemuBinary = "qemu-system-x86_64"
	// Older versions of QEMU corrupt flags when they emulate: with Debian's 7.2, one
	// boot of Linux 6.x in ten or more crashes.
	minimumMajor, minimumMinor = 8, 2

	probeMarker = "HOOKBED-PROBE-OK" // printed by the probe guest in user space
	probeLine   = "console=ttyS0 quiet panic=1 tsc=reliable no_timer_check"
	kvmLimit    = 6 * time.Second // a working KVM needs 1 s
	bootLimit   = 120 * time.Second

	accelCache = "accelerator.json"
)

// QEMUVersion is the version of the QEMU on PATH, "10.0.2". A version that
// cannot be used is returned together with an error that says so.
func QEMUVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, qemuBinary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask QEMU for its version (`make deps` installs it): %w", err)
	}
	version, err := parseQEMUVersion(string(out))
	if err != nil {
		return "", err
	}
	return version, supported(version)
}

func parseQEMUVersion(out string) (string, error) {
	_, rest, found := strings.Cut(out, "version ")
	if f := strings.Fields(rest); found && len(f) > 0 {
		return f[0], nil
	}
	return "", fmt.Errorf("read QEMU's version: no \"version\" in %q", out)
}

func supported(version string) error {
	major, minor := 0, 0
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("read QEMU's version %q: %w", version, err)
	}
	if major < minimumMajor || major == minimumMajor && minor < minimumMinor {
		return fmt.Errorf("QEMU %s emulates x86 wrongly, want %d.%d or newer: `make deps` installs one", version, minimumMajor, minimumMinor)
	}
	return nil
}

// Accel is the accelerator that works on this computer.
type Accel struct {
	Name    string  `json:"name"`    // KVM or TCG
	How     string  `json:"how"`     // a sentence on how this was decided
	Seconds float64 `json:"seconds"` // time to decide
}

// ProbeAccel finds out whether KVM really boots a stock kernel. /dev/kvm alone does
// not show it: software implementations of KVM open and then hang. It boots a probe
// guest of the given kernel and initramfs, which prints HOOKBED-PROBE-OK in user
// space. The answer is kept in cacheDir as long as the computer's boot, kernel, probe
// and QEMU are the same. Errors are about the computer (QEMU missing or too old,
// files missing), never about KVM.
func ProbeAccel(ctx context.Context, kernel, initramfs, cacheDir string) (Accel, error) {
	p := prober{device: "/dev/kvm", limit: kvmLimit, version: QEMUVersion, boot: BootProbe}
	return p.probe(ctx, kernel, initramfs, cacheDir)
}

// prober is ProbeAccel with the parts that tests replace.
type prober struct {
	device  string
	limit   time.Duration
	version func(context.Context) (string, error)
	boot    func(ctx context.Context, accel, kernel, initramfs string) (float64, error)
}

func (p prober) probe(ctx context.Context, kernel, initramfs, cacheDir string) (Accel, error) {
	start := time.Now()
	qemu, err := p.version(ctx)
	if err != nil {
		return Accel{}, err
	}
	if f, err := os.OpenFile(p.device, os.O_RDWR|syscall.O_CLOEXEC, 0); err != nil {
		return Accel{Name: TCG, How: fmt.Sprintf("emulated: KVM does not open (%v)", err)}, nil
	} else if err := f.Close(); err != nil {
		return Accel{}, fmt.Errorf("close %s: %w", p.device, err)
	}
	key, err := probeKey(qemu, kernel, initramfs)
	if err != nil {
		return Accel{}, fmt.Errorf("identify the probe: %w", err)
	}
	path := filepath.Join(cacheDir, accelCache)
	if a, ok := cachedAccel(path, key); ok {
		return a, nil
	}
	a, err := p.decide(ctx, kernel, initramfs)
	if err != nil {
		return Accel{}, err
	}
	a.Seconds = time.Since(start).Seconds()
	return a, keepAccel(path, key, a)
}

// decide boots the probe guest under KVM.
func (p prober) decide(ctx context.Context, kernel, initramfs string) (Accel, error) {
	limited, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	seconds, err := p.boot(limited, KVM, kernel, initramfs)
	switch {
	case ctx.Err() != nil:
		return Accel{}, fmt.Errorf("probe KVM: %w", ctx.Err())
	case err == nil:
		return Accel{Name: KVM, How: fmt.Sprintf("a probe guest reached user space under KVM after %.1f s", seconds)}, nil
	case limited.Err() != nil:
		return Accel{Name: TCG, How: fmt.Sprintf("emulated: KVM opens, but a probe guest under it did not reach user space within %.0f s", p.limit.Seconds())}, nil
	default:
		return Accel{Name: TCG, How: fmt.Sprintf("emulated: KVM opens, but a probe guest under it failed: %v", err)}, nil
	}
}

// accelAnswers is the cache file: answers by probe key, all of one boot.
type accelAnswers struct {
	Boot    string           `json:"boot_id"`
	Answers map[string]Accel `json:"answers"`
}

// probeIdentity identifies the boot and the probe that an answer is valid for.
type probeIdentity struct{ boot, probe string }

func probeKey(qemu, kernel, initramfs string) (probeIdentity, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return probeIdentity{}, err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, qemu)
	for _, path := range []string{kernel, initramfs} {
		f, err := os.Open(path)
		if err != nil {
			return probeIdentity{}, err
		}
		n, err := io.Copy(sum, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return probeIdentity{}, err
		}
		fmt.Fprintln(sum, n) // where one file ends
	}
	return probeIdentity{strings.TrimSpace(string(boot)), hex.EncodeToString(sum.Sum(nil))}, nil
}

func cachedAccel(path string, key probeIdentity) (Accel, bool) {
	c := readAnswers(path, key.boot)
	a, ok := c.Answers[key.probe]
	return a, ok
}

// readAnswers reads the cache. One that is missing, damaged or of another boot counts
// as empty, since a cache only saves time.
func readAnswers(path, boot string) accelAnswers {
	empty := accelAnswers{Boot: boot, Answers: map[string]Accel{}}
	data, err := os.ReadFile(path)
	if err != nil {
		return empty
	}
	var c accelAnswers
	if json.Unmarshal(data, &c) != nil || c.Boot != boot || c.Answers == nil {
		return empty
	}
	return c
}

func keepAccel(path string, key probeIdentity, a Accel) error {
	c := readAnswers(path, key.boot)
	c.Answers[key.probe] = a
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("keep the accelerator: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keep the accelerator: %w", err)
	}
	return writeFile(path, append(data, '\n'))
}

// BootProbe boots the probe guest under an accelerator, without libvirt, and
// returns the seconds from the start of QEMU to user space: the least time that
// this computer needs to boot this kernel. It fails after 120 s.
func BootProbe(ctx context.Context, accel, kernel, initramfs string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	cpu := "max"
	if accel == KVM {
		cpu = "host"
	}
	cmd := exec.Command(qemuBinary, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", accel, "-cpu", cpu, "-smp", "1", "-m", "256",
		"-kernel", kernel, "-initrd", initramfs, "-append", probeLine, "-serial", "stdio")
	var said bytes.Buffer
	console := &watcher{marker: []byte(probeMarker), seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = console, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	start, done := time.Now(), make(chan struct{})
	if err := startOnOwnThread(cmd, done); err != nil {
		return 0, fmt.Errorf("boot probe guest: %w", err)
	}
	select {
	case <-console.seen:
	case <-done:
	case <-ctx.Done():
	}
	seconds := time.Since(start).Seconds()
	_ = cmd.Process.Kill() // it may have ended by itself
	<-done
	switch {
	case console.hasSeen():
		return seconds, nil
	case ctx.Err() != nil:
		return 0, fmt.Errorf("boot probe guest under %s: %w", accel, ctx.Err())
	}
	return 0, fmt.Errorf("boot probe guest under %s: QEMU ended (%v): %s", accel, cmd.ProcessState, firstLine(said.String()))
}

func firstLine(text string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return first
}

// watcher is a writer that closes seen when the marker has been written.
type watcher struct {
	marker []byte
	last   []byte // the end of what was written, shorter than the marker
	seen   chan struct{}
}

func (w *watcher) Write(p []byte) (int, error) {
	text := append(w.last, p...)
	if !w.hasSeen() && bytes.Contains(text, w.marker) {
		close(w.seen)
	}
	w.last = bytes.Clone(text[max(0, len(text)-len(w.marker)+1):])
	return len(p), nil
}

func (w *watcher) hasSeen() bool {
	select {
	case <-w.seen:
		return true
	default:
		return false
	}
}
