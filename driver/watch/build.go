package watch

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"hookbed/analysis/durable"
)

//go:embed plugin/trace.c plugin/interface.h
var sources embed.FS

// sourceDir is where the sources are in the program.
const sourceDir = "plugin"

// Plugin is the built plugin.
type Plugin struct {
	Path        string
	QEMUVersion string // that it was built for
	SHA256      string // of the file
}

// Oldest QEMU whose plugin interface has what the plugin uses: version 4 of it.
const oldestMajor, oldestMinor = 9, 1

// compiler is the C compiler, by its name in POSIX and Debian.
const compiler = "cc"

// Build returns the plugin for a version of QEMU ("10.0.2"). It compiles the plugin unless the cache
// has it: the cache's files are named by that version and the digest of the sources. Several
// processes may build at the same time.
func Build(ctx context.Context, cacheDir, qemu string) (Plugin, error) {
	p, err := build(ctx, cacheDir, qemu)
	if err != nil {
		return Plugin{}, fmt.Errorf("build the trace plugin: %w", err)
	}
	return p, nil
}

func build(ctx context.Context, cacheDir, qemu string) (Plugin, error) {
	if err := supported(qemu); err != nil {
		return Plugin{}, err
	}
	files, digest, err := readSources()
	if err != nil {
		return Plugin{}, err
	}
	path, err := filepath.Abs(filepath.Join(cacheDir, "plugins", "trace-"+qemu+"-"+digest[:16]+".so"))
	if err != nil {
		return Plugin{}, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = compile(ctx, files, path)
	}
	if err != nil {
		return Plugin{}, err
	}
	sum := sha256.Sum256(data)
	return Plugin{Path: path, QEMUVersion: qemu, SHA256: hex.EncodeToString(sum[:])}, nil
}

// supported refuses versions of QEMU that are too old. One that is too new refuses the plugin.
func supported(qemu string) error {
	parts := strings.SplitN(qemu, ".", 3)
	var n [2]int
	for i := range n {
		var err error
		if len(parts) > i {
			n[i], err = strconv.Atoi(parts[i])
		}
		if err != nil || len(parts) < 2 {
			return fmt.Errorf("%q is no version of QEMU", qemu)
		}
	}
	if n[0] < oldestMajor || n[0] == oldestMajor && n[1] < oldestMinor {
		return fmt.Errorf("QEMU is %s, whose plugins cannot read the guest's memory: install QEMU %d.%d or newer, see `make deps`", qemu, oldestMajor, oldestMinor)
	}
	return nil
}

// readSources returns the sources by name, and their digest.
func readSources() (files map[string][]byte, digest string, err error) {
	entries, err := sources.ReadDir(sourceDir) // sorted
	if err != nil {
		return nil, "", err
	}
	h := sha256.New()
	files = map[string][]byte{}
	for _, e := range entries {
		data, err := sources.ReadFile(sourceDir + "/" + e.Name())
		if err != nil {
			return nil, "", err
		}
		files[e.Name()] = data
		fmt.Fprintf(h, "%s %d\n%s", e.Name(), len(data), data)
	}
	return files, hex.EncodeToString(h.Sum(nil)), nil
}

// compile makes the shared object at path and returns its content.
func compile(ctx context.Context, files map[string][]byte, path string) (_ []byte, err error) {
	cc, err := exec.LookPath(compiler)
	if err != nil {
		return nil, fmt.Errorf("no C compiler: run `make deps`, or install one that is called %q (Debian: gcc, libc6-dev): %w", compiler, err)
	}
	dir, remove, err := durable.Scratch("plugin")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	out := filepath.Join(dir, "trace.so")
	cmd := exec.CommandContext(ctx, cc, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden", "-o", out, "trace.c")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w; it says: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(said)))
	}
	data, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	// QEMU's user, who is not root, reads it, whatever the umask is.
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Chmod(filepath.Dir(path), 0o755)); err != nil {
		return nil, err
	}
	return data, durable.WriteFile(path, data, 0o755)
}
