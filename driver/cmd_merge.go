package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hookbed/driver/rundir"
)

func (a *app) mergeCommand() *cobra.Command {
	var out string
	var partial bool
	cmd := &cobra.Command{
		Use:   "merge DIR... -o DIR",
		Short: "Join the shards of one plan into one run directory",
		Long: `Merge joins what "driver run --shard i/n" made on several computers, or at several
times. The merged rows are in the order of the plan, so they are those of a run that was
never split, except for the name of the run. Merge refuses directories of different plans
and from unlike environments (as "driver compare" does), and trials that two directories
have with different rows. It keeps all environments.`,
		Example: `  driver merge runs/a runs/b runs/c -o runs/all
  driver merge runs/a runs/b -o runs/so-far --partial`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return fmt.Errorf("%w: `driver merge` takes one or more run directories; see `driver merge --help`", errUsage)
			case out == "":
				return fmt.Errorf("%w: say with -o where to merge to; see `driver merge --help`", errUsage)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := rundir.Merge(out, args, partial)
			switch {
			case errors.Is(err, rundir.ErrIncomplete):
				return fmt.Errorf("%w; merge what there is with --partial", err)
			case errors.Is(err, rundir.ErrNoRun), errors.Is(err, rundir.ErrNotEmpty), errors.Is(err, rundir.ErrUnlike):
				return fmt.Errorf("%w: %w", errUsage, err)
			case err != nil:
				return err
			}
			for _, w := range m.Warnings {
				a.say("warning: %s", w)
			}
			for _, lost := range m.Missing {
				a.say("warning: %s", lost)
			}
			a.emit("merge", map[string]any{"dir": out, "trials": m.Trials, "rows": m.Rows, "missing": m.Missing, "warnings": m.Warnings}, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %d trials, %d rows\n", out, m.Trials, m.Rows)
			})
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "run directory to make")
	cmd.Flags().BoolVar(&partial, "partial", false, "merge even if shards or trials are missing")
	return cmd
}
