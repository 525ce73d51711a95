package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/ruleset"
)

func doRules(c *call, a bundle.Rules) error {
	data, err := c.file(a.File)
	if err != nil {
		return err
	}
	var undo []byte
	if a.Undo != "" {
		if undo, err = c.file(a.Undo); err != nil {
			return err
		}
	}
	argv, err := ruleset.RestoreArgv(a.Tool)
	if err != nil {
		return err
	}
	if a.Tool == ruleset.ToolNft {
		if data, err = ruleset.FillHandles(c.ctx, data); err != nil {
			return fmt.Errorf("load %s: %w", a.File, err)
		}
	}
	var undoLeft func(context.Context) error
	if a.Undo != "" {
		if undoLeft, err = c.beforeLoad(a); err != nil {
			return fmt.Errorf("load %s: %w", a.File, err)
		}
	}
	load := func(in *ruleset.MemoryCgroup) error { return c.timedLoad(a, in, argv, data) }
	if a.Metric == "" || a.Metric == bundle.MetricLoad {
		err = c.measuredLoad(load)
	} else {
		err = load(nil)
	}
	if err != nil {
		return fmt.Errorf("load %s: %w", a.File, err)
	}
	if a.Undo != "" {
		c.undoHere("rules of "+a.File, func(u undoing) error {
			return errors.Join(ruleset.Restore(u.ctx, nil, argv, undo), undoLeft(u.ctx))
		})
	}
	if a.Tool == ruleset.ToolIPSet {
		return c.addSetSizes(data)
	}
	return nil
}

// beforeLoad loads the module that the tool needs, where the machine is hookbed's, and
// notes what is there. The returned function removes what the tool leaves in
// addition to its rules.
func (c *call) beforeLoad(a bundle.Rules) (undo func(context.Context) error, err error) {
	before, note, err := ruleset.NoteLeftovers(c.ctx, a.Tool)
	if err != nil {
		return nil, err
	}
	if note != "" {
		c.note("%s", note)
	}
	var table ruleset.LegacyTable
	if c.x.machine {
		if table, err = ruleset.LoadLegacyTable(c.ctx, a.Tool); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error { return errors.Join(before.Clear(ctx), table.Unload()) }, nil
}

// measuredLoad is a load with the kernel memory that it leaves behind.
func (c *call) measuredLoad(load func(*ruleset.MemoryCgroup) error) error {
	m, err := ruleset.MeasureMemory(c.at.Enter, load)
	if m.Known {
		c.value(bundle.MetricMemory, m.Bytes)
	}
	if m.Note != "" {
		c.note("%s", m.Note)
	}
	return err
}

// addSetSizes adds the elements of the sets that a file made to what is charged.
func (c *call) addSetSizes(file []byte) error {
	sizes, err := ruleset.SetSizes(c.ctx, file)
	for _, s := range sizes {
		if c.result.Values[bundle.MetricMemory] > 0 {
			c.value(bundle.MetricMemory, c.result.Values[bundle.MetricMemory]+float64(s.Bytes))
			c.note("and as %s says of its elements", s.Name)
		}
	}
	return err
}

// timedLoad loads a rule set and records how long the tool took.
func (c *call) timedLoad(a bundle.Rules, in *ruleset.MemoryCgroup, argv []string, data []byte) error {
	start := time.Now()
	err := ruleset.Restore(c.ctx, in, argv, data)
	c.value(cmp.Or(a.Metric, bundle.MetricLoad), time.Since(start).Seconds())
	return err
}
