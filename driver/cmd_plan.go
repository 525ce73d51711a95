package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/bundle"
	"hookbed/driver/campaign"
	"hookbed/driver/datapath"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// Overheads beside the measured time that estimates assume, from runs under
// emulation; the progress bar corrects them as it goes.
const (
	setupOverhead      = 5 * time.Second
	trialOverhead      = 3 * time.Second
	localSetupOverhead = 300 * time.Millisecond
	localTrialOverhead = 600 * time.Millisecond
)

// Costs of virtual time. A guest executes sealedPace seconds of its own time in
// a second of ours; its overheads are in its own time, the boot in ours.
const (
	sealedPace          = 1.5 // wall seconds for a virtual second
	sealedBoot          = 15 * time.Second
	sealedSetupOverhead = time.Second
	sealedTrialOverhead = time.Second
)

// estimate is how long an experiment takes with a number of guests at once,
// which only matters in virtual time. With a stopping rule it is the most.
func estimate(p *plan.Plan, jobs int) time.Duration {
	switch {
	case p.Spec.Lab.Clock == plan.ClockVirtual:
		virtual := p.Estimate(sealedSetupOverhead, sealedTrialOverhead)
		block := sealedBoot + time.Duration(sealedPace*float64(virtual)/float64(len(p.Blocks)))
		return time.Duration((len(p.Blocks)+jobs-1)/jobs) * block
	case p.Spec.Lab.Provider == plan.ProviderLocal:
		return p.Estimate(localSetupOverhead, localTrialOverhead)
	}
	return p.Estimate(setupOverhead, trialOverhead)
}

// loadPlan loads and expands an experiment; every error in it is found here,
// before any machine starts.
func loadPlan(file string) (*plan.Plan, error) {
	spec, err := plan.Load(file, catalog())
	if err != nil {
		return nil, err
	}
	return plan.Expand(spec, catalog())
}

func (a *app) planCommand() *cobra.Command {
	var render string
	var jobs int
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show every cell, the number of trials and the estimated time; touches no host",
		Example: `  driver plan experiments/full.toml
  driver plan experiments/smoke.toml --render /tmp/bundles
  driver plan experiments/nightly.toml --jobs 8
  driver plan experiments/full.toml --json | jq .plan.cells[0]`,
		Args: exactly(1, "one experiment file"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := loadPlan(args[0])
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
				if err := renderBundles(p, render); err != nil {
					return err
				}
				a.say("bundles written to %s", render)
			}
			est := estimate(p, jobs)
			summary := map[string]any{"plan": p, "cells": len(p.Cells), "trials": len(p.Trials), "estimated_seconds": est.Seconds()}
			a.emit("plan", summary, func(w io.Writer) {
				plan.Describe(w, p)
				fmt.Fprintf(w, "estimated time  %s (%.1f hours%s)\n", est.Round(time.Second), est.Hours(), estimateNote(p, jobs))
			})
			return nil
		},
	}
	cmd.Flags().StringVar(&render, "render", "", "write the bundle of every cell - rule sets, maps, objects, steps - into this directory")
	cmd.Flags().IntVarP(&jobs, "jobs", "j", 0, "in virtual time, estimate for so many guests at once (default: what this computer has room for)")
	return cmd
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

// renderBundles writes each cell's bundle as a node would get it: bundle.json
// and its files under their names.
func renderBundles(p *plan.Plan, dir string) error {
	for _, c := range p.Cells {
		setup, err := datapath.Render(c)
		if err != nil {
			return err
		}
		b, err := campaign.Bundle(c, setup)
		if err != nil {
			return err
		}
		if err := writeBundle(filepath.Join(dir, bundleDir(c)), b); err != nil {
			return fmt.Errorf("write bundle of %s: %w", c.Title(), err)
		}
	}
	return nil
}

func bundleDir(c plan.Cell) string {
	return fmt.Sprintf("%s-%s-n%s-%s-%s", c.Get(plan.FactorScenario), c.Get(plan.FactorArm),
		c.Get(plan.FactorPolicies), c.Get(plan.FactorWorkload), c.ID)
}

func writeBundle(dir string, b *bundle.Bundle) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bundle.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	for _, name := range b.FileNames() {
		if err := os.WriteFile(filepath.Join(dir, name), b.Files[name].Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
