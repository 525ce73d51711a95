package campaign

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// exactExperiment is the smallest experiment that does what runs in virtual time do: it loads
// rules, proves them, and measures.
const exactExperiment = `
schema = 1
name = "exact"
[lab]
clock = "virtual"
[measure]
seeds = 1
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [10]
[[arm]]
name = "iptables"
datapath = "iptables"
`

// ExactPlan is the experiment by which ProveExact proves that virtual time is exact: one cell, one
// block.
func ExactPlan(c plan.Catalog) (*plan.Plan, error) {
	spec, err := plan.Parse("exact.toml", []byte(exactExperiment), c)
	if err != nil {
		return nil, err
	}
	return plan.Expand(spec, c)
}

// ProveExact proves on this computer what virtual time promises: a guest that runs alone and two
// that run at once, while busy loops take every CPU, write the same bytes. boot runs a block in a
// sealed guest and returns its results; say reports progress. The result is the number of bytes.
// Where they differ, the error names a directory with both versions.
func ProveExact(ctx context.Context, p *plan.Plan, boot Boot, say func(what string)) (size int, err error) {
	block, err := Compose(p, 1)
	if err != nil {
		return 0, err
	}
	say("a guest alone")
	alone, err := boot(ctx, block, nil)
	if err != nil {
		return 0, err
	}
	say("the same guest twice at once, beside busy loops")
	crowded, err := bootCrowded(ctx, boot, block)
	if err != nil {
		return 0, err
	}
	for _, data := range crowded {
		if !bytes.Equal(data, alone) {
			return 0, keepDifference(alone, data)
		}
	}
	return len(alone), nil
}

// bootCrowded runs the block twice at once, while a busy loop takes each CPU.
func bootCrowded(ctx context.Context, boot Boot, block lab.SealedBlock) ([][]byte, error) {
	quiet, stop := context.WithCancel(ctx)
	defer stop()
	for range runtime.NumCPU() {
		go func() {
			for quiet.Err() == nil {
			}
		}()
	}
	out := make([][]byte, 2)
	group, ctx := errgroup.WithContext(ctx)
	for i := range out {
		b := block
		b.Number += i + 1
		group.Go(func() error {
			var err error
			out[i], err = boot(ctx, b, nil)
			return err
		})
	}
	return out, group.Wait()
}

// keepDifference keeps what two guests wrote, so that a person can compare it.
func keepDifference(a, b []byte) error {
	dir, err := os.MkdirTemp("", "hookbed-exact-")
	if err != nil {
		return fmt.Errorf("guests of one block wrote different bytes, and they cannot be kept: %w", err)
	}
	for name, data := range map[string][]byte{"alone.jsonl": a, "crowded.jsonl": b} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("guests of one block wrote different bytes, and they cannot be kept: %w", err)
		}
	}
	return fmt.Errorf("guests of one block wrote different bytes: compare the files in %s", dir)
}
