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
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

const usageText = `usage:
  guest serve [--node-netns] [--die-with-parent] [--quiet]
        answers requests (JSON Lines) on standard input until it ends
  guest exec BUNDLE.json [--blobs DIR] [--endpoint-root DIR] [--node-netns] [--bind ENDPOINT=PID]...
        executes one bundle here, prints results as JSON, undoes everything;
        its files lie beside it or in DIR, under their names or SHA-256
  guest agent --dir DIR --run NAME [--data NIC --cidr ADDRESS/BITS] [--keep ADDRESS]... [--abandon-after TIME] [--lock-wait TIME] [--cache] [--br-netfilter]
        on a machine that is not the driver's: serves it in a namespace that borrows the NIC, and
        leaves the machine as it was when the driver ends, or sends nothing, an empty line included
  guest inspect [--data NIC] [--keep ADDRESS]...
        prints what this machine is and has, as JSON
  guest version
`

func main() {
	// The process's first thread is the one that others see as the process:
	// no step may run on it, in some other namespace.
	runtime.LockOSThread()
	// Writes to a driver that is gone must fail, not kill before the undo.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	if isSealed() {
		_ = runSealed(ctx, os.Stderr) // returns only if powering off failed
	}
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	os.Exit(exitCode(err))
}

// usageError is a wrong command line.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

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
		return runAgent(ctx, args[1:], in, out, errOut)
	case "inspect":
		return runInspect(args[1:], out)
	case "version":
		return printVersion(out)
	case "pidns":
		return reapOrphans(args[1:])
	default:
		return usage("unknown command %q\n%s", args[0], usageText)
	}
}

func runServe(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	flags := newFlags("serve")
	private := flags.Bool("node-netns", false, "be a node: network and mount namespaces of its own")
	die := flags.Bool("die-with-parent", false, "undo and exit when the parent ends")
	quiet := flags.Bool("quiet", false, "collect garbage only when a mark is set, never while a workload runs")
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usage("serve takes no arguments, got %q", flags.Args())
	}
	if *die {
		// In the kernel this is a property of the calling thread, which is locked.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
			return fmt.Errorf("ask for the parent's death signal: %w", err)
		}
	}
	if *private {
		if err := isolate(); err != nil {
			return err
		}
	}
	log := slog.New(slog.NewTextHandler(errOut, nil))
	return serve(ctx, in, out, log, serveOptions{private: *private, quiet: *quiet})
}

func runExec(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return usage("exec: no bundle\n%s", usageText)
	}
	o := bundleOptions{bundle: args[0]}
	flags := newFlags("exec")
	flags.StringVar(&o.blobs, "blobs", "", "directory with the bundle's files")
	flags.StringVar(&o.root, "endpoint-root", "", "root file system of bare-namespace endpoints")
	flags.BoolVar(&o.private, "node-netns", false, "run in network and mount namespaces of its own")
	flags.Func("bind", "ENDPOINT=PID of a container", func(s string) error {
		o.binds = append(o.binds, s)
		return nil
	})
	if err := parse(flags, args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return usage("exec wants one bundle, got %q too", flags.Args())
	}
	if o.blobs == "" {
		o.blobs = filepath.Dir(o.bundle)
	}
	if o.private {
		if err := isolate(); err != nil {
			return err
		}
	}
	return runBundle(ctx, out, o)
}

func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it all
	return flags
}

func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return usage("%s: %v\n%s", flags.Name(), err, usageText)
	}
	return nil
}

// printVersion tells the revision and the step language.
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
