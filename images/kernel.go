package images

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Files of a kernel artifact.
const (
	kernelFile    = "vmlinuz"
	modulesFile   = "modules.squashfs"
	initramfsFile = "initramfs.cpio"
	probeFile     = "probe.cpio"

	valueRelease = "release"
)

// Names of Debian's kernel packages, before the release. Up to 6.18 the image has
// all of it; from then on it needs one with the kernel, one with the modules, and
// one with the lists of what is built in.
const (
	imagePrefix   = "linux-image-"
	basePrefix    = "linux-base-"
	binaryPrefix  = "linux-binary-"
	modulesPrefix = "linux-modules-"
)

// bootModules are loaded before there is a root file system.
func bootModules() []string { return []string{"virtio_pci", "virtio_blk", "squashfs", "overlay"} }

func kernelRecipe(name string) recipe {
	// The list of the other kernels changes nothing in this one.
	files := slices.DeleteFunc(recipeFiles("kernel"), func(f string) bool { return f == "kernel/packages" })
	return recipe{name: lockKernelPrefix + name, files: files, build: buildKernel}
}

// kernelTree is an unpacked kernel package.
type kernelTree struct {
	dir     string
	release string
}

func (k kernelTree) vmlinuz() string { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.release) }
func (k kernelTree) modules() string {
	return filepath.Join(k.dir, "usr", "lib", "modules", k.release)
}

// kernelRelease is the release of the kernel in a package, as uname prints it; ok
// is false for other packages.
func kernelRelease(p Package) (release string, ok bool) {
	for _, prefix := range []string{imagePrefix, basePrefix, binaryPrefix, modulesPrefix} {
		if release, ok = strings.CutPrefix(p.Name, prefix); ok {
			return release, true
		}
	}
	return "", false
}

// unpackKernel extracts the lock's kernel packages into dir.
func unpackKernel(ctx context.Context, d debs, l Lock, dir string) (kernelTree, error) {
	k := kernelTree{dir: dir}
	for _, p := range l.Packages {
		release, ok := kernelRelease(p)
		if !ok {
			continue
		}
		if k.release != "" && k.release != release {
			return k, fmt.Errorf("lock %s has kernels %s and %s, want one", l.Name, k.release, release)
		}
		k.release = release
		if _, err := (command{argv: []string{"dpkg-deb", "-x", d.path(p), dir}}).run(ctx); err != nil {
			return k, err
		}
	}
	if k.release == "" {
		return k, fmt.Errorf("lock %s has no kernel package", l.Name)
	}
	return k, errors.Join(mergeModules(k), moveKernel(k))
}

// moveKernel moves a kernel that lies among its modules, as since 7.1, to /boot:
// the machine is given it, not its disk of modules.
func moveKernel(k kernelTree) error {
	among := filepath.Join(k.modules(), kernelFile)
	if _, err := os.Stat(among); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := makeDir(filepath.Dir(k.vmlinuz())); err != nil {
		return err
	}
	return os.Rename(among, k.vmlinuz())
}

// mergeModules moves modules that are below /lib, as packages before Debian 13
// have them, to /usr/lib, where everything looks for them.
func mergeModules(k kernelTree) error {
	old := filepath.Join(k.dir, "lib", "modules")
	if _, err := os.Stat(old); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := makeDir(filepath.Dir(filepath.Dir(k.modules()))); err != nil {
		return err
	}
	if err := os.Rename(old, filepath.Dir(k.modules())); err != nil {
		return err
	}
	return os.Remove(filepath.Join(k.dir, "lib"))
}

func buildKernel(ctx context.Context, b *build) error {
	k, err := unpackKernel(ctx, b.debs, b.lock, filepath.Join(b.work, "kernel"))
	if err != nil {
		return err
	}
	b.manifest.Values[valueRelease] = k.release
	if err := b.keepKernel(k); err != nil {
		return err
	}
	if err := b.indexModules(ctx, k); err != nil {
		return err
	}
	if err := b.squashfs(ctx, filepath.Dir(k.modules()), modulesFile, "-all-root"); err != nil {
		return err
	}
	box, err := b.busybox(ctx)
	if err != nil {
		return err
	}
	if err := writeInitramfs(filepath.Join(b.out, initramfsFile), k, box); err != nil {
		return err
	}
	if err := writeSealedModules(b.out, k); err != nil {
		return err
	}
	return writeProbe(filepath.Join(b.out, probeFile), box)
}

// keepKernel copies the kernel after comparing it with the lock's digest. One
// that drifted is another kernel and has no digest to compare with.
func (b *build) keepKernel(k kernelTree) error {
	data, err := os.ReadFile(k.vmlinuz())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.out, kernelFile), data, 0o644); err != nil {
		return err
	}
	sum, _, err := hashFile(filepath.Join(b.out, kernelFile))
	if want := b.lock.Files[kernelFile]; err == nil && sum != want && len(b.manifest.Drift) == 0 {
		return fmt.Errorf("check kernel %s: its SHA-256 is %s, lock %s says %s", k.release, sum, b.lock.Name, want)
	}
	return err
}

