package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hookbed/driver/host"
	"hookbed/images"
)

func (a *app) imagesBoxCommand() *cobra.Command {
	var out, kernel string
	cmd := &cobra.Command{
		Use:   "box",
		Short: "Make a box for vagrant-libvirt from the images, with new keys",
		Long: `Box writes hookbed.box, the key that logs in to machines made from it (login_key)
and their host key (known_hosts) into a directory. It keeps keys that exist.`,
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
	login, err := host.KeyFile(filepath.Join(dir, "login_key"))
	if err != nil {
		return err
	}
	hostKey, err := host.KeyFile(filepath.Join(dir, "host_key"))
	if err != nil {
		return err
	}
	file, err := images.MakeBox(ctx, dir, set, images.BoxKeys{
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
