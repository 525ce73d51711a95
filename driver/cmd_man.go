package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write a manual page for each command",
		Long: `Man writes manual pages (section 1) into a directory, one for each command. Packages
contain them. Their date is that of SOURCE_DATE_EPOCH, in seconds since 1970, if it is set.`,
		Example: `  driver man man1`,
		Args:    exactly(1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Title: strings.ToUpper(a.called()), Section: "1", Source: "hookbed " + revision, Manual: "hookbed"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			a.emit("man", map[string]string{"path": args[0]}, func(w io.Writer) { fmt.Fprintln(w, args[0]) })
			return nil
		},
	}
}
