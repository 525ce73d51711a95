package sshsig

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keygen runs the ssh-keygen of OpenSSH.
func keygen(t *testing.T, stdin []byte, args ...string) error {
	t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("ssh-keygen %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return err
}

// newKey makes a key, and returns its file and an allowed signers file that trusts it.
func newKey(t *testing.T, kind, passphrase string) (file, trusted string) {
	t.Helper()
	dir := t.TempDir()
	file, trusted = filepath.Join(dir, "key"), filepath.Join(dir, "trusted")
	if err := keygen(t, nil, append([]string{"-q", "-f", file, "-N", passphrase, "-C", "test"}, strings.Fields(kind)...)...); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(trusted, []byte("ann@example.org namespaces=\""+Namespace+"\" "+string(content(t, file+".pub"))), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, trusted
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func load(t *testing.T, file string) *Key {
	t.Helper()
	key, err := ParseKey(content(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestAgainstOpenSSH: what is signed here, ssh-keygen verifies, and the other way round;
// both refuse another message, another namespace and another key.
func TestAgainstOpenSSH(t *testing.T) {
	message, other := []byte("what is signed\x00\xff"), []byte("what was not")
	_, strangers := newKey(t, "-t ed25519", "")
	for _, kind := range []string{"-t ed25519", "-t ecdsa -b 256", "-t ecdsa -b 384", "-t ecdsa -b 521", "-t rsa -b 2048"} {
		t.Run(kind, func(t *testing.T) {
			file, trusted := newKey(t, kind, "")
			sig, err := Sign(load(t, file), bytes.NewReader(message), Namespace)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "m")
			if err := os.WriteFile(path+Extension, sig, 0o600); err != nil {
				t.Fatal(err)
			}
			verify := func(message []byte, by, namespace string) error {
				return keygen(t, message, "-Y", "verify", "-f", by, "-I", "ann@example.org", "-n", namespace, "-s", path+Extension)
			}
			if verify(message, trusted, Namespace) != nil || verify(other, trusted, Namespace) == nil || verify(message, strangers, Namespace) == nil || verify(message, trusted, "file") == nil {
				t.Error("ssh-keygen takes what it must not, or does not take what it must")
			}
			theirs := theirSignature(t, file, message)
			for name, sig := range map[string][]byte{"ours": sig, "theirs": theirs} {
				s, err := Parse(sig)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if err := s.Verify(bytes.NewReader(message), Namespace); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if s.Verify(bytes.NewReader(other), Namespace) == nil || s.Verify(bytes.NewReader(message), "file") == nil {
					t.Errorf("%s: another message or namespace is taken", name)
				}
				if who, err := allowed(t, trusted).Who(s, Namespace, time.Now()); err != nil || who != "ann@example.org" {
					t.Errorf("%s: by %q, %v", name, who, err)
				}
				if _, err := allowed(t, strangers).Who(s, Namespace, time.Now()); err == nil || !strings.Contains(err.Error(), "is not among the trusted ones") {
					t.Errorf("%s: a stranger is trusted: %v", name, err)
				}
			}
		})
	}
}

// theirSignature is a signature by ssh-keygen.
func theirSignature(t *testing.T, key string, message []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m")
	if err := os.WriteFile(path, message, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keygen(t, nil, "-q", "-Y", "sign", "-f", key, "-n", Namespace, path); err != nil {
		t.Fatal(err)
	}
	return content(t, path+Extension)
}

func allowed(t *testing.T, path string) Trusted {
	t.Helper()
	out, err := ParseTrusted(content(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAllowedSigners: what lines say is understood as ssh-keygen understands it.
func TestAllowedSigners(t *testing.T) {
	file, _ := newKey(t, "-t ed25519", "")
	public, message := string(content(t, file+".pub")), []byte("m")
	s, err := Parse(theirSignature(t, file, message))
	if err != nil {
		t.Fatal(err)
	}
	sig := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(sig, theirSignature(t, file, message), 0o600); err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string]bool{
		"": true, `namespaces="hookbed" `: true, `namespaces="file,hook*" `: true, `namespaces="file" `: false, `namespaces="!hookbed,*" `: false, `namespaces="h??kbed" `: true,
		`valid-after="20200101" `: true, `valid-after="29990101" `: false, `valid-before="20200101Z" `: false, `valid-before="29990101120000Z" `: true,
		`valid-after="202001011200",valid-before="299901011200" `: true,
	} {
		path := filepath.Join(t.TempDir(), "trusted")
		if err := os.WriteFile(path, []byte("# a comment\n\nann "+options+public), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := allowed(t, path).Who(s, Namespace, time.Now())
		theirs := keygen(t, message, "-Y", "verify", "-f", path, "-I", "ann", "-n", Namespace, "-s", sig)
		if (err == nil) != want || (theirs == nil) != want {
			t.Errorf("%s: we say %v and ssh-keygen %v, want trusted %v", options, err, theirs, want)
		}
	}
	for text, want := range map[string]string{
		"": "no key in it", "ann": "line 1: want principals", "ann x": "line 1: no key after the principals",
		"ann cert-authority " + public: "certificates are not supported", "ann colour=\"red\" " + public: `unknown option "colour"`,
		"ann valid-after=\"soon\" " + public: `"soon" is no time`,
	} {
		if _, err := ParseTrusted([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	file, _ := newKey(t, "-t ed25519", "secret")
	if _, err := ParseKey(content(t, file)); err == nil || !strings.Contains(err.Error(), "the key has a passphrase") {
		t.Errorf("error %v", err)
	}
	if _, err := ParseKey([]byte("no key")); err == nil {
		t.Error("a text is taken for a key")
	}
	file, _ = newKey(t, "-t rsa -b 1024", "")
	if _, err := ParseKey(content(t, file)); err == nil || !strings.Contains(err.Error(), "1024 bits") {
		t.Errorf("a short RSA key: %v", err)
	}
}

// TestEveryByteOfASignatureCounts: no changed signature verifies.
func TestEveryByteOfASignatureCounts(t *testing.T) {
	file, trusted := newKey(t, "-t ed25519", "")
	message := []byte("m")
	sig, err := Sign(load(t, file), bytes.NewReader(message), Namespace)
	if err != nil {
		t.Fatal(err)
	}
	list := allowed(t, trusted)
	for i := range sig {
		if sig[i] == '\n' || sig[i] == '=' {
			continue
		}
		changed := bytes.Clone(sig)
		if changed[i]++; changed[i] == '=' {
			changed[i]++
		}
		s, err := Parse(changed)
		if err != nil || s.Verify(bytes.NewReader(message), Namespace) != nil {
			continue
		}
		if _, err := list.Who(s, Namespace, time.Now()); err == nil {
			t.Errorf("byte %d changed, and it verifies", i)
		}
	}
	if _, err := Parse(append(sig, 'x')); err == nil {
		t.Error("something follows")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		_ = s.Verify(strings.NewReader("m"), s.Namespace)
	})
}

func FuzzTrusted(f *testing.F) {
	f.Add([]byte("ann namespaces=\"hookbed\",valid-after=\"20200101Z\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKiRuBKGzCcOyTnUQzHuRkJBMsVhGOYQ9Xv0nq9FkkQV c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseTrusted(data)
		if err == nil && len(list) == 0 {
			t.Fatal("a file without keys is taken")
		}
	})
}
