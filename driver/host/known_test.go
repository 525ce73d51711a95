package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/host"
)

func TestKnownKey(t *testing.T) {
	a, b := newKey(t), newKey(t)
	file := filepath.Join(t.TempDir(), "known_hosts")
	text := "# comment\n192.0.2.1,one " + a.AuthorizedKey + "\n[192.0.2.1]:2222 " + b.AuthorizedKey + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{"192.0.2.1:22": a.AuthorizedKey, "one:22": a.AuthorizedKey, "192.0.2.1:2222": b.AuthorizedKey} {
		if got, err := host.KnownKey(file, addr); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}
	if _, err := host.KnownKey(file, "192.0.2.1:23"); !errors.Is(err, host.ErrUnknownHost) || !strings.Contains(err.Error(), "[192.0.2.1]:23") {
		t.Errorf("another port: %v, want the host to be unknown by name and port", err)
	}
	if _, err := host.KnownKey(filepath.Join(t.TempDir(), "none"), "one:22"); err == nil || errors.Is(err, host.ErrUnknownHost) {
		t.Errorf("no file: %v", err)
	}
}

// TestRevokedKeys: a key that a file marks as revoked is not used, and that of another type is.
func TestRevokedKeys(t *testing.T) {
	a, b := newKey(t), newKey(t)
	file := filepath.Join(t.TempDir(), "known_hosts")
	for _, tt := range []struct{ text, want string }{
		{"one " + a.AuthorizedKey + "\n@revoked * " + a.AuthorizedKey + "\n", ""},
		{"@revoked * " + a.AuthorizedKey + "\none " + a.AuthorizedKey + "\none " + b.AuthorizedKey + "\n", b.AuthorizedKey},
		{"@revoked two " + b.AuthorizedKey + "\none " + a.AuthorizedKey + "\n", a.AuthorizedKey},
	} {
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := host.KnownKey(file, "one:22")
		if strings.TrimSpace(got) != tt.want || errors.Is(err, host.ErrRevoked) != (tt.want == "") {
			t.Errorf("%s: %q, %v, want %q", tt.text, got, err, tt.want)
		}
	}
}
