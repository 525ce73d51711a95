package images

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestEmbeddedLocks(t *testing.T) {
	wants := map[string][]string{lockRoot: recipePackages("root/packages"), lockEndpoint: recipePackages("endpoint/packages"), lockPeers: recipePackages("peers/packages")}
	for _, k := range Kernels() {
		wants[lockKernelPrefix+k] = []string{kernelPackages()[k]}
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
	if !slices.Contains(Kernels(), "6.12") {
		t.Errorf("Kernels() = %v, want 6.12 among them", Kernels())
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
