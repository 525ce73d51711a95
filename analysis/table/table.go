// Package table holds the tables of a report before they are Markdown or HTML, and
// writes numbers, units and lists of names for people. It does not depend on runs.
package table

// Table is a table before it is Markdown or HTML.
type Table struct {
	ID      string   // of the HTML element, without the prefix of its kind
	Title   string   // "" where the section's title is enough
	Note    string   // a sentence above it, "" for none
	Points  []string // below the note, a line each
	Columns []Column
	Rows    []Row
	Folded  bool // of second rank: shown on demand
}

// Column is the heading of a column and how its cells are aligned.
type Column struct {
	Title  string
	Number bool // aligned right
}

// Row is a line of a table.
type Row struct {
	Cells []string // one for each column
	Class string   // "failed" for a line without a number
	Links []string // where cells lead, "" for none; may be shorter than Cells
}

// Link is where a cell leads, "" for none.
func (r Row) Link(i int) string {
	if i < len(r.Links) {
		return r.Links[i]
	}
	return ""
}

// Text is a column of words, aligned left.
func Text(title string) Column { return Column{Title: title} }

// Number is a column of numbers, aligned right. The unit is part of the title.
func Number(title string) Column { return Column{title, true} }

// Section is a heading with tables below it.
type Section struct {
	ID     string // of the HTML element, without the prefix of its kind
	Title  string
	Note   string // below the heading, "" for none
	Tables []Table
}
