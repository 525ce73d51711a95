package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"

	"hookbed/analysis/figure"
	"hookbed/analysis/table"
)

//go:embed report.html.tmpl
var pageTemplate string

//go:embed page/page.css
var pageStyle string

// pageScript is bundled from page/src by `make generate`.
//
//go:embed page/bundle.js
var pageScript string

// pages is what the template sees: the whole report.
type pages struct {
	book
	Several bool
	Pages   []page
	// Elements as a whole: the template would not leave their content as it is, and a
	// script must have the digest that the policy states.
	Style, Data, Script template.HTML
	ScriptHash          string
}

// page is the part of one clock.
type page struct {
	content
	Part     part
	Prefix   string // of links
	Headline string
	Facts    []fact
	Said     []Answer // in the order of the strata
	Overview []overviewPart
	Figures  []pageFigure
	Sections []table.Section
	Explain  []table.Section // first, with its pictures
	Bars     []pageFigure
	MoreBars []pageFigure // shown on demand
	Pair     *pairSection
	Runs     []pageRun
	Reading  []string

	claimCards
}

type pageFigure struct {
	Name, Caption string
	SVG           template.HTML
}

type pageRun struct {
	Name    string
	Entries []pageEntry
}

type pageEntry struct{ Key, Value string }

// htmlPage is the report as one file without any external resource. The policy in it has the
// browser refuse every other script, and every request.
func htmlPage(b book) ([]byte, error) {
	t, err := template.New("report").Funcs(template.FuncMap{"head": headOf, "rest": restOf, "packed": packed}).Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse report template: %w", err)
	}
	data := pageData{Schema: dataSchema}
	digest := sha256.Sum256([]byte(pageScript))
	all := pages{book: b, Several: b.several(), Style: element("style", pageStyle), Script: element("script", pageScript),
		ScriptHash: "sha256-" + base64.StdEncoding.EncodeToString(digest[:])}
	for _, c := range b.parts {
		c.data.ID = c.part.Name
		data.Parts = append(data.Parts, c.data)
		p := pageOf(c)
		p.Said = slices.DeleteFunc(slices.Clone(b.Answers), func(a Answer) bool { return b.several() && a.Clock != c.Clock })
		all.Pages = append(all.Pages, p)
	}
	encoded, err := data.encoded()
	if err != nil {
		return nil, err
	}
	all.Data = element(`script type="application/json" id="hookbed-data"`, string(encoded))
	var out bytes.Buffer
	if err := t.Execute(&out, all); err != nil {
		return nil, fmt.Errorf("render report.html: %w", err)
	}
	return out.Bytes(), nil
}

// element is an element whose content cannot end it.
func element(opening, content string) template.HTML {
	name, _, _ := strings.Cut(opening, " ")
	return template.HTML("<" + opening + ">" + content + "</" + name + ">")
}

func pageOf(c content) page {
	p := page{content: c, Overview: c.overview, Sections: filled(c.sections), Explain: filled(c.explain), Reading: c.reading(), Part: c.part, Facts: slices.Clone(c.facts), Pair: c.pair,
		claimCards: cardsOf(c)}
	if c.part.Name != "" {
		p.Prefix = c.part.Name + "-"
	}
	if len(c.data.Views) > 0 {
		p.Headline = c.data.Views[c.data.First].Headline
	}
	p.Headline = cmp.Or(p.Headline, "Nothing was measured.")
	for i, f := range p.Facts {
		if f.Link != "" {
			p.Facts[i].Link = "#" + p.Prefix + f.Link
		}
	}
	for _, f := range c.figures {
		p.Figures = append(p.Figures, pageFigureOf(f))
	}
	for _, b := range c.bars {
		p.Bars = append(p.Bars, pageFigureOf(b))
	}
	if len(p.Bars) > barsShown {
		p.Bars, p.MoreBars = p.Bars[:barsShown], p.Bars[barsShown:]
	}
	for _, name := range c.Document.Runs {
		r := pageRun{Name: name}
		for _, key := range slices.Sorted(maps.Keys(c.Environment[name])) {
			r.Entries = append(r.Entries, pageEntry{key, c.Environment[name][key]})
		}
		p.Runs = append(p.Runs, r)
	}
	return p
}

// barsShown is how many pictures of what explains it are shown at once.
const barsShown = 4

// pageFigureOf is a figure for the page. Every text in the SVG is escaped.
func pageFigureOf(f figure.Figure) pageFigure {
	return pageFigure{f.Name, f.Caption, template.HTML(figure.Themed(f.SVG))}
}

// filled are the sections that the page has tables of: claims are cards there, and what has
// no row is left out.
func filled(all []table.Section) (out []table.Section) {
	for _, s := range all {
		if s.ID == claimsID || strings.HasSuffix(s.ID, "-"+claimsID) {
			continue
		}
		s.Tables = slices.Clone(s.Tables)
		for i := range s.Tables {
			s.Tables[i] = withoutEmptyColumns(s.Tables[i])
		}
		s.Tables = slices.DeleteFunc(s.Tables, func(t table.Table) bool { return len(t.Rows) == 0 && len(t.Points) == 0 })
		if len(s.Tables) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// withoutEmptyColumns is a table without the columns that have nothing in any row.
func withoutEmptyColumns(t table.Table) table.Table {
	var kept []int
	for i := range t.Columns {
		if slices.ContainsFunc(t.Rows, func(r table.Row) bool { return r.Cells[i] != "" && r.Cells[i] != table.None }) {
			kept = append(kept, i)
		}
	}
	if len(kept) == len(t.Columns) {
		return t
	}
	out := t
	out.Columns, out.Rows = nil, nil
	for _, i := range kept {
		out.Columns = append(out.Columns, t.Columns[i])
	}
	for _, r := range t.Rows {
		short := table.Row{Class: r.Class}
		for _, i := range kept {
			short.Cells, short.Links = append(short.Cells, r.Cells[i]), append(short.Links, r.Link(i))
		}
		out.Rows = append(out.Rows, short)
	}
	return out
}

// resultsOpen is how many sections of results a page shows at once. With more of them, as of many
// kernels, it would be longer than anyone reads.
const resultsOpen = 6

// Further are the sections that the page shows on demand: all but the results, if they are few, and
// what went wrong.
func (p page) Further(s table.Section) bool {
	if isResults(s) {
		return len(p.Sections)-len(slices.DeleteFunc(slices.Clone(p.Sections), isResults)) > resultsOpen
	}
	return !strings.Contains(s.ID, "trouble") && !strings.Contains(s.ID, "boots-")
}

func isResults(s table.Section) bool { return strings.Contains(s.ID, "results-") }

// longRows is from how many rows on a table is packed even where it is shown.
const longRows = 60

// packed reports whether a browser with scripts makes elements of a table only when it is shown, and of
// its first rows alone.
func packed(t table.Table) bool { return t.Folded || len(t.Rows) > longRows }
