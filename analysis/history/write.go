package history

import (
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"hookbed/analysis/table"
)

// Text writes the nights and the changes as tables for a terminal. Series that did not change are
// counted.
func (h History) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "night\trevision\tagainst the baseline\tchanges\tenvironment")
	for _, n := range h.Nights {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n.Name, or(n.Revision), or(n.Verdict), h.at(n), n.changed())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, h.Summary())
	if !h.any(func(Series) bool { return true }) {
		return nil
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "cell\tmetric\tfrom\tto\tratio\tsince\tconfidence")
	for _, s := range h.Series {
		for _, c := range s.Changes {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Title, s.Metric, s.number(c.Old), s.number(c.New), ratio(c), c.Night, c.Confidence())
		}
	}
	return t.Flush()
}

// any reports whether some series of a kind changed.
func (h History) any(of func(Series) bool) bool {
	for _, s := range h.Series {
		if len(s.Changes) > 0 && of(s) {
			return true
		}
	}
	return false
}

// Summary is the answer in a sentence or two.
func (h History) Summary() string {
	count := map[string]int{}
	for _, s := range h.Series {
		count[s.Word]++
	}
	measured := 0
	for _, n := range h.Nights {
		if n.Measured() {
			measured++
		}
	}
	text := fmt.Sprintf("%s in %s with numbers: %d changed by more than %s, %d by less, %d did not change",
		table.Plural(len(h.Series), "cell"), table.Plural(measured, "night"), count[Changed], table.Percent(h.Margin), count[Small], count[NoChange])
	if n := count[TooFew]; n > 0 {
		text += fmt.Sprintf(", %d have too few nights to tell", n)
	}
	return text + "."
}

// How says how changes were found.
func (h History) How() string {
	if h.Clock == "virtual" {
		return "In virtual time nothing is random but the seeds, which are the same every night: a number that differs from that of the night before has a cause in what changed. Every such step is shown."
	}
	text := fmt.Sprintf("Changes are found by Pettitt's test (1979) with permutations, and binary segmentation. Among the cells that changed, at most %s are expected to be wrong (Benjamini and Hochberg 1995)", table.Percent(h.Level))
	if h.PValue > 0 {
		text += fmt.Sprintf("; here that is a p-value of %s or less", strconv.FormatFloat(h.PValue, 'g', 2, 64))
	}
	return text + ". What the test cannot tell from noise is no change; fewer than 8 nights decide nothing."
}

// Confidence is the confidence in a change, for people.
func (c Change) Confidence() string {
	if c.Method == exact {
		return exact
	}
	if c.Conf > 0.9995 {
		return "> 99.9 %"
	}
	return table.Percent(c.Conf)
}

// ratio is the ratio of a change for people, with what it means.
func ratio(c Change) string {
	word := "worse"
	if c.Better {
		word = "better"
	}
	digits := 3
	if !c.Beyond {
		digits = 6
	}
	return "×" + strconv.FormatFloat(c.Ratio, 'f', digits, 64) + " " + word
}

// number is a value of the series with its unit.
func (s Series) number(v float64) string {
	scale := table.ScaleFor(s.Unit, []float64{v})
	scale.Decimals++ // a step of 2 % shows
	return strings.TrimSpace(scale.Format(v) + " " + scale.Unit)
}

// at is what changed with a night.
func (h History) at(n *Night) string {
	if !n.Measured() {
		return "no numbers"
	}
	beyond, small := 0, 0
	for _, s := range h.Series {
		for _, c := range s.Changes {
			switch {
			case c.Night != n.Name:
			case c.Beyond:
				beyond++
			default:
				small++
			}
		}
	}
	switch {
	case beyond+small == 0:
		return "-"
	case small == 0:
		return strconv.Itoa(beyond)
	case beyond == 0:
		return strconv.Itoa(small) + " small"
	}
	return fmt.Sprintf("%d, and %d small", beyond, small)
}

// changed is what differs in the environment of a night.
func (n *Night) changed() string {
	var parts []string
	for _, d := range n.Environment {
		parts = append(parts, fmt.Sprintf("%s was %s, is %s", d.What, short(d.Old), short(d.New)))
	}
	return or(strings.Join(parts, "; "))
}

// short is a value of an environment, of which a digest needs no more than its beginning.
func short(value string) string {
	if _, err := hex.DecodeString(value); err == nil && len(value) == 64 {
		return value[:12]
	}
	return value
}

func or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// CSV writes a line for each cell and night, with the change, if one begins there.
func (h History) CSV(w io.Writer) error {
	out := csv.NewWriter(w)
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	_ = out.Write([]string{"night", "date", "revision", "cell", "title", "metric", "unit", "value", "change_ratio", "change_p", "change_method"})
	byName := map[string]*Night{}
	for _, n := range h.Nights {
		byName[n.Name] = n
	}
	for _, s := range h.Series {
		began := map[string]Change{}
		for _, c := range s.Changes {
			began[c.Night] = c
		}
		for i, name := range s.Nights {
			n := byName[name]
			line := []string{name, n.Date, n.Revision, s.Cell, s.Title, s.Metric, s.Unit, number(s.Values[i]), "", "", ""}
			if c, ok := began[name]; ok {
				copy(line[8:], []string{number(c.Ratio), number(c.P), c.Method})
			}
			_ = out.Write(line)
		}
	}
	out.Flush()
	return out.Error()
}
