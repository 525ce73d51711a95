package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/lab"
)

func (a *app) downCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down [NAME...]",
		Short: "Take down labs by name: those that are up, and what killed runs left",
		Long: `Down takes down the labs that it is given, and says whose they are. A
lab whose driver runs is taken down by ending that driver. Without a name it
lists the labs and changes nothing. --all takes down every lab that "driver up"
left running and everything that killed runs left, and never one whose driver
runs or whose state cannot be read.`,
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

// Kinds of labs, as they are listed.
const (
	labRuns = "running" // its driver lives
	labUp   = "up"      // meant to outlive its driver, which has ended
	labLeft = "left"    // its driver died
	labTorn = "torn"    // its state cannot be read
)

// listedLab is a lab as `driver down` lists it.
type listedLab struct {
	lab.State
	Kind       string  `json:"kind"`
	OwnerLives bool    `json:"owner_lives"` // true too where it cannot be seen from here
	AgeSeconds float64 `json:"age_seconds"`
}

func listed(l lab.State, now time.Time) listedLab {
	out := listedLab{State: l, OwnerLives: l.InUse(), AgeSeconds: now.Sub(l.Since).Seconds()}
	switch {
	case l.Torn:
		out.Kind = labTorn
	case l.InUse():
		out.Kind = labRuns
	case l.Detached:
		out.Kind = labUp
	default:
		out.Kind = labLeft
	}
	return out
}

// owner says whose a lab is.
func (l listedLab) owner() string {
	state := "ended"
	switch {
	case l.Driver.PID == 0:
		return "unknown"
	case l.Driver.Elsewhere():
		state = "of another PID namespace, perhaps alive"
	case l.OwnerLives:
		state = "alive"
	}
	owner := fmt.Sprintf("PID %d, %s", l.Driver.PID, state)
	if l.User != "" {
		owner = l.User + ", " + owner
	}
	return owner
}

func (l listedLab) age() string {
	return time.Duration(l.AgeSeconds * float64(time.Second)).Round(time.Second).String()
}

// titleOf says in a line what a lab is.
func titleOf(l listedLab) string {
	what := l.Kind
	if l.Experiment != "" {
		what += ", experiment " + l.Experiment
	}
	return fmt.Sprintf("%s, owner %s, age %s", what, l.owner(), l.age())
}

// machinesOf names a lab's machines.
func machinesOf(l lab.State) string {
	var out []string
	for _, n := range l.Nodes {
		out = append(out, strings.TrimSpace(n.Name+" "+n.Addr))
	}
	for _, h := range l.Hypervisors {
		out = append(out, "on "+h.Title())
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}

func printLabs(w io.Writer, labs []listedLab) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tKIND\tEXPERIMENT\tOWNER\tAGE\tMACHINES")
	for _, l := range labs {
		experiment := l.Experiment
		if experiment == "" {
			experiment = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Kind, experiment, l.owner(), l.age(), machinesOf(l.State))
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
	var labs []listedLab
	for _, l := range states {
		labs = append(labs, listed(l, time.Now()))
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

// sayStrays names what is among the labs and is none.
func (a *app) sayStrays(root string) {
	strays, err := lab.Strays(root)
	if err != nil {
		return // who reads the labs says so
	}
	for _, s := range strays {
		a.say("%s is no lab's directory and is left alone; remove it if nobody needs it", s)
	}
}

// listLabs shows the labs, and how to take one down.
func (a *app) listLabs(labs []listedLab) error {
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
func (a *app) chosenLabs(labs []listedLab, names []string, all bool) ([]listedLab, error) {
	var chosen []listedLab
	var known []string
	for _, l := range labs {
		known = append(known, l.Name)
		switch {
		case slices.Contains(names, l.Name):
			chosen = append(chosen, l)
		case all && (l.OwnerLives || l.Torn):
			a.say("lab %s is left alone (%s); `driver down %s` takes it down", l.Name, titleOf(l), l.Name)
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

func (a *app) takeDown(ctx context.Context, root string, labs []listedLab) error {
	cleared := []string{}
	var failed []error
	for _, l := range labs {
		a.say("take down lab %s (%s)", l.Name, titleOf(l))
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
