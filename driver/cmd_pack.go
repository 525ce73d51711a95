package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"hookbed/analysis/durable"
	"hookbed/analysis/pack"
	"hookbed/driver/campaign"
	"hookbed/driver/sshsig"
)

func (a *app) packCommand() *cobra.Command {
	var out, sign string
	cmd := &cobra.Command{
		Use:   "pack DIR",
		Short: "Make one file of a run that others can verify",
		Long: `Pack makes one file of a run directory: the plan, the environments, every row, every
raw file and the report, with the SHA-256 of each. Equal runs make equal packs, byte
for byte. "driver verify FILE" checks the digests, parses the raw results again, makes
the report anew and judges the claims. Join shards by "driver merge" first.

A pack shows that its parts agree, not who measured. With --sign it is signed by an SSH
key, ed25519, ecdsa or rsa, into FILE.sig; "driver verify --trusted" and
"ssh-keygen -Y verify -n hookbed" verify that. Keys with a passphrase sign by
"ssh-keygen -Y sign -n hookbed".`,
		Example: `  driver pack runs/full
  driver pack runs/full -o full.hookbed.tar.gz --sign ~/.ssh/id_ed25519
  driver verify full.hookbed.tar.gz --trusted allowed_signers`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%w: `driver pack` takes one run directory, got %d; join several by `driver merge` first", errUsage, len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := signingKey(sign)
			if err != nil {
				return err
			}
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
			if key == nil {
				return nil
			}
			return a.sign(file, key)
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "file to make (default NAME"+pack.Extension+")")
	cmd.Flags().StringVar(&sign, "sign", "", "sign the pack with this private SSH key, into FILE"+sshsig.Extension)
	return cmd
}

// maxShownDifferences is how many differences of a kind a failed verification shows.
const maxShownDifferences = 10

// openPack unpacks a published pack and checks all that it can prove: who signed it, digests,
// that its records agree, that its rows follow from its raw results, and its report from its
// rows.
func (a *app) openPack(path, dir string, f verifyFlags) error {
	if err := a.checkSignature(path, f.trusted); err != nil {
		return err
	}
	m, err := pack.Open(path, dir)
	if errors.Is(err, pack.ErrDamaged) {
		return fmt.Errorf("%w: %w", errNotReproduced, err)
	}
	if err != nil {
		return err
	}
	a.say("digests of %d files are as in the manifest", len(m.Files))
	raw, err := a.checkRaw(dir, m)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errNotReproduced, path, err)
	}
	blocks, err := a.checkBlocks(dir, m)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errNotReproduced, path, err)
	}
	found, err := pack.Recheck(dir, m)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errNotReproduced, path, err)
	}
	if a.json {
		a.emit("verify", map[string]any{"path": path, "run": m.Run, "raw": raw, "blocks": blocks, "report": found}, nil)
	}
	a.sayFindings(raw, blocks, found)
	switch {
	case len(found.Records) > 0:
		return fmt.Errorf("%w: %s: its plan, environment, rows and manifest do not agree", errNotReproduced, path)
	case len(raw.Differ) > 0:
		return fmt.Errorf("%w: %s: the rows of %d trials do not follow from their raw results", errNotReproduced, path, len(raw.Differ))
	case len(blocks.Differ) > 0:
		return fmt.Errorf("%w: %s: %d trials are not what their sealed guests wrote", errNotReproduced, path, len(blocks.Differ))
	case len(found.Numbers) > 0:
		return fmt.Errorf("%w: %s: %d numbers of the report do not follow from its rows", errNotReproduced, path, len(found.Numbers))
	case !found.None():
		return fmt.Errorf("%w: %s: %d files of the report are not those that its rows give; another revision of hookbed may write them otherwise, and its own `driver verify` decides", errNotReproduced, path, len(found.Files))
	}
	a.say("the rows of %d trials follow from their raw results", raw.Trials)
	if blocks.Blocks > 0 {
		a.say("every row and raw file of %d trials is as replayed from what %d sealed guests wrote", blocks.Trials, blocks.Blocks)
	}
	a.say("every number of the report follows from its rows, and every file of it is as made anew")
	return nil
}

// checkRaw parses the raw results again, if the pack has a plan that says what they are of.
func (a *app) checkRaw(dir string, m pack.Manifest) (campaign.RawCheck, error) {
	if m.PlanSHA256 == "" {
		a.say("warning: the pack has no plan.json, so its raw results cannot be parsed again")
		return campaign.RawCheck{}, nil
	}
	return campaign.CheckRaw(dir)
}

func (a *app) sayFindings(raw campaign.RawCheck, blocks campaign.BlockCheck, found pack.Findings) {
	some := func(lines []string) {
		for _, line := range lines[:min(len(lines), maxShownDifferences)] {
			a.say("%s", line)
		}
	}
	some(found.Records)
	some(raw.Differ)
	some(blocks.Differ)
	var numbers []string
	for _, d := range found.Numbers {
		numbers = append(numbers, d.String())
	}
	some(numbers)
	some(found.Files)
	if len(raw.Missing) > 0 {
		a.say("warning: %d trials have no raw results in the pack, so nothing shows where their numbers are from", len(raw.Missing))
		some(raw.Missing)
	}
	if len(blocks.Missing) > 0 {
		a.say("warning: what the sealed guests of %d blocks wrote is not in the pack, so nothing shows where their rows are from", len(blocks.Missing))
		some(blocks.Missing)
	}
	if blocks.Other {
		a.say("warning: this revision of hookbed renders other bundles than the one that measured, so what sealed guests wrote is not replayed; that revision's `driver verify` does")
	}
}

// checkBlocks makes the rows of a run in virtual time again from what its sealed guests wrote.
func (a *app) checkBlocks(dir string, m pack.Manifest) (out campaign.BlockCheck, err error) {
	if m.PlanSHA256 == "" {
		return out, nil
	}
	scratch, remove, err := durable.Scratch("replay")
	if err != nil {
		return out, err
	}
	defer func() { _ = remove() }() // what stays costs only space
	return campaign.CheckBlocks(context.Background(), dir, scratch)
}
