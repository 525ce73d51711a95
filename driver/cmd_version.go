package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"hookbed/analysis/record"
	"hookbed/driver/plan"
)

// version is what a driver was built from, and the schemas of what it reads and writes.
type version struct {
	Revision   string `json:"revision"`
	Go         string `json:"go"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	Experiment int    `json:"experiment_schema"`
	Rows       int    `json:"rows_schema"`
	Plan       int    `json:"plan_schema"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the revision, the version of Go and the schemas of this driver",
		Example: `  driver version
  driver version --json`,
		Args: exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			v := version{Revision: revision, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
				Experiment: plan.FileSchema, Rows: record.Schema, Plan: plan.PlanSchema}
			a.emit("version", v, func(w io.Writer) {
				fmt.Fprintf(w, "hookbed driver %s\n  go          %s %s/%s\n  experiment  schema %d\n  rows        schema %d\n  plan        schema %d\n",
					v.Revision, v.Go, v.OS, v.Arch, v.Experiment, v.Rows, v.Plan)
			})
			return nil
		},
	}
}
