package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/analysis/runs"
)

// opener is the program that opens a file with what the desktop has for it.
const opener = "xdg-open"

func (a *app) openCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "open [RUN]",
		Short: "Open the report of a run in the browser",
		Long: `Open shows report.html of a run directory, or of a directory that "driver report --out"
wrote, by xdg-open. Without RUN it takes the newest directory below runs. A run that has no
report yet gets one. Without a display, or without xdg-open, it only prints the path.`,
		Example: `  driver open
  driver open runs/smoke`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly(1, "at most one run directory")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return a.open(cmd.Context(), args[0])
			}
			all := recentRuns("runs")
			if len(all) == 0 {
				return fmt.Errorf("%w: there is no run below runs; name a run directory", errUsage)
			}
			return a.open(cmd.Context(), all[0])
		},
	}
}

// recentRuns are the run directories below a directory, the newest first.
func recentRuns(below string) []string {
	rows, _ := filepath.Glob(filepath.Join(below, "*", runs.RowsFile)) // the pattern is well formed
	modified := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.ModTime().UnixNano()
	}
	slices.SortStableFunc(rows, func(a, b string) int {
		return int(min(1, max(-1, modified(b)-modified(a))))
	})
	for i, r := range rows {
		rows[i] = filepath.Dir(r)
	}
	return rows
}

// open shows the report of a directory, and makes it if there is none.
func (a *app) open(ctx context.Context, dir string) error {
	page := filepath.Join(dir, reportPage)
	if _, err := os.Stat(page); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, runs.RowsFile)); err != nil {
			return fmt.Errorf("%s has no report and no rows: %w", dir, err)
		}
		if err := a.report([]string{dir}, dir); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("open a report: %w", err)
	}
	page, err := filepath.Abs(page)
	if err != nil {
		return fmt.Errorf("open a report: %w", err)
	}
	why := whyNotShown()
	if why == "" {
		cmd := exec.CommandContext(ctx, opener, page)
		cmd.Stderr = a.talk
		if err := cmd.Run(); err != nil {
			why = fmt.Sprintf("%s failed: %v", opener, err)
		}
	}
	a.emit("open", map[string]any{"path": page, "shown": why == ""}, func(w io.Writer) { fmt.Fprintln(w, page) })
	if why != "" {
		a.say("not shown: %s; open the file in a browser", why)
	}
	return nil
}

// whyNotShown is why no file can be shown here, "" if it can.
func whyNotShown() string {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return "there is no display"
	}
	if _, err := exec.LookPath(opener); err != nil {
		return strings.TrimPrefix(err.Error(), "exec: ")
	}
	return ""
}
