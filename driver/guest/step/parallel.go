package step

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/vishvananda/netlink"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/proc"
)

func doParallel(c *call, a bundle.Parallel) error {
	all, err := c.branches(a)
	if err != nil {
		return err
	}
	errs := make([]error, len(all))
	if _, programs := a.Steps[0].Do.(bundle.Exec); programs {
		errs, err = c.x.runTogether(all)
	} else {
		atOnce(all, func(i int) { errs[i] = all[i].probe() })
	}
	if err != nil {
		return err
	}
	for i, b := range all {
		for key, v := range b.result.Values {
			c.value(key, c.result.Values[key]+v)
		}
		if b.result.Note != "" {
			c.note("%s: %s", b.step.In, b.result.Note)
		}
		maps.Copy(c.raw, b.raw)
		if errs[i] != nil {
			errs[i] = fmt.Errorf("in %s: %w", b.step.In, errs[i])
		}
	}
	return errors.Join(errs...)
}

// branches are the steps as calls of their own, with results of their own.
func (c *call) branches(a bundle.Parallel) ([]*call, error) {
	if len(a.Steps) == 0 {
		return nil, errors.New("parallel without steps")
	}
	var out []*call
	for _, s := range a.Steps {
		kind := s.Do.Kind()
		if kind != a.Steps[0].Do.Kind() || kind != (bundle.Exec{}).Kind() && kind != (bundle.Probes{}).Kind() {
			return nil, fmt.Errorf("parallel takes programs or probes, all of one kind, and not %q", kind)
		}
		if s.Node != c.step.Node {
			return nil, fmt.Errorf("parallel on %q has a step of %q", c.step.Node, s.Node)
		}
		at, err := c.x.endpointOf(c.x.where(s.Node, s.In))
		if err != nil {
			return nil, err
		}
		out = append(out, &call{ctx: c.ctx, x: c.x, step: s, at: at, files: c.files, result: &bundle.StepResult{Kind: kind}, raw: map[string]string{}})
	}
	return out, nil
}

// atOnce calls do for each call and waits for all.
func atOnce(all []*call, do func(i int)) {
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() { do(i) })
	}
	wait.Wait()
}

// probe executes the call's probes in its namespace.
func (c *call) probe() error {
	return c.at.WithNetlink(func(h *netlink.Handle) error {
		c.nl = h
		do, ok := c.step.Do.(bundle.Probes)
		if !ok {
			return fmt.Errorf("parallel holds a %T", c.step.Do)
		}
		return doProbes(c, do)
	})
}

// runTogether starts the calls' programs, lets them go together and waits until
// all have ended.
func (x *executor) runTogether(all []*call) ([]error, error) {
	running := make([]execution, len(all))
	programs, at := make([]proc.Program, len(all)), make([]*proc.Endpoint, len(all))
	for i, c := range all {
		do, ok := c.step.Do.(bundle.Exec)
		if !ok {
			return nil, fmt.Errorf("parallel holds a %T", c.step.Do)
		}
		var err error
		if at[i], err = c.place(do.HTTP); err != nil {
			return nil, err
		}
		if programs[i], err = running[i].prepare(do); err != nil {
			return nil, err
		}
	}
	processes, err := x.launcher.StartTogether(at, programs)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(all))
	atOnce(all, func(i int) {
		running[i].Process = processes[i]
		if do, ok := all[i].step.Do.(bundle.Exec); ok {
			errs[i] = all[i].finish(do, running[i])
		}
	})
	return errs, nil
}
