package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/images"
)

func (a *app) imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "images", Args: knownCommand, RunE: showHelp,
		Short: "Build, list, check and prune the pinned images and kernels",
		Example: `  driver images build
  driver images build --peers
  driver images build --kernels all
  driver images list --json
  driver images verify`,
	}
	var drift string
	var external bool
	kernels := []string{images.DefaultKernel}
	build := &cobra.Command{
		Use: "build", Short: "Build or fetch the images that the locks name, by digest", Args: exactly(0, "no argument"),
		Example: `  driver images build
  driver images build --peers
  driver images build --kernels 6.12,6.18`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := lockedKernels(kernels)
			if err != nil {
				return err
			}
			store, err := a.openStore(drift)
			if err != nil {
				return err
			}
			for _, k := range names {
				set, err := store.Ensure(cmd.Context(), images.Want{Kernel: k, Root: true, Endpoint: true, EndpointDir: true, External: external})
				if err != nil {
					return err
				}
				a.emit("images", set, func(w io.Writer) { printSet(w, set) })
			}
			return nil
		},
	}
	driftFlag(build, &drift)
	build.Flags().BoolVar(&external, "peers", false, "also build the filters of other projects (xdp-filter, bpfilter); an experiment with such an arm builds them by itself")
	build.Flags().StringSliceVar(&kernels, "kernels", kernels, "kernels to build, or all: "+strings.Join(images.Kernels(), ", ")+"; an experiment builds those that it names by itself")
	cmd.AddCommand(build, a.imagesExportCommand(), a.imagesListCommand(), a.imagesVerifyCommand(), a.imagesGCCommand(), a.imagesKernelsCommand(), a.imagesLockCommand(), a.imagesBoxCommand())
	return cmd
}

// lockedKernels checks the names of kernels; "all" is every one that is tested.
func lockedKernels(names []string) ([]string, error) {
	if slices.Contains(names, "all") {
		return images.Kernels(), nil
	}
	for _, n := range names {
		if !slices.Contains(images.Kernels(), n) && !slices.Contains(images.Versions(), n) {
			return nil, fmt.Errorf("%w: unknown kernel %q (allowed: all, %s, or a version that `driver images kernels` lists)",
				errUsage, n, strings.Join(images.Kernels(), ", "))
		}
	}
	return names, nil
}

func (a *app) imagesListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the images in the cache", Args: exactly(0, "no argument"),
		Example: "  driver images list",
		RunE: func(*cobra.Command, []string) error {
			store, err := a.openStore("")
			if err != nil {
				return err
			}
			entries, err := store.List()
			for _, e := range entries {
				a.emit("image", e, func(w io.Writer) {
					state := "current"
					if !e.Current {
						state = "old"
					}
					fmt.Fprintf(w, "%-12s %s  %8.1f MiB  %-8s %s\n", e.Name, e.Inputs[:12], float64(e.Size())/(1<<20), state, e.Dir)
				})
			}
			return err
		},
	}
}

func (a *app) imagesKernelsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kernels", Short: "List the kernels that an experiment can name", Args: exactly(0, "no argument"),
		Long: `Lists the kernels that an experiment can name: first those that are tested, each the
newest of its series when it was locked; then single versions, oldest first, which are
pinned and not tested (docs/kernels.md).`,
		Example: "  driver images kernels",
		RunE: func(*cobra.Command, []string) error {
			for _, k := range images.Kernels() {
				a.emit("kernel", lockedKernel{k, true}, func(w io.Writer) { fmt.Fprintf(w, "%-12s  tested\n", k) })
			}
			for _, k := range images.Versions() {
				a.emit("kernel", lockedKernel{k, false}, func(w io.Writer) { fmt.Fprintln(w, k) })
			}
			return nil
		},
	}
}

// lockedKernel is a kernel that an experiment can name.
type lockedKernel struct {
	Name   string `json:"name"`
	Tested bool   `json:"tested"`
}

func (a *app) imagesVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Hash every cached image and compare with its recorded SHA-256", Args: exactly(0, "no argument"),
		Example: "  driver images verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.openStore("")
			if err != nil {
				return err
			}
			if err := store.Verify(cmd.Context()); err != nil {
				return err
			}
			a.emit("verified", true, func(w io.Writer) { fmt.Fprintln(w, "every cached image has its recorded digest") })
			return nil
		},
	}
}

func (a *app) imagesGCCommand() *cobra.Command {
	return &cobra.Command{
		Use: "gc", Short: "Remove images that the current locks no longer name", Args: exactly(0, "no argument"),
		Example: "  driver images gc",
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.openStore("")
			if err != nil {
				return err
			}
			removed, err := store.GC(cmd.Context())
			a.emit("removed", removed, func(w io.Writer) {
				for _, r := range removed {
					fmt.Fprintln(w, "removed", r)
				}
			})
			return err
		},
	}
}

func (a *app) imagesLockCommand() *cobra.Command {
	var versions bool
	cmd := &cobra.Command{
		Use: "lock [NAME...]", Short: "Pin the packages that the mirror has today: rewrite images/locks of a checkout",
		Example: "  driver images lock\n  driver images lock kernel-6.12\n  driver images lock --versions",
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.openStore("")
			if err != nil {
				return err
			}
			if versions {
				return a.lockVersions(cmd.Context(), store)
			}
			changed, err := store.Relock(cmd.Context(), ".", args...)
			a.emit("locked", changed, func(w io.Writer) {
				fmt.Fprintf(w, "%d locks changed %v; build again with `make build`\n", len(changed), changed)
			})
			return err
		},
	}
	cmd.Flags().BoolVar(&versions, "versions", false, "instead pin every kernel version that the mirror has and that has no lock yet; downloads each once")
	return cmd
}

func (a *app) lockVersions(ctx context.Context, store *images.Store) error {
	added, failed, err := store.LockVersions(ctx, ".")
	a.emit("locked", added, func(w io.Writer) {
		fmt.Fprintf(w, "%d kernel versions locked %v; build again with `make build`\n", len(added), added)
	})
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		a.say("kernel %s is not locked: %s", name, failed[name])
	}
	return err
}

func driftFlag(cmd *cobra.Command, drift *string) {
	cmd.Flags().StringVar(drift, "drift", "", "allow: use today's version of a package that is gone from the mirrors, and record that")
}

func printSet(w io.Writer, s images.Set) {
	for _, a := range []images.Artifact{s.Root, s.Endpoint, s.EndpointArchive, s.Kernel, s.Modules, s.Initramfs, s.Probe} {
		printArtifact(w, a)
	}
	if s.External != nil {
		printArtifact(w, *s.External)
	}
}

func printArtifact(w io.Writer, a images.Artifact) {
	fmt.Fprintf(w, "%-20s %s  %8.1f MiB  %s\n", a.Name, a.SHA256[:12], float64(a.Size)/(1<<20), a.Path)
}
