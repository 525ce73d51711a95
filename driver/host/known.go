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

// ErrRevoked is wrapped when a file of known hosts marks every key of a machine as @revoked.
var ErrRevoked = errors.New("host key is revoked")

// KnownKey is the key that a file of known hosts, as OpenSSH writes it, has for
// a machine ("host:port"): as in authorized_keys, for SSHConfig.HostKey. If there are
// several, it is the shortest one. Those that a line @revoked names, for whatever
// machine, are passed over (sshd(8)).
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
	var revoked *knownhosts.RevokedError
	valid := slices.DeleteFunc(mismatch.Want, func(k knownhosts.KnownKey) bool {
		return errors.As(check(addr, &net.TCPAddr{}, k.Key), &revoked)
	})
	if len(valid) == 0 {
		return "", fmt.Errorf("%w: every key that %s has for %s is marked @revoked, one of them in line %d", ErrRevoked, file, knownhosts.Normalize(addr), revoked.Revoked.Line)
	}
	slices.SortStableFunc(valid, func(a, b knownhosts.KnownKey) int { return len(a.Key.Marshal()) - len(b.Key.Marshal()) })
	return string(ssh.MarshalAuthorizedKey(valid[0].Key)), nil
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
