package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"hookbed/driver/campaign"
	"hookbed/driver/draft"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/images"
)

// initFlags are the answers that `driver init` needs, as flags and as questions have them.
type initFlags struct {
	arms, kernels, workloads, scenarios []string
	policies                            []int
	provider, clock, name, out          string
	budget                              time.Duration
	jobs                                int
}

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write an experiment file that fits a budget of time, from flags or from questions",
		Long: `Init writes a commented experiment file. Arms, kernels, numbers of policies, workloads and
scenarios are as given; how many boots and trials there are and how long they are follows
from the budget: it computes the plan of each size, takes the largest that fits, and says
so. If none fits, it writes nothing and says what would.

An arm is a filter (tc-hash), a filter on a fabric (bpf+tc-hash) or a datapath with a name
(cilium-like); options follow it (tc-hash:attach=tcx). On a terminal, without --arms, it
puts questions.`,
		Example: `  driver init
  driver init --arms iptables-legacy,tc-hash --policies 0,100,1000 --budget 10m
  driver init --arms nft-set,bpf+tc-hash:delivery=peer --kernel 6.12,7.3 --clock virtual --out mine.toml
  driver init --arms docker,iptables,cilium-like --provider local --clock wall --budget 5m --out -`,
		Args: exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			if len(f.arms) == 0 {
				if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err != nil {
					return fmt.Errorf("%w: `driver init` needs --arms where there is no terminal to put questions on; see `driver init --help`", errUsage)
				}
				a.interruptHint = "nothing was written"
				if err := a.questions(&f, os.Stdin); err != nil {
					return err
				}
			}
			return a.init(f)
		},
	}
	cmd.Flags().StringSliceVar(&f.arms, "arms", nil, "what is measured: filters, FABRIC+FILTER or datapaths, with options as in tc-hash:attach=tcx")
	cmd.Flags().StringSliceVar(&f.kernels, "kernel", nil, "kernel that VMs boot, or several that are compared (default "+images.DefaultKernel+")")
	cmd.Flags().IntSliceVar(&f.policies, "policies", []int{0, 100, 1000}, "numbers of policies")
	cmd.Flags().StringSliceVar(&f.workloads, "workloads", []string{"TCP_RR"}, "measured programs")
	cmd.Flags().StringSliceVar(&f.scenarios, "scenarios", []string{plan.Localhost}, "localhost, multi-host")
	cmd.Flags().StringVar(&f.provider, "provider", plan.ProviderLibvirt, "libvirt: VMs; local: this computer, in namespaces")
	cmd.Flags().StringVar(&f.clock, "clock", "", "virtual (default with VMs) or wall (default with local)")
	cmd.Flags().DurationVar(&f.budget, "budget", 10*time.Minute, "how long the whole run may take")
	cmd.Flags().IntVarP(&f.jobs, "jobs", "j", 0, "in virtual time, guests at once (default: what this computer has room for)")
	cmd.Flags().StringVar(&f.name, "name", "mine", "name of the experiment")
	cmd.Flags().StringVarP(&f.out, "out", "o", "", "file to make; - is standard output (default NAME.toml)")
	return cmd
}

// request is what the flags say, with defaults that depend on each other.
func (f initFlags) request() draft.Request {
	r := draft.Request{Name: f.name, Arms: f.arms, Provider: f.provider, Clock: f.clock, Kernels: f.kernels, Policies: f.policies,
		Workloads: f.workloads, Scenarios: f.scenarios, Budget: f.budget}
	vms := plan.Lab{Provider: r.Provider}.Capabilities().VMs
	if r.Clock == "" {
		r.Clock = plan.ClockWall
		if vms {
			r.Clock = plan.ClockVirtual
		}
	}
	if len(r.Kernels) == 0 && vms {
		r.Kernels = []string{images.DefaultKernel}
	}
	return r
}

// init writes the file.
func (a *app) init(f initFlags) error {
	if f.budget <= 0 {
		return fmt.Errorf("%w: --budget is %s, want a time above 0, as in 10m", errUsage, f.budget)
	}
	w := draft.Writer{Catalog: catalog(), Estimate: func(p *plan.Plan) time.Duration {
		return campaign.Estimate(p, cmp.Or(max(f.jobs, 0), lab.Jobs(p.Spec.Lab.Memory)))
	}}
	d, err := w.Write(f.request())
	switch {
	case errors.Is(err, draft.ErrBudget):
		return fmt.Errorf("%w: %w", errUsage, err)
	case err != nil:
		return err
	}
	out := cmp.Or(f.out, f.name+".toml")
	if out == standardInput {
		a.sayDraft(a.talk, d, "")
		_, err := a.out.Write(d.Text)
		return err
	}
	if err := writeNew(out, d.Text); err != nil {
		return err
	}
	a.emit("init", map[string]any{"path": out, "cells": len(d.Plan.Cells), "trials": len(d.Plan.Trials), "estimated_seconds": d.Estimate.Seconds(), "choices": d.Choices},
		func(w io.Writer) { a.sayDraft(w, d, out) })
	return nil
}

// sayDraft says what was written, and why so.
func (a *app) sayDraft(w io.Writer, d draft.Draft, file string) {
	for _, c := range d.Choices {
		fmt.Fprintln(w, c)
	}
	fmt.Fprintf(w, "%d cells, %d trials, about %s\n", len(d.Plan.Cells), len(d.Plan.Trials), d.Estimate.Round(time.Second))
	if file != "" {
		fmt.Fprintf(w, "%s is written; next: driver run %s --report\n", file, file)
	}
}

