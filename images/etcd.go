package images

import (
	"context"
	"os"
	"path/filepath"
)

// etcdProgram is the only one of its image.
const etcdProgram = "usr/bin/etcd"

func etcdRecipe() recipe {
	return recipe{name: lockEtcd, files: []string{"etcd/packages"}, build: buildEtcd}
}

// buildEtcd makes one tree, used unpacked on this computer and packed on machines.
func buildEtcd(ctx context.Context, b *build) error {
	from := filepath.Join(b.work, "packages")
	for _, p := range b.lock.Packages {
		if err := b.unpack(ctx, p.Name, from); err != nil {
			return err
		}
	}
	root := filepath.Join(b.out, endpointDir)
	if err := fillEtcd(from, root); err != nil {
		return err
	}
	if err := b.squashfs(ctx, root, externalFile, "-all-root"); err != nil {
		return err
	}
	layer, err := treeDigest(root, b.epoch())
	b.manifest.Values[valueLayer] = layer
	return err
}

func fillEtcd(from, root string) error {
	for _, d := range append(containerDirs(), "usr/bin", "usr/lib64", "usr/lib/x86_64-linux-gnu") {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, l := range []string{"lib", "lib64"} {
		if err := os.Symlink("usr/"+l, filepath.Join(root, l)); err != nil {
			return err
		}
	}
	files, err := elfClosure(from, []string{etcdProgram})
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := copyProgram(filepath.Join(from, f), filepath.Join(root, f)); err != nil {
			return err
		}
	}
	return normalModes(root)
}
