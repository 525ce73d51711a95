package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/driver/lab"
)

func (a *app) sshCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "ssh [LAB/]NODE [-- COMMAND...]",
		Short: "Log in to a node of a lab that is up, or run a command there",
		Example: `  driver ssh node1
  driver ssh node1 -- docker ps
  driver ssh second/node1
  driver ssh --lab second node1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%w: `driver ssh` takes a node's name, such as node1", errUsage)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			node := args[0]
			if of, rest, ok := strings.Cut(node, "/"); ok {
				if name != "" && name != of {
					return fmt.Errorf("%w: --lab %s and %s name two labs", errUsage, name, args[0])
				}
				name, node = of, rest
			}
			return a.ssh(cmd.Context(), name, node, args[1:])
		},
	}
	cmd.Flags().StringVar(&name, "lab", "", "name of the lab, where several are up")
	return cmd
}

// ssh runs OpenSSH's client, which handles terminals better than the driver would.
func (a *app) ssh(ctx context.Context, name, node string, command []string) error {
	root, err := stateRoot()
	if err != nil {
		return err
	}
	labs, err := lab.Labs(root)
	if err != nil {
		return err
	}
	s, err := chooseLab(labs, name, node)
	if err != nil {
		return err
	}
	argv, ok := s.SSHCommand(node, command)
	if !ok {
		return fmt.Errorf("%w: no node %q in this lab, want one of %s", errUsage, node, strings.Join(s.NodeNames(), ", "))
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, a.out, a.talk
	var exit *exec.ExitError
	if err := c.Run(); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return &passedExit{exit.ExitCode()}
	} else if err != nil {
		return fmt.Errorf("run ssh: %w", err)
	}
	return nil
}

// passedExit is the exit status of a command run for the user on a node.
type passedExit struct{ code int }

func (p *passedExit) Error() string { return fmt.Sprintf("exit status %d", p.code) }

// reachable are the labs that `driver up` left running.
func reachable(labs []lab.State) []lab.State {
	return slices.DeleteFunc(slices.Clone(labs), func(l lab.State) bool { return !l.Reachable() })
}

// chooseLab finds the lab to log in to: the one that is named, or the only one.
func chooseLab(labs []lab.State, name, node string) (lab.State, error) {
	up := reachable(labs)
	var names []string
	for _, l := range up {
		if l.Name == name {
			return l, nil
		}
		names = append(names, l.Name)
	}
	switch {
	case len(up) == 0:
		return lab.State{}, fmt.Errorf("no lab is up; bring one up with `driver up FILE`")
	case name != "":
		return lab.State{}, fmt.Errorf("%w: no lab %q is up, want one of %s", errUsage, name, strings.Join(names, ", "))
	case len(up) > 1:
		return lab.State{}, fmt.Errorf("%w: %d labs are up, %s: say which, as in `driver ssh %s/%s`", errUsage, len(up), strings.Join(names, ", "), names[0], node)
	}
	return up[0], nil
}