// indexModules unpacks the modules, because an emulated CPU would take long to
// do it at every load, and runs depmod.
func (b *build) indexModules(ctx context.Context, k kernelTree) error {
	var packed []string
	err := filepath.WalkDir(k.modules(), func(file string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(file, ".ko.xz") {
			packed = append(packed, file)
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(packed) > 0 {
		if _, err := (command{argv: append([]string{"xz", "-d", "--"}, packed...)}).run(ctx); err != nil {
			return err
		}
	}
	// Older versions of depmod look below /lib only.
	if err := os.Symlink("usr/lib", filepath.Join(k.dir, "lib")); err != nil {
		return err
	}
	_, err = command{argv: []string{"depmod", "-b", k.dir, k.release}}.run(ctx)
	return err
}

// busybox returns the static busybox of the lock.
func (b *build) busybox(ctx context.Context) ([]byte, error) {
	dir := filepath.Join(b.work, "busybox")
	if err := b.unpack(ctx, busyboxPackage, dir); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "usr", "bin", "busybox"))
	if errors.Is(err, os.ErrNotExist) { // before Debian 13
		return os.ReadFile(filepath.Join(dir, "bin", "busybox"))
	}
	return data, err
}

// writeInitramfs packs busybox, the boot modules and the script that mounts
// the disks. It is not compressed: it is small, and unpacking costs boot time.
func writeInitramfs(file string, k kernelTree, box []byte) error {
	deps, err := moduleOrder(k.modules(), bootModules())
	if err != nil {
		return err
	}
	return writeCPIO(file, func(c *cpioWriter) error {
		writeBusybox(c, box, "sh", "mount", "umount", "mkdir", "modprobe", "usleep", "switch_root", "poweroff")
		for _, d := range []string{"etc", "lower", "upper", "new", "proc", "lib", "lib/modules", "lib/modules/" + k.release} {
			c.dir(d)
		}
		c.file("etc/fstab", 0o644, recipeFile("kernel/fstab"))
		c.file("init", 0o755, recipeFile("kernel/init"))
		var index bytes.Buffer
		for _, m := range deps {
			data, err := os.ReadFile(filepath.Join(k.modules(), m.path))
			if err != nil {
				return err
			}
			fmt.Fprintf(&index, "%s:%s\n", filepath.Base(m.path), strings.Join(append([]string{""}, m.needs...), " "))
			c.file("lib/modules/"+k.release+"/"+filepath.Base(m.path), 0o644, data)
		}
		c.file("lib/modules/"+k.release+"/modules.dep", 0o644, index.Bytes())
		return nil
	})
}

// writeProbe packs the guest that only proves that it runs.
func writeProbe(file string, box []byte) error {
	return writeCPIO(file, func(c *cpioWriter) error {
		writeBusybox(c, box, "sh", "poweroff")
		c.file("init", 0o755, recipeFile("kernel/probe"))
		return nil
	})
}

func writeBusybox(c *cpioWriter, box []byte, applets ...string) {
	c.dir("dev")
	c.char("dev/console", 0o600, 5, 1)
	c.dir("bin")
	c.link("sbin", "bin")
	c.file("bin/busybox", 0o755, box)
	for _, a := range applets {
		c.link("bin/"+a, "busybox")
	}
}

func writeCPIO(file string, fill func(*cpioWriter) error) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := bufio.NewWriter(f)
	c := &cpioWriter{w: buf}
	if err := fill(c); err != nil {
		return err
	}
	if err := c.close(); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// module is a kernel module with the file names of what must be loaded first.
type module struct {
	path  string // below the modules directory
	needs []string
}

// moduleOrder finds modules and all they need in modules.dep. A module that
// is built into the kernel has no line and is left out; one that is in
// neither list is an error.
func moduleOrder(dir string, names []string) ([]module, error) {
	index, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	byName := map[string]module{}
	for line := range strings.Lines(string(index)) {
		path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		m := module{path: path}
		for _, n := range strings.Fields(needs) {
			m.needs = append(m.needs, filepath.Base(n))
		}
		byName[moduleName(path)] = m
	}
	wanted := map[string]module{}
	for _, name := range names {
		m, ok := byName[name]
		if !ok && !bytes.Contains(builtin, []byte("/"+name+".ko")) {
			return nil, fmt.Errorf("kernel has no module %s", name)
		} else if !ok {
			continue
		}
		wanted[name] = m
		for _, n := range m.needs {
			wanted[moduleName(n)] = byName[moduleName(n)]
		}
	}
	var out []module
	for _, name := range sortedKeys(wanted) {
		out = append(out, wanted[name])
	}
	return out, nil
}

// moduleName is the kernel's name for a module file.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}
