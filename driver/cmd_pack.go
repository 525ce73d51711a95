package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hookbed/analysis/pack"
)

func (a *app) packCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "pack DIR",
		Short: "Make one file of a run that others can verify",
		Long: `Pack makes one file of a run directory: the plan, the environments, every row, every
raw file and the report, with the SHA-256 of each. Equal runs make equal packs, byte
for byte. "driver verify FILE" checks the digests, computes every number of the report
again from the rows, and judges the claims. Join shards by "driver merge" first.`,
		Example: `  driver pack runs/full
  driver pack runs/full -o full.hookbed.tar.gz
  driver verify full.hookbed.tar.gz`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%w: `driver pack` takes one run directory, got %d; join several by `driver merge` first", errUsage, len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			file := out
			if file == "" {
				abs, err := filepath.Abs(args[0])
				if err != nil {
					return err
				}
				file = filepath.Base(abs) + pack.Extension
			}
			m, err := pack.Write(args[0], file)
			if err != nil {
				return err
			}
			a.emit("pack", map[string]any{"path": file, "manifest": m}, func(w io.Writer) {
				fmt.Fprintf(w, "%s: run %s, %s clock, %d files, rows %s\n", file, m.Run, m.Clock, len(m.Files), m.RowsSHA256)
			})
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "file to make (default NAME"+pack.Extension+")")
	return cmd
}

// maxShownDifferences is how many numbers a failed verification shows.
const maxShownDifferences = 10

// verifyPack checks a published pack: digests, then every number, then claims.
func (a *app) verifyPack(path string, f verifyFlags) error {
	base, err := os.MkdirTemp("", "hookbed-verify-")
	if err != nil {
		return fmt.Errorf("verify pack: %w", err)
	}
	defer os.RemoveAll(base)
	dir := filepath.Join(base, "run")
	m, err := pack.Open(path, dir)
	if errors.Is(err, pack.ErrDamaged) {
		return fmt.Errorf("%w: %w", errNotReproduced, err)
	}
	if err != nil {
		return err
	}
	a.say("digests of %d files are as in the manifest", len(m.Files))
	diff, err := pack.Recheck(dir)
	if err != nil {
		return err
	}
	if len(diff) > 0 {
		for _, d := range diff[:min(len(diff), maxShownDifferences)] {
			a.say("%s", d)
		}
		return fmt.Errorf("%w: %d numbers of the report do not follow from its rows", errNotReproduced, len(diff))
	}
	a.say("every number of the report follows from its rows")
	return a.verifyRuns([]string{dir}, f)
}
