package report

// table is a table before it is Markdown or HTML.
type table struct {
	ID      string
	Title   string
	Note    string
	Columns []column
	Rows    []tableRow
	Folded  bool // of second rank: shown on demand
}

type column struct {
	Title  string
	Number bool // aligned right
}

type tableRow struct {
	Cells []string
	Class string // "failed" for a line without a number
}

func text(title string) column { return column{Title: title} }

func number(title string) column { return column{title, true} }

// section is a heading with tables below it.
type section struct {
	ID     string
	Title  string
	Note   string
	Tables []table
}
