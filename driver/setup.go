package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"hookbed/analysis/runs"
	"hookbed/driver/datapath"
	"hookbed/driver/helper"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/workload"
	"hookbed/images"
	"hookbed/images/container"
)

// What several commands set up before they do their work: the plan, the image store, and the
// configuration of a lab.

// catalog is everything an experiment may choose from.
func catalog() plan.Catalog {
	here, sealed := lab.Here(), lab.Sealed()
	return plan.Catalog{
		Datapaths: datapath.Catalog(), Workloads: workload.Catalog(), Kernels: images.Kernels(), Versions: images.Versions(), NICs: images.NICs(),
		Here: &here, Sealed: &sealed, Reserved: []int{datapath.ControlPort, datapath.ForbiddenPort}, Image: findImage,
	}
}

// standardInput is the name of an experiment that is read from standard input.
const standardInput = "-"

// loadPlan loads and expands an experiment, with settings in place of what the file says, or reads a
// plan.json. Every error
// in the file is found here, before any machine starts. Files that an experiment from standard input
// names are below the directory where the driver runs.
func loadPlan(file string, set ...plan.Setting) (*plan.Plan, error) {
	if filepath.Ext(file) == ".json" {
		return decodePlan(file, set)
	}
	if file != standardInput {
		spec, err := plan.Load(file, catalog(), set...)
		if err != nil {
			return nil, err
		}
		return plan.Expand(spec, catalog())
	}
	data, err := io.ReadAll(io.LimitReader(os.Stdin, mostInput))
	if err != nil {
		return nil, fmt.Errorf("read the experiment from standard input: %w", err)
	}
	spec, err := plan.Parse("standard input", data, catalog(), set...)
	if err != nil {
		return nil, err
	}
	return plan.Expand(spec, catalog())
}

// decodePlan reads a plan.json, which settings cannot change.
func decodePlan(file string, set []plan.Setting) (*plan.Plan, error) {
	if len(set) > 0 {
		return nil, fmt.Errorf("%w: --set is about an experiment, and %s is a plan that was made of one", errUsage, file)
	}
	data, err := runs.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", plan.ErrInvalid, err)
	}
	p, err := plan.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", plan.ErrInvalid, file, err)
	}
	return p, nil
}

// mostInput is how much of standard input is read, in bytes: more than an experiment may have.
const mostInput = 1 << 20

// setFlag adds --set to a command that takes an experiment.
func setFlag(cmd *cobra.Command, set *[]string) {
	cmd.Flags().StringArrayVar(set, "set", nil, "give a key of the experiment another value, as in measure.trials=3 or arm.NAME.attach=tcx; may be repeated")
}

