package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hookbed/driver/host"
	"hookbed/images"
)

// boxName is the box, and boxNodes the addresses of the machines that the
// Vagrantfile makes of it.
const boxName = "hookbed.box"

func boxNodes() []string { return []string{"198.18.0.11", "198.18.0.12"} }

func (a *app) imagesBoxCommand() *cobra.Command {
	var out, kernel string
	cmd := &cobra.Command{
		Use:   "box",
		Short: "Make a box for vagrant-libvirt of the images, with keys of its own",
		Long: `Box writes hookbed.box, the key that logs in to machines made from it (login_key)
and their host key (known_hosts) into a directory. Keys that are there stay.`,
		Args:    exactly(0, "no argument"),
		Example: "  driver images box --out .cache/box",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := lockedKernels([]string{kernel}); err != nil {
				return err
			}
			return a.makeBox(cmd.Context(), out, kernel)
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", filepath.Join(".cache", "box"), "directory of the box and its keys")
	cmd.Flags().StringVar(&kernel, "kernel", images.DefaultKernel, "kernel of the machines")
	return cmd
}

func (a *app) makeBox(ctx context.Context, dir, kernel string) error {
	store, err := a.openStore("")
	if err != nil {
		return err
	}
	set, err := store.Ensure(ctx, images.Want{Kernel: kernel, Root: true, Endpoint: true})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the box's directory: %w", err)
	}
	login, err := keptKey(filepath.Join(dir, "login_key"))
	if err != nil {
		return err
	}
	hostKey, err := keptKey(filepath.Join(dir, "host_key"))
	if err != nil {
		return err
	}
	known := ""
	for _, addr := range boxNodes() {
		known += addr + " " + hostKey.AuthorizedKey + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(known), 0o600); err != nil {
		return fmt.Errorf("write the box's host key: %w", err)
	}
	file := filepath.Join(dir, boxName)
	err = images.WriteBox(ctx, file, set, images.BoxKeys{
		HostPEM: hostKey.PrivatePEM, HostPublic: hostKey.AuthorizedKey, LoginPEM: login.PrivatePEM, LoginKey: login.AuthorizedKey,
	})
	if err != nil {
		return err
	}
	a.emit("box", map[string]string{"box": file, "kernel": set.KernelRelease}, func(w io.Writer) {
		fmt.Fprintf(w, "%s  kernel %s\n", file, set.KernelRelease)
	})
	return nil
}

// keptKey is the key in a file, made if it is not there.
func keptKey(file string) (host.Key, error) {
	pem, err := os.ReadFile(file)
	if err == nil {
		return host.ParseKey(pem)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return host.Key{}, fmt.Errorf("read a key of the box: %w", err)
	}
	key, err := host.NewKey()
	if err != nil {
		return host.Key{}, err
	}
	if err := os.WriteFile(file, key.PrivatePEM, 0o600); err != nil {
		return host.Key{}, fmt.Errorf("write a key of the box: %w", err)
	}
	return key, nil
}
