package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hookbed/driver/doctor"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/images"
)

func (a *app) doctorCommand() *cobra.Command {
	var quick bool
	cmd := &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Check what experiments need, and print the fix for each failure",
		Long: `Doctor checks this computer: tools and their versions, privileges, disk, memory, images,
whether KVM really works, and that virtual time is exact. With an experiment whose
provider is "ssh" it checks the machines of the inventory instead: login, host key, root,
kernel, tools, data NIC, and whether they reach each other over it. With an experiment
whose nodes run on hypervisors it checks those: login, host key, libvirt, accelerator,
directory, data bridge.

It names each check on standard error when it begins. --quick looks at this computer in
seconds: it boots no guest, builds nothing, and does not prove virtual time. KVM is not
needed: where it does not work, that is a warning with its reason.`,
		Example: `  driver doctor
  driver doctor --quick
  driver doctor experiments/vagrant.toml
  driver doctor --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly(1, "at most one experiment file")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a.interruptHint = "nothing is left running"
			// Only root builds images; another user must not wait for packages.
			a.cachedOnly = quick || os.Geteuid() != 0
			parts, err := a.partsOf(args, quick)
			if err != nil {
				return err
			}
			return a.doctor(cmd.Context(), parts)
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "only what takes seconds: boot no guest, build nothing")
	return cmd
}

// partsOf are the checks of this computer, or of the computers that an experiment names.
func (a *app) partsOf(files []string, quick bool) ([]doctor.Part, error) {
	d := doctor.Driver{
		Catalog: catalog(), Say: a.say,
		OpenStore: func() (*images.Store, error) { return a.openStore("") },
		LabConfig: func(ctx context.Context, p *plan.Plan) (lab.Config, error) { return a.labConfig(ctx, p, "") },
	}
	switch {
	case quick && len(files) > 0:
		return nil, fmt.Errorf("%w: --quick is about this computer; leave out %s", errUsage, files[0])
	case quick:
		return d.Quick(), nil
	case len(files) == 0:
		return d.Computer(a.cachedOnly), nil
	}
	file := files[0]
	p, err := loadPlan(file)
	if err != nil {
		return nil, err
	}
	if len(p.Spec.Lab.Hypervisors) > 0 {
		return doctor.Hypervisors(p.Spec), nil
	}
	if !p.Spec.Lab.Capabilities().Existing {
		return nil, fmt.Errorf("%w: %s: its provider is %q, and only %q, or [[lab.hypervisor]], has computers to look at; `driver doctor` without a file looks at this one",
			errUsage, file, p.Spec.Lab.Provider, plan.ProviderSSH)
	}
	return d.Machines(p), nil
}

func (a *app) doctor(ctx context.Context, parts []doctor.Part) error {
	failed := 0
	for _, p := range parts {
		found := a.withProgress(p.Title, func() []doctor.Check { return p.Check(ctx) })
		if ctx.Err() != nil {
			return ctx.Err() // the interrupt made it fail
		}
		for _, c := range found {
			if !c.OK {
				failed++
			}
			a.emit("check", c, func(w io.Writer) { printCheck(w, c) })
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	return nil
}

// stillEvery is how often doctor says that it is still at the same thing.
const stillEvery = 15 * time.Second

// withProgress says what is checked, and again while that goes on.
func (a *app) withProgress(what string, do func() []doctor.Check) []doctor.Check {
	start := time.Now()
	a.say("doctor: %s", what)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(stillEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				a.say("doctor: %s: %.0f s so far", what, time.Since(start).Seconds())
			}
		}
	}()
	defer func() { close(done); <-ended }()
	return do()
}

func printCheck(w io.Writer, c doctor.Check) {
	mark := "ok  "
	switch {
	case !c.OK:
		mark = "FAIL"
	case c.Warning != "":
		mark = "warn"
	}
	fmt.Fprintf(w, "%s  %-18s %s\n", mark, c.Name, c.Detail)
	if c.Warning != "" {
		fmt.Fprintf(w, "      %s\n", c.Warning)
	}
	if !c.OK {
		fmt.Fprintf(w, "      fix: %s\n", c.Fix)
	}
}
