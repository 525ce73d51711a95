package vm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestQEMUUser(t *testing.T) {
	none := qemuUser(filepath.Join(t.TempDir(), "none"))
	if none.UID == 0 || none.GID == 0 {
		t.Errorf("QEMU would run as %+v", none)
	}
	device := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(device, nil, 0o660); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(device)
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(device, 0, 4243); err != nil {
			t.Fatal(err)
		}
		st.Sys().(*syscall.Stat_t).Gid = 4243
	}
	if got, gid := qemuUser(device), st.Sys().(*syscall.Stat_t).Gid; gid != 0 && got != (User{none.UID, int(gid)}) {
		t.Errorf("with KVM of group %d it would run as %+v", gid, got)
	}
}

// TestGiveFiles: QEMU's user gets what is the machine's own, and nothing that others use.
func TestGiveFiles(t *testing.T) {
	needRoot(t)
	dir, other := t.TempDir(), t.TempDir()
	path := func(dir, name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	m := Machine{Kernel: path(other, "kernel"), Initramfs: path(dir, "initramfs"),
		Disks: []Disk{{Path: path(other, "root")}, {Path: path(dir, "config")}}, Virtual: &Virtual{Plugin: &Plugin{Out: path(dir, "fifo")}}}
	h := &Hypervisor{cfg: Config{StateDir: dir}, daemon: &daemon{user: User{4242, 4243}}}
	if err := h.giveFiles(m); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]uint32{m.Kernel: 0, m.Initramfs: 4242, m.Disks[0].Path: 0, m.Disks[1].Path: 4242, m.Virtual.Plugin.Out: 4242} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := st.Sys().(*syscall.Stat_t).Uid; got != want || st.Mode().Perm() != 0o600 {
			t.Errorf("%s is of user %d, mode %s, want %d and 0600", p, got, st.Mode(), want)
		}
	}
}

// TestReadAccount: machines run as the user who owns their files, with libvirt's group where only
// that may pass.
func TestReadAccount(t *testing.T) {
	for said, want := range map[string]account{
		"0 0 750 64055 106 root yes\n":  {User{64055, 106}, "root", true},
		"0 0 755 0 0 root no\n":         {User{0, 0}, "root", false},
		"1000 1001 750 5 106 lab yes\n": {User{1000, 106}, "lab", true},
		"1000 1001 2755 5 106 lab no\n": {User{1000, 1001}, "lab", false},
	} {
		if got, err := readAccount(said); err != nil || got != want {
			t.Errorf("%q is %+v, %v, want %+v", said, got, err, want)
		}
	}
	for _, said := range []string{"", "0 0 750 64055 106 root", "0 0 789 64055 106 root yes", "lab lab 750 5 106 lab yes"} {
		if got, err := readAccount(said); err == nil || !strings.Contains(err.Error(), "it says") {
			t.Errorf("%q is %+v, %v, want an error", said, got, err)
		}
	}
}

// TestAccountHere asks this computer.
func TestAccountHere(t *testing.T) {
	a, err := new(Hypervisor).account(t.Context())
	if err != nil || a.UID != os.Getuid() || a.name == "" {
		t.Errorf("the driver is %+v, %v, want user %d", a, err, os.Getuid())
	}
	h := &Hypervisor{cfg: Config{Remote: &Remote{Run: func(context.Context, ...string) ([]byte, error) { return []byte("4242 4242 750 5 7 lab no"), nil }}}}
	a, err = h.account(t.Context())
	if want := (account{User{4242, 7}, "lab", false}); err != nil || a != want {
		t.Errorf("elsewhere the driver is %+v, %v, want %+v", a, err, want)
	}
}
