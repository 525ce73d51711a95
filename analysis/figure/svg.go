package figure

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"math"
	"slices"
	"strconv"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// Geometry, in points, which are units of the view box.
const (
	figWidth    = 700
	figHeight   = 460
	figHead     = 100  // title, subtitle, basis and unit
	xMargin     = 0.05 // of the plot area, on either side of the levels
	labelSpace  = 19   // between lines of labels
	labelIndent = 38   // from the plot area to an arm's name
	markerSize  = 4.8
	missingY    = 9 // of the cross of a missing number, above the axis
)

// ink are the colors of all but the series.
func ink() (text, soft, axis, grid color.Color) {
	return color.RGBA{0x1c, 0x21, 0x28, 255}, color.RGBA{0x57, 0x60, 0x6a, 255}, color.RGBA{0x8c, 0x95, 0x9f, 255}, color.RGBA{0xe3, 0xe6, 0xea, 255}
}

// svg is the figure as a stand-alone SVG document.
func (f chart) svg() []byte {
	height := f.height()
	c := vgsvg.New(figWidth, height)
	all := draw.New(c)
	f.heading(all)
	var tips strings.Builder
	panels := f.panels()
	for i, area := range f.areas(all) {
		label := ""
		if i == len(panels)-1 {
			label = f.axis() + f.axisNote()
		}
		p := panels[i].plot(label)
		p.Draw(area)
		tips.WriteString(panels[i].tips(p, p.DataCanvas(area), height))
	}
	return svgDocument(c, height, f.Title, f.describe(), tips.String())
}

func textStyle(size vg.Length, c color.Color) draw.TextStyle {
	return draw.TextStyle{Color: c, Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}, Handler: plot.DefaultTextHandler}
}

func (f chart) heading(c draw.Canvas) {
	dark, grey, _, _ := ink()
	title, soft := textStyle(19, dark), textStyle(13, grey)
	title.Font.Weight = xfont.WeightBold
	unit := f.scale.Unit
	if unit == "" {
		unit = f.measure.Metric
	}
	const width = figWidth - 2*18
	fillWithin(c, title, vg.Point{X: 18, Y: c.Max.Y - 33}, f.Title, width)
	fillWithin(c, soft, vg.Point{X: 18, Y: c.Max.Y - 53}, f.Subtitle, width)
	fillWithin(c, soft, vg.Point{X: 18, Y: c.Max.Y - 71}, f.Basis, width)
	fillWithin(c, soft, vg.Point{X: 18, Y: c.Max.Y - figHead + 5}, unit, width)
}

// plot is a panel below the heading, in the unit of its scale, with a name for its
// axis of N.
func (f chart) plot(label string) *plot.Plot {
	_, soft, axis, grid := ink()
	p, ticks := plot.New(), f.valueTicks()
	p.BackgroundColor = nil // the document has a card
	p.X.Min, p.X.Max = float64(f.levels[0]), float64(f.levels[len(f.levels)-1])
	p.X.Scale, p.X.Tick.Marker = axisLevels(f.levels), axisLevels(f.levels)
	p.X.Label.Text, p.X.Label.Padding = label, 6
	p.X.Tick.LineStyle, p.X.Tick.Length = draw.LineStyle{Color: axis, Width: 1}, 5
	p.Y.Min, p.Y.Max = 0, ticks[len(ticks)-1].Value
	p.Y.Tick.Marker, p.Y.Tick.Length = ticks, 0
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Padding, a.LineStyle.Width = 0, 0
		for _, style := range []*draw.TextStyle{&a.Label.TextStyle, &a.Tick.Label} {
			style.Color, style.Font = soft, textStyle(13, soft).Font
		}
	}
	p.Add(&plotter.Grid{Horizontal: draw.LineStyle{Color: grid, Width: 1}}, lines{f})
	return p
}

// valueTicks are those of the value axis, from 0 to the first that no value is
// above. The library's own are only three or four.
func (f chart) valueTicks() plot.ConstantTicks {
	highest := f.highest / f.scale.Divisor
	step := niceStep(highest / 5)
	var out plot.ConstantTicks
	for i := range 1 + max(1, int(math.Ceil(highest/step-1e-9))) {
		v := math.Round(step*float64(i)*1e9) / 1e9
		out = append(out, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', -1, 64)})
	}
	return out
}

// niceStep is the smallest of 1, 2, 2.5, 5 times a power of ten not below x.
func niceStep(x float64) float64 {
	if x <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if x <= m*p*(1+1e-9) {
			return m * p
		}
	}
	return 10 * p
}

