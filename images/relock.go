package images

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hookbed/analysis/durable"
)

// suite is the Debian release that images are made of, but for the external filters and
// the other kernels.
const suite = "trixie"

// Relock resolves the named locks ("root", "endpoint", "peers", "http", "kernel-6.12", ...; none
// means all) against the mirror as it is now, and rewrites images/locks in the
// checkout at dir. A lock whose packages did not change keeps its snapshot
// time, and with it every digest. It returns the names that changed.
func (s *Store) Relock(ctx context.Context, dir string, names ...string) (changed []string, err error) {
	m, err := s.findMirrors(ctx)
	if err != nil {
		return nil, err
	}
	temp, remove, err := durable.Scratch("lock")
	if err != nil {
		return nil, err
	}
	defer func() { _ = remove() }() // what stays costs only space
	if len(names) == 0 {
		names = LockNames()
	}
	roots := map[string]aptRoot{} // by suite
	for _, name := range names {
		in := suiteOf(name)
		apt, ok := roots[in]
		if !ok {
			if apt, err = newAptRoot(ctx, filepath.Join(temp, in), in, m); err != nil {
				return changed, fmt.Errorf("read the mirror's index: %w", err)
			}
			roots[in] = apt
		}
		did, err := s.relockOne(ctx, apt, m, filepath.Join(dir, "images", "locks", name+".lock"), name)
		if err != nil {
			return changed, fmt.Errorf("lock %s: %w", name, err)
		}
		if did {
			changed = append(changed, name)
		}
	}
	return changed, nil
}

func (s *Store) relockOne(ctx context.Context, apt aptRoot, m mirrors, file, name string) (changed bool, err error) {
	l, err := apt.resolve(ctx, name)
	if err != nil {
		return false, err
	}
	l.Snapshot = time.Now().UTC().Truncate(time.Second)
	switch {
	case kernelOf(name) != "":
		err = lockKernelFile(ctx, s.debs(m), &l)
	case name == lockCompiler:
		err = s.lockCompilerFiles(ctx, m, &l)
	}
	if err != nil {
		return false, err
	}
	if old, err := os.ReadFile(file); err == nil {
		if was, err := ParseLock(name, old); err == nil && l.same(was) {
			return false, nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return true, writeFile(file, l.Format(), 0o644)
}

// same reports whether two locks pin the same things, whenever they were made.
func (l Lock) same(o Lock) bool {
	l.sort()
	o.sort()
	return l.Suite == o.Suite && slices.Equal(l.Want, o.Want) && slices.Equal(l.Packages, o.Packages) && maps.Equal(l.Files, o.Files)
}

// resolve picks the packages of a lock, without its time and file digests.
func (a aptRoot) resolve(ctx context.Context, name string) (Lock, error) {
	l := Lock{Name: name, Suite: suiteOf(name), Files: map[string]string{}}
	var err error
	switch kernel := kernelOf(name); {
	case name == lockRoot:
		l.Want = recipePackages("root/packages")
		l.Packages, err = a.closure(ctx, l.Want)
	case name == lockEndpoint:
		l.Want = recipePackages("endpoint/packages")
		l.Packages, err = a.candidates(ctx, l.Want...)
	case name == lockExternal:
		l.Want = recipePackages("peers/packages")
		l.Packages, err = a.candidates(ctx, l.Want...)
	case name == lockHTTP:
		l.Want = recipePackages("http/packages")
		l.Packages, err = a.candidates(ctx, l.Want...)
	case name == lockEtcd:
		l.Want = recipePackages("etcd/packages")
		l.Packages, err = a.candidates(ctx, l.Want...)
	case name == lockCompiler:
		l.Want = recipePackages("compiler/packages")
		l.Packages, err = a.candidates(ctx, l.Want...)
	case kernel != "":
		err = a.resolveKernel(ctx, &l, kernel)
	default:
		err = fmt.Errorf("unknown lock (allowed: %s)", strings.Join(LockNames(), ", "))
	}
	l.sort()
	return l, err
}

// resolveKernel follows the package that always depends on the newest image.
func (a aptRoot) resolveKernel(ctx context.Context, l *Lock, kernel string) error {
	from, ok := sourceOf(kernel)
	if !ok && slices.Contains(Versions(), kernel) {
		return fmt.Errorf("kernel %s is one version, whose lock does not change", kernel)
	} else if !ok {
		return fmt.Errorf("kernel %s is not in images/kernel/packages", kernel)
	}
	names, err := a.kernelPackages(ctx, from)
	if err != nil {
		return err
	}
	l.Want = []string{from.series}
	l.Packages, err = a.candidates(ctx, append(names, busyboxPackage)...)
	return err
}

// busyboxPackage is the only program in the initramfs.
const busyboxPackage = "busybox-static"

// kernelPackages names the packages that hold the newest kernel of a series and
// its modules: the image, or, where that is empty (since 6.19), the three it needs.
func (a aptRoot) kernelPackages(ctx context.Context, k kernelSource) ([]string, error) {
	image, err := a.newest(ctx, k)
	if err != nil {
		return nil, err
	}
	return a.kernelParts(ctx, image.Name)
}

// kernelParts names the packages that hold the kernel of an image package.
func (a aptRoot) kernelParts(ctx context.Context, image string) ([]string, error) {
	release := strings.TrimPrefix(image, imagePrefix)
	depends, err := a.dependencies(ctx, image)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(depends, binaryPrefix+release) {
		return []string{image}, nil
	}
	return []string{basePrefix + release, binaryPrefix + release, modulesPrefix + release}, nil
}

// newest is the newest image package of a series.
func (a aptRoot) newest(ctx context.Context, k kernelSource) (Package, error) {
	all, err := a.run(ctx, "apt-cache", "pkgnames", imagePrefix)
	if err != nil {
		return Package{}, err
	}
	names := slices.DeleteFunc(strings.Fields(all), func(p string) bool { return !k.is(p) })
	if len(names) == 0 {
		return Package{}, fmt.Errorf("the mirror's %s has no package %s", k.suite, k.series)
	}
	slices.Sort(names) // the order in which apt lists them has no meaning
	found, err := a.candidates(ctx, names...)
	if err != nil {
		return Package{}, err
	}
	var newest Package
	for _, p := range found {
		later := newest.Name == ""
		if !later {
			if later, err = laterVersion(ctx, p.Version, newest.Version); err != nil {
				return Package{}, err
			}
		}
		if later {
			newest = p
		}
	}
	return newest, nil
}

// laterVersion has dpkg compare versions: its rules are not simple.
func laterVersion(ctx context.Context, a, b string) (bool, error) {
	_, err := command{argv: []string{"dpkg", "--compare-versions", a, "gt", b}}.run(ctx)
	var no *toolError
	if errors.As(err, &no) {
		return false, nil
	}
	return err == nil, err
}

// lockKernelFile records the digest of the kernel inside the image package.
func lockKernelFile(ctx context.Context, d debs, l *Lock) error {
	if err := d.fetch(ctx, *l); err != nil {
		return err
	}
	temp, remove, err := durable.Scratch("kernel")
	if err != nil {
		return err
	}
	defer func() { _ = remove() }() // what stays costs only space
	k, err := unpackKernel(ctx, d, *l, temp)
	if err != nil {
		return err
	}
	sum, _, err := hashFile(k.vmlinuz())
	l.Files["vmlinuz"] = sum
	return err
}
