package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/analysis/claims"
	"hookbed/analysis/durable"
	"hookbed/analysis/export"
	"hookbed/analysis/runs"
)

type verifyFlags struct {
	claims, format, trusted string
	all                     bool
}

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify DIR... | FILE...",
		Short: "Judge the study's claims by runs: reproduced, contradicted or undecided",
		Long: `Verify reads run directories and judges claims: the sentences of the 2017 study
and hookbed's own, each with a hypothesis and a margin fixed beforehand. Directions
are judged by intervals, sameness by tests of equivalence: what is merely not
significant is undecided, never reproduced.

Of each file that "driver pack" made, verify first checks that nothing was changed: the
digests; that plan, environment, rows and manifest agree; that the rows follow from the
raw results, which are parsed again, and in virtual time from all that the sealed guests
wrote, which is replayed; and that the report, made anew, is the same to the byte. It says
which trials have no raw results. With --trusted, every file must be signed (FILE.sig) by a
key of an allowed signers file, as ssh-keygen(1) describes it: principals, the options
namespaces, valid-after and valid-before, and a key. Certificates are not supported.

For people it lists the claims that fit the runs and counts the others; --all lists those,
too. --json and --format always have all of them.

The exit code is 0 if every claim that fits the run is reproduced, and 5 if one is
contradicted or undecided. A claim about arms, workloads or numbers of policies that
the run does not have is undecided and does not change the exit code. If no claim fits
the run at all, the exit code is 5.

Several directories are judged together only if their environments are alike, as for
"driver compare"; otherwise the error names what differs.`,
		Example: `  driver verify runs/full
  driver verify runs/full --claims my-claims.toml
  driver verify runs/full --format junit > claims.xml
  driver verify full.hookbed.tar.gz
  driver verify full.hookbed.tar.gz --trusted ~/.ssh/allowed_signers`,
		Args: someDirs("verify"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(f.format); err != nil {
				return err
			}
			return a.verify(args, f)
		},
	}
	cmd.Flags().StringVar(&f.claims, "claims", "", "judge the claims of this TOML file instead")
	cmd.Flags().StringVar(&f.trusted, "trusted", "", "packs must be signed by a key of this allowed signers file")
	cmd.Flags().BoolVar(&f.all, "all", false, "also list the claims about what was not run")
	formatFlag(cmd, &f.format)
	return cmd
}

// verify checks each pack and judges claims by all packs and run directories.
func (a *app) verify(args []string, f verifyFlags) error {
	base, remove, err := durable.Scratch("verify")
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer func() { _ = remove() }() // what stays costs only space
	dirs := slices.Clone(args)
	for i, arg := range args {
		info, err := os.Stat(arg)
		if err != nil || !info.Mode().IsRegular() {
			if f.trusted != "" {
				return fmt.Errorf("%w: --trusted is for files that `driver pack` made, and %s is none", errUsage, arg)
			}
			continue
		}
		dirs[i] = filepath.Join(base, strconv.Itoa(i+1))
		if err := a.openPack(arg, dirs[i], f); err != nil {
			return err
		}
	}
	return a.verifyRuns(dirs, f)
}

func (a *app) verifyRuns(dirs []string, f verifyFlags) error {
	list, err := loadClaims(f.claims)
	if err != nil {
		return err
	}
	all, err := runs.Load(dirs...)
	if err != nil {
		return err
	}
	for _, r := range all {
		for _, w := range []string{r.TornWarning(), r.ChangedWarning()} {
			if w != "" {
				a.say("warning: %s", w)
			}
		}
	}
	set, err := runs.Arrange(all)
	if err != nil {
		return err
	}
	if f.claims == "" {
		list = append(list, claims.OfOriginals(list, set.Words)...)
	}
	verdicts := claims.Judge(set, list)
	if err := a.showVerdicts(verdicts, f); err != nil {
		return err
	}
	return verified(verdicts)
}

func loadClaims(path string) ([]claims.Claim, error) {
	if path == "" {
		return claims.Study()
	}
	data, err := runs.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	list, err := claims.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUsage, path, err)
	}
	return list, nil
}

// verified is the error of verdicts that are not all reproduced, for the exit code.
func verified(verdicts []claims.Verdict) error {
	n, missing := map[string]int{}, 0
	for _, v := range verdicts {
		n[v.Verdict]++
		if v.Missing {
			missing++
		}
	}
	switch undecided := n[claims.Undecided] - missing; {
	case missing == len(verdicts):
		return fmt.Errorf("%w: no claim fits what was run", errNotReproduced)
	case n[claims.Contradicted]+undecided > 0:
		return fmt.Errorf("%w: %d claims are contradicted and %d undecided, %d reproduced", errNotReproduced, n[claims.Contradicted], undecided, n[claims.Reproduced])
	}
	return nil
}

func (a *app) showVerdicts(verdicts []claims.Verdict, f verifyFlags) error {
	if f.format == "" && a.json {
		for _, v := range verdicts {
			a.emit("claim", v, nil)
		}
		return nil
	}
	if f.format != "" || f.all {
		return export.Verdicts(a.out, f.format, verdicts)
	}
	fitting := slices.DeleteFunc(slices.Clone(verdicts), func(v claims.Verdict) bool { return v.Missing })
	if len(fitting) > 0 {
		if err := export.Verdicts(a.out, "", fitting); err != nil {
			return err
		}
	}
	if n := len(verdicts) - len(fitting); n > 0 {
		fmt.Fprintf(a.out, "%d of %d claims are about arms, workloads or numbers of policies that were not run; --all lists them\n", n, len(verdicts))
	}
	return nil
}

// someDirs makes it a usage error to name no directory.
func someDirs(command string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%w: `driver %s` takes one or more run directories; see `driver %s --help`", errUsage, command, command)
		}
		return nil
	}
}

func formatFlag(cmd *cobra.Command, format *string, more ...string) {
	cmd.Flags().StringVar(format, "format", "", "write "+strings.Join(formats(more...), ", ")+" to standard output")
}

func formats(more ...string) []string {
	return append([]string{export.FormatCSV, export.FormatJSON, export.FormatJUnit}, more...)
}

func checkFormat(format string, more ...string) error {
	if format != "" && !slices.Contains(formats(more...), format) {
		return fmt.Errorf("%w: --format %q, want one of %s", errUsage, format, strings.Join(formats(more...), ", "))
	}
	return nil
}
