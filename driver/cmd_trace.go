package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) traceCommand() *cobra.Command {
	var f ftraceFlags
	var byFtrace bool
	var window string
	cmd := &cobra.Command{
		Use:   "trace FILE",
		Short: "Record the path that a packet takes in the kernel",
		Long: `With --ftrace, on the wall clock, the kernel's own tracer records the order in which
functions are entered for one transaction of each cell, and with which reason packets
are dropped while the enforcement is proven. An order has no costs.`,
		Example: `  driver trace experiments/smoke.toml --ftrace --only 'arm=docker,workload=TCP_RR'
  driver trace experiments/smoke.toml --ftrace --drop`,
		Args: exactly(1, "one experiment file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !byFtrace {
				return fmt.Errorf("%w: `driver trace` needs --ftrace", errUsage)
			}
			var err error
			if f.transactions, err = ftraceTransactions(window); err != nil {
				return err
			}
			return a.traceFtrace(cmd.Context(), args[0], f)
		},
	}
	cmd.Flags().BoolVar(&byFtrace, "ftrace", false, "on the wall clock: record the order of calls by the kernel's function tracer")
	cmd.Flags().StringVarP(&f.out, "out", "o", "", "run directory to make (default runs/NAME-ftrace-TIME)")
	cmd.Flags().StringVar(&f.only, "only", "", "record only the cells that match, as in 'arm=docker|xdp,policies=100'")
	cmd.Flags().StringVar(&window, "window", "whole", "with --ftrace: how many transactions, or connections, the client makes; whole is 20")
	cmd.Flags().BoolVar(&f.drop, "drop", false, "record only what is dropped, and why")
	driftFlag(cmd, &f.drift)
	return cmd
}
