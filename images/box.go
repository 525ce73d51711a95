package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hookbed/analysis/durable"
)

// BoxKeys are the keys of a box. A box is built where it is used, so its keys belong to that computer
// and are not published.
type BoxKeys struct {
	HostPEM    []byte // private SSH host key of every machine made from the box
	HostPublic string // its public half, as in authorized_keys
	LoginPEM   []byte // private key that logs in as root
	LoginKey   string // its public half
}

// boxDisk is the size that the box's metadata promises, in GB; no disk is larger.
const boxDisk = 2

// BoxName is the file name of a box.
const BoxName = "hookbed.box"

// boxNodes are the addresses of the machines that the Vagrantfile makes of a box.
func boxNodes() []string { return []string{"198.18.0.11", "198.18.0.12"} }

// MakeBox writes the box, as BoxName, and the file known_hosts of its machines into a directory. It
// returns the path of the box.
func MakeBox(ctx context.Context, dir string, set Set, keys BoxKeys) (string, error) {
	known := ""
	for _, addr := range boxNodes() {
		known += addr + " " + keys.HostPublic + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(known), 0o600); err != nil {
		return "", fmt.Errorf("write the box's host key: %w", err)
	}
	file := filepath.Join(dir, BoxName)
	return file, writeBox(ctx, file, set, keys)
}

// writeBox writes a box for vagrant-libvirt: the images of a set as disks, with
// kernel and initramfs next to them for direct boot, so that machines made from
// it boot as a lab's own do. Needs qemu-img. On an error nothing is left.
func writeBox(ctx context.Context, file string, set Set, keys BoxKeys) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(file), ".box-")
	if err != nil {
		return fmt.Errorf("make box: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	members := []string{"metadata.json", "Vagrantfile", "login_key", "vmlinuz", "initrd"}
	var disks []map[string]string
	for _, a := range []Artifact{set.Root, set.Modules, set.Endpoint} {
		name := strings.TrimSuffix(filepath.Base(a.Path), ".squashfs") + ".img"
		// qemu-img 2.x and later; the image stays sparse and is not compressed.
		if _, err := (command{argv: []string{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", a.Path, filepath.Join(work, name)}}).run(ctx); err != nil {
			return fmt.Errorf("make box: %w (package qemu-utils)", err)
		}
		disks = append(disks, map[string]string{"path": name})
		members = append(members, name)
	}
	metadata, err := json.MarshalIndent(map[string]any{"provider": "libvirt", "format": "qcow2", "virtual_size": boxDisk, "disks": disks}, "", "  ")
	if err != nil {
		return fmt.Errorf("make box: %w", err)
	}
	for name, data := range map[string][]byte{
		"metadata.json": append(metadata, '\n'), "login_key": keys.LoginPEM,
		"Vagrantfile": []byte(strings.ReplaceAll(string(recipeFile("box/Vagrantfile")), "CMDLINE", Cmdline)),
	} {
		if err := os.WriteFile(filepath.Join(work, name), data, 0o600); err != nil {
			return fmt.Errorf("make box: %w", err)
		}
	}
	if err := copyFile(set.Kernel.Path, filepath.Join(work, "vmlinuz")); err != nil {
		return fmt.Errorf("make box: %w", err)
	}
	if err := writeBoxInitramfs(filepath.Join(work, "initrd"), set, keys); err != nil {
		return fmt.Errorf("make box: %w", err)
	}
	whole := filepath.Join(work, "whole.box")
	if err := packBox(whole, work, members); err != nil {
		return fmt.Errorf("make box: %w", err)
	}
	return durable.Rename(whole, file)
}

// writeBoxInitramfs adds the box's own first process, and what its config disk
// would hold, to the kernel's initramfs. Of two files of one name the later counts.
func writeBoxInitramfs(file string, set Set, keys BoxKeys) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	files := map[string][]byte{
		"/box/config/ssh_host_ed25519_key":     keys.HostPEM,
		"/box/config/ssh_host_ed25519_key.pub": []byte(keys.HostPublic + "\n"),
		"/box/config/authorized_keys":          []byte(keys.LoginKey + "\n"),
		"/box/config/services":                 nil,
		"/init":                                recipeFile("box/init"),
	}
	for _, name := range []string{"lease", "leased", "shutdown"} {
		files["/box/"+name] = recipeFile("box/" + name)
	}
	return Join(f, []Artifact{set.Initramfs}, files)
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// packBox writes members of dir as a tar, which Vagrant takes as it takes a
// compressed one.
func packBox(file, dir string, members []string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t := tar.NewWriter(f)
	for _, name := range members {
		if err := addMember(t, filepath.Join(dir, name), name); err != nil {
			return err
		}
	}
	return t.Close()
}

func addMember(t *tar.Writer, file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if name == "login_key" {
		mode = 0o600
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Format: tar.FormatUSTAR, Name: "./" + name, Mode: mode, Size: st.Size(), ModTime: time.Unix(0, 0)}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}
