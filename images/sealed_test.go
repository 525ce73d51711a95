package images

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestUnsignedModule(t *testing.T) {
	code := []byte("code of a module")
	signed := append(slices.Clone(code), "the signature"...)
	signed = append(signed, 0, 0, 2, 0, 0, 0, 0, 0)
	signed = binary.BigEndian.AppendUint32(signed, uint32(len("the signature")))
	signed = append(signed, signatureEnd...)
	lying := slices.Clone(signed)
	binary.BigEndian.PutUint32(lying[len(lying)-len(signatureEnd)-4:], 1<<30)
	for what, c := range map[string]struct{ in, want []byte }{
		"signed":                 {signed, code},
		"never signed":           {code, code},
		"nothing but the end":    {[]byte(signatureEnd), []byte(signatureEnd)},
		"larger than the file":   {lying, lying},
		"stripped a second time": {unsigned(signed), code},
	} {
		if got := unsigned(c.in); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	got := loadOrder([]module{
		{path: "net/a-top.ko", needs: []string{"mid.ko", "base.ko"}},
		{path: "net/mid.ko", needs: []string{"base.ko"}},
		{path: "net/base.ko"},
		{path: "net/alone.ko"},
	})
	at := map[string]int{}
	for i, m := range got {
		at[filepath.Base(m.path)] = i
	}
	if len(got) != 4 || at["base.ko"] > at["mid.ko"] || at["mid.ko"] > at["a-top.ko"] {
		t.Errorf("order %v", got)
	}
}

// TestJoinMakesOneInitramfs unpacks what Join wrote as the kernel would: one
// archive after the other.
func TestJoinMakesOneInitramfs(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "usr/bin/tool"), []byte("tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(tree, "usr/bin/alias")); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "first.cpio")
	if err := writeCPIO(first, func(c *cpioWriter) error { return c.tree("root", tree) }); err != nil {
		t.Fatal(err)
	}
	sum, _, err := hashFile(first)
	if err != nil {
		t.Fatal(err)
	}
	joined := func(name string) []byte {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := Join(f, []Artifact{{Path: first, SHA256: sum}}, map[string][]byte{"/init": []byte("init"), "/a/b/c": []byte("abc")}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	one := joined("one")
	if !bytes.Equal(one, joined("two")) {
		t.Error("equal files give different archives")
	}
	var names []string
	for rest := one; len(rest) > 0; {
		for _, e := range readCPIO(t, rest) {
			names = append(names, e.name)
		}
		_, after, _ := bytes.Cut(rest, []byte("TRAILER!!!"))
		rest = bytes.TrimLeft(after, "\x00")
	}
	for _, want := range []string{"root/usr/bin/tool", "root/usr/bin/alias", "init", "a/b/c"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in the archive: %v", want, names)
		}
	}
	if err := Join(os.Stdout, []Artifact{{Path: filepath.Join(dir, "nosuch")}}, nil); err == nil {
		t.Error("an archive that is not there was joined")
	}
}

// TestSealedGuestsLoadNoCongestionControl: else SealedCongestion would not have it.
func TestSealedGuestsLoadNoCongestionControl(t *testing.T) {
	lines := append(recipeLines("kernel/sealed"), recipeLines("kernel/sealed-http")...)
	if len(lines) == 0 {
		t.Fatal("sealed guests load nothing")
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "tcp_") && !slices.Contains(SealedCongestion(), strings.TrimPrefix(strings.Fields(line)[0], "tcp_")) {
			t.Errorf("sealed guests load %s", line)
		}
	}
}

// Programs come out of the archive as they went in; what is no ELF file does not, nor do links.
func TestSealedPrograms(t *testing.T) {
	dir := t.TempDir()
	tree, archive := filepath.Join(dir, "tree"), filepath.Join(dir, "endpoint.cpio")
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for i, name := range []string{"a", "ab", "abc", "abcd"} { // every padding of names and contents
		text := "\x7fELF" + strings.Repeat("x", i)
		want[SealedEndpoint+"/bin/"+name] = text
		if err := os.WriteFile(filepath.Join(tree, "bin", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "bin/script"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(tree, "bin/link")); err != nil {
		t.Fatal(err)
	}
	if err := writeSealedEndpoint(archive, tree); err != nil {
		t.Fatal(err)
	}
	set := Set{Sealed: []Artifact{{Name: sealedToolsFile, Path: "unread"}, {Name: sealedEndpointFile, Path: archive}}}
	got, err := set.SealedPrograms()
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d programs, %v, want %d", len(got), err, len(want))
	}
	for path, text := range want {
		if string(got[path]) != text {
			t.Errorf("%s is %q, want %q", path, got[path], text)
		}
	}
	if _, err := (Set{}).SealedPrograms(); err == nil {
		t.Error("a set without endpoints has programs")
	}
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	noSize := slices.Clone(data)
	copy(noSize[6+6*8:], "0000000z")
	for _, bad := range [][]byte{nil, data[:200], data[:len(data)-200], append([]byte("070702"), data[6:]...), noSize} {
		if err := os.WriteFile(archive, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := set.SealedPrograms(); err == nil {
			t.Errorf("a damaged archive of %d bytes is read", len(bad))
		}
	}
}
