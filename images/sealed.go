package images

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Files from which the initramfs of a sealed guest is joined. Each is a whole
// cpio archive; the kernel unpacks one after the other.
const (
	sealedModulesFile  = "sealed-modules.cpio"
	sealedModulesHTTP  = "sealed-modules-http.cpio"
	sealedToolsFile    = "sealed-tools.cpio"
	sealedEndpointFile = "sealed-endpoint.cpio"
)

// Places in a sealed guest, for the code that adds the last archive.
const (
	// SealedModules lists module files, one a line, in the order to load them, and
	// SealedModulesHTTP, where it is there, those to load then.
	SealedModules     = "/lib/modules/load"
	SealedModulesHTTP = "/lib/modules/load-http"
	// SealedEndpoint is the root file system of endpoints.
	SealedEndpoint = "/run/hookbed/endpoint"
)

// SealedCmdline is the kernel command line of a sealed guest. Everything that
// would differ from boot to boot is off: the layout of addresses, and
// randomness that the processor offers. Clocks are trusted, so that no
// calibration or watchdog runs, and one processor has no timer that wakes it for others.
const SealedCmdline = "console=ttyS0 quiet panic=-1 net.ifnames=0 nokaslr norandmaps random.trust_cpu=0 " +
	"tsc=reliable no_timer_check 8250.nr_uarts=2 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"

// Join writes an initramfs: the given archives, then one with files of the
// caller, by absolute path. Files are executable; times and owners are 0. It
// refuses an archive that is not what it was when it was made.
func Join(w *os.File, archives []Artifact, files map[string][]byte) error {
	for _, a := range archives {
		if err := a.appendTo(w); err != nil {
			return fmt.Errorf("join initramfs: %w", err)
		}
	}
	c := &cpioWriter{w: w}
	made := map[string]bool{".": true}
	for _, name := range sortedKeys(files) {
		name := strings.TrimPrefix(name, "/")
		c.parents(made, path.Dir(name))
		c.file(name, 0o755, files["/"+name])
	}
	if err := c.close(); err != nil {
		return fmt.Errorf("join initramfs: %w", err)
	}
	return nil
}

// SealedPrograms are the programs and libraries that sealed guests run, by their absolute path in
// the guest: the ELF files of the endpoints' root file system. Links are not among them.
func (s Set) SealedPrograms() (map[string][]byte, error) {
	i := slices.IndexFunc(s.Sealed, func(a Artifact) bool { return a.Name == sealedEndpointFile })
	if i < 0 {
		return nil, fmt.Errorf("read programs of sealed guests: %s was not made ready", sealedEndpointFile)
	}
	f, err := os.Open(s.Sealed[i].Path)
	if err != nil {
		return nil, fmt.Errorf("read programs of sealed guests: %w", err)
	}
	defer f.Close()
	out := map[string][]byte{}
	err = readArchive(f, func(name string, data []byte) {
		if bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
			out["/"+name] = data
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read programs of sealed guests: %s: %w", s.Sealed[i].Path, err)
	}
	return out, nil
}

// appendTo copies the file, and checks what it copies.
func (a Artifact) appendTo(w io.Writer) error {
	f, err := os.Open(a.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, h), f); err != nil {
		return err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != a.SHA256 {
		return a.changed(sum)
	}
	return nil
}

// parents writes the directories above a file that are not there yet.
func (c *cpioWriter) parents(made map[string]bool, dir string) {
	if made[dir] {
		return
	}
	c.parents(made, path.Dir(dir))
	made[dir] = true
	c.dir(dir)
}

// tree writes everything below dir under prefix, sorted.
func (c *cpioWriter) tree(prefix, dir string) error {
	made := map[string]bool{".": true}
	c.parents(made, prefix)
	return filepath.WalkDir(dir, func(file string, e os.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		return c.node(path.Join(prefix, rel), file, e)
	})
}

func (c *cpioWriter) node(name, file string, e os.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	switch {
	case e.IsDir():
		c.entry(name, cpioDir|int(info.Mode().Perm()), nil, 0, 0)
	case e.Type() == os.ModeSymlink:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		c.link(name, target)
	case e.Type().IsRegular():
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		c.file(name, int(info.Mode().Perm()), data)
	default:
		return fmt.Errorf("%s is neither file, directory nor link", file)
	}
	return c.err
}

// writeSealedModules packs the modules that all sealed guests load, and their order; and
// those that guests with the programs of HTTP load then.
func writeSealedModules(out string, k kernelTree) error {
	all, err := sealedModules(k.modules(), "kernel/sealed")
	if err != nil {
		return err
	}
	if err := writeModules(filepath.Join(out, sealedModulesFile), SealedModules, k, all); err != nil {
		return err
	}
	http, err := sealedModules(k.modules(), "kernel/sealed", "kernel/sealed-http")
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, m := range all {
		there[m.path] = true
	}
	http = slices.DeleteFunc(http, func(m module) bool { return there[m.path] })
	return writeModules(filepath.Join(out, sealedModulesHTTP), SealedModulesHTTP, k, http)
}

// sealedModules are the modules of recipes, in the order to load them.
func sealedModules(dir string, recipes ...string) ([]module, error) {
	var names []string
	for _, r := range recipes {
		some, err := sealedNames(dir, r)
		if err != nil {
			return nil, err
		}
		names = append(names, some...)
	}
	wanted, err := moduleOrder(dir, names)
	return loadOrder(wanted), err
}

// writeModules packs modules, and a list of them in their order.
func writeModules(file, list string, k kernelTree, modules []module) error {
	return writeCPIO(file, func(c *cpioWriter) error {
		for _, d := range []string{"lib", "lib/modules"} {
			c.dir(d)
		}
		var order []string
		for _, m := range modules {
			data, err := os.ReadFile(filepath.Join(k.modules(), m.path))
			if err != nil {
				return err
			}
			name := "lib/modules/" + filepath.Base(m.path)
			c.file(name, 0o644, unsigned(data))
			order = append(order, "/"+name)
		}
		c.file(strings.TrimPrefix(list, "/"), 0o644, []byte(strings.Join(order, "\n")+"\n"))
		return nil
	})
}

// sealedNames are the modules of a recipe that a kernel has.
func sealedNames(dir, recipe string) ([]string, error) {
	index, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, line := range recipeLines(recipe) {
		name, mark, _ := strings.Cut(line, " ")
		if mark != "optional" || bytes.Contains(index, []byte("/"+name+".ko:")) {
			out = append(out, name)
		}
	}
	return out, nil
}

// SealedCongestion lists the TCP congestion controls of sealed guests: those that
// locked kernels have built in, as their recipe loads no module of others.
func SealedCongestion() []string { return []string{"reno", "cubic"} }

// signatureEnd is what a signed module ends with (kernel: include/linux/module_signature.h).
const signatureEnd = "~Module signature appended~\n"

// unsigned is a module without its appended signature. Where everything comes
// from one initramfs of known digest it proves nothing, and checking it takes an
// emulated processor half a second a module.
func unsigned(module []byte) []byte {
	body, signed := bytes.CutSuffix(module, []byte(signatureEnd))
	if !signed || len(body) < signatureInfo {
		return module
	}
	// struct module_signature ends with the big-endian size of what precedes it.
	size := int(binary.BigEndian.Uint32(body[len(body)-4:]))
	if size > len(body)-signatureInfo {
		return module
	}
	return body[:len(body)-signatureInfo-size]
}

// signatureInfo is the size of struct module_signature, in bytes.
const signatureInfo = 12

// loadOrder puts every module after those that it needs.
func loadOrder(modules []module) []module {
	byName := map[string]module{}
	for _, m := range modules {
		byName[moduleName(m.path)] = m
	}
	var out []module
	done := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if done[name] {
			return
		}
		done[name] = true
		m := byName[name]
		for _, n := range slices.Sorted(slices.Values(m.needs)) {
			visit(moduleName(n))
		}
		out = append(out, m)
	}
	for _, name := range sortedKeys(byName) {
		visit(name)
	}
	return out
}