// writeNew makes a file that is not there yet.
func writeNew(file string, data []byte) error {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s is there already, and is left as it is; name another file with --out", errUsage, file)
	}
	if err != nil {
		return fmt.Errorf("write the experiment: %w", err)
	}
	if _, err := out.Write(data); err != nil {
		return errors.Join(fmt.Errorf("write the experiment: %w", err), out.Close())
	}
	return out.Close()
}

// question is one that `driver init` puts. An empty answer leaves the default.
type question struct {
	text     string
	fallback string
	help     string // what "?" prints
	set      func(answer string) error
}

// questions puts a question for each thing that no flag said, until its answer can be used.
func (a *app) questions(f *initFlags, in io.Reader) error {
	a.say("An empty answer takes what is in brackets; ? says what there is.")
	answers := bufio.NewScanner(in)
	for _, q := range a.initQuestions(f) {
		for {
			fmt.Fprintf(a.talk, "%s [%s]: ", q.text, q.fallback)
			if !answers.Scan() {
				a.say("")
				return fmt.Errorf("%w: the answers ended before the questions; nothing was written", errUsage)
			}
			answer := strings.TrimSpace(answers.Text())
			if answer == "?" {
				a.say("%s", q.help)
				continue
			}
			err := q.set(cmp.Or(answer, q.fallback))
			if err == nil {
				break
			}
			a.say("  %v", err)
		}
	}
	return nil
}

func (a *app) initQuestions(f *initFlags) []question {
	offer := catalog().Offer()
	var filters, workloads []string
	for _, x := range offer.Filters {
		filters = append(filters, fmt.Sprintf("  %-16s %s", x.Name, x.Doc))
	}
	for _, x := range offer.Presets {
		filters = append(filters, fmt.Sprintf("  %-16s %s", x.Name, x.Doc))
	}
	for _, x := range offer.Workloads {
		workloads = append(workloads, fmt.Sprintf("  %-16s %s", x.Name, x.Doc))
	}
	list := func(into *[]string, allowed []string) func(string) error {
		return func(answer string) error {
			words := strings.FieldsFunc(answer, func(r rune) bool { return r == ',' || r == ' ' })
			for _, w := range words {
				if allowed != nil && !slices.Contains(allowed, w) {
					return fmt.Errorf("there is no %q%s", w, plan.DidYouMean(w, allowed))
				}
			}
			*into = words
			return nil
		}
	}
	one := func(into *string, allowed ...string) func(string) error {
		return func(answer string) error {
			if !slices.Contains(allowed, answer) {
				return fmt.Errorf("%q is none of %s%s", answer, strings.Join(allowed, ", "), plan.DidYouMean(answer, allowed))
			}
			*into = answer
			return nil
		}
	}
	names := make([]string, 0, len(offer.Workloads))
	for _, x := range offer.Workloads {
		names = append(names, x.Name)
	}
	kernels := slices.Concat(images.Kernels(), images.Versions())
	return []question{
		{"what to measure, with commas between", "iptables-legacy,tc-hash", strings.Join(filters, "\n") + "\n  FABRIC+FILTER, and options behind an arm: tc-hash:attach=tcx", func(answer string) error {
			var arms []string
			if err := list(&arms, nil)(answer); err != nil {
				return err
			}
			if err := draft.CheckArms(catalog(), arms); err != nil {
				return err
			}
			f.arms = arms
			return nil
		}},
		{"numbers of policies", "0,100,1000", "  0 is no policy at all, which each arm is compared with", func(answer string) error {
			var words []string
			_ = list(&words, nil)(answer) // any word is allowed
			f.policies = nil
			for _, w := range words {
				n, err := strconv.Atoi(w)
				if err != nil || n < 0 {
					return fmt.Errorf("%q is no number of policies", w)
				}
				f.policies = append(f.policies, n)
			}
			return nil
		}},
		{"workloads", strings.Join(f.workloads, ","), strings.Join(workloads, "\n"), list(&f.workloads, names)},
		{"scenarios", strings.Join(f.scenarios, ","), "  localhost: both endpoints on one node; multi-host: on two", list(&f.scenarios, []string{plan.Localhost, plan.MultiHost})},
		{"clock", plan.ClockVirtual, "  virtual: executed instructions, exact; wall: time as it passes", one(&f.clock, plan.ClockVirtual, plan.ClockWall)},
		{"kernels", images.DefaultKernel, "  " + strings.Join(images.Kernels(), ", ") + ", or a version that `driver images kernels` lists", list(&f.kernels, kernels)},
		{"how long it may take", short(f.budget), "  a time, as in 10m or 2h", func(answer string) error {
			d, err := time.ParseDuration(answer)
			if err != nil || d <= 0 {
				return fmt.Errorf("%q is no time, want one as in 10m", answer)
			}
			f.budget = d
			return nil
		}},
		{"name", f.name, "  names the file and the run directory: a-z, 0-9 and -", func(answer string) error {
			f.name = answer
			return nil
		}},
	}
}

// short is a duration without units that are zero: "10m".
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	return strings.TrimSuffix(text, "0m")
}
