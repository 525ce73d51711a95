package images

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"
)

// recipes holds the lock files and every file that goes into an image.
//
//go:embed locks root kernel box endpoint/packages endpoint/etc peers/packages http/packages etcd/packages compiler/packages
var recipes embed.FS

const (
	lockRoot         = "root"
	lockEndpoint     = "endpoint"
	lockExternal     = "peers"
	lockHTTP         = "http"
	lockEtcd         = "etcd"
	lockCompiler     = "compiler"
	lockKernelPrefix = "kernel-"
)

// DefaultKernel is the kernel of experiments that name none.
const DefaultKernel = "6.12"

// Kernels lists the kernels that are tested, by the names experiments use, oldest first.
// Each follows a series: a new lock pins the newest version. Others are in Versions.
func Kernels() []string {
	var out []string
	for _, k := range kernelSources() {
		out = append(out, k.name)
	}
	return out
}

// NICs are the models of network cards, of those that QEMU has, that each kernel
// has a driver for. Debian's flavour for clouds has those of hypervisors.
func NICs() map[string][]string {
	out := map[string][]string{}
	for _, k := range kernelSources() {
		out[k.name] = []string{"virtio", "vmxnet3"}
		if !strings.Contains(k.series, "cloud") {
			out[k.name] = append(out[k.name], "e1000e")
		}
	}
	for _, v := range Versions() {
		out[v] = []string{"virtio", "vmxnet3"}
	}
	return out
}

// LockNames lists every lock file but those of Versions, without its extension.
func LockNames() []string {
	names := []string{lockRoot, lockEndpoint, lockExternal, lockHTTP, lockEtcd, lockCompiler}
	for _, k := range Kernels() {
		names = append(names, lockKernelPrefix+k)
	}
	sort.Strings(names)
	return names
}

// kernelOf is the kernel of a lock name, "" if it is not a kernel's.
func kernelOf(lock string) string {
	k, ok := strings.CutPrefix(lock, lockKernelPrefix)
	if !ok {
		return ""
	}
	return k
}

// readLock reads an embedded lock.
func readLock(name string) (Lock, error) {
	data, err := recipes.ReadFile("locks/" + name + ".lock")
	if errors.Is(err, fs.ErrNotExist) {
		data, err = recipes.ReadFile(versionLocks + "/" + name + ".lock")
	}
	if err != nil {
		return Lock{}, fmt.Errorf("read lock %s: there is none (there are: %s)", name, strings.Join(LockNames(), ", "))
	}
	return ParseLock(name, data)
}

// kernelSource is where a kernel comes from.
type kernelSource struct {
	name   string // as experiments say it, "6.12"
	suite  string
	series string // the names of its image packages, "*" for the version
}

// kernelSources lists the kernels, oldest first.
func kernelSources() []kernelSource {
	var out []kernelSource
	for _, line := range recipeLines("kernel/packages") {
		f := strings.Fields(line)
		out = append(out, kernelSource{name: f[0], suite: f[1], series: f[2]})
	}
	return out
}

// sourceOf finds where a kernel comes from; ok is false if there is none by that name.
func sourceOf(kernel string) (k kernelSource, ok bool) {
	for _, k := range kernelSources() {
		if k.name == kernel {
			return k, true
		}
	}
	return kernelSource{}, false
}

// is reports whether a package is an image of the series.
func (k kernelSource) is(pkg string) bool {
	before, after, _ := strings.Cut(k.series, "*")
	version, ok := strings.CutPrefix(pkg, before)
	version, ok2 := strings.CutSuffix(version, after)
	return ok && ok2 && version != ""
}

func recipePackages(file string) []string {
	out := recipeLines(file)
	sort.Strings(out)
	return out
}

// recipeLines reads an embedded list, without comments. The file is part of
// the program, so that it cannot be missing.
func recipeLines(file string) []string {
	var out []string
	for line := range strings.Lines(string(recipeFile(file))) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

func recipeFile(name string) []byte {
	data, err := recipes.ReadFile(name)
	if err != nil {
		panic("images: recipe not embedded: " + err.Error())
	}
	return data
}

// recipeFiles lists the embedded files below dir, sorted.
func recipeFiles(dir string) []string {
	var out []string
	err := fs.WalkDir(recipes, dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		panic("images: recipe not embedded: " + err.Error())
	}
	return out
}
