package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// TestProvidersAreWhatTheirEntriesSay: each entry has an implementation, and the other
// way round; the nodes that outlive the driver are those that can be left.
func TestProvidersAreWhatTheirEntriesSay(t *testing.T) {
	all := implementations()
	for _, entry := range catalog.Providers() {
		i, ok := all[entry.Name]
		if !ok {
			t.Errorf("provider %q has no implementation", entry.Name)
			continue
		}
		delete(all, entry.Name)
		inventory := &plan.Inventory{Machines: []plan.Machine{{}, {}}}
		p := i.open(Config{Name: "t", Nodes: 1, StateDir: filepath.Join(t.TempDir(), "t"), Lab: plan.Lab{Provider: entry.Name, Inventory: inventory}})
		if _, leaves := p.(Detacher); leaves != entry.Outlives {
			t.Errorf("nodes of provider %q can be left: %v; its entry says %v", entry.Name, leaves, entry.Outlives)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("provider %q: close of what was never opened: %v", entry.Name, err)
		}
	}
	for name := range all {
		t.Errorf("provider %q has no entry in the catalog", name)
	}
}

// cloud is a provider that there is not, with one helper for all nodes. It notes the
// calls.
type cloud struct {
	calls []string
	fail  string // the call that fails
}

func (c *cloud) note(call string) error {
	c.calls = append(c.calls, call)
	if call == c.fail {
		return errors.New(call + " failed")
	}
	return nil
}

func (c *cloud) Open(ctx context.Context, t Timings) (Environment, error) {
	err := t.Measure(ctx, "boot", func(context.Context) error { return c.note("open") })
	return Environment{Provider: "cloud", Nodes: map[string]map[string]string{"node1": {"kernel.release": "7.0"}}}, err
}
func (c *cloud) Begin(context.Context, datapath.Setup) error { return c.note("begin") }
func (c *cloud) Helper(string) (Helper, error)               { return c, c.note("helper") }
func (c *cloud) End(context.Context, datapath.Setup) error   { return c.note("end") }
func (c *cloud) Close(context.Context) error                 { return c.note("close") }

func (c *cloud) Exec(_ context.Context, name string, _ map[string]bundle.File, steps []bundle.Step) (bundle.Reply, error) {
	err := c.note(fmt.Sprintf("exec %s: %d", name, len(steps)))
	return bundle.Reply{Results: make([]bundle.StepResult, len(steps))}, err
}
func (c *cloud) Mark(context.Context) (int, error)     { return 7, c.note("mark") }
func (c *cloud) UndoTo(_ context.Context, m int) error { return c.note(fmt.Sprintf("undo to %d", m)) }

// TestThrowAwayProvider: a lab runs on whatever keeps the contract, and on no other name.
func TestThrowAwayProvider(t *testing.T) {
	ctx := t.Context()
	if _, err := Up(ctx, Config{Lab: plan.Lab{Provider: "cloud"}}); err == nil || err.Error() != `unknown provider "cloud"` {
		t.Errorf("a name without an implementation: %v", err)
	}
	c := &cloud{}
	l, err := UpWith(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, timed := l.Timings["boot"]; !timed || l.Facts("node1")["kernel.release"] != "7.0" || l.Environment().Provider != "cloud" {
		t.Errorf("the lab took %v, and is %+v", l.Timings, l.Environment())
	}
	nodes := datapath.Topology{Nodes: []datapath.Node{datapath.NodeAt(1), datapath.NodeAt(2)}}
	b := &bundle.Bundle{Name: "b", Steps: []bundle.Step{{Node: "node1", Phase: bundle.Apply, Do: bundle.Bridge{Link: "br0"}}}}
	marks, err := l.Mark(ctx, nodes)
	errs := []error{err, l.Begin(ctx, datapath.Setup{})}
	ex, err := l.Exec(ctx, b, bundle.Apply)
	errs = append(errs, err, l.UndoTo(ctx, marks), l.End(ctx, datapath.Setup{}), l.Close(ctx))
	if clocks, err := l.Clocks(ctx, nodes); err != nil || len(clocks) > 0 {
		t.Errorf("clocks of what has none: %v, %v", clocks, err)
	}
	if err := errors.Join(errs...); err != nil || len(ex.Steps) != 1 {
		t.Errorf("executed %v, error %v", ex.Steps, err)
	}
	c.calls = slices.DeleteFunc(c.calls, func(call string) bool { return call == "helper" })
	if got, want := strings.Join(c.calls, ", "), "open, mark, begin, exec b: 1, undo to 7, end, close"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	if err := l.Detach(); err == nil {
		t.Error("a lab was left that ends with the driver")
	}
}

// TestNothingIsLeftOfAFailedLab: what does not open is closed; a fault that blames no
// one is the rig's.
func TestNothingIsLeftOfAFailedLab(t *testing.T) {
	c := &cloud{fail: "open"}
	if _, err := UpWith(t.Context(), c); err == nil || strings.Join(c.calls, ", ") != "open, close" {
		t.Errorf("calls %v, error %v; want open, close, and an error", c.calls, err)
	}
	c = &cloud{fail: "begin"}
	l, err := UpWith(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var fault *Fault
	if err := l.Begin(t.Context(), datapath.Setup{}); !errors.As(err, &fault) || fault.Kind != bundle.FaultRig {
		t.Errorf("error %v, want a fault of the rig", err)
	}
}
