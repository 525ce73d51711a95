package host_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"hookbed/driver/host"
)

// FuzzKnownHosts: what a file of known hosts has for a machine is a key, or an error.
func FuzzKnownHosts(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	f.Add([]byte("one,two "+key+"\n@revoked * "+key+"\n"), "one:22")
	f.Add([]byte("|1|AAAA|BBBB "+key+" comment\n"), "[::1]:22")
	f.Add([]byte("@cert-authority *.example "+key+"\n!one,* "+key), "one:2222")
	f.Add([]byte("one ssh-rsa AAAA\n# x\n\n"), ":")
	f.Fuzz(func(t *testing.T, text []byte, addr string) {
		file := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := host.KnownKey(file, addr)
		if err != nil {
			return
		}
		if _, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(got)); err != nil || len(rest) > 0 || host.Fingerprint(got) == "" {
			t.Errorf("%q is no key (%v)", got, err)
		}
	})
}
