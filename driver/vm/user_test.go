package vm

import (
	"os"
	"path/filepath"
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
