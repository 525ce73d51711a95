// Command driver runs hookbed experiments: it brings up machines, applies
// container network policy datapaths, proves that they enforce, measures them,
// and reports.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hookbed/driver/campaign"
	"hookbed/driver/plan"
	"hookbed/driver/policy"
)

// revision is the git revision the driver was built from, set by the Makefile.
var revision = "unknown"

// Exit codes. They are promised in the README.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2 // usage, or an invalid experiment
	exitFailedCells = 3 // finished, but some cells, or all, have no valid number
	exitRig         = 4 // the testbed itself failed, and stopped the run or every trial
	exitNotSame     = 5 // compared or verified, and not reproduced
	exitInterrupted = 130
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		awaitSecond(signals, cancel, sameEvent)
		endChildren(os.Stderr)
		os.Exit(exitInterrupted)
	}()
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Stdout, os.Stderr)))
}

// errUsage marks a wrong command line, errFailedCells a run with failed cells,
// errNotReproduced a comparison or verification that does not hold.
var (
	errUsage         = errors.New("usage")
	errFailedCells   = errors.New("finished with failed cells")
	errNotReproduced = errors.New("not reproduced")
)

func exitCode(err error) int {
	var passed *passedExit
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &passed):
		return passed.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, errUsage), errors.Is(err, plan.ErrInvalid), errors.Is(err, policy.ErrInvalid), errors.Is(err, errLeft):
		return exitUsage
	case errors.Is(err, errFailedCells), errors.Is(err, errNothingMeasured):
		return exitFailedCells
	case errors.Is(err, campaign.ErrRig):
		return exitRig
	case errors.Is(err, errNotReproduced):
		return exitNotSame
	}
	return exitError
}

// run executes the command line and prints the final error.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	app := &app{out: stdout, talk: stderr, name: nameOf(os.Args[0])}
	root := app.command()
	app.rename(root)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return nil
	}
	app.json = app.json || asksForJSON(args) // also where a wrong flag ended the parsing before it
	var passed *passedExit
	if errors.As(err, &passed) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		app.fail(err, "interrupted: "+whenInterrupted(err, app.interruptHint))
		return err
	}
	app.fail(err, err.Error())
	return err
}

// app holds the global flags and where output goes.
type app struct {
	out, talk     io.Writer
	json, verbose bool
	noColor       bool
	cachedOnly    bool   // nothing is downloaded or built
	store         string // directory of the images; "" is that of the environment, or the user's cache
	interruptHint string
	name          string          // of the command (name.go)
	words         map[string]bool // its commands
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "driver",
		Short: "Measure where in the Linux kernel container network policy should be enforced",
		Long: `hookbed's driver brings up machines, applies network policy datapaths
(iptables, tc eBPF, XDP) between real containers, proves before every trial that
they enforce, measures them, and writes a report.

Exit codes: 0 ok, 1 error, 2 usage or invalid experiment, 3 finished with failed
cells or without any number, 4 rig fault, 5 compared or verified and not reproduced, 130 interrupted.`,
		Example: `  driver doctor
  driver plan experiments/full.toml
  driver run experiments/smoke.toml --out runs/smoke
  driver report runs/smoke`,
		SilenceUsage: true, SilenceErrors: true, Version: revision,
		Args: knownCommand, RunE: showHelp,
		PersistentPreRun: func(*cobra.Command, []string) { a.noColor = a.noColor || os.Getenv("NO_COLOR") != "" },
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON Lines on standard output, the final error included")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "say more on standard error")
	root.PersistentFlags().BoolVar(&a.noColor, "no-color", false, "no colours and no moving progress bar")
	root.PersistentFlags().StringVar(&a.store, "store", "", "directory of the images, which may belong to another user (default: $"+storeEnv+", or hookbed in the user's cache)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w%s; see `%s --help`", errUsage, err, nearFlag(cmd, err), cmd.CommandPath())
	})
	root.AddCommand(a.doctorCommand(), a.planCommand(), a.runCommand(), a.reportCommand(), a.compareCommand(), a.verifyCommand(),
		a.costCommand(), a.traceCommand(), a.mergeCommand(), a.submitCommand(), a.packCommand(), a.upCommand(), a.sshCommand(), a.downCommand(), a.imagesCommand(),
		a.importCommand(), a.explainPolicyCommand(), a.armsCommand(), a.versionCommand(), a.historyCommand(),
		a.openCommand(), a.schemaCommand(), a.initCommand(), a.manCommand())
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil { // cobra's own exits with 0 for a topic that does not exist
		help.Args = func(_ *cobra.Command, args []string) error { return topic(root, args) }
	}
	a.complete(root)
	return root
}

// knownCommand refuses an argument that is not a command of the group.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for `%s`", args[0], cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2 // cobra's own default
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("%w: %s; see `%s --help`", errUsage, text, cmd.CommandPath())
}

// nearFlag suggests the flag that an unknown one may have been meant to be.
func nearFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return ""
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, "--"+f.Name)
		}
	})
	return plan.DidYouMean("--"+unknown.GetSpecifiedName(), known)
}

// asksForJSON says whether the command line has the flag --json.
func asksForJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.Contains(args, "--json")
}

// topic refuses help on a command that does not exist.
func topic(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == root || cmd.HasSubCommands() {
		return knownCommand(cmd, rest)
	}
	return nil
}

// showHelp is what a group of commands does without a command.
func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// exactly turns cobra's argument errors into usage errors.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%w: `%s` takes %s, got %d arguments; see `%s --help`", errUsage, cmd.CommandPath(), what, len(args), cmd.CommandPath())
		}
		return nil
	}
}

func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.talk, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
		if at.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return at
	}}))
}
