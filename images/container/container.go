// Package container gets container images that users name - from a registry by digest, or from
// a file - and unpacks them into a directory: layers in order, with their whiteouts, each held
// against its digest, nothing outside of the directory, and no more than a limit.
package container

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// askLimit bounds the request for the digest of a tag: it only completes an error message.
const askLimit = 10 * time.Second

// Source is an image as a user names it.
type Source struct {
	// Ref is a reference of a registry with its digest, as written; "" if it is a file.
	Ref string
	// Path is a file (docker save, OCI archive) or the directory of an OCI layout.
	Path string
	// Digest of a Ref, "sha256:..."; of a Path it is Identify that finds it.
	Digest string
}

// TagError is a reference without a digest: what it names can become another image any day.
type TagError struct {
	Ref string
	// Digest is what the tag names now; "" if the registry did not answer, and Err is why.
	Digest string
	Err    error
}

func (e *TagError) Error() string {
	if e.Digest != "" {
		return fmt.Sprintf("%q names a tag, which may be another image tomorrow; write %q", e.Ref, e.Pinned())
	}
	return fmt.Sprintf("%q names a tag, which may be another image tomorrow; write its digest, as in %q (the registry did not say it: %v)",
		e.Ref, e.Ref+"@sha256:...", e.Err)
}

// Pinned is the reference with the digest.
func (e *TagError) Pinned() string { return e.Ref + "@" + e.Digest }

// isPath says whether a text names a file: those of images end in .tar, and directories are
// written with a slash at the end or as a path that begins with a dot or a slash.
func isPath(text string) bool {
	return strings.HasSuffix(text, ".tar") || strings.HasSuffix(text, "/") || strings.HasPrefix(text, ".") || strings.HasPrefix(text, "/")
}

// Parse reads what a user wrote. Paths are relative to dir. A reference without a digest is a
// *TagError whose Digest the registry is not asked for.
func Parse(text, dir string) (Source, error) {
	if isPath(text) {
		p := filepath.FromSlash(text)
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		return Source{Path: p}, nil
	}
	if d, err := name.NewDigest(text, name.WithDefaultTag("")); err == nil {
		return Source{Ref: text, Digest: d.DigestStr()}, nil
	}
	if strings.Contains(text, "@") {
		return Source{}, fmt.Errorf("%q is no image reference: want NAME@sha256:64 hex digits", text)
	}
	if _, err := name.ParseReference(text); err != nil {
		return Source{}, fmt.Errorf("%q is neither an image reference nor the path of a .tar file or of a directory (with a / at its end): %w", text, err)
	}
	return Source{}, &TagError{Ref: text, Err: errors.New("it was not asked")}
}

// Resolve completes the error of Parse with the digest that the registry gives a tag now.
func Resolve(ctx context.Context, tag *TagError) *TagError {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	out := &TagError{Ref: tag.Ref}
	ref, err := name.ParseReference(tag.Ref)
	if err == nil {
		var d *v1.Descriptor
		if d, err = remote.Head(ref, asUser(ctx)...); err == nil {
			out.Digest = d.Digest.String()
		}
	}
	out.Err = err
	return out
}

// platform of the nodes.
func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }

// Open opens the image. Of a registry only its manifest and configuration are fetched, layers
// when they are read. close must be called when the image is no longer read.
func (s Source) Open(ctx context.Context) (img v1.Image, closing func() error, err error) {
	closing = func() error { return nil }
	switch {
	case s.Ref != "":
		img, err = s.pull(ctx)
	case isDir(s.Path):
		img, err = openLayout(directory(s.Path))
	default:
		img, closing, err = openArchive(s.Path)
	}
	if err == nil {
		if err = checkImage(img); err != nil {
			err = errors.Join(err, closing())
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open image %s: %w", s, err)
	}
	return img, closing, nil
}

func (s Source) String() string {
	if s.Ref != "" {
		return s.Ref
	}
	return s.Path
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func (s Source) pull(ctx context.Context) (v1.Image, error) {
	ref, err := name.NewDigest(s.Ref)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, append(asUser(ctx), remote.WithPlatform(platform()))...)
}

// asUser logs in to registries as the user's Docker does, if it does.
func asUser(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
}

// openArchive opens a tar file: what docker save writes, or else an OCI layout.
func openArchive(path string) (v1.Image, func() error, error) {
	a, err := openTar(path)
	if err != nil {
		return nil, nil, err
	}
	var img v1.Image
	switch {
	case a.has(manifestOfSave):
		img, err = tarball.ImageFromPath(path, nil)
	case a.has(layoutIndex):
		img, err = openLayout(a)
	default:
		err = fmt.Errorf("it is a tar file with neither %s (docker save) nor %s (OCI)", manifestOfSave, layoutIndex)
	}
	if err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	return img, a.Close, nil
}

// checkImage holds the configuration, which has the digests of the layers, against its own
// digest, and says whether nodes can run the image.
func checkImage(img v1.Image) error {
	raw, err := img.RawConfigFile()
	if err != nil {
		return fmt.Errorf("read its configuration: %w", err)
	}
	id, err := img.ConfigName()
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != id.Hex {
		return fmt.Errorf("its configuration has the SHA-256 %x, and should have %s", sum, id.Hex)
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("read its configuration: %w", err)
	}
	if c.OS != platform().OS || c.Architecture != platform().Architecture {
		return fmt.Errorf("it is for %s/%s, and nodes are %s/%s", c.OS, c.Architecture, platform().OS, platform().Architecture)
	}
	return nil
}

// ID is the digest of an image's configuration, which names the contents of its layers however
// they are packed: what tells images of files apart.
func ID(img v1.Image) (string, error) {
	id, err := img.ConfigName()
	return id.String(), err
}

// Label is a label of the image's configuration, "" if it has none of the name.
func Label(img v1.Image, key string) (string, error) {
	c, err := img.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("read the image's configuration: %w", err)
	}
	return c.Config.Labels[key], nil
}

// Opened is an image that is being read.
type Opened struct {
	ID    string // digest of its configuration, "sha256:..."
	Close func() error

	img v1.Image
}

// Load opens the image for those who need no more than to unpack it.
func (s Source) Load(ctx context.Context) (*Opened, error) {
	img, closing, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	id, err := ID(img)
	if err != nil {
		return nil, errors.Join(err, closing())
	}
	return &Opened{ID: id, Close: closing, img: img}, nil
}

// Unpack is the function Unpack with the usual limits.
func (o *Opened) Unpack(ctx context.Context, dir string) error {
	return Unpack(ctx, o.img, dir, Limits{})
}

// Label is the function Label.
func (o *Opened) Label(key string) (string, error) { return Label(o.img, key) }
