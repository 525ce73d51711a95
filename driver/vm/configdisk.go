package vm

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode"
)

// configAlign divides the size of every config disk, in bytes.
const configAlign = 1 << 20

// ConfigDisk is the configuration of one machine of the shared image.
type ConfigDisk struct {
	Hostname       string
	HostKeyPEM     []byte // private SSH host key, OpenSSH format
	HostKeyPub     []byte // its public half, one line
	AuthorizedKeys []byte // who may log in as root
	NICs           []ConfigNIC
	Services       []string // services of the root image to start
}

// ConfigNIC names a network card and gives it an address.
type ConfigNIC struct {
	Name string // of the interface
	MAC  string
	CIDR string // "198.18.0.11/24"; "" is none
}

// Bytes is the disk: a ustar archive, padded with zeros to whole MiB. Files:
// hostname, the SSH host key and its public half, authorized_keys, nics (lines
// "NAME MAC CIDR"), services (one a line).
func (c ConfigDisk) Bytes() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("make config disk of %q: %w", c.Hostname, err)
	}
	var nics, services strings.Builder
	for _, n := range c.NICs {
		nics.WriteString(strings.TrimSpace(n.Name+" "+strings.ToLower(n.MAC)+" "+n.CIDR) + "\n")
	}
	for _, s := range c.Services {
		services.WriteString(s + "\n")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range []struct {
		name string
		mode int64
		data []byte
	}{
		{"hostname", 0o644, []byte(c.Hostname + "\n")},
		{"ssh_host_ed25519_key", 0o600, c.HostKeyPEM},
		{"ssh_host_ed25519_key.pub", 0o644, line(c.HostKeyPub)},
		{"authorized_keys", 0o600, line(c.AuthorizedKeys)},
		{"nics", 0o644, []byte(nics.String())},
		{"services", 0o644, []byte(services.String())},
	} {
		// No time and no names of users, so that the same content is the same disk.
		err := w.WriteHeader(&tar.Header{Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data))})
		if err == nil {
			_, err = w.Write(f.data)
		}
		if err != nil {
			return nil, fmt.Errorf("make config disk of %q: %w", c.Hostname, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("make config disk of %q: %w", c.Hostname, err)
	}
	if rest := buf.Len() % configAlign; rest > 0 {
		buf.Write(make([]byte, configAlign-rest))
	}
	return buf.Bytes(), nil
}

// line ends text with a newline.
func line(text []byte) []byte { return append(bytes.TrimRight(text, "\n"), '\n') }

// check refuses values that a shell script, which reads lines of words, would
// misread.
func (c ConfigDisk) check() error {
	if !oneWord(c.Hostname) {
		return fmt.Errorf("hostname %q is not one word", c.Hostname)
	}
	for _, n := range c.NICs {
		if !oneWord(n.Name) || len(n.Name) > 15 {
			return fmt.Errorf("interface name %q is not one word of at most 15 characters", n.Name)
		}
		if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 {
			return fmt.Errorf("interface %s: %q is no Ethernet address", n.Name, n.MAC)
		}
		if _, err := netip.ParsePrefix(n.CIDR); n.CIDR != "" && err != nil {
			return fmt.Errorf("interface %s: %w", n.Name, err)
		}
	}
	for _, s := range c.Services {
		if !oneWord(s) {
			return fmt.Errorf("service %q is not one word", s)
		}
	}
	return nil
}

func oneWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
}