// settings reads the values of --set.
func settings(texts []string) (out []plan.Setting, err error) {
	for _, text := range texts {
		s, err := plan.ParseSetting(text)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// storeEnv names the directory of the images where --store does not.
const storeEnv = "HOOKBED_STORE"

// openStore opens the image cache and reports what it does on standard error.
func (a *app) openStore(drift string) (*images.Store, error) {
	return images.Open(cmp.Or(a.store, os.Getenv(storeEnv)), images.Options{Drift: drift, CachedOnly: a.cachedOnly, Log: func(msg string) { a.say("images: %s", msg) }})
}

// stateRoot is where running labs keep their state.
func stateRoot() (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the home directory: %w", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "hookbed", "labs"), nil
}

// sayStrays reports entries of the labs' directory that are not labs.
func (a *app) sayStrays(root string) {
	strays, err := lab.Strays(root)
	if err != nil {
		return // the listing of the labs reports it
	}
	for _, s := range strays {
		a.say("%s is no lab's directory and is left alone; remove it if nobody needs it", s)
	}
}

// clearLeft clears what killed runs left.
func (a *app) clearLeft(ctx context.Context) error {
	root, err := stateRoot()
	if err != nil {
		return err
	}
	a.sayStrays(root)
	if swept, err := lab.Sweep(ctx, root); err != nil {
		return err
	} else if len(swept) > 0 {
		a.say("cleared what killed runs left: %v", swept)
	}
	swept, err := lab.SweepRemote(ctx, root)
	if len(swept) > 0 {
		a.say("cleared what killed runs left on hypervisors: %v", swept)
	}
	if err != nil {
		a.say("not cleared, `driver down NAME` tries again: %v", err)
	}
	return nil
}

// labConfig is the configuration that the labs of an experiment have in common. It first clears what
// killed runs left.
func (a *app) labConfig(ctx context.Context, p *plan.Plan, drift string) (lab.Config, error) {
	if err := lab.Preflight(p.Spec.Lab); err != nil {
		return lab.Config{}, err
	}
	if err := a.clearLeft(ctx); err != nil {
		return lab.Config{}, err
	}
	root, err := stateRoot()
	if err != nil {
		return lab.Config{}, err
	}
	store, err := a.openStore(drift)
	if err != nil {
		return lab.Config{}, err
	}
	guest, err := guestFor(p)
	if err != nil {
		return lab.Config{}, err
	}
	agent, err := ciliumImage(p)
	if err != nil {
		return lab.Config{}, err
	}
	name := lab.FreshName(root, "r")
	return lab.Config{
		Name: name, Experiment: p.Spec.Name, Lab: p.Spec.Lab, Kernels: p.Spec.Kernels, Nodes: p.Nodes(), Store: store,
		StateDir: filepath.Join(root, name), GuestPath: guest, External: needsExternal(p), HTTP: needsHTTP(p), Cilium: agent, Swarm: needsSwarm(p), Log: a.logger(),
	}, nil
}

// upLab brings up a lab for a plan.
func (a *app) upLab(ctx context.Context, p *plan.Plan, dir, name string, detached bool) (*lab.Lab, error) {
	store, err := a.openStore("")
	if err != nil {
		return nil, err
	}
	guest, err := guestFor(p)
	if err != nil {
		return nil, err
	}
	agent, err := ciliumImage(p)
	if err != nil {
		return nil, err
	}
	return lab.Up(ctx, lab.Config{
		Name: name, Experiment: p.Spec.Name, Lab: p.LabOf(1), Nodes: p.Nodes(), Store: store, StateDir: dir,
		GuestPath: guest, External: needsExternal(p), HTTP: needsHTTP(p), Cilium: agent, Swarm: needsSwarm(p), Detached: detached, Log: a.logger(),
	})
}

// guestFor is the guest helper for the nodes of a plan: those on this computer have its architecture.
func guestFor(p *plan.Plan) (string, error) {
	if p.Spec.Lab.Capabilities().Here() {
		return helper.Path()
	}
	return helper.MachinePath()
}

// needsExternal says whether some arm is a filter of another project.
func needsExternal(p *plan.Plan) bool { return slices.ContainsFunc(p.Cells, datapath.NeedsExternal) }

// needsHTTP says whether some workload or filter is made of the programs of HTTP.
func needsHTTP(p *plan.Plan) bool { return slices.ContainsFunc(p.Cells, workload.NeedsHTTP) }

// needsSwarm says whether some arm has Docker's overlay network.
func needsSwarm(p *plan.Plan) bool { return slices.ContainsFunc(p.Cells, datapath.NeedsSwarm) }

// findImage finds a container image that an arm names in a file of a directory. A reference without
// a digest is refused with the digest to write, if its registry answers.
func findImage(dir, text string) (plan.Image, error) {
	ctx := context.Background() // what it waits for is bounded
	s, err := container.Parse(text, dir)
	var tag *container.TagError
	if errors.As(err, &tag) {
		return plan.Image{}, container.Resolve(ctx, tag)
	}
	if err != nil {
		return plan.Image{}, err
	}
	if s.Ref != "" {
		return plan.Image{Level: s.Ref, Source: s.Ref}, nil
	}
	img, err := s.Load(ctx)
	if err != nil {
		return plan.Image{}, err
	}
	if s.Path, err = filepath.Abs(s.Path); err != nil {
		return plan.Image{}, errors.Join(err, img.Close())
	}
	return plan.Image{Level: text + "@" + lab.ShortID(img.ID), Source: s.Path}, img.Close()
}

// ciliumImage is the image of Cilium that a plan's arms name; zero if none does.
func ciliumImage(p *plan.Plan) (plan.Image, error) {
	var found plan.Image
	for _, a := range p.Spec.Arms {
		level := a.Options[datapath.KeyCiliumImage]
		switch {
		case level == "" || level == found.Level:
			continue
		case found.Level != "":
			return plan.Image{}, fmt.Errorf("arm %q has the image %s and another arm %s; a run has one image of Cilium, so make an experiment for each and report on both", a.Name, level, found.Level)
		}
		found = plan.Image{Level: level, Source: a.Images[datapath.KeyCiliumImage]}
	}
	return found, nil
}
