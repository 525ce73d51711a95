package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"hookbed/analysis/claims"
	"hookbed/analysis/export"
	"hookbed/analysis/runs"
	"hookbed/analysis/stat"
)

type verifyFlags struct{ claims, format string }

func (a *app) verifyCommand() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify DIR...",
		Short: "Judge the study's claims by runs: reproduced, contradicted or undecided",
		Long: `Verify reads run directories and judges claims: the sentences of the 2017 study
and hookbed's own, each with a hypothesis and a margin fixed beforehand. Directions
are judged by intervals, sameness by tests of equivalence: what is merely not
significant is undecided, never reproduced.

The exit code is 0 if every claim that fits the run is reproduced, and 5 if one is
contradicted or undecided. A claim about arms, workloads or numbers of policies that
the run does not have is undecided without any say in that; but 5 it is, too, if no
claim at all fits the run.

Several directories are judged together only if their environments are alike, as for
"driver compare"; else what differs is named.`,
		Example: `  driver verify runs/full
  driver verify runs/full --claims my-claims.toml
  driver verify runs/full --format junit > claims.xml`,
		Args: someDirs("verify"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(f.format); err != nil {
				return err
			}
			if info, err := os.Stat(args[0]); err == nil && info.Mode().IsRegular() {
				return a.verifyPack(args[0], f)
			}
			return a.verifyRuns(args, f)
		},
	}
	cmd.Flags().StringVar(&f.claims, "claims", "", "judge the claims of this TOML file instead")
	formatFlag(cmd, &f.format)
	return cmd
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
		if w := r.ChangedWarning(); w != "" {
			a.say("warning: %s", w)
		}
	}
	set, err := runs.Arrange(all)
	if err != nil {
		return err
	}
	verdicts := claims.Judge(set, list)
	if err := a.showVerdicts(verdicts, f.format); err != nil {
		return err
	}
	return verified(verdicts)
}

func loadClaims(path string) ([]claims.Claim, error) {
	if path == "" {
		return claims.Study()
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	list, err := claims.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUsage, path, err)
	}
	return list, nil
}

// verified is the error of the exit code.
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

func (a *app) showVerdicts(verdicts []claims.Verdict, format string) error {
	switch format {
	case export.FormatJSON:
		doc := map[string]any{"claims": verdicts}
		if claims.Rough(verdicts) {
			doc["note"] = stat.RoughNote
		}
		return writeDocument(a.out, doc)
	case export.FormatCSV:
		return writeLines(a.out, verdictLines(verdicts))
	case export.FormatJUnit:
		return export.JUnit(a.out, "hookbed claims", verdictCases(verdicts))
	}
	if a.json {
		for _, v := range verdicts {
			a.emit("claim", v, nil)
		}
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "claim\tverdict\tnumbers")
	for _, missing := range []bool{false, true} { // what the run can say comes first
		for _, v := range verdicts {
			if v.Missing == missing {
				fmt.Fprintf(w, "%s\t%s\t%s\n", v.ID, v.Verdict, numbersOf(v))
			}
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write verdicts: %w", err)
	}
	if claims.Rough(verdicts) {
		fmt.Fprintln(a.out, stat.RoughNote)
	}
	return nil
}

// numbersOf is what a verdict rests on, in one line.
func numbersOf(v claims.Verdict) string {
	c := v.Deciding()
	if c == nil {
		return v.Reason
	}
	text := fmt.Sprintf("%s; %s, %s N=%d over %s N=%d: %s, margin %s, %s", v.Reason, c.Metric, c.Arm, c.Policies, c.Against, c.AgainstPolicies,
		ratioText(&c.Ratio), percentText(v.Margin), trialsText(c.Paired, c.Blocks, c.Trials, c.AgainstTrials))
	if n := v.Decides(); n != nil {
		text += "; " + n.String()
	}
	return text
}

func ratioText(r *stat.Estimate) string {
	switch {
	case r == nil || r.Estimate == 0:
		return "no ratio"
	case r.Confidence == 0:
		return "x" + ratioNumber(r.Estimate) + ", no interval"
	}
	text := fmt.Sprintf("x%s (%s to %s)", ratioNumber(r.Estimate), ratioNumber(r.Low), ratioNumber(r.High))
	if r.Rough {
		text += " " + stat.RoughMark
	}
	return text
}

// ratioNumber never writes 0 for a ratio above it.
func ratioNumber(v float64) string {
	if v > 0 && v < 0.01 {
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

func percentText(share float64) string { return strconv.FormatFloat(share*100, 'g', 3, 64) + " %" }

func trialsText(paired bool, blocks, trials, against int) string {
	if paired {
		return fmt.Sprintf("paired in %d blocks, %d and %d trials", blocks, trials, against)
	}
	return fmt.Sprintf("%d and %d trials", trials, against)
}

func verdictLines(verdicts []claims.Verdict) [][]string {
	out := [][]string{{"claim", "sentence", "source", "verdict", "missing", "margin", "metric", "arm", "policies", "against", "against_policies",
		"ratio", "low", "high", "confidence", "rough", "paired", "blocks", "trials", "against_trials", "word"}}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	for _, v := range verdicts {
		head := []string{v.ID, v.Sentence, v.Source, v.Verdict, strconv.FormatBool(v.Missing), number(v.Margin)}
		if len(v.Comparisons) == 0 {
			out = append(out, append(head, make([]string, len(out[0])-len(head))...))
		}
		for _, c := range v.Comparisons {
			out = append(out, append(slices.Clone(head), c.Metric, c.Arm, strconv.Itoa(c.Policies), c.Against, strconv.Itoa(c.AgainstPolicies),
				number(c.Ratio.Estimate), number(c.Ratio.Low), number(c.Ratio.High), number(c.Ratio.Confidence), strconv.FormatBool(c.Ratio.Rough), strconv.FormatBool(c.Paired),
				strconv.Itoa(c.Blocks), strconv.Itoa(c.Trials), strconv.Itoa(c.AgainstTrials), c.Word))
		}
	}
	return out
}

func verdictCases(verdicts []claims.Verdict) []export.Case {
	var out []export.Case
	for _, v := range verdicts {
		c := export.Case{Class: "hookbed.claims", Name: v.ID, Output: v.Sentence + " (" + v.Source + ")\n" + numbersOf(v), Message: v.Verdict + ": " + numbersOf(v)}
		switch {
		case v.Verdict == claims.Contradicted:
			c.Outcome = export.Failure
		case v.Missing:
			c.Outcome = export.Skipped
		case v.Verdict == claims.Undecided:
			c.Outcome = export.Error
		}
		out = append(out, c)
	}
	return out
}

// someDirs makes a missing directory a usage error.
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

func writeDocument(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return nil
}

func writeLines(w io.Writer, lines [][]string) error {
	if err := csv.NewWriter(w).WriteAll(lines); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}
