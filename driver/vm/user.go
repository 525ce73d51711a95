package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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

// account is whom the driver is on the computer of a libvirt that is not private.
type account struct {
	User
	name string
	kvm  bool // may use KVM
}

// askAccount prints the numbers of the user and of its group; mode, user and group of the directory in
// which libvirt has what QEMU reads of a machine; the user's name; and whether it may use KVM.
const askAccount = `may=no; [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ] || may=yes
echo "$(id -u) $(id -g) $(stat -c '%a %u %g' /var/lib/libvirt/qemu 2>/dev/null || echo 755 0 0) $(id -un) $may"`

// readAccount reads what askAccount prints, and decides whom machines run as. libvirtd gives that
// directory to its own user for QEMU, and root can give files to that user: as root, QEMU would have
// all capabilities, since it is executed. Others cannot, so machines run as the user who owns their
// files. libvirt makes a machine's directory that of the machine's user, but not the one above it,
// which Debian has as mode 0750: then the machine gets its group. (libvirt 9.0:
// qemuStateInitialize, qemuProcessMakeDir, virSecurityDACDomainSetPathLabel; capabilities(7). A
// user's further groups it keeps.)
func readAccount(said string) (account, error) {
	var a account
	var mode, may string
	var own User
	if _, err := fmt.Sscan(said, &a.UID, &a.GID, &mode, &own.UID, &own.GID, &a.name, &may); err != nil {
		return a, fmt.Errorf("it says %.80q: %w", said, err)
	}
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return a, fmt.Errorf("it says %.80q: %w", said, err)
	}
	switch {
	case a.UID == 0:
		a.User = own
	case bits&0o001 == 0:
		a.GID = own.GID
	}
	a.kvm = may == "yes"
	return a, nil
}

// RunsAs is whom machines run as: 0 is root.
func (h *Hypervisor) RunsAs(ctx context.Context) (User, error) {
	f, err := h.facts(ctx)
	return f.as.User, err
}

// account asks who the driver is where machines run. A private libvirt has a user of its own.
func (h *Hypervisor) account(ctx context.Context) (account, error) {
	if h.daemon != nil {
		return account{User: h.daemon.user, kvm: true}, nil
	}
	argv := []string{"sh", "-c", askAccount}
	run := func() ([]byte, error) { return exec.CommandContext(ctx, argv[0], argv[1:]...).Output() }
	if r := h.cfg.Remote; r != nil {
		run = func() ([]byte, error) { return r.Run(ctx, argv...) }
	}
	said, err := run()
	if err != nil {
		return account{}, fmt.Errorf("ask who runs machines: %w", err)
	}
	a, err := readAccount(string(said))
	if err != nil {
		return a, fmt.Errorf("ask who runs machines: %w", err)
	}
	if h.cfg.Remote == nil && os.Geteuid() == 0 {
		a.User = User{} // images are below root's home here
	}
	return a, nil
}

// giveFiles makes QEMU's user the owner of a machine's own files, which only that user and root may
// read. Images of other machines, too, are elsewhere. With other libvirts QEMU's user has them already, or is root.
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
