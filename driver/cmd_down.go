package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/helper"
	"hookbed/driver/lab"
)

func (a *app) downCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down [NAME...]",
		Short: "Take down labs by name: those that are up, and what killed runs left",
		Long: `Down takes down the labs that are named, and says who owns them. A lab whose driver
runs is taken down by ending that driver. Without a name, down lists the labs and changes
nothing. --all takes down every lab that "driver up" left running and everything that
killed runs left, but never a lab whose driver runs or whose state cannot be read.`,
		Example: `  driver down
  driver down up
  driver down --all
  driver down --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return fmt.Errorf("%w: `driver down` takes names or --all, not both", errUsage)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a.interruptHint = "what is not taken down yet is still listed by `driver down`"
			return a.down(cmd.Context(), args, all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every lab whose driver does not run")
	return cmd
}

func printLabs(w io.Writer, labs []lab.Listing) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tKIND\tEXPERIMENT\tOWNER\tAGE\tMACHINES")
	for _, l := range labs {
		experiment := l.Experiment
		if experiment == "" {
			experiment = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Kind, experiment, l.Owner(), l.Age(), l.Machines())
	}
	_ = t.Flush() // to the terminal
}

func (a *app) down(ctx context.Context, names []string, all bool) error {
	root, err := stateRoot()
	if err != nil {
		return err
	}
	a.sayStrays(root)
	states, err := lab.Labs(root)
	if err != nil {
		return err
	}
	var labs []lab.Listing
	for _, l := range states {
		labs = append(labs, l.Listing(time.Now()))
	}
	if len(names) == 0 && !all {
		return a.listLabs(labs)
	}
	chosen, err := a.chosenLabs(labs, names, all)
	if err != nil {
		return err
	}
	return a.takeDown(ctx, root, chosen)
}

// listLabs shows the labs, and how to take one down.
func (a *app) listLabs(labs []lab.Listing) error {
	switch {
	case a.json:
		for _, l := range labs {
			a.emit("lab", l, nil)
		}
	case len(labs) > 0:
		printLabs(a.out, labs)
	default:
		fmt.Fprintln(a.out, "nothing to take down")
	}
	if len(labs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: say which lab to take down, as in `driver down %s`, or --all for every one whose driver does not run", errUsage, labs[0].Name)
}

// chosenLabs are those that are named, each of which must be there, or with all those
// whose driver does not run.
func (a *app) chosenLabs(labs []lab.Listing, names []string, all bool) ([]lab.Listing, error) {
	var chosen []lab.Listing
	var known []string
	for _, l := range labs {
		known = append(known, l.Name)
		switch {
		case slices.Contains(names, l.Name):
			chosen = append(chosen, l)
		case all && (l.OwnerLives || l.Torn):
			a.say("lab %s is left alone (%s); `driver down %s` takes it down", l.Name, l.Title(), l.Name)
		case all:
			chosen = append(chosen, l)
		}
	}
	for _, n := range names {
		if slices.Contains(known, n) {
			continue
		}
		if len(known) == 0 {
			return nil, fmt.Errorf("%w: there is no lab %q, nor any other", errUsage, n)
		}
		return nil, fmt.Errorf("%w: there is no lab %q, want one of %s", errUsage, n, strings.Join(known, ", "))
	}
	return chosen, nil
}

func (a *app) takeDown(ctx context.Context, root string, labs []lab.Listing) error {
	cleared := []string{}
	var failed []error
	for _, l := range labs {
		a.say("take down lab %s (%s)", l.Name, l.Title())
		err := l.EndOwner(ctx)
		if err == nil {
			err = lab.Clear(ctx, root, l.Name)
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		cleared = append(cleared, l.Name)
	}
	if err := a.sweepCgroups(ctx); err != nil {
		failed = append(failed, err)
	}
	a.emit("cleared", cleared, func(w io.Writer) {
		switch {
		case len(cleared) > 0:
			fmt.Fprintln(w, "taken down:", strings.Join(cleared, ", "))
		case len(failed) == 0:
			fmt.Fprintln(w, "nothing to take down")
		}
	})
	return errors.Join(failed...)
}

// sweepCgroups removes the control groups that killed helpers left on this computer, which only root
// can have made there.
func (a *app) sweepCgroups(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return nil
	}
	guest, err := helper.Path()
	if err != nil {
		a.say("control groups are not looked for: %v", err)
		return nil
	}
	return lab.SweepCgroups(ctx, guest)
}
