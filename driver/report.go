package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"hookbed/analysis/report"
)

func (a *app) reportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report DIR...",
		Short: "Write report.md, report.html, figures and CSVs from run directories",
		Example: `  driver report runs/smoke
  driver report runs/a runs/b --out report`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%w: `driver report` takes one or more run directories; see `driver report --help`", errUsage)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			dir := out
			if dir == "" {
				dir = args[0]
			}
			result, err := report.Make(args, dir, report.Options{})
			if err != nil {
				return err
			}
			page := filepath.Join(dir, "report.html")
			a.emit("report", map[string]any{"path": page, "files": result.Files, "glance": result.Glance, "warnings": result.Warnings}, func(w io.Writer) {
				for _, line := range append(result.Glance, result.Warnings...) {
					fmt.Fprintln(w, line)
				}
				fmt.Fprintln(w, page)
			})
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "where to write (default: the first run directory)")
	return cmd
}
