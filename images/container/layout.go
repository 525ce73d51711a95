package container

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Files by which the kinds of archives are told apart.
const (
	manifestOfSave = "manifest.json"
	layoutIndex    = "index.json" // of an OCI layout (image-spec, image-layout.md)
)

// maxDocument bounds indexes, manifests and configurations, in bytes.
const maxDocument = 8 << 20

// maxNested bounds indexes that name indexes.
const maxNested = 4

// files are those of an OCI layout, by their slash-separated names.
type files interface {
	open(name string) (io.ReadCloser, error)
}

// directory is an unpacked layout.
type directory string

func (d directory) open(name string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(filepath.FromSlash(name))
}

// archive is a tar file whose entries are found by name without unpacking it.
type archive struct {
	*os.File
	at map[string]*io.SectionReader
}

// openTar reads the names of a tar file's entries. The reader skips their contents by seeking.
func openTar(path string) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a := &archive{File: f, at: map[string]*io.SectionReader{}}
	if err := a.list(); err != nil {
		return nil, errors.Join(fmt.Errorf("read it as a tar file: %w", err), f.Close())
	}
	return a, nil
}

func (a *archive) list() error {
	r := tar.NewReader(a.File)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		start, err := a.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		a.at[path.Clean(h.Name)] = io.NewSectionReader(a.File, start, h.Size)
	}
}

func (a *archive) has(name string) bool { return a.at[name] != nil }

func (a *archive) open(name string) (io.ReadCloser, error) {
	s := a.at[name]
	if s == nil {
		return nil, fmt.Errorf("it has no %s", name)
	}
	return io.NopCloser(io.NewSectionReader(s, 0, s.Size())), nil
}

// layoutImage is an image of an OCI layout.
type layoutImage struct {
	files    files
	raw      []byte
	manifest *v1.Manifest
}

// openLayout opens the layout's image for the nodes' platform.
func openLayout(f files) (v1.Image, error) {
	raw, err := document(f, layoutIndex)
	if err != nil {
		return nil, err
	}
	d, err := choose(f, raw, maxNested)
	if err != nil {
		return nil, err
	}
	if raw, err = blob(f, d); err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	return partial.CompressedToImage(&layoutImage{files: f, raw: raw, manifest: m})
}

// choose finds the manifest of the only image, or of the one for the nodes' platform.
func choose(f files, raw []byte, depth int) (v1.Descriptor, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return v1.Descriptor{}, fmt.Errorf("read its index: %w", err)
	}
	var fits []v1.Descriptor
	for _, d := range index.Manifests {
		if d.Platform == nil || d.Platform.OS == platform().OS && d.Platform.Architecture == platform().Architecture {
			fits = append(fits, d)
		}
	}
	if len(fits) != 1 {
		return v1.Descriptor{}, fmt.Errorf("its index names %d images for %s, want one", len(fits), platform())
	}
	if !fits[0].MediaType.IsIndex() {
		return fits[0], nil
	}
	if depth == 0 {
		return v1.Descriptor{}, errors.New("its index names indexes that name indexes")
	}
	next, err := blob(f, fits[0])
	if err != nil {
		return v1.Descriptor{}, err
	}
	return choose(f, next, depth-1)
}

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// blob reads a small blob and holds it against its digest.
func blob(f files, d v1.Descriptor) ([]byte, error) {
	if len(d.Digest.Hex) != 2*sha256.Size || d.Digest.Algorithm != "sha256" {
		return nil, fmt.Errorf("the digest %q is no SHA-256", d.Digest)
	}
	data, err := document(f, blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != d.Digest.Hex {
		return nil, fmt.Errorf("blob %s has the SHA-256 %x", d.Digest, sum)
	}
	return data, nil
}

func document(f files, name string) ([]byte, error) {
	r, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxDocument)
	}
	return data, err
}

// RawConfigFile, MediaType, RawManifest and LayerByDigest are partial.CompressedImageCore.
func (i *layoutImage) RawConfigFile() ([]byte, error) { return blob(i.files, i.manifest.Config) }

func (i *layoutImage) MediaType() (types.MediaType, error) { return i.manifest.MediaType, nil }

func (i *layoutImage) RawManifest() ([]byte, error) { return i.raw, nil }

func (i *layoutImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range i.manifest.Layers {
		if d.Digest == h {
			return layoutLayer{i.files, d}, nil
		}
	}
	return nil, fmt.Errorf("it has no layer %s", h)
}

type layoutLayer struct {
	files files
	d     v1.Descriptor
}

func (l layoutLayer) Digest() (v1.Hash, error)            { return l.d.Digest, nil }
func (l layoutLayer) Compressed() (io.ReadCloser, error)  { return l.files.open(blobName(l.d.Digest)) }
func (l layoutLayer) Size() (int64, error)                { return l.d.Size, nil }
func (l layoutLayer) MediaType() (types.MediaType, error) { return l.d.MediaType, nil }
