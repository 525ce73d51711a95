package vm

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// remoteOf makes a private libvirtd look like that of another computer, which is reached
// through a unix socket and its network namespace.
func remoteOf(h *Hypervisor) *Remote {
	return &Remote{
		Name: "root@there",
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.daemon.socket())
		},
		Reach: h.Dialer(),
		Run: func(ctx context.Context, argv ...string) ([]byte, error) {
			return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.NetNS(), "--"}, argv...)...).Output()
		},
	}
}

func networksOf(t *testing.T, h *Hypervisor) string {
	t.Helper()
	all, _, err := h.lv.ConnectListAllNetworks(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range all {
		names = append(names, n.Name)
	}
	return strings.Join(names, " ")
}

// TestRemote: two labs on another computer's libvirtd. They cannot share a data
// bridge or a range of addresses; a lab whose connection is lost leaves a record by
// which another driver takes it down, and leaves the other lab as it is.
func TestRemote(t *testing.T) {
	there := connect(t, t.TempDir(), "")
	remote := remoteOf(there)
	ctx := t.Context()
	if _, err := remote.Run(ctx, "ip", "link", "add", "br-data", "type", "bridge"); err != nil {
		t.Fatal(err)
	}
	lab := func(name string) (*Hypervisor, string) {
		t.Helper()
		dir := t.TempDir()
		h, err := Connect(ctx, Config{StateDir: dir, Lab: name, Remote: remote})
		if err != nil {
			t.Fatal(err)
		}
		return h, dir
	}
	a, dirA := lab("a")
	b, dirB := lab("b")
	for _, n := range []Network{{Name: "hookbed-a-mgmt", Bridge: "hbm-a", HostCIDR: "198.18.130.1/28"}, {Name: "hookbed-a-data", Bridge: "br-data", Existing: true}} {
		if err := a.CreateNetwork(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.CreateNetwork(ctx, Network{Name: "hookbed-b-mgmt", Bridge: "hbm-b", HostCIDR: "198.18.130.1/28"}); err == nil {
		t.Error("two labs got one range of addresses")
	}
	if err := b.CreateNetwork(ctx, Network{Name: "hookbed-b-mgmt", Bridge: "hbm-b", HostCIDR: "198.18.130.17/28"}); err != nil {
		t.Error(err)
	}
	err := b.CreateNetwork(ctx, Network{Name: "hookbed-b-data", Bridge: "br-data", Existing: true})
	if err == nil || !strings.Contains(err.Error(), `bridge br-data carries the data of another lab, whose network is "hookbed-a-data"`) {
		t.Errorf("two labs on one bridge: %v", err)
	}
	if err := b.Supports(ctx, TCG); err != nil {
		t.Error(err)
	}
	if v, err := b.Versions(ctx); err != nil || v.Libvirt == "" || v.QEMU == "" || v.Private {
		t.Errorf("versions %+v, %v", v, err)
	}
	b.hangUp()
	if err := b.Close(ctx); !errors.Is(err, errLost) {
		t.Errorf("closing a lab whose connection is lost: %v, want that it is", err)
	}
	for range 2 {
		if err := CleanupRemote(ctx, dirB, remote); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dirB); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state of a lab that is gone: %v", err)
	}
	if got := networksOf(t, there); got != "hookbed-a-mgmt hookbed-a-data" && got != "hookbed-a-data hookbed-a-mgmt" {
		t.Errorf("networks %q, want those of lab a", got)
	}
	if err := a.Close(ctx); err != nil {
		t.Error(err)
	}
	if got := networksOf(t, there); got != "" {
		t.Errorf("networks %q are left", got)
	}
	if _, err := os.Stat(filepath.Join(dirA, recordFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record of a lab that is gone: %v", err)
	}
	if _, err := remote.Run(ctx, "ip", "link", "show", "br-data"); err != nil {
		t.Errorf("the computer's own bridge is gone: %v", err)
	}
}

// TestCapabilities reads libvirt's capabilities of a computer that can only emulate.
func TestCapabilities(t *testing.T) {
	const text = `<capabilities><host><secmodel><model>apparmor</model></secmodel><secmodel><model>dac</model></secmodel></host>
<guest><arch name='i686'><domain type='kvm'/></arch></guest><guest><arch name='x86_64'><domain type='qemu'/></arch></guest></capabilities>`
	models, types, err := readCapabilities(text)
	if err != nil || strings.Join(models, " ") != "apparmor dac" || strings.Join(types, " ") != "qemu" {
		t.Errorf("models %v, types %v, %v", models, types, err)
	}
	for _, tt := range []struct {
		facts       hostFacts
		accel, want string
	}{
		{hostFacts{types: types, qemu: "10.0.2"}, TCG, ""},
		{hostFacts{types: types, qemu: "7.2.9"}, TCG, "QEMU 7.2.9 emulates x86 wrongly"},
		{hostFacts{types: types, qemu: "10.0.2"}, KVM, "libvirt offers no kvm"},
		{hostFacts{types: []string{"qemu", "kvm"}, qemu: "7.2.9", as: account{kvm: true}}, KVM, ""},
		{hostFacts{types: []string{"qemu", "kvm"}, qemu: "7.2.9", as: account{name: "lab"}}, KVM, "usermod -aG kvm lab"},
		{hostFacts{qemu: "10.0.2"}, TCG, "no QEMU for x86-64 guests"},
	} {
		err := tt.facts.supports(tt.accel)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v supports %s: %v, want %q", tt.facts, tt.accel, err, tt.want)
		}
	}
}
