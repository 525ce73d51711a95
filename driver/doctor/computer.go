package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"hookbed/driver/campaign"
	"hookbed/driver/helper"
	"hookbed/driver/lab"
	"hookbed/driver/vm"
	"hookbed/driver/watch"
	"hookbed/images"
)

// Computer are the checks of this computer. cachedOnly says that no image can be built.
func (d Driver) Computer(cachedOnly bool) []Part {
	what := "images, which are built where they are missing"
	if cachedOnly {
		what = "images in the cache"
	}
	return []Part{
		{"tools", tools}, {"disk and memory", room}, {what, d.images}, {"trace plugin", d.tracePlugin},
		{"accelerator: boot the probe guest", d.accelerator}, {"virtual time: boot a guest three times", d.virtualTime},
	}
}

// Quick are those of them that boot nothing and build nothing: they take seconds.
func (d Driver) Quick() []Part {
	return []Part{{"tools", tools}, {"disk and memory", room}, {"images in the cache", d.cached}, {"accelerator: open KVM", opensKVM}}
}

// cached looks for the images that the cache has. That some are missing costs root a build later.
func (d Driver) cached(ctx context.Context) []Check {
	found := d.images(ctx)
	for i, c := range found {
		if c.Fix == BuildAsRoot && os.Geteuid() == 0 {
			found[i] = Check{Name: c.Name, OK: true, Detail: "not all are in the cache", Warning: c.Detail + "; the first run builds them, or `driver images build`"}
		}
	}
	return found
}

// kvmDevice is where a kernel offers KVM.
const kvmDevice = "/dev/kvm"

// emulated is what it means that KVM does not work.
const emulated = "machines are emulated: slower, and virtual time is not concerned"

// opensKVM opens KVM without booting a guest.
func opensKVM(context.Context) []Check {
	c := Check{Name: "accelerator", OK: true, Detail: kvmDevice + " opens; `driver doctor` finds out whether it boots a kernel"}
	f, err := os.OpenFile(kvmDevice, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		c.Detail, c.Warning = "tcg", fmt.Sprintf("KVM does not open (%v): %s", err, emulated)
	}
	return []Check{c}
}

func tools(ctx context.Context) []Check {
	const deps = "run `make deps`"
	out := []Check{{Name: "root", OK: os.Geteuid() == 0, Detail: fmt.Sprintf("effective user %d", os.Geteuid()), Fix: "run the driver as root: it makes network namespaces and virtual machines"}}
	qemu, err := vm.QEMUVersion(ctx)
	c := Check{Name: "qemu", OK: err == nil, Detail: qemu, Fix: deps}
	if err != nil {
		c.Detail = err.Error()
	}
	out = append(out, c)
	for _, tool := range []string{"libvirtd", "tini", "mmdebstrap", "mksquashfs", "depmod", "apt-ftparchive", "ssh", "nsenter"} {
		path, err := exec.LookPath(tool)
		c := Check{Name: tool, OK: err == nil, Detail: path, Fix: deps}
		if err != nil {
			c.Detail = "not found on PATH"
		}
		out = append(out, c)
	}
	guest, err := helper.Path()
	c = Check{Name: "guest helper", OK: err == nil, Detail: guest, Fix: "run `make build`"}
	if err != nil {
		c.Detail = err.Error()
	}
	return append(out, c)
}

const minimumDisk, minimumMemory = 3 << 30, 5 << 30 // bytes: images; two VMs of 2 GiB and the driver

func room(context.Context) []Check {
	var fs syscall.Statfs_t
	disk := Check{Name: "disk", Fix: "free some space for the image cache"}
	dir, err := os.UserCacheDir()
	if err == nil {
		_ = os.MkdirAll(dir, 0o755)
		err = syscall.Statfs(dir, &fs)
	}
	if err != nil {
		disk.Detail = err.Error()
	} else {
		free := fs.Bavail * uint64(fs.Bsize)
		disk.OK, disk.Detail = free >= minimumDisk, fmt.Sprintf("%.1f GiB free under %s, want 3", float64(free)/(1<<30), dir)
	}
	var info syscall.Sysinfo_t
	memory := Check{Name: "memory", Fix: "free some memory, or lower `memory` in the experiment"}
	if err := syscall.Sysinfo(&info); err != nil {
		memory.Detail = err.Error()
	} else {
		total := info.Totalram * uint64(info.Unit)
		memory.OK, memory.Detail = total >= minimumMemory, fmt.Sprintf("%.1f GiB, want 5", float64(total)/(1<<30))
	}
	return []Check{disk, memory}
}

