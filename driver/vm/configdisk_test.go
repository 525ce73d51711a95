package vm

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func config() ConfigDisk {
	return ConfigDisk{
		Hostname: "node1", HostKeyPEM: []byte("private\n"), HostKeyPub: []byte("ssh-ed25519 AAAA host"),
		AuthorizedKeys: []byte("ssh-ed25519 BBBB lab\n"),
		NICs: []ConfigNIC{
			{Name: "mgmt0", MAC: "52:54:00:12:00:0B", CIDR: "198.18.0.11/24"},
			{Name: "data0", MAC: "52:54:00:12:01:0b"},
		},
		Services: []string{"docker"},
	}
}

func TestConfigDiskHoldsItsFiles(t *testing.T) {
	data, err := config().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != 1<<20 {
		t.Errorf("disk has %d bytes, want 1 MiB", len(data))
	}
	type file struct {
		mode int64
		text string
	}
	got := map[string]file{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = file{h.Mode, string(text)}
	}
	for name, want := range map[string]file{
		"hostname":                 {0o644, "node1\n"},
		"ssh_host_ed25519_key":     {0o600, "private\n"},
		"ssh_host_ed25519_key.pub": {0o644, "ssh-ed25519 AAAA host\n"},
		"authorized_keys":          {0o600, "ssh-ed25519 BBBB lab\n"},
		"nics":                     {0o644, "mgmt0 52:54:00:12:00:0b 198.18.0.11/24\ndata0 52:54:00:12:01:0b\n"},
		"services":                 {0o644, "docker\n"},
	} {
		if got[name] != want {
			t.Errorf("%s is %+v, want %+v", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("unexpected files: %v", got)
	}
}

func TestConfigDiskIsTheSameForTheSame(t *testing.T) {
	a, errA := config().Bytes()
	b, errB := config().Bytes()
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two disks of one configuration differ (%v, %v)", errA, errB)
	}
}

func TestConfigDiskGrowsByWholeMiB(t *testing.T) {
	c := config()
	c.AuthorizedKeys = bytes.Repeat([]byte("k"), 1<<20)
	data, err := c.Bytes()
	if err != nil || len(data) != 2<<20 {
		t.Errorf("disk has %d bytes, want 2 MiB (%v)", len(data), err)
	}
}

func TestConfigDiskIsChecked(t *testing.T) {
	for want, spoil := range map[string]func(*ConfigDisk){
		"hostname":            func(c *ConfigDisk) { c.Hostname = "node 1" },
		"interface name":      func(c *ConfigDisk) { c.NICs[0].Name = "mgmt0\nx" },
		"at most 15":          func(c *ConfigDisk) { c.NICs[0].Name = strings.Repeat("m", 16) },
		"no Ethernet address": func(c *ConfigDisk) { c.NICs[0].MAC = "52:54" },
		"interface data0":     func(c *ConfigDisk) { c.NICs[1].CIDR = "198.18.1.1" },
		"service":             func(c *ConfigDisk) { c.Services = []string{""} },
	} {
		c := config()
		spoil(&c)
		if _, err := c.Bytes(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}
