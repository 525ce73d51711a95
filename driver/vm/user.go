package vm

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// User is a user and a group, by number.
type User struct{ UID, GID int }

const kvmDevice = "/dev/kvm"

// qemuUser is whom the QEMUs of a private libvirtd run as: the user whom the distribution has for
// them, or else the number that Debian has for one (README of base-passwd). If there is KVM, it has
// the group of its device.
func qemuUser(kvm string) User {
	out := User{64055, 64055}
	for _, name := range []string{"libvirt-qemu", "qemu"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid > 0 {
			out = User{uid, gid}
			break
		}
	}
	if st, err := os.Stat(kvm); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Gid != 0 {
			out.GID = int(sys.Gid)
		}
	}
	return out
}

// user is whom this libvirt's machines run as: a private one's as its own user, others as root, who
// owns their files.
func (h *Hypervisor) user() User {
	if h.daemon != nil {
		return h.daemon.user
	}
	return User{}
}

// giveFiles makes QEMU's user the owner of a machine's own files, which only that user and root may
// read. Images of other machines, too, are elsewhere. With other libvirts they are root's.
func (h *Hypervisor) giveFiles(m Machine) error {
	if h.daemon == nil {
		return nil
	}
	for _, path := range m.files() {
		if !strings.HasPrefix(path, h.cfg.StateDir+string(filepath.Separator)) {
			continue
		}
		if err := os.Lchown(path, h.daemon.user.UID, h.daemon.user.GID); err != nil {
			return fmt.Errorf("give QEMU's user its file: %w", err)
		}
	}
	return nil
}

// files are those that QEMU itself opens. Consoles and results are opened by libvirt.
func (m Machine) files() []string {
	out := []string{m.Kernel, m.Initramfs}
	for _, d := range m.Disks {
		out = append(out, d.Path)
	}
	if m.Virtual != nil && m.Virtual.Plugin != nil {
		out = append(out, m.Virtual.Plugin.Out)
	}
	return out
}
