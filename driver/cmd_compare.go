package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hookbed/analysis/compare"
	"hookbed/analysis/export"
	"hookbed/analysis/runs"
)

func (a *app) compareCommand() *cobra.Command {
	var opt compare.Options
	var format string
	cmd := &cobra.Command{
		Use:   "compare OLD NEW",
		Short: "Compare two runs: did the results reproduce? Ratio, interval and verdict for each cell",
		Long: `Compare matches the cells of two runs and judges, for each, the ratio of the
headline metric, new over old: same if its 90 % interval lies within the margin (two
one-sided tests at 5 %), different if it lies outside, otherwise undecided.

Runs in unlike environments - kernel, images, guest helper, accelerator, QEMU, shape
of the machine, and on wall clocks the CPU and its mitigations - are refused with what differs, unless
--across is given. Two clocks are never compared. In virtual time the rows are compared
first, byte for byte: "identical" is the strongest verdict there is.

A run is a directory, or a file that "driver pack" made, whose digests are checked. A run
is identical to itself and to a copy, on every clock.

The exit code is 0 if all cells are the same, 5 if one is different, undecided or missing.`,
		Example: `  driver compare runs/yesterday runs/today
  driver compare old.hookbed.tar.gz runs/today
  driver compare runs/a runs/b --margin 0.05 --format junit
  driver compare runs/kernel-6.12 runs/kernel-6.18 --across`,
		Args: exactly(2, "two runs"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			if !(opt.Margin > 0) {
				return fmt.Errorf("%w: --margin %g, want a share above 0", errUsage, opt.Margin)
			}
			dirs, done, err := unpacked(args)
			if err != nil {
				return err
			}
			defer done()
			return a.compare(dirs[0], dirs[1], opt, format)
		},
	}
	cmd.Flags().Float64Var(&opt.Margin, "margin", compare.DefaultMargin, "how far apart results may be and still be the same")
	cmd.Flags().BoolVar(&opt.Across, "across", false, "also compare runs in unlike environments")
	formatFlag(cmd, &format)
	return cmd
}

func (a *app) compare(before, after string, opt compare.Options, format string) error {
	old, err := runs.Load(before)
	if err != nil {
		return err
	}
	now, err := runs.Load(after)
	if err != nil {
		return err
	}
	result, err := compare.Runs(old[0], now[0], opt)
	if err != nil {
		return fmt.Errorf("%w; --across compares environments that differ, but never two clocks", err)
	}
	if err := a.showComparison(result, format); err != nil {
		return err
	}
	if !result.Reproduced() {
		n := map[string]int{}
		for _, c := range result.Cells {
			n[c.Verdict]++
		}
		return fmt.Errorf("%w: of %d cells %d are different, %d undecided and %d missing", errNotReproduced, len(result.Cells), n[compare.Different], n[compare.Undecided], n[compare.Missing])
	}
	return nil
}

func (a *app) showComparison(r compare.Result, format string) error {
	if format == "" && a.json {
		a.emit("compare", r, nil)
		return nil
	}
	return export.Comparison(a.out, format, r)
}
