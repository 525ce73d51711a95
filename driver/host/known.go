package host

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// ErrUnknownHost is wrapped when a file of known hosts has no key of a machine.
var ErrUnknownHost = errors.New("host key is not known")

// KnownKey is the key that a file of known hosts, as OpenSSH writes it, has for
// a machine ("host:port"): as in authorized_keys, for SSHConfig.HostKey. If there are
// several, it is the shortest one.
func KnownKey(file, addr string) (string, error) {
	check, err := knownhosts.New(file)
	if err != nil {
		return "", fmt.Errorf("read known hosts: %w", err)
	}
	// The package lists its keys only in the error for a wrong key.
	other, err := NewKey()
	if err != nil {
		return "", err
	}
	stranger, _, _, _, err := ssh.ParseAuthorizedKey([]byte(other.AuthorizedKey))
	if err != nil {
		return "", err
	}
	var mismatch *knownhosts.KeyError
	if err := check(addr, &net.TCPAddr{}, stranger); !errors.As(err, &mismatch) {
		return "", fmt.Errorf("look up %s in %s: %w", addr, file, err)
	}
	if len(mismatch.Want) == 0 {
		return "", fmt.Errorf("%w: %s has no line for %s", ErrUnknownHost, file, knownhosts.Normalize(addr))
	}
	slices.SortStableFunc(mismatch.Want, func(a, b knownhosts.KnownKey) int { return len(a.Key.Marshal()) - len(b.Key.Marshal()) })
	return string(ssh.MarshalAuthorizedKey(mismatch.Want[0].Key)), nil
}

// Fingerprint is the type and SHA-256 fingerprint of a key as in authorized_keys;
// "" if it is not one.
func Fingerprint(authorizedKey string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authorizedKey))
	if err != nil {
		return ""
	}
	return fingerprint(key)
}
