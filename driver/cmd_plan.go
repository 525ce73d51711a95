package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/campaign"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

func (a *app) planCommand() *cobra.Command {
	var render string
	var set []string
	var jobs int
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show every cell, the number of trials and the estimated time; change nothing",
		Example: `  driver plan experiments/full.toml
  driver plan experiments/smoke.toml --render /tmp/bundles
  driver plan experiments/nightly.toml --jobs 8
  driver plan experiments/smoke.toml --set measure.trials=3 --set matrix.policies=0,100
  driver plan - < experiments/smoke.toml
  driver plan experiments/full.toml --json | jq '.plan.plan.cells[0]'`,
		Args: exactly(1, "one experiment file"),
		RunE: func(_ *cobra.Command, args []string) error {
			chosen, err := settings(set)
			if err != nil {
				return err
			}
			p, err := loadPlan(args[0], chosen...)
			if err != nil {
				return err
			}
			switch {
			case jobs < 0:
				return fmt.Errorf("%w: --jobs is %d, want 1 or more", errUsage, jobs)
			case jobs == 0:
				jobs = lab.Jobs(p.Spec.Lab.Memory)
			}
			if render != "" {
				if err := campaign.WriteBundles(p, render); err != nil {
					return err
				}
				a.say("bundles written to %s", render)
			}
			a.showPlan(p, jobs)
			return nil
		},
	}
	cmd.Flags().StringVar(&render, "render", "", "write the bundle of every cell - rule sets, maps, objects, steps - into this directory")
	setFlag(cmd, &set)
	cmd.Flags().IntVarP(&jobs, "jobs", "j", 0, "in virtual time, estimate for this many guests at once (default: what this computer has room for)")
	return cmd
}

// showPlan prints a plan, and how long it takes with so many guests at once.
func (a *app) showPlan(p *plan.Plan, jobs int) {
	est := campaign.Estimate(p, jobs)
	summary := map[string]any{"plan": p, "cells": len(p.Cells), "trials": len(p.Trials), "estimated_seconds": est.Seconds()}
	a.emit("plan", summary, func(w io.Writer) {
		plan.Describe(w, p)
		fmt.Fprintf(w, "estimated time  %s (%.1f hours%s)\n", est.Round(time.Second), est.Hours(), estimateNote(p, jobs))
	})
}

// estimateNote says what the estimate depends on.
func estimateNote(p *plan.Plan, jobs int) string {
	switch {
	case p.Spec.Lab.Clock == plan.ClockVirtual:
		return fmt.Sprintf(", %d guests at once", min(jobs, len(p.Blocks)))
	case p.Spec.Measure.Stop != nil:
		return " at most: the rule may end cells early"
	}
	return ""
}
