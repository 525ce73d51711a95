package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/helper"
	"hookbed/driver/vm"
	"hookbed/images"
)

// check is one thing doctor looks at.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do when not OK
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Check tools, versions and privileges, whether KVM really works, and that virtual time is exact; print the fix for each failure",
		Long: `Doctor looks at this computer. With an experiment whose provider is "ssh" it
looks at the machines of its inventory instead: login, host key, root, kernel,
tools, data NIC, and whether they reach each other over it. With one whose nodes
run on hypervisors it looks at those: login, host key, libvirt, accelerator,
directory, data bridge.`,
		Example: `  driver doctor
  driver doctor experiments/vagrant.toml
  driver doctor --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly(1, "at most one experiment file")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a.interruptHint = "nothing is left running"
			// Only root builds images; who cannot use them must not wait for packages.
			a.cachedOnly = os.Geteuid() != 0
			looks := []look{
				{"tools", a.checkTools}, {"disk and memory", checkRoom}, {"images, which are built where they are missing", a.checkImages},
				{"accelerator: boot the probe guest", a.checkAccel}, {"virtual time: boot a guest three times", a.checkExact},
			}
			if a.cachedOnly {
				looks[2].what = "images in the cache"
			}
			if len(args) == 1 {
				var err error
				if looks, err = a.doctorOf(args[0]); err != nil {
					return err
				}
			}
			return a.doctor(cmd.Context(), looks)
		},
	}
}

// look is a part of doctor's round.
type look struct {
	what string // for whoever waits for it
	do   func(context.Context) []check
}

func (a *app) doctor(ctx context.Context, looks []look) error {
	failed := 0
	for _, l := range looks {
		found := a.atWork(l.what, func() []check { return l.do(ctx) })
		if ctx.Err() != nil {
			return ctx.Err() // what failed then failed of that
		}
		for _, c := range found {
			if !c.OK {
				failed++
			}
			a.emit("check", c, func(w io.Writer) { printCheck(w, c) })
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	return nil
}

// stillEvery is how often doctor says that it is still at the same thing.
const stillEvery = 15 * time.Second

// atWork says what is looked at, and again while that goes on.
func (a *app) atWork(what string, do func() []check) []check {
	start := time.Now()
	a.say("doctor: %s", what)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(stillEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				a.say("doctor: %s: %.0f s so far", what, time.Since(start).Seconds())
			}
		}
	}()
	defer func() { close(done); <-ended }()
	return do()
}

func printCheck(w io.Writer, c check) {
	mark := "ok  "
	if !c.OK {
		mark = "FAIL"
	}
	fmt.Fprintf(w, "%s  %-18s %s\n", mark, c.Name, c.Detail)
	if !c.OK {
		fmt.Fprintf(w, "      fix: %s\n", c.Fix)
	}
}

func (a *app) checkTools(ctx context.Context) []check {
	const deps = "run `make deps`"
	out := []check{{Name: "root", OK: os.Geteuid() == 0, Detail: fmt.Sprintf("effective user %d", os.Geteuid()), Fix: "run the driver as root: it makes network namespaces and virtual machines"}}
	qemu, err := vm.QEMUVersion(ctx)
	c := check{Name: "qemu", OK: err == nil, Detail: qemu, Fix: deps}
	if err != nil {
		c.Detail = err.Error()
	}
	out = append(out, c)
	for _, tool := range []string{"libvirtd", "tini", "mmdebstrap", "mksquashfs", "depmod", "apt-ftparchive", "ssh", "nsenter"} {
		path, err := exec.LookPath(tool)
		c := check{Name: tool, OK: err == nil, Detail: path, Fix: deps}
		if err != nil {
			c.Detail = "not found on PATH"
		}
		out = append(out, c)
	}
	guest, err := helper.Path()
	c = check{Name: "guest helper", OK: err == nil, Detail: guest, Fix: "run `make build`"}
	if err != nil {
		c.Detail = err.Error()
	}
	return append(out, c)
}

const minimumDisk, minimumMemory = 3 << 30, 5 << 30 // bytes: images; two VMs of 2 GiB and the driver

func checkRoom(context.Context) []check {
	var fs syscall.Statfs_t
	disk := check{Name: "disk", Fix: "free some space for the image cache"}
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
	memory := check{Name: "memory", Fix: "free some memory, or lower `memory` in the experiment"}
	if err := syscall.Sysinfo(&info); err != nil {
		memory.Detail = err.Error()
	} else {
		total := info.Totalram * uint64(info.Unit)
		memory.OK, memory.Detail = total >= minimumMemory, fmt.Sprintf("%.1f GiB, want 5", float64(total)/(1<<30))
	}
	return []check{disk, memory}
}

func (a *app) checkImages(ctx context.Context) []check {
	c := check{Name: "images", Fix: "run `driver images build`"}
	store, err := a.openStore("")
	if err == nil {
		var set images.Set
		set, err = store.Ensure(ctx, images.Want{Kernel: images.DefaultKernel, Root: true, Endpoint: true})
		c.OK, c.Detail = err == nil, "kernel "+set.KernelRelease
	}
	if err != nil {
		c.Detail = err.Error()
	}
	if errors.Is(err, images.ErrNotCached) {
		c.Fix = buildAsRoot
	}
	return []check{c}
}

// buildAsRoot is the fix where an ordinary user lacks images.
const buildAsRoot = "only root builds images: run `driver doctor` or `driver images build` as root"

// checkAccel boots the probe guest: /dev/kvm may open and still not boot a
// stock kernel. TCG is slow, not broken, so only a machine on which neither
// works fails.
func (a *app) checkAccel(ctx context.Context) []check {
	c := check{Name: "accelerator", Fix: "look at the QEMU message; `make deps` installs a QEMU that works"}
	store, err := a.openStore("")
	if err != nil {
		c.Detail = err.Error()
		return []check{c}
	}
	set, err := store.Ensure(ctx, images.Want{Kernel: images.DefaultKernel})
	if err == nil {
		var accel vm.Accel
		if accel, err = vm.ProbeAccel(ctx, set.Kernel.Path, set.Probe.Path, store.Dir()); err == nil {
			var seconds float64
			seconds, err = vm.BootProbe(ctx, accel.Name, set.Kernel.Path, set.Probe.Path)
			c.OK, c.Detail = err == nil, fmt.Sprintf("%s: %s; the probe guest reached user space in %.1f s", accel.Name, accel.How, seconds)
		}
	}
	if err != nil {
		c.Detail = err.Error()
	}
	if errors.Is(err, images.ErrNotCached) {
		c.Fix = buildAsRoot
	}
	return []check{c}
}
