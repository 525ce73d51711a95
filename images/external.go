package images

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Files of the artifact of external filters; the unpacked tree is in endpointDir, as that of
// the endpoint image is.
const (
	externalFile       = "peers.squashfs"
	sealedExternalFile = "sealed-peers.cpio"
)

// SealedExternal is where a sealed guest has the external filters' root file system.
const SealedExternal = "/run/hookbed/peers"

// externalSuite has bpfilter, which no stable release has.
const externalSuite = "sid"

// suiteOf is the Debian suite that a lock is resolved in.
func suiteOf(lock string) string {
	if lock == lockExternal {
		return externalSuite
	}
	if k, ok := sourceOf(kernelOf(lock)); ok {
		return k.suite
	}
	return suite
}

// externalPrograms are the external filters themselves, and the loader that removes what a
// killed xdp-filter left. None of them loads libxdp: it is linked into
// them.
func externalPrograms() []string {
	return []string{"usr/sbin/bfcli", "usr/sbin/bpfilter", "usr/sbin/xdp-filter", "usr/sbin/xdp-loader"}
}

// externalObjects are the BPF objects that xdp-filter and libxdp look for by path.
func externalObjects() []string { return []string{"xdp-dispatcher.o", "xdpfilt_*.o"} }

func externalRecipe() recipe {
	return recipe{name: lockExternal, files: []string{"peers/packages"}, build: buildExternal}
}

// buildExternal makes one tree, used unpacked on this computer, and packs it for
// machines and sealed guests.
func buildExternal(ctx context.Context, b *build) error {
	from := filepath.Join(b.work, "packages")
	for _, p := range b.lock.Packages {
		if err := b.unpack(ctx, p.Name, from); err != nil {
			return err
		}
	}
	root := filepath.Join(b.out, endpointDir)
	if err := fillExternal(from, root); err != nil {
		return err
	}
	if err := b.squashfs(ctx, root, externalFile, "-all-root"); err != nil {
		return err
	}
	err := writeCPIO(filepath.Join(b.out, sealedExternalFile), func(c *cpioWriter) error { return c.tree(strings.TrimPrefix(SealedExternal, "/"), root) })
	if err != nil {
		return err
	}
	layer, err := treeDigest(root, b.epoch())
	b.manifest.Values[valueLayer] = layer
	return err
}

// fillExternal copies programs, objects and exactly the libraries that are needed,
// and makes the directories that a guest helper mounts on.
func fillExternal(from, root string) error {
	for _, d := range []string{"dev", "proc", "run", "sys/fs/bpf", "tmp", "usr/lib/x86_64-linux-gnu/bpf", "usr/lib64", "usr/sbin"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, l := range []string{"lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+l, filepath.Join(root, l)); err != nil {
			return err
		}
	}
	files, err := elfClosure(from, externalPrograms())
	if err != nil {
		return err
	}
	objects, err := findObjects(from, externalObjects())
	if err != nil {
		return err
	}
	for _, f := range slices.Concat(files, objects) {
		if err := copyProgram(filepath.Join(from, f), filepath.Join(root, f)); err != nil {
			return err
		}
	}
	return normalModes(root)
}

// findObjects lists the BPF objects that match the patterns, as paths below dir.
func findObjects(dir string, patterns []string) ([]string, error) {
	const where = "usr/lib/x86_64-linux-gnu/bpf"
	var out []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, where, p))
		if err == nil && len(found) == 0 {
			err = errors.New("BPF object " + p + " is in none of the packages")
		}
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			out = append(out, path.Join(where, filepath.Base(f)))
		}
	}
	return out, nil
}
