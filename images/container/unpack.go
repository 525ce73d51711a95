package container

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Limits of what an image may unpack to; zero is the default.
type Limits struct {
	Bytes   int64 // of all files together, 8 GiB
	Entries int   // 500 000
}

// Whiteouts of a layer (image-spec, layer.md): the name of what the layers below have and this one
// takes away, and a directory whose contents in the layers below are hidden.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// maxLinks bounds symbolic links on the way to an entry, as the kernel does (path_resolution(7)).
const maxLinks = 40

// Unpack writes an image's files into dir, which must be there and empty. Owners and times are not
// kept, and devices are left out. It is an error if a layer's contents have another digest than
// the image's configuration says, if an entry would lie outside of dir, or if a limit is exceeded.
func Unpack(ctx context.Context, img v1.Image, dir string, l Limits) error {
	if l.Bytes == 0 {
		l.Bytes = 8 << 30
	}
	if l.Entries == 0 {
		l.Entries = 500_000
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("read the image's layers: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("read the image's configuration: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(layers) {
		return fmt.Errorf("the image has %d layers, and its configuration the digests of %d", len(layers), len(config.RootFS.DiffIDs))
	}
	u := &unpacker{ctx: ctx, root: root, left: l}
	for i, layer := range layers {
		if err := u.layer(layer, config.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("unpack layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return nil
}

// unpacker writes the layers of one image.
type unpacker struct {
	ctx  context.Context
	root *os.Root
	left Limits
	// made is what the present layer has made, which its own whiteouts leave alone.
	made map[string]bool
}

func (u *unpacker) layer(layer v1.Layer, want v1.Hash) error {
	in, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer in.Close()
	sum := sha256.New()
	// What a layer unpacks to is bounded before it is a file, too: 2 KiB for each header.
	all := io.TeeReader(&bounded{r: in, left: u.left.Bytes + int64(u.left.Entries)<<11 + 1<<20}, sum)
	u.made = map[string]bool{}
	r := tar.NewReader(all)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.ctx.Err()
		}
		if err == nil {
			err = u.entry(h, r)
		}
		if err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, all); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return fmt.Errorf("its contents have the SHA-256 %s, and should have %s", got, want.Hex)
	}
	return nil
}

var errTooLarge = errors.New("the image unpacks to more than is allowed")

// bounded is a reader that fails after so many bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if u.left.Entries--; u.left.Entries < 0 {
		return errTooLarge
	}
	if slices.Contains(strings.Split(h.Name, "/"), "..") {
		return fmt.Errorf("entry %q leads out of the image", h.Name)
	}
	clean := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if clean == "" {
		return nil // the root itself
	}
	dir, err := u.resolve(path.Dir(clean))
	if err == nil {
		err = u.write(h, dir, path.Base(clean), r)
	}
	if err != nil {
		return fmt.Errorf("entry %q: %w", h.Name, err)
	}
	return nil
}

// write makes one entry, or takes away what a whiteout names.
func (u *unpacker) write(h *tar.Header, dir, base string, r io.Reader) error {
	if base == opaque {
		return u.empty(dir)
	}
	if gone, ok := strings.CutPrefix(base, whiteout); ok {
		if gone == "" || gone == "." || gone == ".." {
			return errors.New("it is a whiteout of nothing")
		}
		return u.root.RemoveAll(path.Join(dir, gone))
	}
	if err := u.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := path.Join(dir, base)
	u.made[name] = true
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(name, h)
	case tar.TypeReg:
		return u.file(name, h, r)
	case tar.TypeSymlink:
		if err := u.root.RemoveAll(name); err != nil {
			return err
		}
		return u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return u.link(name, h.Linkname)
	}
	return nil // devices and pipes: nodes have their own
}

// directory makes a directory, or changes the mode of one that is there.
func (u *unpacker) directory(name string, h *tar.Header) error {
	if st, err := u.root.Lstat(name); err == nil && !st.IsDir() {
		if err := u.root.Remove(name); err != nil {
			return err
		}
	}
	if err := u.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	return u.root.Chmod(name, h.FileInfo().Mode().Perm()|0o700) // later entries lie below it
}

func (u *unpacker) file(name string, h *tar.Header, r io.Reader) error {
	if u.left.Bytes -= h.Size; u.left.Bytes < 0 {
		return errTooLarge
	}
	if err := u.root.RemoveAll(name); err != nil {
		return err
	}
	mode := h.FileInfo().Mode().Perm() | 0o600
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask is
	}
	return errors.Join(err, f.Close())
}

// link makes a hard link to what the image has already.
func (u *unpacker) link(name, target string) error {
	clean := strings.TrimPrefix(path.Clean("/"+target), "/")
	dir, err := u.resolve(path.Dir(clean))
	if err != nil {
		return err
	}
	old := path.Join(dir, path.Base(clean))
	if old == name {
		return nil
	}
	if err := u.root.RemoveAll(name); err != nil {
		return err
	}
	return u.root.Link(old, name)
}

// empty removes what the layers below put into a directory.
func (u *unpacker) empty(dir string) error {
	list, err := fs.ReadDir(u.root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		if name := path.Join(dir, e.Name()); err == nil && !u.made[name] {
			err = u.root.RemoveAll(name)
		}
	}
	return err
}

// resolve follows the symbolic links on the way to a directory as a program in the image would:
// an absolute one begins at the image's root, and none leads out of it.
func (u *unpacker) resolve(dir string) (string, error) {
	rest, at, links := strings.Split(dir, "/"), ".", 0
	for len(rest) > 0 {
		next := rest[0]
		rest = rest[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		name := path.Join(at, next)
		target, err := u.root.Readlink(name)
		if err != nil { // no link, or nothing yet
			at = name
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("more than %d symbolic links lead to %s", maxLinks, dir)
		}
		if path.IsAbs(target) {
			at = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}