func (d Driver) images(ctx context.Context) []Check {
	c := Check{Name: "images", Fix: "run `driver images build`"}
	store, err := d.OpenStore()
	if err == nil {
		var set images.Set
		set, err = store.Ensure(ctx, images.Want{Kernel: images.DefaultKernel, Root: true, Endpoint: true})
		c.OK, c.Detail = err == nil, "kernel "+set.KernelRelease
	}
	if err != nil {
		c.Detail = err.Error()
	}
	if errors.Is(err, images.ErrNotCached) {
		c.Fix = BuildAsRoot
	}
	return []Check{c}
}

// tracePlugin builds the plugin that observes guests, as the first trace would.
func (d Driver) tracePlugin(ctx context.Context) []Check {
	c := Check{Name: "trace plugin", Fix: "run `make deps`: it installs a C compiler and a QEMU that has the plugin interface"}
	store, err := d.OpenStore()
	var qemu string
	if err == nil {
		qemu, err = vm.QEMUVersion(ctx)
	}
	var p watch.Plugin
	if err == nil {
		p, err = watch.Build(ctx, store.Dir(), qemu)
	}
	c.OK, c.Detail = err == nil, fmt.Sprintf("for QEMU %s, SHA-256 %.12s", p.QEMUVersion, p.SHA256)
	if err != nil {
		c.Detail = err.Error()
	}
	return []Check{c}
}

// BuildAsRoot is the fix for a user who is not root and lacks images.
const BuildAsRoot = "only root builds images: run `driver doctor` or `driver images build` as root"

// accelerator boots the probe guest: /dev/kvm may open and still not boot a stock kernel. TCG is
// slow, not broken, so the check fails only where neither works.
func (d Driver) accelerator(ctx context.Context) []Check {
	c := Check{Name: "accelerator", Fix: "look at the QEMU message; `make deps` installs a QEMU that works"}
	store, err := d.OpenStore()
	if err != nil {
		c.Detail = err.Error()
		return []Check{c}
	}
	set, err := store.Ensure(ctx, images.Want{Kernel: images.DefaultKernel})
	if err == nil {
		var accel vm.Accel
		if accel, err = vm.ProbeAccel(ctx, set.Kernel.Path, set.Probe.Path, store.Dir()); err == nil {
			var seconds float64
			seconds, err = vm.BootProbe(ctx, accel.Name, set.Kernel.Path, set.Probe.Path)
			c.OK, c.Detail = err == nil, fmt.Sprintf("%s: %s; the probe guest reached user space in %.1f s", accel.Name, accel.How, seconds)
			if c.OK && accel.Name != vm.KVM {
				c.Warning = "KVM does not work (" + accel.How + "): " + emulated
			}
		}
	}
	if err != nil {
		c.Detail = err.Error()
	}
	if errors.Is(err, images.ErrNotCached) {
		c.Fix = BuildAsRoot
	}
	return []Check{c}
}

// virtualTime proves on this computer that virtual time is exact.
func (d Driver) virtualTime(ctx context.Context) []Check {
	c := Check{Name: "virtual time", Fix: "virtual time is not exact here: look at QEMU's version, and report this with `driver doctor --json`"}
	if os.Geteuid() != 0 {
		c.Detail, c.Fix = "not looked at: only root starts such guests", "run `driver doctor` as root"
		return []Check{c}
	}
	start := time.Now()
	size, err := d.proveExact(ctx)
	c.OK = err == nil
	c.Detail = fmt.Sprintf("exact: 3 guests, alone and at once beside busy loops, wrote the same %d bytes (%.0f s)", size, time.Since(start).Seconds())
	if err != nil {
		c.Detail = err.Error()
	}
	return []Check{c}
}

func (d Driver) proveExact(ctx context.Context) (size int, err error) {
	p, err := campaign.ExactPlan(d.Catalog)
	if err != nil {
		return 0, err
	}
	cfg, err := d.LabConfig(ctx, p)
	if err != nil {
		return 0, err
	}
	sealer, err := lab.OpenSealer(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := sealer.Close(ctx); err == nil {
			err = cerr
		}
	}()
	return campaign.ProveExact(ctx, p, sealer.Run, func(what string) { d.Say("doctor: virtual time: %s", what) })
}
