package images

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCompilerUsesNothingElse has clang list the headers it reads, and the loader the
// libraries: none may be this computer's.
func TestCompilerUsesNothingElse(t *testing.T) {
	c, err := openTest(t).Compiler(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "pass.bpf.c")
	text := "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nSEC(\"xdp\") int pass(struct xdp_md *c) { return XDP_PASS; }\n"
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	used := run(t, c.Command(t.Context(), "-target", "bpf", "-M", source))
	for _, file := range strings.Fields(strings.ReplaceAll(used, "\\\n", " "))[1:] {
		if file != source && !strings.HasPrefix(file, c.Dir+"/") {
			t.Errorf("the compiler read %s, want only files below %s", file, c.Dir)
		}
	}
	if used := run(t, c.command(t.Context(), []string{filepath.Join(c.Dir, compilerLoader), "--list", filepath.Join(c.Dir, compilerClang)})); strings.Contains(used, "/usr/") {
		t.Errorf("clang loads libraries of this computer:\n%s", used)
	}
	object := strings.TrimSuffix(source, ".c") + ".o"
	run(t, c.Command(t.Context(), "-O2", "-g", "-target", "bpf", "-c", source, "-o", object))
	run(t, c.command(t.Context(), append(c.Strip(), "-g", object)))
	if st, err := os.Stat(object); err != nil || st.Size() == 0 {
		t.Errorf("no object was made: %v", err)
	}
}

func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run %q: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// fakeCompiler is an artifact with small files in the compiler's place, and its lock.
func fakeCompiler(t *testing.T) (m Manifest, dir string, l Lock) {
	t.Helper()
	b := &build{out: t.TempDir(), lock: testLock(t, "20261123T000000Z")}
	b.manifest = Manifest{Name: lockCompiler, Snapshot: b.epoch(), Values: map[string]string{}, Tools: map[string]string{}}
	for _, name := range compilerFiles() {
		if err := os.WriteFile(filepath.Join(b.out, name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(b.out, endpointDir)
	err := os.MkdirAll(root, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bpf.h"), []byte("header"), 0o644)
	}
	if err == nil {
		b.manifest.Values[valueLayer], err = treeDigest(root, b.epoch())
	}
	if err == nil {
		b.lock.Files, err = compilerSums(b.out)
	}
	if err == nil {
		err = b.finish(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.manifest, b.out, b.lock
}

func TestAnotherCompilerIsRefused(t *testing.T) {
	m, dir, l := fakeCompiler(t)
	if c, err := compilerOf(m, dir, l); err != nil || c.Dir != dir || len(c.Files) != len(compilerFiles()) {
		t.Fatalf("the locked compiler is %+v, error %v", c, err)
	}
	for _, name := range append(compilerFiles(), endpointDir+"/bpf.h") {
		m, dir, l := fakeCompiler(t)
		file := filepath.Join(dir, name)
		before, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		// Size and time stay as they were: only the contents give it away.
		if err := os.WriteFile(file, []byte(strings.Repeat("x", int(before.Size()))), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, before.ModTime(), before.ModTime()); err != nil {
			t.Fatal(err)
		}
		if _, err := compilerOf(m, dir, l); err == nil || !strings.Contains(err.Error(), "remove "+dir+" to have it built again") {
			t.Errorf("%s was altered: error %v, want one that says what to remove", name, err)
		}
	}
	l.Files = map[string]string{}
	for _, name := range compilerFiles() {
		l.Files[name] = digest
	}
	want := fmt.Sprintf("check compiler: the SHA-256 of clang is %s, lock test says %s", m.artifact(dir, compilerClang).SHA256, digest)
	if _, err := compilerOf(m, dir, l); err == nil || err.Error() != want {
		t.Errorf("a compiler that is not the locked one: error %v, want %s", err, want)
	}
}

func TestCompilerLock(t *testing.T) {
	l, err := readLock(lockCompiler)
	if err != nil {
		t.Fatal(err)
	}
	if l.Suite != suite || len(l.Packages) != len(l.Want) || !slices.Equal(sortedKeys(l.Files), slices.Sorted(slices.Values(compilerFiles()))) {
		t.Errorf("lock of suite %q wants %v, pins %d packages and the files %v", l.Suite, l.Want, len(l.Packages), sortedKeys(l.Files))
	}
}

func TestBuiltProgramsStayExecutable(t *testing.T) {
	dir := t.TempDir()
	for name, modes := range map[string][2]os.FileMode{"program": {0o700, 0o755}, "data": {0o600, 0o644}} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, modes[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := sealOutput(dir, name); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != modes[1] {
			t.Errorf("%s is %v now (%v), want mode %o", name, st, err, modes[1])
		}
	}
}
