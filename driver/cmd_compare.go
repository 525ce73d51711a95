package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"hookbed/analysis/compare"
	"hookbed/analysis/export"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

func (a *app) compareCommand() *cobra.Command {
	var opt compare.Options
	var format string
	cmd := &cobra.Command{
		Use:   "compare OLD NEW",
		Short: "Did the results reproduce? Ratio, interval and verdict for each cell",
		Long: `Compare matches the cells of two runs and judges, for each, the ratio of the
headline metric, new over old: same if its 90 % interval lies within the margin (two
one-sided tests at 5 %), different if it lies outside, else undecided.

Runs in unlike environments - kernel, images, guest helper, accelerator, QEMU, shape
of the machine, and on wall clocks the CPU and its mitigations - are refused with what differs, unless
--across is given. Two clocks are never compared. In virtual time the rows are compared
first, byte for byte: "identical" is the strongest verdict there is.

The exit code is 0 if all cells are the same, 5 if one is different, undecided or missing.`,
		Example: `  driver compare runs/yesterday runs/today
  driver compare runs/a runs/b --margin 0.05 --format junit
  driver compare runs/kernel-6.12 runs/kernel-6.18 --across`,
		Args: exactly(2, "two run directories"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			if !(opt.Margin > 0) {
				return fmt.Errorf("%w: --margin %g, want a share above 0", errUsage, opt.Margin)
			}
			return a.compare(args[0], args[1], opt, format)
		},
	}
	cmd.Flags().Float64Var(&opt.Margin, "margin", compare.DefaultMargin, "how far apart results may be and still be the same")
	cmd.Flags().BoolVar(&opt.Across, "across", false, "compare unlike environments, too")
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
	switch format {
	case export.FormatJSON:
		return writeDocument(a.out, r)
	case export.FormatCSV:
		return writeLines(a.out, comparisonLines(r))
	case export.FormatJUnit:
		return export.JUnit(a.out, "hookbed compare", comparisonCases(r))
	}
	a.emit("compare", r, func(w io.Writer) { printComparison(w, r) })
	return nil
}

func printComparison(w io.Writer, r compare.Result) {
	for _, d := range r.Environment {
		fmt.Fprintf(w, "environment: %s was %s, is %s\n", d.What, d.Old, d.New)
	}
	if r.Identical {
		fmt.Fprintf(w, "identical: the rows of %s and %s are the same, byte for byte\n", r.Old, r.New)
		return
	}
	if r.RowsDiffering > 0 {
		fmt.Fprintf(w, "%d rows differ, the first:\n", r.RowsDiffering)
	}
	for _, d := range r.Rows {
		fmt.Fprintf(w, "  %s (%s) block %d trial %d %s: %s, was %s\n", d.Title, d.Cell, d.Block, d.Trial, d.Metric, d.New, d.Old)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "cell\tmetric\t%s over %s\tverdict\twhy\n", r.New, r.Old)
	for _, c := range r.Cells {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Title, c.Metric, ratioText(c.Ratio), c.Verdict, c.Reason)
	}
	_ = t.Flush() // it writes to where emit writes
	if r.Note != "" {
		fmt.Fprintln(w, r.Note)
	}
}

func comparisonLines(r compare.Result) [][]string {
	out := [][]string{{"cell", "title", "metric", "ratio", "low", "high", "confidence", "rough", "margin", "paired", "blocks", "old_trials", "new_trials", "verdict", "why"}}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	for _, c := range r.Cells {
		line := []string{c.ID, c.Title, c.Metric}
		e := c.Ratio
		if e == nil {
			e = &stat.Estimate{}
		}
		line = append(line, number(e.Estimate), number(e.Low), number(e.High), number(e.Confidence), strconv.FormatBool(e.Rough), number(r.Margin), strconv.FormatBool(c.Paired),
			strconv.Itoa(c.Blocks), strconv.Itoa(c.OldTrials), strconv.Itoa(c.NewTrials), c.Verdict, c.Reason)
		out = append(out, line)
	}
	return out
}

func comparisonCases(r compare.Result) []export.Case {
	var out []export.Case
	for _, c := range r.Cells {
		text := fmt.Sprintf("%s: %s %s %s", c.Verdict, c.Metric, ratioText(c.Ratio), c.Reason)
		k := export.Case{Class: "hookbed.compare", Name: c.Title, Message: text, Output: text}
		switch {
		case r.Identical || c.Verdict == compare.Same:
		case c.Verdict == compare.Different:
			k.Outcome = export.Failure
		default:
			k.Outcome = export.Error
		}
		out = append(out, k)
	}
	return out
}
