package main

import (
	"flag"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/agent"
	"hookbed/driver/guest/step"
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
  guest sweep
        removes the control groups that killed helpers left on this machine, and prints them
  guest version
`

// usageError is a wrong command line.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

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

// servedOptions are the flags of `guest serve`.
type servedOptions struct {
	step.ServeOptions
	dieWithParent bool
}

func serveFlags(args []string) (servedOptions, error) {
	var o servedOptions
	flags := newFlags("serve")
	flags.BoolVar(&o.Private, "node-netns", false, "be a node: network and mount namespaces of its own")
	flags.BoolVar(&o.dieWithParent, "die-with-parent", false, "undo and exit when the parent ends")
	flags.BoolVar(&o.Quiet, "quiet", false, "collect garbage only when a mark is set, never while a workload runs")
	if err := parse(flags, args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, usage("serve takes no arguments, got %q", flags.Args())
	}
	return o, nil
}

func execFlags(args []string) (step.BundleOptions, error) {
	if len(args) == 0 {
		return step.BundleOptions{}, usage("exec: no bundle\n%s", usageText)
	}
	o := step.BundleOptions{File: args[0]}
	flags := newFlags("exec")
	flags.StringVar(&o.Blobs, "blobs", "", "directory with the bundle's files")
	flags.StringVar(&o.Root, "endpoint-root", "", "root file system of bare-namespace endpoints")
	flags.BoolVar(&o.Private, "node-netns", false, "run in network and mount namespaces of its own")
	flags.Func("bind", "ENDPOINT=PID of a container", func(s string) error {
		name, text, _ := strings.Cut(s, "=")
		pid, err := strconv.Atoi(text)
		if err != nil || pid <= 0 {
			return fmt.Errorf("--bind %q: want ENDPOINT=PID", s)
		}
		o.Binds = append(o.Binds, bundle.Bind{Endpoint: name, PID: pid})
		return nil
	})
	if err := parse(flags, args[1:]); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, usage("exec wants one bundle, got %q too", flags.Args())
	}
	if o.Blobs == "" {
		o.Blobs = filepath.Dir(o.File)
	}
	return o, nil
}

func agentFlags(args []string) (agent.Options, error) {
	var o agent.Options
	flags := newFlags("agent")
	flags.StringVar(&o.Dir, "dir", "", "directory of the driver's files")
	flags.StringVar(&o.Run, "run", "", "name of this run's own directory in it")
	flags.StringVar(&o.Token, "token", "", "token of the markers of both directories")
	flags.StringVar(&o.Data, "data", "", "NIC to borrow")
	flags.StringVar(&o.CIDR, "cidr", "", "its address meanwhile")
	flags.DurationVar(&o.Abandon, "abandon-after", 30*time.Second, "time without a line from the driver after which everything is undone")
	flags.DurationVar(&o.LockWait, "lock-wait", 0, "how long another run may take to end")
	flags.BoolVar(&o.Cache, "cache", false, "leave images for the next run")
	flags.BoolVar(&o.BrNetfilter, "br-netfilter", false, "load br_netfilter if it is not, and unload it then")
	flags.Func("keep", "an address of the SSH connection, which the NIC must not carry", func(s string) error {
		addr, err := netip.ParseAddr(s)
		o.Keep = append(o.Keep, addr)
		return err
	})
	if err := parse(flags, args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || !filepath.IsAbs(o.Dir) || !strings.HasPrefix(o.Run, agent.RunPrefix) || strings.Contains(o.Run, "/") || o.Token == "" || o.Abandon <= 0 {
		return o, usage("agent wants --dir, an absolute path, --run %sNAME and --token, got %q", agent.RunPrefix, args)
	}
	return o, nil
}

func inspectFlags(args []string) (nic string, keep []netip.Addr, err error) {
	flags := newFlags("inspect")
	flags.StringVar(&nic, "data", "", "NIC that is to be borrowed")
	flags.Func("keep", "an address of the SSH connection", func(s string) error {
		addr, err := netip.ParseAddr(s)
		keep = append(keep, addr)
		return err
	})
	err = parse(flags, args)
	return nic, keep, err
}
