// Package sshsig signs files with SSH keys and verifies such signatures, so that a pack says
// who vouches for it. The format is that of OpenSSH (PROTOCOL.sshsig): what is signed here,
// `ssh-keygen -Y verify` verifies, and the other way round.
package sshsig

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // crypto.SHA256 needs it linked
	"crypto/sha512"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/ssh"
)

// Namespace is what signatures of packs are made for: one made for another purpose is no
// signature of a pack.
const Namespace = "hookbed"

// Extension is the end of the name of a file's signature, as of ssh-keygen.
const Extension = ".sig"

const (
	magic    = "SSHSIG"
	version  = 1
	armor    = "SSH SIGNATURE"
	hashName = "sha512"
	// minRSA is the least size of an RSA key, in bits, as in OpenSSH's RequiredRSASize of
	// hardened systems.
	minRSA   = 2048
	maxArmor = 64 << 10 // bytes of a signature's file
	wrap     = 70       // characters of an armored line, as ssh-keygen writes
)

// blob is what is armored, after the magic.
type blob struct {
	Version   uint32
	PublicKey string
	Namespace string
	Reserved  string
	Hash      string
	Signature string
}

// signed is what the key signs, after the magic.
type signed struct {
	Namespace string
	Reserved  string
	Hash      string
	Digest    string
}

func (s signed) bytes() []byte { return append([]byte(magic), ssh.Marshal(s)...) }

// Key is a private key to sign with.
type Key struct{ signer ssh.Signer }

// Fingerprint names the key as ssh-keygen -l does: "SHA256:...".
func (k *Key) Fingerprint() string { return ssh.FingerprintSHA256(k.signer.PublicKey()) }

// ParseKey reads a private key as ssh-keygen writes it. One with a passphrase is refused.
func ParseKey(data []byte) (*Key, error) {
	key, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, errors.New("the key has a passphrase, which is not supported: sign by `ssh-keygen -Y sign -n " + Namespace + " -f KEY FILE`, which requests it, or use a key without one")
	case err != nil:
		return nil, fmt.Errorf("not a private key: %w", err)
	}
	return &Key{key}, usable(key.PublicKey())
}

// usable refuses keys that are not signed with here.
func usable(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoRSA:
		own, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			break
		}
		public, ok := own.CryptoPublicKey().(*rsa.PublicKey)
		if ok && public.N.BitLen() < minRSA {
			return fmt.Errorf("an RSA key of %d bits, want at least %d", public.N.BitLen(), minRSA)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("a key of type %s is not supported, want ed25519, ecdsa or rsa", key.Type())
}

// Sign makes the armored signature of a message.
func Sign(key *Key, message io.Reader, namespace string) ([]byte, error) {
	sum := sha512.New()
	if _, err := io.Copy(sum, message); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	data := signed{Namespace: namespace, Hash: hashName, Digest: string(sum.Sum(nil))}.bytes()
	sig, err := sign(key.signer, data)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	b := blob{Version: version, PublicKey: string(key.signer.PublicKey().Marshal()), Namespace: namespace, Hash: hashName, Signature: string(ssh.Marshal(sig))}
	return armored(append([]byte(magic), ssh.Marshal(b)...)), nil
}

// sign signs data; with an RSA key by SHA-512, since ssh-rsa is SHA-1.
func sign(key ssh.Signer, data []byte) (*ssh.Signature, error) {
	if key.PublicKey().Type() != ssh.KeyAlgoRSA {
		return key.Sign(rand.Reader, data)
	}
	by, ok := key.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("the RSA key cannot sign by SHA-512")
	}
	return by.SignWithAlgorithm(rand.Reader, data, ssh.KeyAlgoRSASHA512)
}

func armored(data []byte) []byte {
	var out bytes.Buffer
	out.WriteString("-----BEGIN " + armor + "-----\n")
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(data)), wrap) {
		out.Write(line)
		out.WriteByte('\n')
	}
	out.WriteString("-----END " + armor + "-----\n")
	return out.Bytes()
}

// Signature is a signature that was read.
type Signature struct {
	Key ssh.PublicKey // made it, if it verifies
	blob
	sig ssh.Signature
}

// Parse reads an armored signature, and refuses what follows it.
func Parse(data []byte) (*Signature, error) {
	if len(data) > maxArmor {
		return nil, fmt.Errorf("a signature of %d bytes, want at most %d", len(data), maxArmor)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != armor || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 || !bytes.HasPrefix(data, []byte("-----BEGIN")) {
		return nil, errors.New("not an SSH signature, as `driver pack --sign` and `ssh-keygen -Y sign` write it")
	}
	body, ok := bytes.CutPrefix(block.Bytes, []byte(magic))
	if !ok {
		return nil, errors.New("not an SSH signature: it does not begin with " + magic)
	}
	s := &Signature{}
	if err := ssh.Unmarshal(body, &s.blob); err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	if s.Version != version {
		return nil, fmt.Errorf("a signature of version %d, want %d", s.Version, version)
	}
	var err error
	if s.Key, err = ssh.ParsePublicKey([]byte(s.PublicKey)); err != nil {
		return nil, fmt.Errorf("read the key of a signature: %w", err)
	}
	if err := usable(s.Key); err != nil {
		return nil, err
	}
	if err := ssh.Unmarshal([]byte(s.Signature), &s.sig); err != nil || len(s.sig.Rest) > 0 {
		return nil, errors.New("read signature: its last part is damaged")
	}
	if s.Key.Type() == ssh.KeyAlgoRSA && s.sig.Format != ssh.KeyAlgoRSASHA512 && s.sig.Format != ssh.KeyAlgoRSASHA256 {
		return nil, fmt.Errorf("a signature by %s, want %s or %s", s.sig.Format, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
	}
	return s, nil
}

// Verify reports whether the signature is one of a message for a namespace: nil if so. It
// does not say whether the key is to be trusted: Trusted.Who does.
func (s *Signature) Verify(message io.Reader, namespace string) error {
	if s.Namespace != namespace {
		return fmt.Errorf("the signature is for %q, not for %q", s.Namespace, namespace)
	}
	by, ok := map[string]crypto.Hash{"sha512": crypto.SHA512, "sha256": crypto.SHA256}[s.Hash]
	if !ok {
		return fmt.Errorf("the signature is by %q, want sha512 or sha256", s.Hash)
	}
	sum := by.New()
	if _, err := io.Copy(sum, message); err != nil {
		return fmt.Errorf("verify signature: %w", err)
	}
	data := signed{Namespace: namespace, Reserved: s.Reserved, Hash: s.Hash, Digest: string(sum.Sum(nil))}.bytes()
	if err := s.Key.Verify(data, &s.sig); err != nil {
		return errors.New("the signature is not one of this file, or was changed")
	}
	return nil
}

// Fingerprint names the key as ssh-keygen -l does.
func (s *Signature) Fingerprint() string { return ssh.FingerprintSHA256(s.Key) }
