package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// upName is the interactive lab; there is one at a time.
const upName = "up"

func (a *app) upCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "up FILE",
		Short: "Bring up the machines of an experiment and leave them running",
		Example: `  driver up experiments/smoke.toml
  driver ssh node1
  driver ssh node2 -- iptables-legacy -S
  driver down`,
		Args: exactly(1, "one experiment file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.interruptHint = "the lab was taken down"
			return a.up(cmd.Context(), args[0])
		},
	}
}

func (a *app) up(ctx context.Context, file string) error {
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
	dir := filepath.Join(root, upName)
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("a lab is already up; take it down with `driver down` first")
	}
	l, err := a.upLab(ctx, p, dir, upName, true)
	if err != nil {
		return err
	}
	s, err := labState(root)
	if err != nil {
		return err
	}
	a.emit("lab", s, func(w io.Writer) {
		for _, n := range s.Nodes {
			fmt.Fprintf(w, "%s  %s  driver ssh %s\n", n.Name, n.Addr, n.Name)
		}
	})
	return l.Detach()
}

func labState(root string) (lab.State, error) {
	labs, err := lab.Labs(root)
	if err != nil {
		return lab.State{}, err
	}
	for _, l := range labs {
		if l.Name == upName && len(l.Nodes) > 0 {
			return l, nil
		}
	}
	return lab.State{}, fmt.Errorf("no lab is up; bring one up with `driver up FILE`")
}

func (a *app) sshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh NODE [-- COMMAND...]",
		Short: "Log in to a node of the lab that is up, or run a command there",
		Example: `  driver ssh node1
  driver ssh node1 -- docker ps`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%w: `driver ssh` takes a node's name, such as node1", errUsage)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.ssh(cmd.Context(), args[0], args[1:]) },
	}
	return cmd
}

// ssh runs OpenSSH's client, which knows terminals better than we do, in the
// network namespace from which the lab's nodes can be reached.
func (a *app) ssh(ctx context.Context, node string, command []string) error {
	root, err := stateRoot()
	if err != nil {
		return err
	}
	s, err := labState(root)
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

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "Take down the lab that is up, and clear what killed runs left",
		Example: `  driver down`,
		Args:    exactly(0, "no argument"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.down(cmd.Context()) },
	}
}

func (a *app) down(ctx context.Context) error {
	root, err := stateRoot()
	if err != nil {
		return err
	}
	labs, err := lab.Labs(root)
	if err != nil {
		return err
	}
	cleared := []string{}
	var failed []error
	for _, l := range labs {
		if l.InUse() {
			a.say("lab %s belongs to a running driver (PID %d), left alone", l.Name, l.Driver.PID)
			continue
		}
		if err := lab.Clear(ctx, root, l.Name); err != nil {
			failed = append(failed, err)
			continue
		}
		cleared = append(cleared, l.Name)
	}
	a.emit("cleared", cleared, func(w io.Writer) {
		if len(cleared) == 0 {
			if len(failed) == 0 {
				fmt.Fprintln(w, "nothing to take down")
			}
			return
		}
		fmt.Fprintln(w, "taken down:", strings.Join(cleared, ", "))
	})
	return errors.Join(failed...)
}

// upLab brings up a lab for a plan.
func (a *app) upLab(ctx context.Context, p *plan.Plan, dir, name string, detached bool) (*lab.Lab, error) {
	store, err := a.openStore("")
	if err != nil {
		return nil, err
	}
	guest, err := guestHelper()
	if err != nil {
		return nil, err
	}
	return lab.Up(ctx, lab.Config{
		Name: name, Lab: p.LabOf(1), Nodes: nodesOf(p), Store: store, StateDir: dir,
		GuestPath: guest, Peers: needsPeers(p), Swarm: needsSwarm(p), Detached: detached, Log: a.logger(),
	})
}

// nodesOf is how many nodes the plan's scenarios need.
func nodesOf(p *plan.Plan) int {
	for _, s := range p.Spec.Scenarios {
		if s == plan.MultiHost {
			return 2
		}
	}
	return 1
}

// needsPeers says whether some arm is a filter that others wrote.
func needsPeers(p *plan.Plan) bool { return slices.ContainsFunc(p.Cells, datapath.NeedsPeers) }

// needsSwarm says whether some arm has Docker's overlay network.
func needsSwarm(p *plan.Plan) bool { return slices.ContainsFunc(p.Cells, datapath.NeedsSwarm) }

// guestHelper finds the static helper beside the driver.
func guestHelper() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the driver's own path: %w", err)
	}
	path := filepath.Join(filepath.Dir(exe), "guest")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the guest helper is missing beside the driver (%s): build both with `make build`", path)
	}
	return path, nil
}
