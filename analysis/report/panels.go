package report

import (
	"math"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// What one panel of a figure holds at most: more lines cannot be told apart, and
// more names have no place beside it.
const (
	onePanel    = 8   // lines, of a figure that has no need of a second panel
	panelLines  = 6   // lines of each of several panels
	panelRefs   = 4   // arms without policies
	panelHeight = 290 // of each of several, in points
)

// panels part a figure of many arms into pictures of few, one below the other, in
// the order of the arms and with the same axes. An arm without policies is in
// every panel where there are few of them, since the others are read against it.
func (f figure) panels() []figure {
	count := max(1, parts(f.refs, panelRefs))
	if f.lines > onePanel {
		count = max(count, parts(f.lines, panelLines))
	}
	each := max(1, parts(f.lines, count))
	var out []figure
	for i := range count {
		p := f
		p.series, p.lines, p.nameWidth = nil, each, f.widestName()
		for _, s := range f.series {
			if shown, ok := s.in(i, each, f.refs); ok {
				p.series = append(p.series, shown)
			}
		}
		if len(p.series) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// parts is how many times a number holds another, begun ones counted.
func parts(n, of int) int { return (n + of - 1) / of }

// in is an arm as a panel shows it: its colour and marker are those of its place
// among the arms of that panel.
func (s series) in(panel, each, refs int) (series, bool) {
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
func (f figure) height() vg.Length {
	if n := len(f.panels()); n > 1 {
		return figHead + vg.Length(n)*panelHeight
	}
	return figHeight
}

// areas are where the panels go, from the top.
func (f figure) areas(all draw.Canvas) []draw.Canvas {
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

// Interval bars stand beside their points, which stand where their N is, so that
// those of several arms can be seen: by this at most, and never by more than a
// fifth of the way to the next N.
const asideMost = 8

// aside is by how much the interval bars of an arm stand beside its points.
func (f figure) aside(s series, x func(float64) vg.Length) vg.Length {
	if f.lines < 2 {
		return 0
	}
	gap := vg.Length(math.Inf(1))
	for i, n := range f.levels[1:] {
		gap = min(gap, x(float64(n))-x(float64(f.levels[i])))
	}
	return min(asideMost, gap/5) * vg.Length(2*float64(s.index)/float64(f.lines-1)-1)
}

// nameMost is the widest that an arm's name may be beside a picture.
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

// fillWithin writes a text that must not be wider than most: smaller where that
// is enough, else cut.
func fillWithin(c draw.Canvas, style draw.TextStyle, at vg.Point, text string, most vg.Length) {
	for style.Font.Size > smallest && style.Width(text) > most {
		style.Font.Size -= 0.5
	}
	c.FillText(style, at, shortened(style, text, most))
}

// widestName is the width of the widest name beside a figure.
func (f figure) widestName() vg.Length {
	var width vg.Length
	for _, s := range f.series {
		width = max(width, nameStyle().Width(shortened(nameStyle(), s.arm, nameMost)))
	}
	return width
}
