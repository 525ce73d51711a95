package figure

import (
	"cmp"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"hookbed/analysis/summary"
)

// lines draws all series of a chart, and the name of each next to the end of its line.
type lines struct{ f chart }

// GlyphBoxes makes room for the longest name.
func (a lines) GlyphBoxes(*plot.Plot) []plot.GlyphBox {
	return []plot.GlyphBox{{X: 1, Rectangle: vg.Rectangle{Max: vg.Point{X: labelIndent + a.f.nameWidth}}}}
}

// Plot implements plot.Plotter.
func (a lines) Plot(c draw.Canvas, p *plot.Plot) {
	c.StrokeLine2(p.X.Tick.LineStyle, c.Min.X, c.Min.Y, c.Max.X, c.Min.Y)
	for _, s := range a.f.layers() {
		if s.reference {
			a.f.drawReference(s, c, p)
		} else {
			a.f.drawLine(s, c, p)
		}
	}
	a.f.drawNames(c, p)
}

// layers are the series in the order they are drawn in: references are below.
func (f chart) layers() (out []series) {
	for _, reference := range []bool{true, false} {
		for _, s := range f.series {
			if s.reference == reference {
				out = append(out, s)
			}
		}
	}
	return out
}

// palette is Okabe and Ito's for the color-blind (2008), darkened where a white
// background needs it.
func palette() []color.NRGBA {
	return []color.NRGBA{{0x00, 0x72, 0xb2, 255}, {0xd5, 0x5e, 0x00, 255}, {0x00, 0x8f, 0x68, 255},
		{0xb5, 0x54, 0x9c, 255}, {0xc9, 0x8a, 0x00, 255}, {0x3a, 0x9f, 0xd8, 255}}
}

// color is grey for arms that enforce nothing.
func (s series) color() color.NRGBA {
	if s.reference {
		return []color.NRGBA{{0x44, 0x44, 0x44, 255}, {0x8a, 0x8a, 0x8a, 255}}[s.index%2]
	}
	return palette()[s.index%len(palette())]
}

// lineStyle distinguishes series by more than color: references are dashed, and so
// are series after the last color of the palette.
func (s series) lineStyle() draw.LineStyle {
	style := draw.LineStyle{Color: s.color(), Width: 2}
	if s.reference {
		all := [][]vg.Length{{8, 4}, {2, 4}, {12, 3, 2, 3}, {5, 2}}
		style.Dashes = all[s.index%len(all)]
		return style
	}
	all := [][]vg.Length{nil, {10, 3, 3, 3}, {5, 3}, {2, 3}}
	style.Dashes = all[s.index/len(palette())%len(all)]
	return style
}

func (s series) marker() draw.GlyphStyle {
	shapes := []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}, polygon{4, 0}, polygon{3, -math.Pi / 2}, polygon{3, 0}}
	return draw.GlyphStyle{Color: s.color(), Radius: markerSize, Shape: shapes[s.index%len(shapes)]}
}

// polygon is a filled regular polygon: the library has no more filled markers
// than three, and outlines of half a point are hard to see.
type polygon struct {
	corners int
	turn    float64 // of the first corner, in radians from the right
}

// DrawGlyph implements draw.GlyphDrawer.
func (g polygon) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	var corners []vg.Point
	for i := range g.corners {
		sin, cos := math.Sincos(g.turn + 2*math.Pi*float64(i)/float64(g.corners))
		corners = append(corners, at.Add(vg.Point{X: vg.Length(cos), Y: vg.Length(sin)}.Scale(style.Radius*1.25)))
	}
	c.FillPolygon(style.Color, corners)
}

// cross marks a missing number.
func (s series) cross(c draw.Canvas, at vg.Point) {
	for _, end := range []vg.Point{{X: 4, Y: 4}, {X: 4, Y: -4}} {
		c.StrokeLines(draw.LineStyle{Color: s.color(), Width: 2}, []vg.Point{at.Sub(end), at.Add(end)})
	}
}

// position is where a point goes on the plot area.
func (f chart) position(s series, point summary.Summary, c draw.Canvas, p *plot.Plot) vg.Point {
	x, y := p.Transforms(&c)
	at := vg.Point{X: x(float64(f.x(point))), Y: c.Min.Y + missingY}
	if point.Median != nil {
		at.Y = y(point.Median.Estimate / f.scale.Divisor)
	}
	return at
}

// drawReference draws an arm without policies across the plot, its interval as a band.
func (f chart) drawReference(s series, c draw.Canvas, p *plot.Plot) {
	valid := s.valid()
	if len(valid) == 0 {
		return
	}
	_, y := p.Transforms(&c)
	m, d := valid[0].Median, f.scale.Divisor
	if m.Confidence > 0 {
		band := s.color()
		band.A = 0x21
		c.SetColor(band)
		c.Fill(vg.Rectangle{Min: vg.Point{X: c.Min.X, Y: y(m.Low / d)}, Max: vg.Point{X: c.Max.X, Y: y(m.High / d)}}.Path())
	}
	c.StrokeLine2(s.lineStyle(), c.Min.X, y(m.Estimate/d), c.Max.X, y(m.Estimate/d))
}