// sealedPrograms are what the guest helper calls, and what is loaded by name only.
func sealedPrograms(root string) ([]string, error) {
	out := []string{"usr/sbin/xtables-legacy-multi", "usr/sbin/xtables-nft-multi", "usr/sbin/nft", "usr/sbin/ipset"}
	extensions, err := filepath.Glob(filepath.Join(root, "usr/lib/x86_64-linux-gnu/xtables/*.so"))
	if err == nil && len(extensions) == 0 {
		err = errors.New("the root image has no extensions of iptables")
	}
	for _, e := range extensions {
		info, serr := os.Lstat(e)
		if err = errors.Join(err, serr); serr == nil && info.Mode().IsRegular() {
			out = append(out, strings.TrimPrefix(e, root+"/"))
		}
	}
	return out, err
}

// writeSealedTools packs netfilter's tools, as they are in the root image, with
// the libraries they need.
func writeSealedTools(file, root string) error {
	programs, err := sealedPrograms(root)
	if err != nil {
		return err
	}
	files, err := elfClosure(root, programs)
	if err != nil {
		return err
	}
	return writeCPIO(file, func(c *cpioWriter) error {
		made := map[string]bool{".": true}
		for _, name := range files {
			data, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				return err
			}
			c.parents(made, path.Dir(name))
			c.file(name, 0o755, data)
		}
		for _, l := range []string{"bin", "lib64", "sbin"} {
			c.link(l, "usr/"+l)
		}
		return c.aliases(root, made)
	})
}

// aliases writes the links by which the tools are called and extensions are found.
func (c *cpioWriter) aliases(root string, made map[string]bool) error {
	for _, dir := range []string{"usr/sbin", "usr/lib/x86_64-linux-gnu/xtables"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Type() != os.ModeSymlink {
				continue
			}
			target, err := os.Readlink(filepath.Join(root, dir, e.Name()))
			if err != nil {
				return err
			}
			if strings.HasPrefix(target, "xtables-") || strings.HasPrefix(target, "libxt_") {
				c.parents(made, dir)
				c.link(dir+"/"+e.Name(), target)
			}
		}
	}
	return nil
}

func writeSealedEndpoint(file, root string) error {
	return writeCPIO(file, func(c *cpioWriter) error {
		return c.tree(strings.TrimPrefix(SealedEndpoint, "/"), root)
	})
}
