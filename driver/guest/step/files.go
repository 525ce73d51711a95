package step

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// file reads a file of the bundle from the blob directory and checks its
// digest.
func (c *call) file(name string) ([]byte, error) {
	f, ok := c.files[name]
	if !ok {
		return nil, fmt.Errorf("the request names no file %q", name)
	}
	if _, err := hex.DecodeString(f.SHA256); err != nil || len(f.SHA256) != 2*sha256.Size {
		return nil, fmt.Errorf("file %q: %q is not a SHA-256", name, f.SHA256)
	}
	data, err := os.ReadFile(filepath.Join(c.x.blobs, f.SHA256))
	if errors.Is(err, os.ErrNotExist) && c.x.named && filepath.IsLocal(name) {
		data, err = os.ReadFile(filepath.Join(c.x.blobs, name))
	}
	if err != nil {
		return nil, fmt.Errorf("read file %q: %w", name, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 {
		return nil, fmt.Errorf("file %q: the blob's digest is %x, want %s", name, sum, f.SHA256)
	}
	return data, nil
}
