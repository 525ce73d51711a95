package step

import (
	"fmt"
	"maps"
	"slices"

	"github.com/safchain/ethtool"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/sysfs"
)

func doOffload(c *call, a bundle.Offload) error {
	l, err := c.link(a.Link)
	if err != nil {
		return err
	}
	dev := l.Attrs().Name
	et, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer et.Close()
	before, err := et.FeaturesWithState(dev)
	if err != nil {
		return fmt.Errorf("read offloads of %s: %w", a.Link, err)
	}
	change, undo := map[string]bool{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(a.Features)) {
		if len(sysfs.MatchFeatures(name, before)) == 0 {
			return fault.Unsupported("%s has no offload %q", a.Link, name)
		}
		for f, on := range sysfs.FeatureChange(name, a.Features[name], before) {
			change[f], undo[f] = on, before[f].Requested
		}
	}
	if len(change) > 0 {
		if err := et.Change(dev, change); err != nil {
			return fmt.Errorf("change offloads of %s: %w", a.Link, err)
		}
		c.undoHere("offloads of "+dev, func(undoing) error { return sysfs.ChangeFeatures(dev, undo) })
	}
	return checkOffloads(et, dev, a.Features)
}

func checkOffloads(et *ethtool.Ethtool, dev string, want map[string]bool) error {
	after, err := et.FeaturesWithState(dev)
	if err != nil {
		return fmt.Errorf("read offloads of %s: %w", dev, err)
	}
	if wrong := sysfs.FeaturesNotAs(want, after); len(wrong) > 0 {
		return fault.Unsupported("%s did not take offload %s=%t", dev, wrong[0], want[wrong[0]])
	}
	return nil
}
