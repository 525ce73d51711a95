package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"hookbed/analysis/durable"
)

// The parts of a compiler artifact. Its programs and their libraries are flat in the
// artifact's directory; the headers are a tree in endpointDir, as the files of the
// endpoint image are.
const (
	compilerClang  = "clang"
	compilerStrip  = "llvm-strip"
	compilerLoader = "ld-linux-x86-64.so.2"
)

// Where Debian's packages have the compiler and its own headers.
const (
	llvmBin      = "usr/lib/llvm-19/bin"
	llvmResource = "usr/lib/llvm-19/lib/clang/19"
)

// compilerFiles are the files that decide what code a program becomes. The lock has
// the SHA-256 of each, so that an update of another package, as of the C library,
// cannot change the compiler.
func compilerFiles() []string {
	return []string{compilerClang, compilerStrip, "libLLVM.so.19.1", "libclang-cpp.so.19.1"}
}

// headerDirs are the headers that BPF programs may include: of the kernel, of libbpf,
// and of the compiler.
func headerDirs() []string {
	return []string{
		llvmResource + "/include",
		"usr/include/asm-generic", "usr/include/bpf", "usr/include/linux", "usr/include/x86_64-linux-gnu/asm",
	}
}

func compilerRecipe() recipe {
	return recipe{name: lockCompiler, files: []string{"compiler/packages"}, build: buildCompiler}
}

// buildCompiler unpacks the compiler with its libraries and headers. A compiler that
// is not the locked one is an error even where drift is allowed.
func buildCompiler(ctx context.Context, b *build) error {
	from := filepath.Join(b.work, "packages")
	for _, p := range b.lock.Packages {
		if err := b.unpack(ctx, p.Name, from); err != nil {
			return err
		}
	}
	if err := keepPrograms(from, b.out); err != nil {
		return err
	}
	sums, err := compilerSums(b.out)
	if err != nil {
		return err
	}
	if err := checkCompiler(sums, b.lock); err != nil {
		return err
	}
	root := filepath.Join(b.out, endpointDir)
	for _, d := range headerDirs() {
		if err := copyHeaders(filepath.Join(from, d), filepath.Join(root, d)); err != nil {
			return err
		}
	}
	if err := normalModes(root); err != nil {
		return err
	}
	b.manifest.Values[valueLayer], err = treeDigest(root, b.epoch())
	return err
}

// keepPrograms copies the compiler, exactly the libraries it loads, and their loader
// from unpacked packages to dir.
func keepPrograms(from, dir string) error {
	files, err := elfClosure(from, []string{llvmBin + "/" + compilerClang, llvmBin + "/" + compilerStrip})
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := copyProgram(filepath.Join(from, f), filepath.Join(dir, filepath.Base(f))); err != nil {
			return err
		}
	}
	return nil
}

// copyHeaders copies the regular files below a directory, following links.
func copyHeaders(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return fs.WalkDir(os.DirFS(from), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		return copyProgram(filepath.Join(from, name), filepath.Join(to, name))
	})
}

// compilerSums are the SHA-256 of a directory's compilerFiles, by name.
func compilerSums(dir string) (map[string]string, error) {
	sums := map[string]string{}
	for _, name := range compilerFiles() {
		sum, _, err := hashFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		sums[name] = sum
	}
	return sums, nil
}

// checkCompiler compares digests of compilerFiles with those of the lock.
func checkCompiler(sums map[string]string, l Lock) error {
	for _, name := range compilerFiles() {
		if want := l.Files[name]; sums[name] != want {
			return fmt.Errorf("check compiler: the SHA-256 of %s is %s, lock %s says %s", name, sums[name], l.Name, want)
		}
	}
	return nil
}

// lockCompilerFiles records the digests of the compiler inside the packages.
func (s *Store) lockCompilerFiles(ctx context.Context, m mirrors, l *Lock) error {
	d := s.debs(m)
	if err := d.fetch(ctx, *l); err != nil {
		return err
	}
	temp, remove, err := durable.Scratch("compiler")
	if err != nil {
		return err
	}
	defer func() { _ = remove() }() // what stays costs only space
	from, to := filepath.Join(temp, "from"), filepath.Join(temp, "to")
	for _, p := range l.Packages {
		if _, err := (command{argv: []string{"dpkg-deb", "-x", d.path(p), from}}).run(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Mkdir(to, 0o755), keepPrograms(from, to)); err != nil {
		return err
	}
	l.Files, err = compilerSums(to)
	return err
}

// Compiler is the pinned compiler of BPF objects, with its own C library and headers.
// It uses no other file of this computer.
type Compiler struct {
	Dir   string
	Files map[string]string // SHA-256 of the files that decide the result, by name
	Drift []Drift           // packages, none of them the compiler's own, that are not the locked ones
}

// Compiler makes the compiler ready. Every byte of it is compared with what was built
// from the lock, so that nothing else can compile in its place: an altered file is an
// error that names the directory to remove.
func (s *Store) Compiler(ctx context.Context) (Compiler, error) {
	m, dir, err := s.ensure(ctx, compilerRecipe())
	if err != nil {
		return Compiler{}, err
	}
	l, err := s.readLock(lockCompiler)
	if err != nil {
		return Compiler{}, err
	}
	return compilerOf(m, dir, l)
}

func compilerOf(m Manifest, dir string, l Lock) (Compiler, error) {
	if err := m.check(dir, true); err != nil {
		return Compiler{}, err
	}
	sums := map[string]string{}
	for _, o := range m.Outputs {
		if slices.Contains(compilerFiles(), o.Name) {
			sums[o.Name] = o.SHA256
		}
	}
	if err := checkCompiler(sums, l); err != nil {
		return Compiler{}, err
	}
	return Compiler{Dir: dir, Files: sums, Drift: m.Drift}, nil
}

// Clang is the command line that compiles C with the pinned headers, to which a
// target, flags and files are added. It needs Environment. Command has both.
func (c Compiler) Clang() []string {
	root := filepath.Join(c.Dir, endpointDir)
	return append(c.program(compilerClang), "--no-default-config", "-nostdinc",
		"-isystem", filepath.Join(root, llvmResource, "include"),
		"-isystem", filepath.Join(root, "usr", "include"),
		"-isystem", filepath.Join(root, "usr", "include", "x86_64-linux-gnu"))
}

// Command is Clang with more arguments, in Environment.
func (c Compiler) Command(ctx context.Context, args ...string) *exec.Cmd {
	return c.command(ctx, append(c.Clang(), args...))
}

func (c Compiler) command(ctx context.Context, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = c.Environment()
	return cmd
}

// Strip is the command line of llvm-strip, likewise.
func (c Compiler) Strip() []string { return c.program(compilerStrip) }

// program starts a program by the pinned loader: the one of this computer may be older
// than the libraries.
func (c Compiler) program(name string) []string {
	return []string{filepath.Join(c.Dir, compilerLoader), filepath.Join(c.Dir, name)}
}

// Environment is what Clang and Strip need to find their libraries. Nothing else of the
// environment is meant for them: variables such as CPATH would change what they do.
func (c Compiler) Environment() []string {
	return []string{"LD_LIBRARY_PATH=" + c.Dir, "LC_ALL=C.UTF-8"}
}
