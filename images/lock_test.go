package images

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestEmbeddedLocks(t *testing.T) {
	wants := map[string][]string{lockRoot: recipePackages("root/packages"), lockEndpoint: recipePackages("endpoint/packages"), lockExternal: recipePackages("peers/packages"),
		lockHTTP: recipePackages("http/packages"), lockEtcd: recipePackages("etcd/packages"), lockCompiler: recipePackages("compiler/packages")}
	for _, k := range Kernels() {
		from, _ := sourceOf(k)
		wants[lockKernelPrefix+k] = []string{from.series}
	}
	for _, name := range LockNames() {
		l, err := readLock(name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(l.Want, wants[name]) {
			t.Errorf("lock %s was made for %v, its recipe asks for %v: run \"driver images lock %s\"", name, l.Want, wants[name], name)
		}
		if !bytes.Equal(l.Format(), recipeFile("locks/"+name+".lock")) {
			t.Errorf("lock %s is not in the form that Format writes", name)
		}
		if kernelOf(name) != "" && l.Files[kernelFile] == "" {
			t.Errorf("lock %s has no digest of the kernel", name)
		}
	}
	if !slices.Equal(Kernels(), []string{"5.10", "6.1", "6.12", "6.12-generic", "6.18", "7.3"}) || !slices.Contains(Kernels(), DefaultKernel) {
		t.Errorf("Kernels() = %v, want one of each series and one generic, oldest first", Kernels())
	}
}

func TestParseLockErrors(t *testing.T) {
	head := "suite trixie\nsnapshot 20261123T000000Z\n"
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":    {head + "pakage a\n", `line 3: unknown key "pakage" (allowed: file, package, snapshot, suite, want)`},
		"too few values": {head + "package a 1\n", "line 3: package has 2 values, not 5"},
		"bad size":       {head + "package a 1 x " + digest + " pool/a.deb\n", `line 3: size "x" is not a number of bytes`},
		"bad digest":     {head + "package a 1 2 ABC pool/a.deb\n", `line 3: "ABC" is not a SHA-256`},
		"path upwards":   {head + "package a 1 2 " + digest + " pool/../../etc\n", `line 3: path "pool/../../etc"`},
		"bad time":       {"suite trixie\nsnapshot yesterday\n", "line 2: parsing time"},
		"no packages":    {head, "suite, snapshot or packages are missing"},
	} {
		_, err := ParseLock("x", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "x.lock") {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestParseMirrors(t *testing.T) {
	const targets = `Packages https://packages.test/debian bookworm main Google
DEP-11 http://mirror.example.test/debian/ bookworm main Debian
Packages http://mirror.example.test/debian/ bookworm main Debian
Packages http://mirror.example.test/debian/ bookworm-backports main Debian Backports
Packages http://safe.example.test/debian-security/ bookworm-security main Debian
`
	m, err := parseMirrors(targets, "")
	if err != nil {
		t.Fatal(err)
	}
	if m.main != "http://mirror.example.test/debian" || m.security != "http://safe.example.test/debian-security" || m.snapshot != "http://snapshot.example.test" {
		t.Errorf("mirrors are %+v", m)
	}
	l := testLock(t, "20261123T212833Z")
	p := Package{Name: "g++", Path: "pool/updates/main/g/g++_1.0+b1~2_amd64.deb"}
	if got, want := m.past(p, l), "http://snapshot.example.test/archive/debian-security/20261123T212833Z/pool/updates/main/g/g++_1.0+b1~2_amd64.deb"; got != want {
		t.Errorf("past = %s, want %s", got, want)
	}
	if m, err = parseMirrors("Packages http://127.0.0.1:80/debian trixie main\n", "http://snap.test/"); err != nil || m.snapshot != "http://snap.test" || m.security != "http://127.0.0.1:80/debian-security" {
		t.Errorf("mirrors are %+v, error %v", m, err)
	}
	if m, _ = parseMirrors("Packages http://127.0.0.1:80/debian trixie main\n", ""); m.snapshot != "" {
		t.Errorf("snapshot service of an address is %q, want none", m.snapshot)
	}
	const keyrings = "Packages https://packages.test/debian bookworm main /etc/apt/keyrings/other.gpg\nPackages http://mirror.test/debian bookworm main /usr/share/keyrings/debian-archive-keyring.gpg\n"
	if m, err = parseMirrors(keyrings, ""); err != nil || m.main != "http://mirror.test/debian" {
		t.Errorf("mirrors by keyring are %+v, error %v", m, err)
	}
	if _, err = parseMirrors("Packages https://packages.test/apt cloud main Google\n", ""); err == nil {
		t.Error("no error although apt knows no Debian archive")
	}
}

func testLock(t *testing.T, snapshot string) Lock {
	t.Helper()
	l, err := ParseLock("test", []byte("suite trixie\nsnapshot "+snapshot+"\npackage a 1 2 "+digest+" pool/main/a/a_1_all.deb\n"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestKernelSource(t *testing.T) {
	cloud, _ := sourceOf("6.12")
	generic, _ := sourceOf("6.12-generic")
	for pkg, want := range map[string]string{
		"linux-image-6.12.117+deb13-cloud-amd64":          "cloud",
		"linux-image-6.12.118+deb13-amd64":                "generic",
		"linux-image-6.12.117+deb13-cloud-amd64-unsigned": "",
		"linux-image-6.12.117+deb13-rt-amd64":             "",
		"linux-image-6.1.0-56-cloud-amd64":                "",
		"linux-image-6.12-cloud-amd64":                    "",
	} {
		got := ""
		if cloud.is(pkg) {
			got += "cloud"
		}
		if generic.is(pkg) {
			got += "generic"
		}
		if got != want {
			t.Errorf("package %s is of the series %q, want %q", pkg, got, want)
		}
	}
	if got := suiteOf("kernel-5.10"); got != "bullseye" {
		t.Errorf("kernel 5.10 is locked in %s", got)
	}
}

func TestReplacedKeepsPartsOfAKernelTogether(t *testing.T) {
	l, err := readLock("kernel-7.3")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := debs{dir: dir}
	for _, p := range l.Packages {
		if strings.HasPrefix(p.Name, modulesPrefix) {
			continue
		}
		f, err := os.Create(d.path(p))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(p.Size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, p := range d.replaced(l) {
		name, _, _ := strings.Cut(p.Name, "7.3")
		names = append(names, name)
	}
	if want := []string{basePrefix, binaryPrefix, modulesPrefix}; !slices.Equal(names, want) {
		t.Errorf("modules are gone: %v are looked for anew, want %v", names, want)
	}
}

func TestKernelTreesLookAlike(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "lib", "modules", "5.10.0-1-cloud-amd64")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	k := kernelTree{dir: dir, release: "5.10.0-1-cloud-amd64"}
	if err := mergeModules(k); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(k.modules()); err != nil {
		t.Errorf("modules below /lib are not where those of others are: %v", err)
	}
	if err := os.WriteFile(filepath.Join(k.modules(), kernelFile), []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := moveKernel(k); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(k.vmlinuz()); err != nil || string(data) != "kernel" {
		t.Errorf("a kernel among its modules is %q, %v", data, err)
	}
}
