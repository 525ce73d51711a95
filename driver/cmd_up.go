package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/datapath"
	"hookbed/driver/helper"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// defaultLab is the name of an interactive lab that was given none.
const defaultLab = "up"

// labNamePattern: names of bridges, of at most 15 characters, have it as their end.
var labNamePattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,8}$`)

// runNamePattern is what labs of runs are called.
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
	if p.Spec.Lab.Provider != plan.ProviderLibvirt {
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

// refuseTaken says whose the lab of a name is that is there already.
func refuseTaken(root, name string) error {
	labs, err := lab.Labs(root)
	if err != nil {
		return err
	}
	for _, l := range labs {
		if l.Name == name {
			return fmt.Errorf("a lab %q is there already (%s): take it down with `driver down %s`, or give this one another name with --name", name, titleOf(listed(l, time.Now())), name)
		}
	}
	return nil
}

// emitUp says how the new lab is called and how its nodes are reached.
func (a *app) emitUp(labs []lab.State, name string) {
	several := len(reachable(labs)) > 1
	for _, l := range labs {
		if l.Name != name {
			continue
		}
		a.emit("lab", listed(l, time.Now()), func(w io.Writer) {
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

// reachable are the labs that `driver up` left running.
func reachable(labs []lab.State) []lab.State {
	return slices.DeleteFunc(slices.Clone(labs), func(l lab.State) bool { return !l.Detached || len(l.Nodes) == 0 })
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

// ssh runs OpenSSH's client, which knows terminals better than we do, in the
// network namespace from which the lab's nodes can be reached.
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
	addr, names := "", []string{}
	for _, n := range s.Nodes {
		names = append(names, n.Name)
		if n.Name == node {
			addr = n.Addr
		}
	}
	if addr == "" {
		return fmt.Errorf("%w: no node %q in this lab, want one of %s", errUsage, node, strings.Join(names, ", "))
	}
	var argv []string
	if s.NetNS != "" {
		argv = append(argv, "nsenter", "--net="+s.NetNS)
	}
	argv = append(argv, "ssh", "-i", s.Key, "-o", "UserKnownHostsFile="+s.Known, "-o", "StrictHostKeyChecking=yes",
		"-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR")
	if through := s.Proxy(node); through != "" {
		argv = append(argv, "-o", "ProxyCommand="+through)
	}
	argv = append(argv, "root@"+addr)
	for _, arg := range command {
		argv = append(argv, shellQuote(arg))
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

func shellQuote(arg string) string { return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'" }

// upLab brings up a lab for a plan.
func (a *app) upLab(ctx context.Context, p *plan.Plan, dir, name string, detached bool) (*lab.Lab, error) {
	store, err := a.openStore("")
	if err != nil {
		return nil, err
	}
	guest, err := helper.Path()
	if err != nil {
		return nil, err
	}
	return lab.Up(ctx, lab.Config{
		Name: name, Experiment: p.Spec.Name, Lab: p.LabOf(1), Nodes: p.Nodes(), Store: store, StateDir: dir,
		GuestPath: guest, Peers: needsPeers(p), Swarm: needsSwarm(p), Detached: detached, Log: a.logger(),
	})
}

// needsPeers says whether some arm is a filter that others wrote.
func needsPeers(p *plan.Plan) bool { return slices.ContainsFunc(p.Cells, datapath.NeedsPeers) }

// needsSwarm says whether some arm has Docker's overlay network.
func needsSwarm(p *plan.Plan) bool { return slices.ContainsFunc(p.Cells, datapath.NeedsSwarm) }
