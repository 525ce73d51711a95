package sshsig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Trusted are the keys of an allowed signers file, in the format of ssh-keygen(1).
type Trusted []signer

// signer is one line: a key, whose it is, and what it may sign when.
type signer struct {
	who           string
	key           ssh.PublicKey
	namespaces    []string  // patterns; none: any
	after, before time.Time // zero: no limit
}

// ParseTrusted reads an allowed signers file: a line for each key, of principals, options, the
// type of the key and the key. The options namespaces, valid-after and valid-before are
// honoured. Certificates are not supported, and every other option is refused.
func ParseTrusted(data []byte) (Trusted, error) {
	var out Trusted
	in, number := bufio.NewScanner(bytes.NewReader(data)), 0
	for in.Scan() {
		number++
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseSigner(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		out = append(out, s)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", number+1, err)
	}
	if len(out) == 0 {
		return nil, errors.New("no key in it, want lines of principals, options, the type of a key and the key")
	}
	return out, nil
}

func parseSigner(line string) (s signer, err error) {
	var rest string
	if quoted, ok := strings.CutPrefix(line, `"`); ok {
		s.who, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return s, errors.New("a quote without its end")
		}
	} else if i := strings.IndexAny(line, " \t"); i > 0 {
		s.who, rest = line[:i], line[i:]
	}
	if s.who == "" {
		return s, errors.New("want principals, options, and a key")
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(rest)))
	if err != nil {
		return s, fmt.Errorf("no key after the principals: %w", err)
	}
	s.key = key
	for _, o := range options {
		if err := s.option(o); err != nil {
			return s, err
		}
	}
	return s, usable(key)
}

func (s *signer) option(text string) (err error) {
	name, value, _ := strings.Cut(text, "=")
	value = strings.Trim(value, `"`)
	switch strings.ToLower(name) {
	case "namespaces":
		s.namespaces = strings.Split(value, ",")
	case "valid-after":
		s.after, err = parseTime(value)
	case "valid-before":
		s.before, err = parseTime(value)
	case "cert-authority":
		return errors.New("cert-authority: certificates are not supported, name the keys themselves")
	default:
		return fmt.Errorf("unknown option %q, want namespaces, valid-after or valid-before", name)
	}
	return err
}

// parseTime reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS: local time, and UTC with a Z.
func parseTime(text string) (time.Time, error) {
	digits, utc := strings.CutSuffix(strings.ToUpper(text), "Z")
	in := time.Local
	if utc {
		in = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) == len(layout) {
			if t, err := time.ParseInLocation(layout, digits, in); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time, want YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z for UTC", text)
}

// Who is the principals of the first line that trusts the key of a signature for a namespace
// at a time. The error says why no line does.
func (t Trusted) Who(s *Signature, namespace string, now time.Time) (string, error) {
	why := "its key " + s.Fingerprint() + " is not among the trusted ones"
	for _, line := range t {
		if !bytes.Equal(line.key.Marshal(), s.Key.Marshal()) {
			continue
		}
		switch {
		case len(line.namespaces) > 0 && !matches(line.namespaces, namespace):
			why = fmt.Sprintf("the key of %s is trusted for %s, not for %s", line.who, strings.Join(line.namespaces, ","), namespace)
		case !line.after.IsZero() && now.Before(line.after):
			why = fmt.Sprintf("the key of %s is trusted from %s on only", line.who, line.after.Format(time.RFC3339))
		case !line.before.IsZero() && now.After(line.before):
			why = fmt.Sprintf("the key of %s was trusted until %s only", line.who, line.before.Format(time.RFC3339))
		default:
			return line.who, nil
		}
	}
	return "", errors.New(why)
}

// matches reports whether a name matches a list of patterns with * and ?, of which those that
// begin with ! exclude (ssh_config(5)).
func matches(patterns []string, name string) bool {
	is := func(p string) bool {
		ok, err := path.Match(strings.NewReplacer("[", `\[`, `\`, `\\`).Replace(p), name)
		return ok && err == nil
	}
	if slices.ContainsFunc(patterns, func(p string) bool { no, not := strings.CutPrefix(p, "!"); return not && is(no) }) {
		return false
	}
	return slices.ContainsFunc(patterns, is)
}
