package export

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"

	"hookbed/analysis/claims"
	"hookbed/analysis/stat"
)

// Verdicts writes the verdicts of claims in a format: FormatCSV, FormatJSON or FormatJUnit; "" is a
// table for people.
func Verdicts(w io.Writer, format string, verdicts []claims.Verdict) error {
	switch format {
	case FormatJSON:
		doc := map[string]any{"claims": verdicts}
		if claims.Rough(verdicts) {
			doc["note"] = stat.RoughNote
		}
		return document(w, doc)
	case FormatCSV:
		return table(w, verdictLines(verdicts))
	case FormatJUnit:
		return JUnit(w, "hookbed claims", verdictCases(verdicts))
	}
	return verdictText(w, verdicts)
}

func verdictText(w io.Writer, verdicts []claims.Verdict) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "claim\tverdict\tnumbers")
	for _, missing := range []bool{false, true} { // what the run can decide comes first
		for _, v := range verdicts {
			if v.Missing == missing {
				fmt.Fprintf(t, "%s\t%s\t%s\n", v.ID, v.Verdict, numbersOf(v))
			}
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write verdicts: %w", err)
	}
	if claims.Rough(verdicts) {
		fmt.Fprintln(w, stat.RoughNote)
	}
	return nil
}

// numbersOf is the numbers behind a verdict, in one line.
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

func verdictCases(verdicts []claims.Verdict) []Case {
	var out []Case
	for _, v := range verdicts {
		c := Case{Class: "hookbed.claims", Name: v.ID, Output: v.Sentence + " (" + v.Source + ")\n" + numbersOf(v), Message: v.Verdict + ": " + numbersOf(v)}
		switch {
		case v.Verdict == claims.Contradicted:
			c.Outcome = Failure
		case v.Missing:
			c.Outcome = Skipped
		case v.Verdict == claims.Undecided:
			c.Outcome = Error
		}
		out = append(out, c)
	}
	return out
}

// document writes v as one JSON document.
func document(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return nil
}

// table writes lines as CSV.
func table(w io.Writer, lines [][]string) error {
	if err := csv.NewWriter(w).WriteAll(lines); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}
