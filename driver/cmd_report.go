package main

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/analysis/export"
	"hookbed/analysis/report"
	"hookbed/analysis/runs"
)

func (a *app) reportCommand() *cobra.Command {
	var out, format string
	cmd := &cobra.Command{
		Use:   "report DIR... | FILE...",
		Short: "Write report.md, report.html, figures and CSVs from run directories",
		Long: `Report makes report.md, a self-contained report.html, report.json and figures from
run directories alone. With --format it writes the trials themselves to standard output
instead: csv (a line for each trial and metric), json, benchfmt (for benchstat), or
junit (cells as test cases).

Several directories are joined only if their environments are alike, as for "driver
compare"; otherwise the error names what differs. FILE is what "driver pack" made: its
digests are checked, and its report is written to NAME-report unless --out is given.`,
		Example: `  driver report runs/smoke
  driver report runs/a runs/b --out report
  driver report full.hookbed.tar.gz
  driver report runs/full --format benchfmt > full.txt`,
		Args: someDirs("report"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format, export.FormatBench); err != nil {
				return err
			}
			dirs, done, err := unpacked(args)
			if err != nil {
				return err
			}
			defer done()
			if format != "" {
				return a.export(dirs, format)
			}
			dir := out
			if dir == "" && dirs[0] != args[0] {
				dir = filepath.Base(dirs[0]) + "-report"
			}
			return a.report(dirs, cmp.Or(dir, args[0]))
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "where to write (default: the first run directory, or NAME-report for a pack)")
	formatFlag(cmd, &format, export.FormatBench)
	return cmd
}

// report writes the report of run directories into a directory.
func (a *app) report(dirs []string, dir string) error {
	result, err := report.Make(dirs, dir, report.Options{})
	if err != nil {
		return err
	}
	page := filepath.Join(dir, reportPage)
	a.emit("report", map[string]any{"path": page, "files": result.Files, "answers": result.Answers, "warnings": result.Warnings}, func(w io.Writer) {
		for _, line := range result.Warnings {
			fmt.Fprintln(w, line)
		}
		for _, a := range result.Answers {
			fmt.Fprintln(w, strings.Join(a.Lines(), "\n"))
		}
		fmt.Fprintln(w, page)
	})
	return nil
}

// reportPage is the file of a report that people open.
const reportPage = "report.html"

func (a *app) export(dirs []string, format string) error {
	all, err := runs.Load(dirs...)
	if err != nil {
		return err
	}
	set, err := runs.Arrange(all)
	if err != nil {
		return err
	}
	return export.Write(a.out, format, set)
}