// drawLine draws an arm: a line broken where numbers are missing, interval bars,
// markers.
func (f chart) drawLine(s series, c draw.Canvas, p *plot.Plot) {
	parts := []plotter.XYs{nil}
	bars := &plotter.YErrorBars{LineStyle: draw.LineStyle{Color: s.color(), Width: 1.5}, CapWidth: 7}
	for _, point := range s.points {
		m, d := point.Median, f.scale.Divisor
		if m == nil {
			parts = append(parts, nil)
			s.cross(c, f.position(s, point, c, p))
			continue
		}
		at := plotter.XY{X: float64(f.x(point)), Y: m.Estimate / d}
		parts[len(parts)-1] = append(parts[len(parts)-1], at)
		if m.Confidence > 0 {
			bars.XYs = append(bars.XYs, at)
			bars.YErrors = append(bars.YErrors, struct{ Low, High float64 }{at.Y - m.Low/d, m.High/d - at.Y})
		}
	}
	x, _ := p.Transforms(&c)
	aside := f.aside(s, x)
	bars.Plot(draw.Crop(c, aside, aside, 0, 0), p)
	for _, part := range parts {
		(&plotter.Line{XYs: part, LineStyle: s.lineStyle()}).Plot(c, p)
		(&plotter.Scatter{XYs: part, GlyphStyle: s.marker()}).Plot(c, p)
	}
}

func nameStyle() draw.TextStyle {
	dark, _, _, _ := ink()
	style := textStyle(14, dark)
	style.YAlign = draw.YCenter
	return style
}

// label is an arm's name at the right edge.
type label struct {
	s     series
	lineY vg.Length // where its line ends
	endX  vg.Length
	y     vg.Length // where the name goes
	known bool
}

// drawNames writes the names of all series, moved apart where lines end close together.
func (f chart) drawNames(c draw.Canvas, p *plot.Plot) {
	var all []label
	for _, s := range f.series {
		l := label{s: s, lineY: c.Min.Y + missingY, endX: c.Max.X}
		if valid := s.valid(); len(valid) > 0 {
			end := f.position(s, valid[len(valid)-1], c, p)
			l.known, l.lineY = true, end.Y
			if !s.reference {
				l.endX = end.X + markerSize + 3
			}
		}
		all = append(all, l)
	}
	slices.SortStableFunc(all, func(a, b label) int { return cmp.Compare(a.lineY, b.lineY) })
	spread(all, c.Min.Y, c.Max.Y)
	for _, l := range all {
		l.draw(c)
	}
}

func (l label) draw(c draw.Canvas) {
	x := c.Max.X + 14
	if l.known {
		pale := l.s.color()
		pale.A = 0x80
		leader := draw.LineStyle{Color: pale, Width: 1}
		if l.endX < c.Max.X-4*labelSpace {
			leader.Dashes = []vg.Length{1, 5} // not to be taken for data
		}
		c.StrokeLines(leader, []vg.Point{{X: l.endX, Y: l.lineY}, {X: c.Max.X, Y: l.lineY}, {X: x - 2, Y: l.y}})
	}
	switch {
	case l.s.reference:
		c.StrokeLine2(l.s.lineStyle(), x, l.y, x+18, l.y)
	case l.known:
		c.DrawGlyphNoClip(l.s.marker(), vg.Point{X: x + 9, Y: l.y})
	default:
		l.s.cross(c, vg.Point{X: x + 9, Y: l.y})
	}
	name := nameStyle()
	c.FillText(name, vg.Point{X: c.Max.X + labelIndent, Y: l.y + name.FontExtents().Descent}, shortened(name, l.s.name, nameMost))
}

// spread moves labels, sorted by y, at least labelSpace apart, as little as
// possible: neighbors that touch form a pile centered on their lines.
func spread(all []label, low, high vg.Length) {
	type pile struct {
		first, n int
		start    vg.Length
	}
	var piles []pile
	start := func(first, n int) vg.Length {
		var sum vg.Length
		for i := range n {
			sum += all[first+i].lineY - vg.Length(i)*labelSpace
		}
		return max(low, min(sum/vg.Length(n), high-vg.Length(n-1)*labelSpace))
	}
	for i := range all {
		p := pile{i, 1, start(i, 1)}
		for len(piles) > 0 {
			before := piles[len(piles)-1]
			if before.start+vg.Length(before.n)*labelSpace <= p.start {
				break
			}
			piles = piles[:len(piles)-1]
			p = pile{before.first, before.n + p.n, start(before.first, before.n+p.n)}
		}
		piles = append(piles, p)
	}
	for _, p := range piles {
		for i := range p.n {
			all[p.first+i].y = p.start + vg.Length(i)*labelSpace
		}
	}
}