// axisLevels are the numbers of policies on the x axis, as its scale and its ticks.
type axisLevels []int

// Normalize is logarithmic in 1+N, so that 0 has a place.
func (l axisLevels) Normalize(_, _, n float64) float64 {
	first, last := math.Log1p(float64(l[0])), math.Log1p(float64(l[len(l)-1]))
	if first == last {
		return 0.5
	}
	return xMargin + (1-2*xMargin)*(math.Log1p(n)-first)/(last-first)
}

// Ticks marks every level, and names those that have room for it.
func (l axisLevels) Ticks(low, high float64) []plot.Tick {
	var out []plot.Tick
	named := math.Inf(-1)
	for _, n := range l {
		t := plot.Tick{Value: float64(n)}
		if at := l.Normalize(low, high, t.Value); at-named > 0.055 {
			t.Label, named = strconv.Itoa(n), at
		}
		out = append(out, t)
	}
	return out
}

func (f chart) axis() string {
	if f.clients {
		return "number of clients"
	}
	return "number of policies N"
}

// axisNote explains what is unusual about the x axis.
func (f chart) axisNote() string {
	note := ""
	if len(f.levels) > 2 {
		note = map[bool]string{false: " (scale of log(1 + N))", true: " (logarithmic)"}[f.clients]
	}
	if slices.ContainsFunc(f.series, func(s series) bool { return len(s.valid()) < len(s.points) }) {
		note += " · × no valid number, see table"
	}
	return note
}

// describe is the picture in words, from the data.
func (f chart) describe() string {
	var parts []string
	for _, s := range f.series {
		valid := s.valid()
		if len(valid) == 0 {
			parts = append(parts, s.name+" has no valid number")
			continue
		}
		first, last := valid[0], valid[len(valid)-1]
		text := fmt.Sprintf("%s: %s %s at %s", s.name, f.scale.Format(first.Median.Estimate), f.scale.Unit, f.at(first))
		if !s.reference && len(valid) > 1 {
			text += fmt.Sprintf(", %s at %s", f.scale.Format(last.Median.Estimate), f.at(last))
		}
		parts = append(parts, text)
	}
	return f.Caption + " " + strings.Join(parts, "; ") + "."
}

// valid are the points that have a number.
func (s series) valid() (out []summary.Summary) {
	for _, p := range s.points {
		if p.Median != nil {
			out = append(out, p)
		}
	}
	return out
}

// tips are invisible areas over points, and across the plot over arms without
// policies, which say in a browser what is under the pointer.
func (f chart) tips(p *plot.Plot, c draw.Canvas, height vg.Length) string {
	var b strings.Builder
	for _, s := range f.layers() {
		for _, point := range s.points {
			at := f.position(s, point, c, p)
			x, width := at.X-7, vg.Length(14)
			if s.reference {
				x, width = c.Min.X, c.Size().X
			}
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="14" fill-opacity="0"><title>%s</title></rect>`+"\n",
				x, height-at.Y-7, width, esc(f.tip(point)))
		}
	}
	return b.String()
}

// tip is a point in words.
func (f chart) tip(p summary.Summary) string {
	head := fmt.Sprintf("%s, N = %d: ", p.Arm, p.Policies)
	if p.Median == nil {
		return head + "no valid number: " + summary.MissingNote(p)
	}
	sc := f.scale
	text := head + strings.TrimSpace(sc.Format(p.Median.Estimate)+" "+sc.Unit)
	if p.Median.Confidence > 0 {
		text += fmt.Sprintf(" (%s to %s, %s)", sc.Bound(p.Median.Low), sc.Bound(p.Median.High), table.Percent(p.Median.Confidence))
	}
	return text + ", " + table.Plural(p.N, "trial")
}

// svgDocument is a drawing with a title and a description for readers who cannot see
// it, on a card that is white on every page, and as wide as the page lets it be.
func svgDocument(c *vgsvg.Canvas, height vg.Length, title, description, tips string) []byte {
	var b bytes.Buffer
	_, _ = c.WriteTo(&b) // a bytes.Buffer takes every write
	_, drawing, _ := strings.Cut(b.String(), "<g ")
	drawing = strings.ReplaceAll(drawing, "font-family:Liberation Sans;", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif;")
	title = esc(title)
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" role="img" aria-label="%s">
<title>%s</title>
<desc>%s</desc>
<rect width="100%%" height="100%%" rx="6" fill="#fff"/>
<g %s%s</svg>
`, figWidth, height, title, title, esc(description), strings.TrimSuffix(drawing, "</svg>\n"), tips)
}

func esc(s string) string { return html.EscapeString(s) }
