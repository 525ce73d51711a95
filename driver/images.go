package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hookbed/images"
)

// openStore opens the image cache and reports what it does on standard error.
func (a *app) openStore(drift string) (*images.Store, error) {
	return images.Open("", images.Options{Drift: drift, Log: func(msg string) { a.say("images: %s", msg) }})
}

func (a *app) imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Build, list, check and prune the pinned images and kernels",
		Example: `  driver images build
  driver images list --json
  driver images verify`,
	}
	var drift string
	build := &cobra.Command{
		Use: "build", Short: "Build or fetch every image the locks name, by digest", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.openStore(drift)
			if err != nil {
				return err
			}
			for _, k := range images.Kernels() {
				set, err := store.Ensure(cmd.Context(), images.Want{Kernel: k, Root: true, Endpoint: true, EndpointDir: true})
				if err != nil {
					return err
				}
				a.emit("images", set, func(w io.Writer) { printSet(w, set) })
			}
			return nil
		},
	}
	driftFlag(build, &drift)
	list := &cobra.Command{
		Use: "list", Short: "List the images in the cache", Args: exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			store, err := a.openStore("")
			if err != nil {
				return err
			}
			entries, err := store.List()
			for _, e := range entries {
				a.emit("image", e, func(w io.Writer) { fmt.Fprintf(w, "%+v\n", e) })
			}
			return err
		},
	}
	verify := &cobra.Command{
		Use: "verify", Short: "Hash every cached image and compare with its recorded SHA-256", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.openStore("")
			if err != nil {
				return err
			}
			return store.Verify(cmd.Context())
		},
	}
	cmd.AddCommand(build, list, verify)
	return cmd
}

func driftFlag(cmd *cobra.Command, drift *string) {
	cmd.Flags().StringVar(drift, "drift", "", "allow: use today's version of a package that is gone from the mirrors, and record it")
}

func printSet(w io.Writer, s images.Set) {
	for _, a := range []images.Artifact{s.Root, s.Endpoint, s.EndpointArchive, s.Kernel, s.Modules, s.Initramfs, s.Probe} {
		fmt.Fprintf(w, "%-20s %s  %8.1f MiB  %s\n", a.Name, a.SHA256[:12], float64(a.Size)/(1<<20), a.Path)
	}
}
