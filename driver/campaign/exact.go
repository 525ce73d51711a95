package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"hookbed/driver/campaign"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
)

// exactExperiment is the smallest that does what runs in virtual time do: it
// loads rules, proves them, and measures.
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

// checkExact proves on this computer what virtual time promises: a guest that
// runs alone and two that run at once beside busy loops write the same bytes.
func (a *app) checkExact(ctx context.Context) []check {
	c := check{Name: "virtual time", Fix: "virtual time is not exact here: look at QEMU's version, and report this with `driver doctor --json`"}
	if os.Geteuid() != 0 {
		c.Detail, c.Fix = "not looked at: only root starts such guests", "run `driver doctor` as root"
		return []check{c}
	}
	start := time.Now()
	size, err := a.exact(ctx)
	c.OK = err == nil
	c.Detail = fmt.Sprintf("exact: 3 guests, alone and at once beside busy loops, wrote the same %d bytes (%.0f s)", size, time.Since(start).Seconds())
	if err != nil {
		c.Detail = err.Error()
	}
	return []check{c}
}

func (a *app) exact(ctx context.Context) (size int, err error) {
	spec, err := plan.Parse("exact.toml", []byte(exactExperiment), catalog())
	if err != nil {
		return 0, err
	}
	p, err := plan.Expand(spec, catalog())
	if err != nil {
		return 0, err
	}
	cfg, err := a.labConfig(ctx, p, "")
	if err != nil {
		return 0, err
	}
	sealer, err := lab.OpenSealer(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := sealer.Close(ctx); err == nil {
			err = cerr
		}
	}()
	block, err := campaign.Compose(p, 1)
	if err != nil {
		return 0, err
	}
	a.say("doctor: virtual time: a guest alone")
	alone, err := sealer.Run(ctx, block, nil)
	if err != nil {
		return 0, err
	}
	a.say("doctor: virtual time: the same guest twice at once, beside busy loops")
	crowded, err := crowd(ctx, sealer, block)
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

// crowd runs the block twice at once, beside a busy loop on every CPU.
func crowd(ctx context.Context, s *lab.Sealer, block lab.SealedBlock) ([][]byte, error) {
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
			out[i], err = s.Run(ctx, b, nil)
			return err
		})
	}
	return out, group.Wait()
}

// keepDifference keeps what two guests wrote where a person can compare it.
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
