package campaign

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// withKernels makes an experiment compare two kernels.
func withKernels(text string) string {
	return strings.Replace(text, "[matrix]\n", "[matrix]\nkernels = [\"5.10\", \"6.12\"]\n", 1)
}

// Each block of a plan that compares kernels boots one of them. Rows and resumption
// treat it as any other block.
func TestSealedBlocksBootTheirKernel(t *testing.T) {
	p := planOf(t, withKernels(virtualExperiment))
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	for _, b := range p.Blocks {
		composed, err := Compose(p, b.Number)
		if err != nil {
			t.Fatal(err)
		}
		if composed.Kernel != b.Kernel || composed.Seed != lab.Seed(p.Spec.Seed, b.Seed) {
			t.Errorf("block %+v boots kernel %q with seed %s", b, composed.Kernel, composed.Seed)
		}
	}
	r := newRunner(Config{Plan: p, Dir: dir})
	for _, tr := range p.Trials {
		c, _ := p.CellByID(tr.Cell)
		levels := r.levels(tr, c)
		if b, _ := p.BlockByNumber(tr.Block); levels[plan.FactorKernel] != b.Kernel || levels[plan.FactorSeed] == "" {
			t.Fatalf("a row of block %+v has the levels %v", b, levels)
		}
	}
}

// On the wall clock a row has no seed, and env.json has each kernel's facts.
func TestEnvironmentOfEachBoot(t *testing.T) {
	text := withKernels(strings.Replace(experiment, `provider = "local"`, `provider = "libvirt"`, 1))
	p := planOf(t, text)
	dir, err := rundir.Create(filepath.Join(t.TempDir(), "run"), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	booted := ""
	r := newRunner(Config{Plan: p, Dir: dir, Environment: func(*lab.Lab) map[string]any {
		return map[string]any{"accelerator": "tcg", "kernel_release": booted + ".1", "nodes": map[string]any{"node1": map[string]any{"of": booted}}}
	}})
	for _, b := range p.Blocks {
		booted = p.LabOf(b.Number).Kernel
		if err := r.describe(nil, p.BootName(b.Number)); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir.Path(), "env*.json"))
	if len(files) != 1 {
		t.Fatalf("environment is in %v, want one file", files)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var env struct {
		Accelerator string
		Release     map[string]string `json:"kernel_release"`
		Nodes       map[string]map[string]map[string]string
	}
	if err := json.Unmarshal(data, &env); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"5.10", "6.12"} {
		if env.Release[k] != k+".1" || env.Nodes[k]["node1"]["of"] != k {
			t.Errorf("kernel %s: %s", k, data)
		}
	}
	tr := p.Trials[0]
	c, _ := p.CellByID(tr.Cell)
	if levels := r.levels(tr, c); levels[plan.FactorSeed] != "" {
		t.Errorf("a row of the wall clock has the seed %q", levels[plan.FactorSeed])
	}
}
