package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"slices"
)

//go:embed report.html.tmpl
var pageTemplate string

// page is what the template sees.
type page struct {
	content
	Glance   []glanceScenario
	Figures  []pageFigure
	Sections []section
	Explain  []section // first, with its pictures
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
func htmlPage(c content) ([]byte, error) {
	t, err := template.New("report").Funcs(template.FuncMap{"head": headOf, "rest": restOf}).Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse report template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, pageOf(c)); err != nil {
		return nil, fmt.Errorf("render report.html: %w", err)
	}
	return b.Bytes(), nil
}

func pageOf(c content) page {
	p := page{content: c, Glance: c.glance, Sections: c.sections, Explain: c.explain, Reading: c.reading()}
	for _, f := range c.figures {
		// The SVG is made by this package, which escapes every text in it.
		p.Figures = append(p.Figures, pageFigure{f.Name, f.Caption, template.HTML(f.svg())})
	}
	for _, b := range c.bars {
		p.Bars = append(p.Bars, pageFigure{b.Name, b.Caption, template.HTML(b.svg())})
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
