package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hookbed/analysis/durable"
	"hookbed/images/container"
)

// containerPrefix begins the names of artifacts that were made of users' container images.
const containerPrefix = "container-"

// labelVersion is the label by which an image says its version (image-spec, annotations.md).
const labelVersion = "org.opencontainers.image.version"

// Values of the manifest of such an artifact.
const (
	valueVersion = "version"
	valueImage   = "image"
	valueID      = "id"
)

// Container is a user's container image, unpacked: what nodes mount.
type Container struct {
	Ref     string   `json:"ref"`               // as the user wrote it
	ID      string   `json:"id"`                // digest of its configuration, "sha256:..."
	Version string   `json:"version,omitempty"` // as its label says; "" if it has none
	Packed  Artifact `json:"packed"`            // squashfs
	Dir     string   `json:"dir"`               // the same files
}

// EnsureContainer makes a user's image ready. It is fetched and unpacked once: what is in the
// store is found by its digest, and then neither registry nor file is read again.
func (s *Store) EnsureContainer(ctx context.Context, from container.Source) (Container, error) {
	key, img, closing := from.Digest, (*container.Opened)(nil), func() error { return nil }
	if key == "" { // a file, whose digest is inside of it
		var err error
		if img, err = from.Load(ctx); err != nil {
			return Container{}, err
		}
		closing, key = img.Close, img.ID
	}
	c, err := s.ensureContainer(ctx, from, key, img)
	return c, errors.Join(err, closing())
}

func (s *Store) ensureContainer(ctx context.Context, from container.Source, key string, img *container.Opened) (Container, error) {
	_, hex, _ := strings.Cut(key, ":")
	name := containerPrefix + hex[:16]
	dir := filepath.Join(s.artifacts(), name)
	if c, err := cachedContainer(dir, from, key); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if s.options.CachedOnly {
		return Container{}, fmt.Errorf("image %s is %w %s", from, ErrNotCached, s.dir)
	}
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return Container{}, err
	}
	defer unlock()
	if c, err := cachedContainer(dir, from, key); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if img == nil {
		if img, err = from.Load(ctx); err != nil {
			return Container{}, err
		}
		defer img.Close()
	}
	if err := s.makeContainer(ctx, name, key, from, img); err != nil {
		return Container{}, fmt.Errorf("unpack image %s: %w", from, err)
	}
	return cachedContainer(dir, from, key)
}

// cachedContainer finds an image that was unpacked; fs.ErrNotExist if it was not.
func cachedContainer(dir string, from container.Source, key string) (Container, error) {
	m, err := readManifest(dir)
	if err != nil {
		return Container{}, err
	}
	if m.Values[valueImage] != key {
		return Container{}, fmt.Errorf("cached image %s is of %s, not of %s: remove it", dir, m.Values[valueImage], key)
	}
	if err := m.check(dir, false); err != nil {
		return Container{}, err
	}
	return Container{Ref: from.String(), ID: m.Values[valueID], Version: m.Values[valueVersion], Packed: m.artifact(dir, externalFile), Dir: filepath.Join(dir, endpointDir)}, nil
}

// makeContainer unpacks and packs an image in a temporary directory, and renames it into place.
func (s *Store) makeContainer(ctx context.Context, name, key string, from container.Source, img *container.Opened) (err error) {
	temp := filepath.Join(s.tempDir(), name)
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	out := filepath.Join(temp, "out")
	root := filepath.Join(out, endpointDir)
	for _, d := range []string{temp, out, root} {
		if err := makeDir(d); err != nil {
			return err
		}
	}
	s.options.Log("unpack image " + from.String())
	if err := img.Unpack(ctx, root); err != nil {
		return err
	}
	for _, d := range containerDirs() {
		if err := mountPoint(root, d); err != nil {
			return err
		}
	}
	version, err := img.Label(labelVersion)
	if err != nil {
		return err
	}
	layer, err := treeDigest(root, time.Unix(0, 0))
	if err != nil {
		return err
	}
	b := &build{lock: Lock{Snapshot: time.Unix(0, 0)}, out: out, log: s.options.Log}
	b.manifest = Manifest{Name: name, Inputs: strings.TrimPrefix(key, "sha256:"), Snapshot: b.epoch().UTC(), Tools: map[string]string{},
		Values: map[string]string{valueImage: key, valueID: img.ID, valueVersion: version, valueLayer: layer}}
	if err := b.squashfs(ctx, root, externalFile, "-all-root"); err != nil {
		return err
	}
	if err := b.finish(ctx); err != nil {
		return err
	}
	return durable.Rename(out, filepath.Join(s.artifacts(), name))
}

// containerDirs are those that a guest helper mounts on in a root file system.
func containerDirs() []string { return []string{"dev", "proc", "run", "sys", "tmp"} }

// mountPoint makes a directory of an image that may have something else in its place.
func mountPoint(root, name string) error {
	at := filepath.Join(root, name)
	if st, err := os.Lstat(at); err == nil && !st.IsDir() {
		return fmt.Errorf("the image's /%s is no directory", name)
	}
	return makeDir(at)
}
