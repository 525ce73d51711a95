package export

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"hookbed/analysis/compare"
	"hookbed/analysis/stat"
)

// Comparison writes what a comparison of two runs came to in a format: FormatCSV, FormatJSON or
// FormatJUnit; "" is text for people.
func Comparison(w io.Writer, format string, r compare.Result) error {
	switch format {
	case FormatJSON:
		return document(w, r)
	case FormatCSV:
		return table(w, comparisonLines(r))
	case FormatJUnit:
		return JUnit(w, "hookbed compare", comparisonCases(r))
	}
	return comparisonText(w, r)
}

func comparisonText(w io.Writer, r compare.Result) error {
	for _, d := range r.Environment {
		fmt.Fprintf(w, "environment: %s was %s, is %s\n", d.What, d.Old, d.New)
	}
	if r.Identical {
		fmt.Fprintf(w, "identical: the rows of %s and %s are the same, byte for byte\n", r.Old, r.New)
		return nil
	}
	if r.RowsDiffering > 0 {
		fmt.Fprintf(w, "%d rows differ, the first:\n", r.RowsDiffering)
	}
	for _, d := range r.Rows {
		fmt.Fprintf(w, "  %s (%s) block %d trial %d %s: %s, was %s\n", d.Title, d.Cell, d.Block, d.Trial, d.Metric, d.New, d.Old)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "cell\tmetric\t%s over %s\tverdict\twhy\n", r.New, r.Old)
	for _, c := range r.Cells {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Title, c.Metric, ratioText(c.Ratio), c.Verdict, c.Reason)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write comparison: %w", err)
	}
	if r.Note != "" {
		fmt.Fprintln(w, r.Note)
	}
	return nil
}

func comparisonLines(r compare.Result) [][]string {
	out := [][]string{{"cell", "title", "metric", "ratio", "low", "high", "confidence", "rough", "margin", "paired", "blocks", "old_trials", "new_trials", "verdict", "why"}}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	for _, c := range r.Cells {
		line := []string{c.ID, c.Title, c.Metric}
		e := c.Ratio
		if e == nil {
			e = &stat.Estimate{}
		}
		line = append(line, number(e.Estimate), number(e.Low), number(e.High), number(e.Confidence), strconv.FormatBool(e.Rough), number(r.Margin), strconv.FormatBool(c.Paired),
			strconv.Itoa(c.Blocks), strconv.Itoa(c.OldTrials), strconv.Itoa(c.NewTrials), c.Verdict, c.Reason)
		out = append(out, line)
	}
	return out
}

func comparisonCases(r compare.Result) []Case {
	var out []Case
	for _, c := range r.Cells {
		text := fmt.Sprintf("%s: %s %s %s", c.Verdict, c.Metric, ratioText(c.Ratio), c.Reason)
		k := Case{Class: "hookbed.compare", Name: c.Title, Message: text, Output: text}
		switch {
		case r.Identical || c.Verdict == compare.Same:
		case c.Verdict == compare.Different:
			k.Outcome = Failure
		default:
			k.Outcome = Error
		}
		out = append(out, k)
	}
	return out
}
