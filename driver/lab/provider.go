package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// Provider is one way to have nodes and endpoints: the live side of an entry of
// catalog.Providers. Up calls its methods, in the order in which they are listed.
type Provider interface {
	// Open claims the lab's state directory, makes the nodes, and describes them. It
	// measures the parts of that in t. After an error, Close is called, too.
	Open(ctx context.Context, t Timings) (Environment, error)
	// Begin makes the endpoints of a setup, in namespaces no rule set has been in.
	Begin(ctx context.Context, s datapath.Setup) error
	// Helper is that of a node, between Begin and End. One may hold several nodes.
	Helper(node string) (Helper, error)
	// End undoes everything that Begin and later steps did.
	End(ctx context.Context, s datapath.Setup) error
	// Close takes down what Open made, in whole or in part, and gives the state
	// directory up.
	Close(ctx context.Context) error
}

// Detacher is a Provider whose nodes can outlive the driver: one with the capability
// Outlives.
type Detacher interface {
	// Detach leaves the nodes running. Nothing else is called afterwards.
	Detach() error
}

// Helper executes steps on the nodes that it holds. It must be comparable.
type Helper interface {
	Exec(ctx context.Context, name string, files map[string]bundle.File, steps []bundle.Step) (bundle.Reply, error)
	// Mark is a position to which UndoTo can go back.
	Mark(ctx context.Context) (int, error)
	UndoTo(ctx context.Context, mark int) error
}

// Clocked is a Helper on a machine that has clocks of its own.
type Clocked interface {
	Clock(ctx context.Context) (Reading, error)
}

// implementation is the live side of a provider's entry.
type implementation struct {
	open func(Config) Provider
	// preflight is the error if this process cannot bring up such a lab; nil: no check.
	preflight func() error
}

// implementations are the live sides of catalog.Providers, by name. A new provider is
// listed here, and in that catalog.
func implementations() map[string]implementation {
	return map[string]implementation{
		plan.ProviderLibvirt: {open: newVirtual},
		plan.ProviderLocal:   {open: newLocal, preflight: localPreflight},
		plan.ProviderSSH:     {open: newMachines},
	}
}

// Preflight checks what must hold before a lab of the provider can be brought up, as
// far as that is seen without trying.
func Preflight(l plan.Lab) error {
	if i := implementations()[l.Provider]; i.preflight != nil {
		return i.preflight()
	}
	return nil
}

// Up brings up a lab of the provider that cfg names. On an error nothing is left behind.
func Up(ctx context.Context, cfg Config) (*Lab, error) {
	i, ok := implementations()[cfg.Lab.Provider]
	if !ok {
		return nil, fmt.Errorf("unknown provider %q", cfg.Lab.Provider)
	}
	if err := Preflight(cfg.Lab); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	l, err := UpWith(ctx, i.open(cfg))
	if err == nil {
		l.silence = cfg.Silence
	}
	return l, err
}

// UpWith brings up a lab of any provider. On an error nothing is left behind.
func UpWith(ctx context.Context, p Provider) (*Lab, error) {
	l := &Lab{provider: p, Timings: Timings{}}
	var err error
	if l.env, err = p.Open(ctx, l.Timings); err != nil {
		return nil, errors.Join(err, l.Close(ctx))
	}
	return l, nil
}

// Timings are the seconds that parts of bringing a lab up took.
type Timings map[string]float64

// Measure calls do and keeps how long it took, unless it failed.
func (t Timings) Measure(ctx context.Context, part string, do func(context.Context) error) error {
	start := time.Now()
	if err := do(ctx); err != nil {
		return err
	}
	t[part] = time.Since(start).Seconds()
	return nil
}
