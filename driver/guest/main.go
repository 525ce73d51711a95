// Command guest is the small static helper that executes bundles on a node,
// and undoes them. The driver talks to it by JSON Lines (bundle.Request and
// bundle.Reply) on its standard input and output.
//
// When its input ends, or on SIGTERM, SIGINT or SIGHUP, it undoes everything
// in reverse and exits with status 0. Other statuses: 1 error, 2 usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/agent"
	"hookbed/driver/guest/cgroup"
	"hookbed/driver/guest/netns"
	"hookbed/driver/guest/proc"
	"hookbed/driver/guest/sealed"
	"hookbed/driver/guest/step"
)

func main() {
	// The process's first thread is the one that others see as the process:
	// no step may run on it, in some other namespace.
	runtime.LockOSThread()
	// Writes to a driver that is gone must fail, not kill before the undo.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	if sealed.IsFirstProcess() {
		_ = sealed.Run(ctx, os.Stderr) // returns only if powering off failed
	}
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var ue *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ue):
		return 2
	default:
		return 1
	}
}

// run executes one command.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	if len(args) == 0 {
		return usage("no command\n%s", usageText)
	}
	switch args[0] {
	case "serve":
		return runServe(ctx, args[1:], in, out, errOut)
	case "exec":
		return runExec(ctx, args[1:], out)
	case "agent":
		o, err := agentFlags(args[1:])
		if err != nil {
			return err
		}
		return agent.Run(ctx, args, o, in, out, errOut)
	case "inspect":
		return inspect(ctx, args[1:], out)
	case "sweep":
		return sweep(args[1:], out)
	case "version":
		return printVersion(out)
	case proc.FirstProcessCommand:
		return runFirstProcess(args[1:])
	case step.RequestsCommand: // started by the helper itself
		return step.MakeRequests(ctx, in, out)
	default:
		return usage("unknown command %q\n%s", args[0], usageText)
	}
}

// runFirstProcess is what the helper starts as the first process of a PID namespace.
func runFirstProcess(args []string) error {
	if os.Getpid() != 1 || len(args) > 2 {
		return usage("%s is started by the helper itself", proc.FirstProcessCommand)
	}
	return proc.FirstProcess(args...)
}

// runServe is `guest serve`.
func runServe(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	o, err := serveFlags(args)
	if err != nil {
		return err
	}
	if o.dieWithParent {
		// In the kernel this is a property of the calling thread, which is locked.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
			return fmt.Errorf("request the parent's death signal: %w", err)
		}
	}
	if o.Private {
		if err := netns.Isolate(); err != nil {
			return err
		}
	}
	return step.Serve(ctx, in, out, slog.New(slog.NewTextHandler(errOut, nil)), o.ServeOptions)
}

// runExec is `guest exec`.
func runExec(ctx context.Context, args []string, out io.Writer) error {
	o, err := execFlags(args)
	if err != nil {
		return err
	}
	if o.Private {
		if err := netns.Isolate(); err != nil {
			return err
		}
	}
	return step.RunBundle(ctx, out, o)
}

// inspect is `guest inspect`.
func inspect(ctx context.Context, args []string, out io.Writer) error {
	nic, keep, err := inspectFlags(args)
	if err != nil {
		return err
	}
	facts, err := step.MachineFacts(ctx)
	if err != nil {
		return err
	}
	return agent.Inspect(facts, nic, keep, out)
}

// sweep is `guest sweep`.
func sweep(args []string, out io.Writer) error {
	if len(args) > 0 {
		return usage("sweep takes no arguments, got %q", args)
	}
	removed, err := cgroup.Sweep()
	for _, dir := range removed {
		fmt.Fprintln(out, dir)
	}
	return err
}

// printVersion prints the revision and the step language.
func printVersion(out io.Writer) error {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	_, err := fmt.Fprintf(out, "guest %s schema %d %s/%s\n", revision, bundle.Schema, runtime.GOOS, runtime.GOARCH)
	return err
}
