package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cpioEntry is one entry as a reader of the format sees it.
type cpioEntry struct {
	name       string
	mode       int64
	major, min int64
	data       string
}

// readCPIO follows the format's description, not the writer.
func readCPIO(t *testing.T, b []byte) []cpioEntry {
	t.Helper()
	var out []cpioEntry
	for {
		if len(b) < 110 || string(b[:6]) != "070701" {
			t.Fatalf("no header where one should be: %.20q", b)
		}
		var f [13]int64
		for i := range f {
			n, err := strconv.ParseInt(string(b[6+8*i:14+8*i]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			f[i] = n
		}
		pad := func(n int64) int64 { return (n + 3) &^ 3 }
		body := pad(110 + f[11])
		name := string(b[110 : 110+f[11]-1])
		if name == "TRAILER!!!" {
			return out
		}
		out = append(out, cpioEntry{name, f[1], f[9], f[10], string(b[body : body+f[6]])})
		b = b[body+pad(f[6]):]
	}
}

func TestCPIO(t *testing.T) {
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.dir("dev")
	c.char("dev/console", 0o600, 5, 1)
	c.file("init", 0o755, []byte("hello"))
	c.link("sbin", "bin")
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	got := readCPIO(t, b.Bytes())
	want := []cpioEntry{{"dev", 0o040755, 0, 0, ""}, {"dev/console", 0o020600, 5, 1, ""}, {"init", 0o100755, 0, 0, "hello"}, {"sbin", 0o120777, 0, 0, "bin"}}
	if !slices.Equal(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if b.Len()%4 != 0 {
		t.Errorf("length %d is not a multiple of 4", b.Len())
	}
	c = &cpioWriter{w: failingWriter{}}
	c.dir("dev")
	if err := c.close(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("close() = %v, want the writer's error", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	k := kernelTree{dir: dir, release: "6.0-test"}
	for name, text := range map[string]string{
		"modules.dep":               "kernel/virtio_blk.ko:\nkernel/squashfs.ko: kernel/zstd-common.ko\nkernel/zstd-common.ko:\nkernel/other.ko:\n",
		"modules.builtin":           "kernel/fs/overlay.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
		"kernel/virtio_blk.ko":      "blk",
		"kernel/squashfs.ko":        "sq",
		"kernel/zstd-common.ko":     "zstd",
		"kernel/other.ko":           "other",
		"kernel/not-a-module.ko.xz": "",
	} {
		file := filepath.Join(k.modules(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(out, k, []byte("busybox")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]cpioEntry{}
	for _, e := range readCPIO(t, data) {
		files[e.name] = e
	}
	const at = "lib/modules/6.0-test/"
	if got, want := files[at+"modules.dep"].data, "squashfs.ko: zstd-common.ko\nvirtio_blk.ko:\nzstd-common.ko:\n"; got != want {
		t.Errorf("modules.dep is %q, want %q", got, want)
	}
	if _, ok := files[at+"other.ko"]; ok || files[at+"zstd-common.ko"].data != "zstd" || files["bin/switch_root"].data != "busybox" {
		t.Errorf("initramfs holds %v", sortedKeys(files))
	}
	if _, err := moduleOrder(k.modules(), []string{"nosuch"}); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("error %v, want one that names the module", err)
	}
}

// smallTree makes the same tree with another umask, order and time each call.
func smallTree(t *testing.T, names ...string) string {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, "bin", n), []byte(n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "bin", "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDockerArchive(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var archives [][]byte
	for _, names := range [][]string{{"a", "b"}, {"b", "a"}} {
		file := filepath.Join(t.TempDir(), "image.tar")
		if err := writeDockerArchive(file, smallTree(t, names...), "hookbed/test:1", at); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, data)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("equal trees gave different archives")
	}
	files := readTar(t, archives[0])
	var manifest []dockerManifest
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 || !slices.Equal(manifest[0].RepoTags, []string{"hookbed/test:1"}) {
		t.Fatalf("manifest is %s, error %v", files["manifest.json"], err)
	}
	config := files[manifest[0].Config]
	if want := fmt.Sprintf("%x.json", sha256.Sum256(config)); manifest[0].Config != want {
		t.Errorf("config is named %s, want its digest %s", manifest[0].Config, want)
	}
	layer := files[manifest[0].Layers[0]]
	var c dockerConfig
	if err := json.Unmarshal(config, &c); err != nil || c.Architecture != "amd64" || c.OS != "linux" ||
		!slices.Equal(c.RootFS.DiffIDs, []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}) {
		t.Errorf("config is %s, error %v", config, err)
	}
	if got := sortedKeys(readTar(t, layer)); !slices.Equal(got, []string{"bin/", "bin/a", "bin/b", "bin/link"}) {
		t.Errorf("layer holds %v", got)
	}
}

func readTar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 1_700_000_000 {
			t.Errorf("%s belongs to %d:%d and is of %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// The endpoint directory is chrooted into: what changed there must be noticed.
func TestCheckEndpointDir(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	dir := smallTree(t, "a")
	sum, err := treeDigest(dir, at)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkEndpointDir(dir, sum, at); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "a"), []byte("A"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := checkEndpointDir(dir, sum, at); err == nil || !strings.Contains(err.Error(), "remove") {
		t.Errorf("error %v, want one with the fix", err)
	}
}

func TestMissingLibrary(t *testing.T) {
	dir := t.TempDir()
	// Any dynamic program will do; this one is on every Debian.
	if err := copyProgram("/bin/dash", filepath.Join(dir, "program")); err != nil {
		t.Fatal(err)
	}
	if _, err := elfClosure(dir, []string{"program"}); err == nil || !strings.Contains(err.Error(), "program /program: library libc.so.6 is in none of the packages") {
		t.Errorf("error %v, want one that names program and library", err)
	}
	if _, err := findLibrary(t.TempDir(), "libnosuch.so.1"); err == nil || !strings.Contains(err.Error(), "libnosuch.so.1") {
		t.Errorf("error %v, want one that names the library", err)
	}
}

func TestToolErrors(t *testing.T) {
	_, err := command{argv: []string{"sh", "-c", "echo why >&2; exit 3"}}.run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "run sh: exit status 3: why") {
		t.Errorf("error %v, want status and reason", err)
	}
	_, err = command{argv: []string{"nosuch-tool"}}.run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "make deps") {
		t.Errorf("error %v, want one that says how to get the tool", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = command{argv: []string{"sh", "-c", "sleep 3600 & wait"}}.run(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Minute {
		t.Errorf("error %v after %v, want the deadline before the tool's end", err, time.Since(start))
	}
}
