package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hookbed/driver/plan"
	"hookbed/images"
)

func (a *app) imagesExportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "export FILE...",
		Short: "Copy what experiments in virtual time boot into a store for other users or computers",
		Long: `Export makes a store of the kernels and archives that the sealed guests of these
experiments boot, some 40 MB, or adds to one. Every user who may read the directory runs them
from there: --store DIR, or HOOKBED_STORE=DIR. A store that the user may not write to is held
against locks and digests at each use.`,
		Example: `  driver images export experiments/virtual.toml --out /shared/hookbed
  driver run experiments/virtual.toml --store /shared/hookbed`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return fmt.Errorf("%w: `driver images export` takes experiment files; see `driver images export --help`", errUsage)
			case out == "":
				return fmt.Errorf("%w: say with --out where to; see `driver images export --help`", errUsage)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.exportImages(cmd.Context(), args, out) },
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "directory of the store to make, or to add to")
	return cmd
}

func (a *app) exportImages(ctx context.Context, files []string, out string) error {
	store, err := a.openStore("")
	if err != nil {
		return err
	}
	for _, file := range files {
		p, err := loadPlan(file)
		if err != nil {
			return err
		}
		if p.Spec.Lab.Clock != plan.ClockVirtual {
			return fmt.Errorf("%w: %s has clock = %q, and only guests in virtual time boot from such a store", errUsage, file, p.Spec.Lab.Clock)
		}
		for _, want := range wantsOf(p) {
			if err := store.Export(ctx, out, want); err != nil {
				return err
			}
		}
	}
	a.emit("store", out, func(w io.Writer) { fmt.Fprintf(w, "%s: use it with --store, or %s\n", out, storeEnv) })
	return nil
}

// wantsOf are the images that the sealed guests of a plan boot, one for each kernel.
func wantsOf(p *plan.Plan) (out []images.Want) {
	for _, boot := range p.Spec.Boots() {
		out = append(out, images.Want{Kernel: boot.Kernel, Root: true, Endpoint: true, External: needsExternal(p), HTTP: needsHTTP(p), Sealed: true})
	}
	return out
}
