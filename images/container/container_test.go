package container

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// entry is one entry of a layer.
type entry struct {
	name, body, link string
	kind             byte // 0 is a file
}

func layerOf(t *testing.T, entries ...entry) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o644, Size: int64(len(e.body))}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err == nil {
		img, err = mutate.ConfigFile(img, configOf(t, img, "linux", "amd64"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func configOf(t *testing.T, img v1.Image, system, arch string) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = system, arch
	c.Config.Labels = map[string]string{"version": "1.2.3"}
	return c
}

// two layers: the second takes away, hides and replaces what the first has.
func twoLayers(t *testing.T) v1.Image {
	return imageOf(t,
		layerOf(t, entry{name: "usr/bin/agent", body: "old"}, entry{name: "etc/gone", body: "x"}, entry{name: "var/lib/a/1", body: "x"}, entry{name: "var/lib/a/sub/2", body: "x"},
			entry{name: "bin", kind: tar.TypeSymlink, link: "/usr/bin"}, entry{name: "kept", body: "k"}),
		layerOf(t, entry{name: "usr/bin/agent", body: "new"}, entry{name: "etc/.wh.gone"}, entry{name: "var/lib/a/3", body: "mine"}, entry{name: "var/lib/a/.wh..wh..opq"},
			entry{name: "bin/tool", body: "through a link"}, entry{name: "usr/bin/alias", kind: tar.TypeLink, link: "usr/bin/agent"}, entry{name: "dev/null", kind: tar.TypeChar}))
}

// wantTree holds what was unpacked against the two layers.
func wantTree(t *testing.T, dir string) {
	t.Helper()
	for name, want := range map[string]string{
		"usr/bin/agent": "new", "usr/bin/alias": "new", "usr/bin/tool": "through a link", "var/lib/a/3": "mine", "kept": "k",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"etc/gone", "etc/.wh.gone", "var/lib/a/1", "var/lib/a/sub", "var/lib/a/.wh..wh..opq", "dev/null"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

func startRegistry(t *testing.T) (host string) {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t *testing.T, ref string, img v1.Image) (digest string) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err == nil {
		err = remote.Write(r, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// unpackSource opens and unpacks what a text names.
func unpackSource(t *testing.T, text, in string) (dir string, err error) {
	t.Helper()
	s, err := Parse(text, in)
	if err != nil {
		return "", err
	}
	img, closing, err := s.Open(context.Background())
	if err != nil {
		return "", err
	}
	dir = t.TempDir()
	return dir, errors.Join(Unpack(context.Background(), img, dir, Limits{}), closing())
}

func TestPullsByDigest(t *testing.T) {
	host := startRegistry(t)
	digest := push(t, host+"/x/agent:v1", twoLayers(t))
	dir, err := unpackSource(t, host+"/x/agent@"+digest, "")
	if err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir)
	if _, err := unpackSource(t, host+"/x/agent@sha256:"+strings.Repeat("0", 64), ""); err == nil {
		t.Error("an image that the registry does not have was pulled")
	}
}

func TestTagIsRefusedWithItsDigest(t *testing.T) {
	host := startRegistry(t)
	digest := push(t, host+"/x/agent:v1", twoLayers(t))
	_, err := Parse(host+"/x/agent:v1", "")
	var tag *TagError
	if !errors.As(err, &tag) {
		t.Fatalf("a tag is %v, want *TagError", err)
	}
	full := Resolve(context.Background(), tag)
	if want := host + "/x/agent:v1@" + digest; full.Pinned() != want || !strings.Contains(full.Error(), want) {
		t.Errorf("the error is %q, want it to say %q", full, want)
	}
	if _, err := Parse(full.Pinned(), ""); err != nil {
		t.Errorf("what the error says to write is refused: %v", err)
	}
	if gone := Resolve(context.Background(), &TagError{Ref: host + "/x/agent:v2"}); gone.Digest != "" || !strings.Contains(gone.Error(), "sha256:...") {
		t.Errorf("a tag that is not there: %v", gone)
	}
}

func TestReferencesThatAreNone(t *testing.T) {
	for _, text := range []string{"", "UPPER/case:v1", "a@sha256:12", "a b"} {
		var tag *TagError
		if s, err := Parse(text, ""); err == nil || errors.As(err, &tag) {
			t.Errorf("Parse(%q) = %+v, %v, want an error", text, s, err)
		}
	}
}

func TestFiles(t *testing.T) {
	img, dir := twoLayers(t), t.TempDir()
	ref, err := name.NewTag("agent:v1")
	if err == nil {
		err = tarball.WriteToFile(filepath.Join(dir, "save.tar"), ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err == nil {
		err = p.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	writeTar(t, filepath.Join(dir, "oci.tar"), filepath.Join(dir, "layout"))
	want, err := ID(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"save.tar", "layout/", "oci.tar", "./layout"} {
		got, err := unpackSource(t, text, dir)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		wantTree(t, got)
		s, _ := Parse(text, dir)
		opened, closing, err := s.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		id, err := ID(opened)
		label, err2 := Label(opened, "version")
		if err := errors.Join(err, err2, closing()); err != nil || id != want || label != "1.2.3" {
			t.Errorf("%s: ID %s, label %q, %v, want %s", text, id, label, err, want)
		}
	}
}

// writeTar packs a directory as an archive of an OCI layout is.
func writeTar(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestFilesThatAreNoImages(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text.tar"), bytes.Repeat([]byte("no tar "), 200), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	writeTar(t, filepath.Join(dir, "other.tar"), filepath.Join(dir, "other"))
	for text, want := range map[string]string{"text.tar": "tar", "other.tar": "docker save", "other/": "index.json", "none.tar": "no such file"} {
		if _, err := unpackSource(t, text, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", text, err, want)
		}
	}
}

func TestOtherPlatformIsRefused(t *testing.T) {
	img := twoLayers(t)
	img, err := mutate.ConfigFile(img, configOf(t, img, "linux", "arm64"))
	if err != nil {
		t.Fatal(err)
	}
	host := startRegistry(t)
	digest := push(t, host+"/agent:v1", img)
	if _, err := unpackSource(t, host+"/agent@"+digest, ""); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("an image for another platform: %v", err)
	}
}

// TestCorruptLayer changes one byte of a layer's blob.
func TestCorruptLayer(t *testing.T) {
	dir := t.TempDir()
	random := make([]byte, 1<<16) // so that the byte in the middle is not one of a header
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	p, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err == nil {
		err = p.AppendImage(imageOf(t, layerOf(t, entry{name: "f", body: string(random)})))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpackSource(t, "layout/", dir); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "layout/blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		whole, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(whole)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(b, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := unpackSource(t, "layout/", dir); err == nil {
			t.Errorf("blob %s of %d bytes is corrupt, and the image was unpacked", filepath.Base(b), len(bad))
		}
		if err := os.WriteFile(b, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEscapes tries to write outside of the directory.
func TestEscapes(t *testing.T) {
	outside := t.TempDir()
	up := entry{name: "up", kind: tar.TypeSymlink, link: "../../../../../../../../.." + outside}
	abs := entry{name: "abs", kind: tar.TypeSymlink, link: outside}
	loop := entry{name: "loop", kind: tar.TypeSymlink, link: "loop/x"}
	for _, c := range []struct {
		what    string
		entries []entry
		refused bool // else it lands below the directory
	}{
		{"dots", []entry{{name: "../../evil", body: "x"}}, true},
		{"dots inside", []entry{{name: "a/../../evil", body: "x"}}, true},
		{"absolute name", []entry{{name: "/evil", body: "x"}}, false},
		{"absolute link", []entry{abs, {name: "abs/evil", body: "x"}}, false},
		{"relative link", []entry{up, {name: "up/evil", body: "x"}}, false},
		{"file over a link", []entry{abs, {name: "abs", body: "x"}}, false},
		{"directory over a link", []entry{abs, {name: "abs", kind: tar.TypeDir}, {name: "abs/evil", body: "x"}}, false},
		{"hard link out", []entry{abs, {name: "evil", kind: tar.TypeLink, link: "../../../../etc/passwd"}}, true},
		{"whiteout of the parent", []entry{{name: "a/.wh..."}}, true},
		{"whiteout of dots", []entry{{name: "a/.wh..", body: ""}}, true},
		{"loop", []entry{loop, {name: "loop/evil", body: "x"}}, true},
	} {
		dir := t.TempDir()
		err := Unpack(context.Background(), imageOf(t, layerOf(t, c.entries...)), dir, Limits{})
		if (err != nil) != c.refused {
			t.Errorf("%s: %v, want refused = %v", c.what, err, c.refused)
		}
		if list, _ := os.ReadDir(outside); len(list) > 0 {
			t.Fatalf("%s: wrote %v outside of the directory", c.what, list)
		}
	}
}

func TestLimits(t *testing.T) {
	img := imageOf(t, layerOf(t, entry{name: "a", body: strings.Repeat("x", 1000)}, entry{name: "b", body: strings.Repeat("x", 1000)}))
	for limits, ok := range map[Limits]bool{{Bytes: 2000, Entries: 2}: true, {Bytes: 1999, Entries: 2}: false, {Bytes: 2000, Entries: 1}: false} {
		if err := Unpack(context.Background(), img, t.TempDir(), limits); (err == nil) != ok || err != nil && !errors.Is(err, errTooLarge) {
			t.Errorf("limits %+v: %v, want ok = %v", limits, err, ok)
		}
	}
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Unpack(ctx, twoLayers(t), t.TempDir(), Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("unpacked with a context that ended: %v", err)
	}
}

// TestModesAreKept, those of the owner at least.
func TestModesAreKept(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, mode := range map[string]int64{"run": 0o755, "read": 0o444} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Uid: 4711, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Unpack(context.Background(), imageOf(t, l), dir, Limits{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"run": "-rwxr-xr-x", "read": "-rw-r--r--"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || fmt.Sprint(st.Mode()) != want {
			t.Errorf("%s: %v, %v, want %s", name, st.Mode(), err, want)
		}
	}
}
