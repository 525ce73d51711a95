package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// writeTar writes the tree below dir as a tar that depends on names, modes,
// link targets and contents only: entries sorted, owned by root, all of one
// time. Files other than regular ones, directories and symbolic links are an
// error.
func writeTar(w io.Writer, dir string, at time.Time) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		return writeTarEntry(t, file, name, e, at)
	})
	if err != nil {
		return fmt.Errorf("write tar of %s: %w", dir, err)
	}
	return t.Close()
}

func writeTarEntry(t *tar.Writer, file, name string, e fs.DirEntry, at time.Time) error {
	st, err := e.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(st.Mode().Perm()), ModTime: at, Format: tar.FormatUSTAR}
	switch st.Mode().Type() {
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, st.Size()
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		h.Mode = 0o777
		if h.Linkname, err = os.Readlink(file); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s is neither file, directory nor symbolic link", file)
	}
	if st.Mode()&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	if err := t.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(t, f)
	return err
}

// WriteTar writes the tree below dir, as it is in EndpointDir and ExternalDir, as a
// tar that depends on nothing but the tree.
func WriteTar(w io.Writer, dir string) error { return writeTar(w, dir, time.Unix(0, 0)) }

// treeDigest is the SHA-256 of the tree's tar.
func treeDigest(dir string, at time.Time) (string, error) {
	h := sha256.New()
	if err := writeTar(h, dir, at); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// squashfs packs dir into a read-only image that depends on nothing but its
// contents: all times are those of the lock. It is not compressed, because an
// emulated CPU needs 2 s of its boot to decompress, and because the bytes then
// do not depend on the version of a compressor.
func (b *build) squashfs(ctx context.Context, dir, file string, options ...string) error {
	argv := append([]string{"mksquashfs", dir, filepath.Join(b.out, file), "-noappend", "-quiet", "-no-progress", "-reproducible",
		"-noI", "-noD", "-noF", "-noX", "-b", "131072", "-no-exports"}, options...)
	epoch := strconv.FormatInt(b.epoch().Unix(), 10)
	argv = append(argv, "-mkfs-time", epoch, "-all-time", epoch)
	// mksquashfs refuses the variable together with the options of the same meaning.
	_, err := command{argv: append([]string{"env", "-u", "SOURCE_DATE_EPOCH"}, argv...)}.run(ctx)
	return err
}

// unpack extracts the files of a locked package into dir.
func (b *build) unpack(ctx context.Context, name, dir string) error {
	deb, err := b.packagePath(name)
	if err != nil {
		return err
	}
	_, err = command{argv: []string{"dpkg-deb", "-x", deb, dir}}.run(ctx)
	return err
}
