package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/analysis/claims"
	"hookbed/driver/plan"
)

// schemas are the kinds of files that have a JSON Schema.
func schemas() []string { return []string{"experiment", "claims"} }

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema experiment|claims",
		Short: "Print the JSON Schema of experiment or claims files, for editors",
		Long: `Schema prints a JSON Schema (draft 7), by which editors complete and check TOML files:
taplo reads it from a line "#:schema FILE" at the top of the file, or from .taplo.toml. It is
made of the keys that the driver reads. What does not go together, "driver plan" says.`,
		Example: `  driver schema experiment > experiment.schema.json
  driver schema claims > claims.schema.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := exactly(1, strings.Join(schemas(), " or "))(cmd, args); err != nil {
				return err
			}
			if !slices.Contains(schemas(), args[0]) {
				return fmt.Errorf("%w: there is no schema of %q, want %s%s", errUsage, args[0], strings.Join(schemas(), " or "), plan.DidYouMean(args[0], schemas()))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			write := claims.JSONSchema
			if args[0] == "experiment" {
				write = func() ([]byte, error) { return plan.Schema(catalog()) }
			}
			data, err := write()
			if err != nil {
				return err
			}
			a.emit("schema", json.RawMessage(data), func(w io.Writer) { fmt.Fprintf(w, "%s", data) })
			return nil
		},
	}
}
