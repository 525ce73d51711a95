package host

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Key is an Ed25519 key pair in OpenSSH's formats, for a machine's host key or
// a lab's login.
type Key struct {
	PrivatePEM    []byte // "OPENSSH PRIVATE KEY", not encrypted
	AuthorizedKey string // "ssh-ed25519 AAAA...", without comment or newline
}

// NewKey makes a key pair from the system's randomness.
func NewKey() (Key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make an ssh key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return Key{}, fmt.Errorf("encode an ssh private key: %w", err)
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return Key{}, fmt.Errorf("encode an ssh public key: %w", err)
	}
	return Key{
		PrivatePEM:    pem.EncodeToMemory(block),
		AuthorizedKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPublic))),
	}, nil
}

// ParseKey is the key pair of a private key in PEM, not encrypted.
func ParseKey(pem []byte) (Key, error) {
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return Key{}, fmt.Errorf("read an ssh private key: %w", err)
	}
	return Key{PrivatePEM: pem, AuthorizedKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}, nil
}

// KeyFile is the key pair in a file, which is made if it is missing. Only its owner can read it.
func KeyFile(file string) (Key, error) {
	pem, err := os.ReadFile(file)
	if err == nil {
		return ParseKey(pem)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Key{}, fmt.Errorf("read an ssh key: %w", err)
	}
	key, err := NewKey()
	if err != nil {
		return Key{}, err
	}
	if err := os.WriteFile(file, key.PrivatePEM, 0o600); err != nil {
		return Key{}, fmt.Errorf("write an ssh key: %w", err)
	}
	return key, nil
}
