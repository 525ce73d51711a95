package images

import (
	"context"
	"path/filepath"
	"strings"
)

// Files of the HTTP artifact; the unpacked tree is in endpointDir, as that of the
// endpoint image is.
const (
	httpFile       = "http.squashfs"
	sealedHTTPFile = "sealed-http.cpio"
)

// SealedHTTP is where a sealed guest has the root file system of the HTTP programs.
const SealedHTTP = "/run/hookbed/http"

// httpPrograms are the server, the client, and the proxies: nginx is one as well.
// libgcc_s is what the C library opens, without saying so in its headers, when a
// thread is cancelled.
func httpPrograms() []string {
	return []string{"usr/bin/h2load", "usr/lib/x86_64-linux-gnu/libgcc_s.so.1", "usr/sbin/haproxy", "usr/sbin/nginx"}
}

func httpRecipe() recipe {
	return recipe{name: lockHTTP, files: append(recipeFiles("endpoint/etc"), "http/packages"), build: buildHTTP}
}

// buildHTTP makes one tree, used unpacked on this computer, and packs it for
// machines and sealed guests.
func buildHTTP(ctx context.Context, b *build) error {
	from := filepath.Join(b.work, "packages")
	for _, p := range b.lock.Packages {
		if err := b.unpack(ctx, p.Name, from); err != nil {
			return err
		}
	}
	root := filepath.Join(b.out, endpointDir)
	if err := fillHTTP(from, root); err != nil {
		return err
	}
	if err := b.squashfs(ctx, root, httpFile, "-all-root"); err != nil {
		return err
	}
	err := writeCPIO(filepath.Join(b.out, sealedHTTPFile), func(c *cpioWriter) error { return c.tree(strings.TrimPrefix(SealedHTTP, "/"), root) })
	if err != nil {
		return err
	}
	layer, err := treeDigest(root, b.epoch())
	b.manifest.Values[valueLayer] = layer
	return err
}

// fillHTTP copies the programs, the names of users that they look up, and exactly the
// libraries that are needed, and makes the directories that a guest helper mounts on.
func fillHTTP(from, root string) error {
	dirs := []string{"dev", "etc", "proc", "run", "sys/fs/bpf", "tmp", "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/sbin"}
	if err := fillRoot(from, root, dirs, httpPrograms()); err != nil {
		return err
	}
	return normalModes(root)
}
