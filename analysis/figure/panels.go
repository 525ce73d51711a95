package figure

import (
	"math"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// What one panel of a figure holds at most: more lines cannot be distinguished, and
// there is no room for more names next to it.
const (
	onePanel    = 8   // lines, of a figure that has no need of a second panel
	panelLines  = 6   // lines of each of several panels
	panelRefs   = 4   // arms without policies
	panelHeight = 290 // of each of several, in points
)

// panels split a figure of many arms into pictures of few, one below the other, in
// the order of the arms and with the same axes. An arm without policies is in
// every panel where there are few of them, since the others are read against it.
func (f chart) panels() []chart {
	count := max(1, parts(f.references, panelRefs))
	if f.shown > onePanel {
		count = max(count, parts(f.shown, panelLines))
	}
	each := max(1, parts(f.shown, count))
	var out []chart
	for i := range count {
		p := f
		p.series, p.shown, p.nameWidth = nil, each, f.widestName()
		for _, s := range f.series {
			if shown, ok := s.in(i, each, f.references); ok {
				p.series = append(p.series, shown)
			}
		}
		if len(p.series) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// parts is n divided by of, rounded up.
func parts(n, of int) int { return (n + of - 1) / of }

// in is a series as a panel shows it: its color and marker are those of its index
// among the series of that panel. ok is false where the panel does not show it.
func (s series) in(panel, each, refs int) (shown series, ok bool) {
	if !s.reference {
		at := s.index / each
		s.index %= each
		return s, at == panel
	}
	part := s.index / panelRefs
	s.index %= panelRefs
	if panel >= parts(refs, panelRefs) {
		return s, part == 0
	}
	return s, part == panel
}

// height is that of the whole picture.
func (f chart) height() vg.Length {
	if n := len(f.panels()); n > 1 {
		return figHead + vg.Length(n)*panelHeight
	}
	return figHeight
}

// areas are where the panels go, from the top.
func (f chart) areas(all draw.Canvas) []draw.Canvas {
	n := len(f.panels())
	each := (f.height() - figHead - 14) / vg.Length(max(n, 1))
	var out []draw.Canvas
	for i := range n {
		c := draw.Crop(all, 18, -12, 0, 0)
		c.Max.Y = all.Max.Y - figHead - vg.Length(i)*each
		c.Min.Y = c.Max.Y - each
		if i < n-1 {
			c.Min.Y += panelGap
		}
		out = append(out, c)
	}
	return out
}

// panelGap is between one panel's axis and the next panel.
const panelGap = 16

// Points are where their N is. Interval bars are moved aside from them, so that those
// of several arms can be seen: by this at most, and never by more than a fifth of the
// way to the next N.
const asideMost = 8

// aside is by how much the interval bars of a series are moved from its points.
func (f chart) aside(s series, x func(float64) vg.Length) vg.Length {
	if f.shown < 2 {
		return 0
	}
	gap := vg.Length(math.Inf(1))
	for i, n := range f.levels[1:] {
		gap = min(gap, x(float64(n))-x(float64(f.levels[i])))
	}
	return min(asideMost, gap/5) * vg.Length(2*float64(s.index)/float64(f.shown-1)-1)
}

// nameMost is the greatest width of a name next to a picture.
const nameMost = 230

// shortened is a text that is no wider than most, its end cut where it must be.
func shortened(style draw.TextStyle, text string, most vg.Length) string {
	if style.Width(text) <= most {
		return text
	}
	letters := []rune(text)
	for len(letters) > 1 && style.Width(string(letters)+"…") > most {
		letters = letters[:len(letters)-1]
	}
	return string(letters) + "…"
}

// smallest is the smallest size of letters that a heading shrinks to.
const smallest = 11

// fillWithin writes a text that must not be wider than most: in smaller letters where
// that is enough, else cut.
func fillWithin(c draw.Canvas, style draw.TextStyle, at vg.Point, text string, most vg.Length) {
	for style.Font.Size > smallest && style.Width(text) > most {
		style.Font.Size -= 0.5
	}
	c.FillText(style, at, shortened(style, text, most))
}

// widestName is the width of the widest name next to a figure.
func (f chart) widestName() vg.Length {
	var width vg.Length
	for _, s := range f.series {
		width = max(width, nameStyle().Width(shortened(nameStyle(), s.name, nameMost)))
	}
	return width
}
