package main

import (
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
		Use:   "report DIR...",
		Short: "Write report.md, report.html, figures and CSVs from run directories",
		Long: `Report makes report.md, a self-contained report.html, report.json and figures from
run directories alone. With --format it writes the trials themselves to standard output
instead: csv (a line for each trial and metric), json, benchfmt (for benchstat), or
junit (cells as test cases).

Several directories are joined only if their environments are alike, as for "driver
compare"; otherwise the error names what differs.`,
		Example: `  driver report runs/smoke
  driver report runs/a runs/b --out report
  driver report runs/full --format benchfmt > full.txt`,
		Args: someDirs("report"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format, export.FormatBench); err != nil {
				return err
			}
			if format != "" {
				return a.export(args, format)
			}
			dir := out
			if dir == "" {
				dir = args[0]
			}
			result, err := report.Make(args, dir, report.Options{})
			if err != nil {
				return err
			}
			page := filepath.Join(dir, "report.html")
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
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "where to write (default: the first run directory)")
	formatFlag(cmd, &format, export.FormatBench)
	return cmd
}

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
