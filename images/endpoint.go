package images

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Files of an endpoint artifact.
const (
	endpointFile = "endpoint.squashfs"
	archiveFile  = "endpoint.tar"
	endpointDir  = "rootfs"

	valueTag   = "tag"
	valueLayer = "layer"
)

// endpointPrograms are the programs the image is for; busybox adds a shell.
// libgcc_s is what the C library opens, without saying so in its headers, when
// iperf3 cancels a thread.
func endpointPrograms() []string {
	return []string{
		"usr/bin/busybox", "usr/bin/iperf3", "usr/bin/netperf", "usr/bin/netserver",
		"usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
	}
}

func endpointRecipe() recipe {
	return recipe{name: lockEndpoint, files: append(recipeFiles("endpoint/etc"), "endpoint/packages"), build: buildEndpoint}
}

// buildEndpoint makes one tree and packs it twice: for machines and for Docker.
func buildEndpoint(ctx context.Context, b *build) error {
	from := filepath.Join(b.work, "packages")
	for _, p := range b.lock.Packages {
		if err := b.unpack(ctx, p.Name, from); err != nil {
			return err
		}
	}
	root := filepath.Join(b.out, endpointDir)
	if err := fillEndpoint(ctx, from, root); err != nil {
		return err
	}
	if err := b.squashfs(ctx, root, endpointFile, "-all-root"); err != nil {
		return err
	}
	if err := writeSealedEndpoint(filepath.Join(b.out, sealedEndpointFile), root); err != nil {
		return err
	}
	layer, err := treeDigest(root, b.epoch())
	if err != nil {
		return err
	}
	b.manifest.Values[valueLayer] = layer
	b.manifest.Values[valueTag] = "hookbed/endpoint:" + layer[:12]
	return writeDockerArchive(filepath.Join(b.out, archiveFile), root, b.manifest.Values[valueTag], b.epoch())
}

// fillRoot makes a root with these directories, the names of users and hosts that programs look
// up, the programs and exactly the libraries that they need.
func fillRoot(from, root string, dirs, programs []string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, l := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+l, filepath.Join(root, l)); err != nil {
			return err
		}
	}
	for _, f := range recipeFiles("endpoint/etc") {
		if err := os.WriteFile(filepath.Join(root, strings.TrimPrefix(f, "endpoint/")), recipeFile(f), 0o644); err != nil {
			return err
		}
	}
	files, err := elfClosure(from, programs)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := copyProgram(filepath.Join(from, f), filepath.Join(root, f)); err != nil {
			return err
		}
	}
	return nil
}

// fillEndpoint copies the programs and exactly the libraries they need.
func fillEndpoint(ctx context.Context, from, root string) error {
	dirs := []string{"dev", "etc", "proc", "root", "sys", "tmp", "run", "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/sbin"}
	if err := fillRoot(from, root, dirs, endpointPrograms()); err != nil {
		return err
	}
	if err := linkApplets(ctx, root); err != nil {
		return err
	}
	return normalModes(root)
}

// elfClosure lists programs, the libraries they load and the loaders they name,
// as paths below dir. A library that is not there is an error.
func elfClosure(dir string, programs []string) ([]string, error) {
	files := map[string]bool{}
	for todo := programs; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if files[name] {
			continue
		}
		files[name] = true
		needs, err := elfNeeds(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read program /%s: %w", name, err)
		}
		for _, n := range needs {
			found, err := findLibrary(dir, n)
			if err != nil {
				return nil, fmt.Errorf("program /%s: %w", name, err)
			}
			todo = append(todo, found)
		}
	}
	return sortedKeys(files), nil
}

// elfNeeds is the loader and the libraries of an ELF file.
func elfNeeds(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	needs, err := f.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, p.Filesz)
		if _, err := p.ReadAt(loader, 0); err != nil {
			return nil, err
		}
		needs = append(needs, strings.TrimRight(string(loader), "\x00"))
	}
	return needs, nil
}

// findLibrary finds a library by its name, and a loader by the path that
// programs name it by: that is where the kernel looks.
func findLibrary(dir, name string) (string, error) {
	if filepath.IsAbs(name) {
		found := filepath.Join("usr", name)
		if _, err := os.Stat(filepath.Join(dir, found)); err != nil {
			return "", fmt.Errorf("loader %s is in none of the packages", name)
		}
		return found, nil
	}
	for _, d := range []string{"usr/lib/x86_64-linux-gnu", "usr/lib64"} {
		found := filepath.Join(d, filepath.Base(name))
		if _, err := os.Stat(filepath.Join(dir, found)); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("library %s is in none of the packages", name)
}

// copyProgram copies a file, following links: a library gets the name it is
// loaded by.
func copyProgram(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// linkApplets gives busybox all its names that no other program has.
func linkApplets(ctx context.Context, root string) error {
	out, err := command{argv: []string{filepath.Join(root, "usr/bin/busybox"), "--list"}}.run(ctx)
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(out) {
		if _, err := os.Lstat(filepath.Join(root, "usr/sbin", applet)); err == nil {
			continue
		}
		err := os.Symlink("busybox", filepath.Join(root, "usr/bin", applet))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// normalModes undoes the umask's influence.
func normalModes(root string) error {
	return filepath.WalkDir(root, func(file string, e os.DirEntry, err error) error {
		switch {
		case err != nil || e.Type() == os.ModeSymlink:
			return err
		case file == filepath.Join(root, "tmp"):
			return os.Chmod(file, 0o777|os.ModeSticky)
		case e.IsDir():
			return os.Chmod(file, 0o755)
		case strings.HasPrefix(file, filepath.Join(root, "etc")):
			return os.Chmod(file, 0o644)
		}
		return os.Chmod(file, 0o755)
	})
}

// checkEndpointDir compares the unpacked files with the layer's digest.
func checkEndpointDir(dir, layer string, at time.Time) error {
	sum, err := treeDigest(dir, at)
	if err == nil && sum != layer {
		err = fmt.Errorf("its digest is %s, not %s as when it was built: remove %s to have it built again", sum, layer, filepath.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("check cached image %s: %w", dir, err)
	}
	return nil
}
