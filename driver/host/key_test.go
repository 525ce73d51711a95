package host

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestKeyFile: the first call makes the key, later ones read the same key, and a file that holds
// something else is an error and stays.
func TestKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	made, err := KeyFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info, err)
	}
	read, err := KeyFile(file)
	if err != nil || read.AuthorizedKey != made.AuthorizedKey || !bytes.Equal(read.PrivatePEM, made.PrivatePEM) {
		t.Errorf("the second call has another key: %v, %v", read.AuthorizedKey, err)
	}
	if err := os.WriteFile(file, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFile(file); err == nil {
		t.Error("a file without a key is no error")
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "no key\n" {
		t.Errorf("the file was replaced: %q, %v", data, err)
	}
}
