package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"hookbed/analysis/durable"
	"hookbed/analysis/runs"
	"hookbed/driver/sshsig"
)

// signingKey reads the private key in a file; nil without a file.
func signingKey(path string) (*sshsig.Key, error) {
	if path == "" {
		return nil, nil
	}
	data, err := runs.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: read the key to sign with: %w", errUsage, err)
	}
	key, err := sshsig.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%w: --sign %s: %w", errUsage, path, err)
	}
	return key, nil
}

// sign writes the signature of a pack next to it.
func (a *app) sign(file string, key *sshsig.Key) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sig, err := sshsig.Sign(key, f, sshsig.Namespace)
	if err != nil {
		return err
	}
	to := file + sshsig.Extension
	if err := durable.WriteFile(to, sig, 0o644); err != nil {
		return err
	}
	a.emit("signature", map[string]any{"path": to, "key": key.Fingerprint()}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: signed by %s\n", to, key.Fingerprint())
	})
	return nil
}

// checkSignature verifies the signature of a pack. With a file of trusted keys, a pack that
// none of them signed is not reproduced; without one, a signature is verified if there is
// one, and its key is named.
func (a *app) checkSignature(path, trusted string) error {
	data, err := runs.ReadFile(path + sshsig.Extension)
	switch {
	case errors.Is(err, fs.ErrNotExist) && trusted == "":
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is not signed: there is no %s%s", errNotReproduced, path, path, sshsig.Extension)
	case err != nil:
		return fmt.Errorf("read signature: %w", err)
	}
	sig, err := sshsig.Parse(data)
	if err == nil {
		err = verifyFile(sig, path)
	}
	if err != nil {
		return fmt.Errorf("%w: %s%s: %w", errNotReproduced, path, sshsig.Extension, err)
	}
	if trusted == "" {
		a.say("signed by %s; --trusted says who may sign", sig.Fingerprint())
		return nil
	}
	data, err = runs.ReadFile(trusted)
	if err != nil {
		return fmt.Errorf("%w: read the trusted keys: %w", errUsage, err)
	}
	list, err := sshsig.ParseTrusted(data)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errUsage, trusted, err)
	}
	who, err := list.Who(sig, sshsig.Namespace, time.Now())
	if err != nil {
		return fmt.Errorf("%w: %s is not signed by anyone in %s: %w", errNotReproduced, path, trusted, err)
	}
	a.say("signed by %s, %s", who, sig.Fingerprint())
	return nil
}

func verifyFile(sig *sshsig.Signature, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return sig.Verify(f, sshsig.Namespace)
}
