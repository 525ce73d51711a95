package bpf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestGeneratedFilesAreCurrent compiles the programs in two copies of this
// module under different paths, and compares them with the committed files. For the
// second, other compilers and headers come first in the search paths. After a change of
// the programs run `go generate ./bpf`.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	committed, err := filepath.Glob("*_bpfel.*")
	if err != nil || len(committed) != 14 {
		t.Fatalf("generated files %q, want 14: %v", committed, err)
	}
	others, env := otherCompilers(t)
	for path, env := range map[string][]string{"a": nil, filepath.Join("another", "checkout"): env} {
		dir := filepath.Join(t.TempDir(), path)
		generate(t, dir, env)
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
	if ran, err := os.ReadFile(filepath.Join(others, "ran")); err == nil {
		t.Errorf("go generate ran compilers other than the pinned one:\n%s", ran)
	}
}

// otherCompilers makes programs that note in the file "ran" of dir that they ran, and
// the environment in which a careless build would use them.
func otherCompilers(t *testing.T) (dir string, env []string) {
	t.Helper()
	dir = t.TempDir()
	script := "#!/bin/sh\necho \"$0\" >>" + filepath.Join(dir, "ran") + "\nexit 1\n"
	for _, name := range []string{"clang", "clang-19", "llvm-strip", "llvm-strip-19", "cc"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	header := filepath.Join(dir, "linux", "bpf.h")
	if err := os.MkdirAll(filepath.Dir(header), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(header, []byte("#error a header of this computer\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, []string{
		"PATH=" + dir + ":" + os.Getenv("PATH"), "CGO_ENABLED=0", // Go itself is not to look for cc
		"BPF2GO_CC=clang", "BPF2GO_STRIP=llvm-strip", "BPF2GO_CFLAGS=-DOTHER -I" + dir,
		"CPATH=" + dir, "C_INCLUDE_PATH=" + dir, "CCC_OVERRIDE_OPTIONS=#+-O0",
	}
}

// generate copies what go generate needs of this module to dir, and runs it there.
func generate(t *testing.T, dir string, env []string) {
	t.Helper()
	for _, pattern := range []string{"../go.mod", "../go.sum", "bpf.go", "generator.go", "request.go", "message.go", "entries.go", "policies.go", "list.go", "*.bpf.c", "headers/*.h"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, name := range names {
			copyFile(t, name, filepath.Join(dir, "bpf", name))
		}
	}
	done := "/" // a directory is copied with all below it, which sorts behind it
	for _, name := range packagesOf(t, "./compile") {
		if strings.HasPrefix(name+"/", done) {
			continue
		}
		done = name + "/"
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "generate", ".")
	cmd.Dir = filepath.Join(dir, "bpf")
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
}

// packagesOf lists the directories of this module's packages that a command is made of.
func packagesOf(t *testing.T, command string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}", command).Output()
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, path := range strings.Fields(string(out)) {
		dirs = append(dirs, strings.TrimPrefix(path, "hookbed/"))
	}
	if len(dirs) < 2 {
		t.Fatalf("%s is made of %q, want at least itself and images", command, dirs)
	}
	slices.Sort(dirs)
	return dirs
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
