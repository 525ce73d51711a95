package campaign

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// WriteBundles writes each cell's bundle as a node would get it: bundle.json and its files under
// their names, in a directory of dir that is named after the cell.
func WriteBundles(p *plan.Plan, dir string) error {
	for _, c := range p.Cells {
		setup, err := datapath.Render(c)
		if err != nil {
			return err
		}
		b, err := Bundle(c, setup)
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
