package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHConfig says how to reach a machine over SSH.
type SSHConfig struct {
	Addr       string // "198.18.0.11:22"
	User       string
	PrivateKey []byte // PEM, not encrypted
	// HostKey is the machine's pinned key as in authorized_keys. A machine that
	// presents another key is refused with *HostKeyError.
	HostKey string
	// Dial opens the connection, for instance inside a network namespace. nil
	// dials from this process.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Retry is for how long to try again while a machine refuses, resets or does not
	// answer, because it is booting. 0 tries once.
	Retry time.Duration
	// Keepalive is the time between two checks of the link; 0 is 4 s. A machine that
	// has not answered a check after Silence, and sent nothing else in it, is
	// ErrUnreachable; 0 is 2.5 times Keepalive.
	Keepalive time.Duration
	Silence   time.Duration
}

const (
	retryPause     = 50 * time.Millisecond
	bootingConnect = time.Second      // repeats a lost SYN sooner than TCP itself would
	plainConnect   = 10 * time.Second // one attempt, at any distance
	handshakeRetry = 20 * time.Second // an emulated machine takes seconds under load
	handshakeOnce  = time.Minute      // one attempt
	keepaliveEvery = 4 * time.Second
)

// HostKeyError reports a machine that presented another key than the pinned one.
// Keys are given by type and SHA-256 fingerprint.
type HostKeyError struct {
	Addr, Presented, Pinned string
}

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("%s presents host key %s, but %s is pinned", e.Addr, e.Presented, e.Pinned)
}

// dialer is an SSHConfig checked and parsed.
type dialer struct {
	cfg     SSHConfig
	login   ssh.Signer
	hostKey ssh.PublicKey
	connect time.Duration // limit of one TCP connect
	shake   time.Duration // limit of one handshake
}

// DialSSH logs in to a machine. Errors of the network wrap ErrUnreachable.
func DialSSH(ctx context.Context, cfg SSHConfig) (*SSH, error) {
	d, err := newDialer(cfg)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(cfg.Retry)
	for {
		s, err := d.attempt(ctx)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("ssh to %s: %w, last: %w", cfg.Addr, context.Cause(ctx), err)
		case !transient(err):
			return nil, fmt.Errorf("ssh to %s: %w", cfg.Addr, err)
		case !time.Now().Before(deadline):
			return nil, fmt.Errorf("ssh to %s: %w, tried for %s: %w", cfg.Addr, ErrUnreachable, cfg.Retry, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
	}
}

func newDialer(cfg SSHConfig) (*dialer, error) {
	d := &dialer{cfg: cfg, connect: plainConnect, shake: handshakeOnce}
	var err error
	if d.login, err = ssh.ParsePrivateKey(cfg.PrivateKey); err != nil {
		return nil, fmt.Errorf("read the private key for %s: %w", cfg.Addr, err)
	}
	if d.hostKey, _, _, _, err = ssh.ParseAuthorizedKey([]byte(cfg.HostKey)); err != nil {
		return nil, fmt.Errorf("read the pinned host key of %s: %w", cfg.Addr, err)
	}
	if cfg.Retry > 0 {
		d.connect, d.shake = bootingConnect, handshakeRetry
	}
	if cfg.Dial == nil {
		d.cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Keepalive <= 0 {
		d.cfg.Keepalive = keepaliveEvery
	}
	if cfg.Silence <= 0 {
		d.cfg.Silence = d.cfg.Keepalive * 5 / 2
	}
	return d, nil
}

// attempt connects, does the handshake and logs in once.
func (d *dialer) attempt(ctx context.Context) (*SSH, error) {
	connectCtx, cancel := context.WithTimeout(ctx, d.connect)
	defer cancel()
	conn, err := d.cfg.Dial(connectCtx, "tcp", d.cfg.Addr)
	if err != nil {
		return nil, err
	}
	// A canceled ctx ends the handshake.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	s, err := d.handshake(conn)
	if !stop() && err == nil {
		_ = s.Close()
		return nil, context.Cause(ctx)
	}
	return s, err
}

func (d *dialer) handshake(plain net.Conn) (*SSH, error) {
	conn := &activeConn{Conn: plain}
	var mismatch *HostKeyError
	check := func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if bytes.Equal(key.Marshal(), d.hostKey.Marshal()) {
			return nil
		}
		mismatch = &HostKeyError{Addr: d.cfg.Addr, Presented: fingerprint(key), Pinned: fingerprint(d.hostKey)}
		return mismatch
	}
	// A timer, because connections through another machine have no deadlines.
	limit := time.AfterFunc(d.shake, func() { _ = conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, d.cfg.Addr, &ssh.ClientConfig{
		User:              d.cfg.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(d.login)},
		HostKeyCallback:   check,
		HostKeyAlgorithms: preferred(d.hostKey.Type()),
	})
	if !limit.Stop() {
		err = fmt.Errorf("no handshake within %s: %w", d.shake, os.ErrDeadlineExceeded)
	}
	switch {
	case err == nil:
		return newSSH(d.cfg, conn, ssh.NewClient(c, channels, requests)), nil
	case mismatch != nil:
		err = mismatch
	case strings.Contains(err.Error(), "unable to authenticate"):
		err = fmt.Errorf("key %s is refused for user %s: %w", fingerprint(d.login.PublicKey()), d.cfg.User, err)
	}
	_ = conn.Close()
	return nil, err
}

func fingerprint(key ssh.PublicKey) string {
	return key.Type() + " " + ssh.FingerprintSHA256(key)
}

// preferred lists the host key algorithms with those of the pinned key's type
// first, so that a machine with keys of several types presents that one. The
// others follow, so that the error names a wrong key.
func preferred(keyType string) []string {
	first := []string{keyType}
	if keyType == ssh.KeyAlgoRSA {
		first = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	for _, algo := range ssh.SupportedAlgorithms().HostKeys {
		if !slices.Contains(first, algo) {
			first = append(first, algo)
		}
	}
	return first
}

// transient reports whether an error may end with a new attempt: the machine is not
// up yet, or the way to it is not.
func transient(err error) bool {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	// The answer of a jump host if the machine is not up yet.
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) && refused.Reason == ssh.ConnectionFailed {
		return true
	}
	passing := []error{
		io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded, net.ErrClosed,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ETIMEDOUT,
	}
	return slices.ContainsFunc(passing, func(target error) bool { return errors.Is(err, target) })
}
