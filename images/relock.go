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
)

// suite is the Debian release that images are made of, but for the peers.
const suite = "trixie"

// Relock resolves the named locks ("root", "endpoint", "peers", "kernel-6.12"; none
// means all) against the mirror as it is now, and rewrites images/locks in the
// checkout at dir. A lock whose packages did not change keeps its snapshot
// time, and with it every digest. It returns the names that changed.
func (s *Store) Relock(ctx context.Context, dir string, names ...string) (changed []string, err error) {
	m, err := s.findMirrors(ctx)
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "hookbed-lock.")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
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
	if kernelOf(name) != "" {
		if err := s.lockKernelFile(ctx, m, &l); err != nil {
			return false, err
		}
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

// same tells whether two locks pin the same things, whenever they were made.
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
	case name == lockPeers:
		l.Want = recipePackages("peers/packages")
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
	newest := kernelPackages()[kernel]
	if newest == "" {
		return fmt.Errorf("kernel %s is not in images/kernel/packages", kernel)
	}
	image, err := a.depends(ctx, newest, "linux-image-"+kernel+".")
	if err != nil {
		return err
	}
	l.Want = []string{newest}
	l.Packages, err = a.candidates(ctx, image, "busybox-static")
	return err
}

// lockKernelFile records the digest of the kernel inside the image package.
func (s *Store) lockKernelFile(ctx context.Context, m mirrors, l *Lock) error {
	d := s.debs(m)
	if err := d.fetch(ctx, *l); err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "hookbed-kernel.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	k, err := unpackKernel(ctx, d, *l, temp)
	if err != nil {
		return err
	}
	sum, _, err := hashFile(k.vmlinuz())
	l.Files["vmlinuz"] = sum
	return err
}
