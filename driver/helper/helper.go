// Package helper carries the guest helper, the program of driver/guest, inside the driver, so that
// the driver is one file that runs from anywhere. `make build` builds the helper and puts it into
// the folder embedded before it builds the driver. `go build ./driver` embeds what the last
// `make build` left there, or nothing.
package helper

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"hookbed/analysis/durable"
)

//go:embed embedded
var embedded embed.FS

// name is the helper's file name, in the embedded folder and in the cache. Listings of processes
// show it.
const name = "guest"

// machineName is the embedded file of a helper for other machines than the driver's own.
const machineName = name + "-" + machineArch

// machineArch is the architecture of virtual machines, and of the machines that are reached by SSH.
const machineArch = "amd64"

// unused is how long a helper that no driver has requested stays in the cache. It is longer than
// any run, which starts its helper anew at each block.
const unused = 30 * 24 * time.Hour

// ErrMissing is the error of a driver that was built by `go build` alone.
var ErrMissing = errors.New("this driver was built without its helper: build it with make build")

// Bytes is the helper: a static program for the driver's architecture. The error is ErrMissing
// where the driver has none.
func Bytes() ([]byte, error) { return carried(name) }

// carried is an embedded program.
func carried(name string) ([]byte, error) {
	program, err := embedded.ReadFile("embedded/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	}
	return program, err
}

// Path is the helper as an executable file: hookbed/helper/DIGEST/guest in the user's cache
// directory. The file is written at the first call; each call compares its SHA-256 with that of the
// embedded bytes and writes it again if they differ. The error is ErrMissing where the driver has no
// helper.
func Path() (string, error) { return cached(name) }

// MachinePath is Path of the helper for virtual machines and machines that are reached by SSH, which
// are of amd64. A driver of another architecture carries it in addition to its own.
func MachinePath() (string, error) { return cached(machineFile(runtime.GOARCH)) }

// machineFile is the embedded file of the machines' helper in a driver of an architecture.
func machineFile(arch string) string {
	if arch == machineArch {
		return name
	}
	return machineName
}

// cached writes an embedded program into the cache.
func cached(name string) (string, error) {
	program, err := carried(name)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache for the guest helper: %w", err)
	}
	file, err := install(filepath.Join(cache, "hookbed", "helper"), program)
	if err != nil {
		return "", fmt.Errorf("put the guest helper into the cache: %w", err)
	}
	return file, nil
}

// install makes program an executable file under root and returns its path.
func install(root string, program []byte) (string, error) {
	digest := sha256.Sum256(program)
	dir := filepath.Join(root, hex.EncodeToString(digest[:]))
	file := filepath.Join(dir, name)
	if !intact(file, digest) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		if err := durable.WriteFile(file, program, 0o755); err != nil {
			return "", err
		}
		prune(root, dir)
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // only prune reads it
	return file, nil
}

// intact reports whether the file is executable and has the digest.
func intact(file string, digest [sha256.Size]byte) bool {
	info, err := os.Lstat(file)
	if err != nil || info.Mode() != 0o755 {
		return false
	}
	program, err := os.ReadFile(file)
	return err == nil && sha256.Sum256(program) == digest
}

// prune removes the helpers of other drivers that have been unused for long. What cannot be removed
// stays, and costs only space.
func prune(root, keep string) {
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if info, err := e.Info(); err == nil && dir != keep && time.Since(info.ModTime()) > unused {
			_ = os.RemoveAll(dir)
		}
	}
}
