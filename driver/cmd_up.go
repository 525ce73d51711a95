package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/lab"
)

// defaultLab is the name of an interactive lab without --name.
const defaultLab = "up"

// labNamePattern: a lab's name is the end of its bridges' names, which have at most 15 characters.
var labNamePattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,8}$`)

// runNamePattern matches the names of runs' labs.
var runNamePattern = regexp.MustCompile(`^r[0-9]+[a-z]?$`)

func (a *app) upCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "up FILE",
		Short: "Bring up the machines of an experiment and leave them running",
		Example: `  driver up experiments/smoke.toml
  driver ssh node1
  driver ssh node2 -- iptables-legacy -S
  driver down up
  driver up experiments/smoke.toml --name second`,
		Args: exactly(1, "one experiment file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.interruptHint = "the lab was taken down"
			return a.up(cmd.Context(), args[0], name)
		},
	}
	cmd.Flags().StringVar(&name, "name", defaultLab, "name of the lab, for driver ssh and driver down")
	return cmd
}

func (a *app) up(ctx context.Context, file, name string) error {
	if !labNamePattern.MatchString(name) || runNamePattern.MatchString(name) {
		return fmt.Errorf("%w: --name %q: want a letter and up to 8 more letters and digits, in lower case, and not r with a number, as labs of runs have it", errUsage, name)
	}
	p, err := loadPlan(file)
	if err != nil {
		return err
	}
	if !p.Spec.Lab.Capabilities().Outlives {
		return fmt.Errorf("%w: %s: an interactive lab needs provider \"libvirt\"; nodes of provider %q end with the driver", errUsage, file, p.Spec.Lab.Provider)
	}
	root, err := stateRoot()
	if err != nil {
		return err
	}
	if err := refuseTaken(root, name); err != nil {
		return err
	}
	l, err := a.upLab(ctx, p, filepath.Join(root, name), name, true)
	if err != nil {
		return err
	}
	labs, err := lab.Labs(root)
	if err != nil {
		return err
	}
	a.emitUp(labs, name)
	return l.Detach()
}

// refuseTaken refuses the name of a lab that exists, and says who owns it.
func refuseTaken(root, name string) error {
	labs, err := lab.Labs(root)
	if err != nil {
		return err
	}
	for _, l := range labs {
		if l.Name == name {
			return fmt.Errorf("a lab %q is there already (%s): take it down with `driver down %s`, or give this one another name with --name", name, l.Listing(time.Now()).Title(), name)
		}
	}
	return nil
}

// emitUp reports the new lab's name and how its nodes are reached.
func (a *app) emitUp(labs []lab.State, name string) {
	several := len(reachable(labs)) > 1
	for _, l := range labs {
		if l.Name != name {
			continue
		}
		a.emit("lab", l.Listing(time.Now()), func(w io.Writer) {
			fmt.Fprintf(w, "lab %s is up; take it down with `driver down %s`\n", name, name)
			for _, n := range l.Nodes {
				node := n.Name
				if several {
					node = name + "/" + n.Name
				}
				fmt.Fprintf(w, "%s  %s  driver ssh %s\n", n.Name, n.Addr, node)
			}
		})
	}
}
