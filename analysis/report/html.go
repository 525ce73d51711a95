package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"slices"

	"hookbed/analysis/table"
)

//go:embed report.html.tmpl
var pageTemplate string

// pages is what the template sees: the whole report.
type pages struct {
	book
	Several bool
	Clocks  []string
	Pages   []page
}

// page is the part of one clock.
type page struct {
	content
	Part     part
	Prefix   string // of links
	Overview []overviewPart
	Figures  []pageFigure
	Sections []table.Section
	Explain  []table.Section // first, with its pictures
	Bars     []pageFigure
	Runs     []pageRun
	Reading  []string
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

// htmlPage is the report as one file without any external resource.
func htmlPage(b book) ([]byte, error) {
	t, err := template.New("report").Funcs(template.FuncMap{"head": headOf, "rest": restOf}).Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse report template: %w", err)
	}
	all := pages{book: b, Several: b.several(), Clocks: b.clocks()}
	for _, c := range b.parts {
		all.Pages = append(all.Pages, pageOf(c))
	}
	var out bytes.Buffer
	if err := t.Execute(&out, all); err != nil {
		return nil, fmt.Errorf("render report.html: %w", err)
	}
	return out.Bytes(), nil
}

func pageOf(c content) page {
	p := page{content: c, Overview: c.overview, Sections: c.sections, Explain: c.explain, Reading: c.reading(), Part: c.part}
	if c.part.Name != "" {
		p.Prefix = c.part.Name + "-"
	}
	for _, f := range c.figures {
		// Every text in the SVG is escaped.
		p.Figures = append(p.Figures, pageFigure{f.Name, f.Caption, template.HTML(f.SVG)})
	}
	for _, b := range c.bars {
		p.Bars = append(p.Bars, pageFigure{b.Name, b.Caption, template.HTML(b.SVG)})
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
