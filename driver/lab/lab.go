// Package lab turns machines, images and networks into the nodes and endpoints of a
// topology, and executes bundles on them. How nodes are made is a Provider's part:
// libvirt (virtual machines), local (network namespaces of this computer) and ssh
// (existing machines). What a provider's nodes are and have is in its entry of
// catalog.Providers.
package lab

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/images"
)

// teardownLimit bounds every teardown. It runs on a fresh context, so that an
// interrupted run still cleans up. An agent ends its helper within bundle.EndLimit, and
// then puts its machine right.
const teardownLimit = bundle.EndLimit + 45*time.Second

// Config describes the lab to bring up.
type Config struct {
	Name       string // of the lab; part of domain and network names
	Experiment string // its name, for lists of labs
	Lab        plan.Lab
	// Kernels are those that sealed guests boot, where kernels are compared; else they
	// boot the lab's.
	Kernels   []string
	Nodes     int // how many nodes the experiment needs, 1 or 2
	Store     *images.Store
	StateDir  string // directory of this lab's state, made and removed by it
	GuestPath string // the static guest helper on this computer
	// External: the nodes need the filters of other projects.
	External bool
	// HTTP: the nodes need the programs of HTTP.
	HTTP bool
	// Cilium is the image of Cilium's agent that the nodes need; the zero value is none.
	Cilium plan.Image
	// Swarm: the nodes' engines are joined in a Swarm, with an overlay network.
	Swarm    bool
	Detached bool // the lab survives the driver (`driver up`)
	Log      *slog.Logger
	// HangLimit is how long a machine may boot without an answer before it is ended
	// and booted again; 0 is 75 s.
	HangLimit time.Duration
	// Silence is how long a running machine may not answer before it is taken for unreachable; 0 is
	// 10 s, and 30 s if it is emulated. An existing one then waits as long for the driver, if that is
	// longer than its own limit.
	Silence time.Duration
}

// Lab is a running lab.
type Lab struct {
	provider Provider
	env      Environment
	silence  time.Duration // Config.Silence
	Timings  Timings
}

// fresh is the context of a teardown: a machine that may be silent for long may take as much longer.
func (l *Lab) fresh(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), teardownLimit+l.silence)
}

// Environment is what env.json records of the lab.
func (l *Lab) Environment() Environment { return l.env }

// Facts are what a node's helper reports of its kernel and tools.
func (l *Lab) Facts(node string) map[string]string { return l.env.Nodes[node] }

// Begin makes the endpoints of a setup.
func (l *Lab) Begin(ctx context.Context, s datapath.Setup) error {
	return rigFault(l.provider.Begin(ctx, s))
}

// End undoes the setup on a fresh, time-limited context.
func (l *Lab) End(ctx context.Context, s datapath.Setup) error {
	ctx, cancel := l.fresh(ctx)
	defer cancel()
	return rigFault(l.provider.End(ctx, s))
}

// Close takes the lab down on a fresh, time-limited context.
func (l *Lab) Close(ctx context.Context) error {
	ctx, cancel := l.fresh(ctx)
	defer cancel()
	return l.provider.Close(ctx)
}

// Outcome is an executed step with what it measured.
type Outcome struct {
	bundle.Step
	bundle.StepResult
}

// Execution is the result of executing phases of a bundle.
type Execution struct {
	Steps []Outcome
	Raw   map[string]string
}

// Seconds is the time that the steps took by their node's clock.
func (e Execution) Seconds() float64 {
	total := 0.0
	for _, s := range e.Steps {
		total += s.Seconds
	}
	return total
}

// Exec executes the given phases of a bundle in order, each chunk on its node.
// On an error what was executed before is returned too.
func (l *Lab) Exec(ctx context.Context, b *bundle.Bundle, phases ...bundle.Phase) (Execution, error) {
	ex := Execution{Raw: map[string]string{}}
	for _, c := range b.Chunks(phases...) {
		h, err := l.provider.Helper(c.Node)
		if err != nil {
			return ex, rigFault(err)
		}
		reply, err := h.Exec(ctx, b.Name, b.FilesOf(c.Steps), c.Steps)
		for i, r := range reply.Results {
			if i < len(c.Steps) {
				ex.Steps = append(ex.Steps, Outcome{c.Steps[i], r})
			}
		}
		for name, data := range reply.Raw {
			ex.Raw[name] = data
		}
		if err != nil {
			return ex, err
		}
	}
	return ex, nil
}

// Marks are undo positions of the helpers that hold a topology's nodes.
type Marks map[Helper]int

// Mark remembers the undo position of every node of a topology.
func (l *Lab) Mark(ctx context.Context, t datapath.Topology) (Marks, error) {
	marks := Marks{}
	for _, n := range t.Nodes {
		h, err := l.provider.Helper(n.Name)
		if err != nil {
			return nil, rigFault(err)
		}
		if _, held := marks[h]; held {
			continue // one helper may hold several nodes
		}
		if marks[h], err = h.Mark(ctx); err != nil {
			return nil, rigFault(err)
		}
	}
	return marks, nil
}

// UndoTo undoes what was done since the marks, on a fresh context.
func (l *Lab) UndoTo(ctx context.Context, marks Marks) error {
	ctx, cancel := l.fresh(ctx)
	defer cancel()
	var errs []error
	for h, mark := range marks {
		errs = append(errs, h.UndoTo(ctx, mark))
	}
	return rigFault(errors.Join(errs...))
}

// Detach leaves the lab running; only labs brought up Detached can be left.
func (l *Lab) Detach() error {
	d, ok := l.provider.(Detacher)
	if !ok {
		return errors.New("the nodes of this lab end with the driver")
	}
	return d.Detach()
}
