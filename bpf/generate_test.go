package bpf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGeneratedFilesAreCurrent compiles the programs in two copies of this
// module under different paths, and compares them with the committed files. It needs
// clang-19, llvm-strip-19 and libbpf's headers. After a change of the programs
// run `go generate ./bpf`.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	committed, err := filepath.Glob("*_bpfel.*")
	if err != nil || len(committed) != 10 {
		t.Fatalf("generated files %q, want 10: %v", committed, err)
	}
	for _, path := range []string{"a", filepath.Join("another", "checkout")} {
		dir := filepath.Join(t.TempDir(), path)
		generate(t, dir)
		for _, name := range committed {
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "bpf", name))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is not what go generate makes of the programs here (%v)", name, err)
			}
		}
	}
}

// generate copies the sources of this package, and the module's own files,
// to dir and runs go generate there.
func generate(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{"../go.mod", "../go.sum", "bpf.go", "generator.go", "entries.go", "policies.go", "list.go", "*.bpf.c", "headers/*.h"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, name := range names {
			copyFile(t, name, filepath.Join(dir, "bpf", name))
		}
	}
	cmd := exec.Command("go", "generate", ".")
	cmd.Dir = filepath.Join(dir, "bpf")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
