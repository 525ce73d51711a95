package trace

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"hookbed/analysis/durable"
)

// WriteRun makes or replaces RUN/trace/layers.csv, the layers of all traces, and layers.svg, the
// picture of them; nil leaves the picture out.
func WriteRun(runDir string, all []Trace, picture []byte) error {
	var b bytes.Buffer
	if err := WriteAllLayers(&b, all); err != nil {
		return fmt.Errorf("write layers: %w", err)
	}
	dir := filepath.Join(runDir, Dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write layers: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, layersFile), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write layers: %w", err)
	}
	if picture == nil {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(dir, LayersFigure), picture, 0o644); err != nil {
		return fmt.Errorf("write layers: %w", err)
	}
	return nil
}

// WriteAllLayers writes the layers of all traces as CSV: by scenario, workload, policies and arm.
func WriteAllLayers(w io.Writer, all []Trace) error {
	lines := [][]string{{"scenario", "workload", "arm", "policies", "cell", "seed", "unit", "layer", "self_per_unit", "share"}}
	for _, t := range Sorted(all) {
		for _, l := range t.Measured.LayerCosts() {
			lines = append(lines, []string{t.Factors[factorScenario], t.Factors[factorWorkload], t.Arm(), fmt.Sprint(t.Policies()), t.Cell, fmt.Sprint(t.Seed), t.Unit,
				string(l.Layer), fixed(t.PerUnit(l.Self), 3), fixed(share(l.Self, t.Window.Measured), 6)})
		}
	}
	return csv.NewWriter(w).WriteAll(lines)
}
