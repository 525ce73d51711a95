package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hookbed/analysis/record"
	"hookbed/driver/callpath"
	"hookbed/driver/campaign"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/driver/rundir"
)

// ftraceFlags are those of `driver trace --ftrace`.
type ftraceFlags struct {
	out, only, drift string
	transactions     int
	drop             bool
}

// ftraceSilence is how long a machine may not answer: to begin and end a recording its kernel changes
// the code of every function, and an emulated one of 5.10 does nothing else meanwhile.
const ftraceSilence = 2 * time.Minute

// ftraceTransactions is how many transactions --window has recorded.
func ftraceTransactions(window string) (int, error) {
	if window == "whole" {
		return 20, nil
	}
	n, err := strconv.Atoi(window)
	if err != nil || n < 3 {
		return 0, fmt.Errorf("%w: --window is %q, with --ftrace want whole or a number of transactions, 3 or more: fewer cannot be compared", errUsage, window)
	}
	return n, nil
}

// traceFtrace records the order of calls, and what is dropped, on the wall clock.
func (a *app) traceFtrace(ctx context.Context, file string, f ftraceFlags) (err error) {
	a.interruptHint = "nothing is left running; what was recorded is in the run directory"
	p, err := loadPlan(file)
	if err != nil {
		return err
	}
	cfg, err := f.config(p)
	if err != nil {
		return err
	}
	labs, err := a.labConfig(ctx, p, f.drift)
	if err != nil {
		return err
	}
	labs.Silence = ftraceSilence
	out := f.out
	if out == "" {
		out = filepath.Join("runs", p.Spec.Name+"-ftrace-"+time.Now().Format("20060102-150405"))
	}
	dir, err := rundir.Create(out, p)
	if err != nil {
		return err
	}
	s := ftraceSession{app: a, dir: dir, lab: labs, plan: p}
	defer func() { err = s.close(err) }()
	cells, _ := cfg.Due()
	a.say("run directory %s: %d cells to record", out, len(cells))
	if without := cfg.LeftOut(); len(without) > 0 {
		a.say("left out: %s; calls are recorded of transactions, of TCP_RR and TCP_CRR", strings.Join(without, ", "))
	}
	cfg.Up, cfg.Began = s.up, func(c plan.Cell) { a.say("record %s", c.Title()) }
	if err := callpath.Run(ctx, cfg, s.keep); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", campaign.ErrRig, err)
	}
	if s.lost > 0 {
		return fmt.Errorf("%w: %d of %d; reasons are in the files ftrace.json below %s", errFailedCells, s.lost, len(cells), filepath.Join(out, traceDir))
	}
	return nil
}

// traceDir is the part of a run directory that has traces.
const traceDir = "trace"

// config checks the flags against the plan.
func (f ftraceFlags) config(p *plan.Plan) (callpath.Config, error) {
	cfg := callpath.Config{Plan: p, Transactions: f.transactions, Drops: f.drop}
	if p.Spec.Lab.Clock == plan.ClockVirtual {
		return cfg, fmt.Errorf("%w: --ftrace is for the wall clock, and %s is in virtual time: leave it out, `driver trace` then has the exact path with its costs", errUsage, p.Spec.Name)
	}
	match, err := p.Filter(f.only)
	if err != nil {
		return cfg, fmt.Errorf("%w: --only: %w", errUsage, err)
	}
	cfg.Match = match
	if cells, _ := cfg.Due(); len(cells) == 0 {
		return cfg, fmt.Errorf("%w: no cell of %s to record: a path is that of a transaction, so it needs the workload TCP_RR or TCP_CRR", errUsage, p.Spec.Name)
	}
	return cfg, nil
}

// ftraceSession is one call of `driver trace --ftrace` at work.
type ftraceSession struct {
	*app
	dir       *rundir.Dir
	lab       lab.Config
	plan      *plan.Plan
	described bool
	counted   string // what was last said of why instructions are not counted
	kept      int    // cells that are recorded
	lost      int    // those without a recording that their kernel supports
}

// close gives the run directory up, and removes it if an error left nothing in it.
func (s *ftraceSession) close(err error) error {
	if err != nil && s.kept == 0 {
		return errors.Join(err, s.dir.Discard())
	}
	return errors.Join(err, s.dir.Close())
}

// up brings the lab up and describes it once.
func (s *ftraceSession) up(ctx context.Context, block int) (*lab.Lab, error) {
	cfg := s.lab
	cfg.Lab = s.plan.LabOf(block)
	l, err := upFit(ctx, cfg, s.plan.Spec)
	if err != nil || s.described {
		return l, err
	}
	s.described = true
	if err := s.dir.WriteEnv(campaign.Environment(s.plan, revision, l.Environment().Entries())); err != nil {
		return nil, errors.Join(err, l.Close(ctx))
	}
	return l, nil
}

// keep writes a recording and says what it has.
func (s *ftraceSession) keep(rec callpath.Recording) error {
	if err := callpath.Write(filepath.Join(s.dir.Path(), traceDir), rec); err != nil {
		return err
	}
	s.kept++
	if rec.Status != record.StatusOK && rec.Status != record.StatusUnsupported {
		s.lost++
	}
	s.emit("ftrace", rec, func(w io.Writer) { s.print(w, rec) })
	return nil
}

func (s *ftraceSession) print(w io.Writer, rec callpath.Recording) {
	title, where := plan.Cell{Factors: rec.Factors}.Title(), filepath.Join(s.dir.Path(), traceDir, rec.Cell)
	if rec.Status != record.StatusOK {
		fmt.Fprintf(w, "%-11s %s: %s\n", rec.Status, title, oneLine(rec.Reason))
		return
	}
	fmt.Fprintf(w, "%-11s %s: %s\n", rec.Status, title, where)
	if c := rec.Calls; c != nil {
		fmt.Fprintf(w, "            order of %d calls; %d of %d %ss took exactly this path\n", c.Functions, c.Same, c.Units, c.Unit)
	}
	if n := rec.Instructions; n != nil {
		fmt.Fprintf(w, "            %.0f instructions in the kernel a %s (%s, without a tracer)\n", n.PerTransaction, rec.Calls.Unit, n.Clock)
	}
	if rec.WhyNot != "" && rec.WhyNot != s.counted {
		s.counted = rec.WhyNot // of all cells, once
		fmt.Fprintf(w, "            %s\n", rec.WhyNot)
	}
	if d := rec.Drops; d != nil {
		for _, drop := range d.ByPlace() {
			fmt.Fprintf(w, "            dropped %d in %s %s\n", drop.Packets, drop.Where, drop.Reason)
		}
	}
}
