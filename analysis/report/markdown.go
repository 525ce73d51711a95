package report

import (
	"bytes"
	"fmt"
	"html"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hookbed/analysis/table"
)

func markdown(all book) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n\n", mdEscape(all.Title))
	markdownAnswers(&b, all.Answers)
	for _, c := range all.parts {
		if all.several() {
			fmt.Fprintf(&b, "# %s\n\n%s\n\n", mdEscape(c.part.Title), mdEscape(c.part.Note))
		}
		markdownPart(&b, c)
	}
	return b.Bytes()
}

func markdownAnswers(b *bytes.Buffer, all []Answer) {
	if len(all) > 0 {
		b.WriteString("## The answer\n\n")
	}
	for _, a := range all {
		fmt.Fprintf(b, "### %s\n\n", mdEscape(a.Heading()))
		if a.Note != "" {
			fmt.Fprintf(b, "%s\n\n", mdEscape(a.Note))
		}
		for _, s := range a.Sentences {
			fmt.Fprintf(b, "- **%s:** %s\n", mdEscape(s.Topic), mdEscape(s.Text))
		}
		b.WriteString("\n")
	}
}

func markdownPart(b *bytes.Buffer, c content) {
	if c.Description != "" {
		fmt.Fprintf(b, "%s\n\n", mdEscape(c.Description))
	}
	fmt.Fprintf(b, "Runs: %s.\n\n", strings.Join(c.Runs, ", "))
	for _, s := range c.explain {
		markdownSection(b, s)
	}
	for _, f := range c.bars {
		fmt.Fprintf(b, "![%s](figures/%s.svg)\n\n*%s Data: [CSV](figures/%s.csv).*\n\n", mdEscape(f.Description), f.Name, mdEscape(f.Caption), f.Name)
	}
	markdownOverview(b, c)
	if len(c.Warnings) > 0 {
		b.WriteString("## Warnings\n\n")
		for _, w := range c.Warnings {
			fmt.Fprintf(b, "- **%s** %s\n", mdEscape(headOf(w)), mdEscape(restOf(w)))
		}
		b.WriteString("\n")
	}
	b.WriteString("## Figures\n\n")
	for _, f := range c.figures {
		fmt.Fprintf(b, "![%s](figures/%s.svg)\n\n*%s Data: [CSV](figures/%s.csv).*\n\n", mdEscape(f.Description), f.Name, mdEscape(f.Caption), f.Name)
	}
	for _, s := range c.sections {
		markdownSection(b, s)
	}
	markdownEnvironment(b, c)
	b.WriteString("## How to read this\n\n")
	for _, line := range c.reading() {
		fmt.Fprintf(b, "- %s\n", mdEscape(line))
	}
}

func markdownOverview(b *bytes.Buffer, c content) {
	b.WriteString("## At a glance\n\n")
	if len(c.overview) == 0 {
		b.WriteString("Nothing can be compared: no arm has both N = 0 and more policies, and there is no reference arm.\n\n")
	}
	for _, g := range c.overview {
		fmt.Fprintf(b, "### %s\n\n", mdEscape(g.Name))
		if g.Sentence != "" {
			fmt.Fprintf(b, "%s\n\n", mdEscape(g.Sentence))
		}
		for _, t := range g.Tables {
			markdownOverviewTable(b, t)
		}
	}
}

func markdownOverviewTable(b *bytes.Buffer, g overviewTable) {
	t := table.Table{Columns: []table.Column{table.Text("arm"), table.Number("N")}}
	for _, m := range g.Measures {
		t.Columns = append(t.Columns, table.Text(m))
	}
	for _, r := range g.Rows {
		row := table.Row{Cells: []string{r.Arm, strconv.Itoa(r.N)}}
		for _, c := range r.Cells {
			row.Cells = append(row.Cells, strings.TrimSpace(c.Word+" "+c.Ratio))
		}
		t.Rows = append(t.Rows, row)
	}
	fmt.Fprintf(b, "%s:\n\n", mdEscape(g.Title))
	markdownTable(b, t)
}

// headOf and restOf split a warning at its first colon or full stop.
func headOf(w string) string {
	if i := strings.IndexAny(w, ":."); i > 0 && i < 60 {
		return w[:i+1]
	}
	return "Note:"
}

func restOf(w string) string {
	return strings.TrimSpace(strings.TrimPrefix(w, headOf(w)))
}

func markdownSection(b *bytes.Buffer, s table.Section) {
	fmt.Fprintf(b, "## %s\n\n", mdEscape(s.Title))
	if s.Note != "" {
		fmt.Fprintf(b, "%s\n\n", mdEscape(s.Note))
	}
	for _, t := range s.Tables {
		title := t.Title
		if title == "" {
			title = s.Title
		}
		if t.Folded {
			fmt.Fprintf(b, "<details><summary>%s</summary>\n\n", html.EscapeString(title))
		} else if t.Title != "" {
			fmt.Fprintf(b, "### %s\n\n", mdEscape(t.Title))
		}
		if t.Note != "" {
			fmt.Fprintf(b, "%s\n\n", mdEscape(t.Note))
		}
		for i, p := range t.Points {
			fmt.Fprintf(b, "- %s\n", mdEscape(p))
			if i == len(t.Points)-1 {
				b.WriteString("\n")
			}
		}
		markdownTable(b, t)
		if t.Folded {
			b.WriteString("</details>\n\n")
		}
	}
}

func markdownTable(b *bytes.Buffer, t table.Table) {
	var heads, rules []string
	for _, col := range t.Columns {
		heads = append(heads, mdEscape(col.Title))
		if col.Number {
			rules = append(rules, "--:")
		} else {
			rules = append(rules, "---")
		}
	}
	fmt.Fprintf(b, "| %s |\n| %s |\n", strings.Join(heads, " | "), strings.Join(rules, " | "))
	for _, r := range t.Rows {
		var cells []string
		for i, cell := range r.Cells {
			text := mdEscape(cell)
			if to := r.Link(i); to != "" {
				text = "[" + text + "](" + to + ")"
			}
			cells = append(cells, text)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
	b.WriteString("\n")
}

func markdownEnvironment(b *bytes.Buffer, c content) {
	b.WriteString("## Environment\n\n")
	for _, run := range c.Runs {
		env := c.Environment[run]
		if len(env) == 0 {
			fmt.Fprintf(b, "%s: not recorded.\n\n", mdEscape(run))
			continue
		}
		fmt.Fprintf(b, "<details><summary>%s</summary>\n\n", html.EscapeString(run))
		t := table.Table{Columns: []table.Column{table.Text("what"), table.Text("value")}}
		for _, key := range slices.Sorted(maps.Keys(env)) {
			t.Rows = append(t.Rows, table.Row{Cells: []string{key, env[key]}})
		}
		markdownTable(b, t)
		b.WriteString("</details>\n\n")
	}
}

// mdEscape keeps text from being read as markup or as the end of a table cell.
func mdEscape(s string) string {
	return strings.NewReplacer("|", `\|`, "\r\n", "<br>", "\n", "<br>", "<", "&lt;", "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`, "]", `\]`).Replace(s)
}
