package images

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hookbed/images/container"
)

// savedImage is a file as docker save writes it, of an image with one program.
func savedImage(t *testing.T, content string) container.Source {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/agent"), []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "agent.tar")
	if err := writeDockerArchive(file, root, "agent:1", time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	return container.Source{Path: file}
}

func ensureContainer(t *testing.T, s *Store, from container.Source) Container {
	t.Helper()
	c, err := s.EnsureContainer(context.Background(), from)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContainerIsUnpackedOnce(t *testing.T) {
	dir := t.TempDir()
	built := 0
	s, err := Open(dir, Options{Log: func(string) { built++ }})
	if err != nil {
		t.Fatal(err)
	}
	from := savedImage(t, "one")
	first := ensureContainer(t, s, from)
	if got, err := os.ReadFile(filepath.Join(first.Dir, "usr/bin/agent")); err != nil || string(got) != "one" {
		t.Errorf("the unpacked program is %q, %v", got, err)
	}
	for _, d := range containerDirs() { // that a helper mounts on
		if st, err := os.Stat(filepath.Join(first.Dir, d)); err != nil || !st.IsDir() {
			t.Errorf("/%s: %v", d, err)
		}
	}
	if again := ensureContainer(t, s, from); again != first || built != 1 {
		t.Errorf("the second time it is %+v after %d builds, want %+v after 1", again, built, first)
	}
	if other := ensureContainer(t, s, savedImage(t, "two")); other.ID == first.ID || other.Dir == first.Dir {
		t.Errorf("another image is %+v, as the first", other)
	}
	if err := s.Verify(context.Background()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(first.Packed.Path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnsureContainer(context.Background(), from); err == nil {
		t.Error("a cached image that was changed was used")
	}
}

// TestContainerByDigestIsFoundInTheStore and no registry is reached for it.
func TestContainerByDigestIsFoundInTheStore(t *testing.T) {
	s, err := Open(t.TempDir(), Options{CachedOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	from := container.Source{Ref: "registry.invalid/agent@" + digest, Digest: digest}
	if _, err := s.EnsureContainer(context.Background(), from); !errors.Is(err, ErrNotCached) {
		t.Fatalf("what is not in the store: %v, want ErrNotCached", err)
	}
	// As it is after it was pulled.
	file := savedImage(t, "pulled")
	img, err := file.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if err := s.makeContainer(context.Background(), containerPrefix+"0123456789abcdef", digest, from, img); err != nil {
		t.Fatal(err)
	}
	if c := ensureContainer(t, s, from); c.ID != img.ID || c.Ref != from.Ref {
		t.Errorf("found %+v", c)
	}
	other := from
	other.Digest = digest[:len(digest)-1] + "0" // the same directory
	if _, err := s.EnsureContainer(context.Background(), other); err == nil {
		t.Error("an image of another digest was taken for it")
	}
}
