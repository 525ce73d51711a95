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

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// curve is one series of Curves.
type curve struct {
	name   string
	dashed bool
	x, y   []float64
}

// Curves are lines over the number of policies, both axes logarithmic: of costs that
// differ by orders of magnitude, and have one value each.
type Curves struct {
	Title, Value string // Value is the quantity and its unit, at the vertical axis
	curves       []curve
}

const (
	curvesWidth, curvesHeight = 900, 560 // points
	legendLine                = 16
	insideLegend              = 16 // lines of a legend that fit next to the lines
)

// height makes room for the legend.
func (f Curves) height() int { return max(curvesHeight, 80+legendLine*len(f.curves)) }

// Add puts a point on the curve of a name, which the first point begins. y is in the
// unit of Value.
func (f *Curves) Add(name string, dashed bool, x, y float64) {
	i := slices.IndexFunc(f.curves, func(l curve) bool { return l.name == name })
	if i < 0 {
		i, f.curves = len(f.curves), append(f.curves, curve{name: name, dashed: dashed})
	}
	f.curves[i].x, f.curves[i].y = append(f.curves[i].x, x), append(f.curves[i].y, y)
}

// curveColors differ also for people who do not see all colors (Okabe and Ito 2008),
// and grey.
func curveColors() []color.Color {
	return []color.Color{
		color.RGBA{0x00, 0x72, 0xb2, 255}, color.RGBA{0xd5, 0x5e, 0x00, 255}, color.RGBA{0x00, 0x9e, 0x73, 255}, color.RGBA{0xcc, 0x79, 0xa7, 255},
		color.RGBA{0xe6, 0x9f, 0x00, 255}, color.RGBA{0x56, 0xb4, 0xe9, 255}, color.RGBA{0x57, 0x60, 0x6a, 255},
	}
}

// SVG is the figure as a stand-alone document, nil without a point.
func (f Curves) SVG() []byte {
	if len(f.curves) == 0 {
		return nil
	}
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.Title, "number of policies N (0 drawn at 1)", f.Value
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = decades{}, decades{}
	p.Legend.Left, p.Legend.Top, p.Legend.Padding = len(f.curves) <= insideLegend, true, 2
	p.Add(plotter.NewGrid())
	for i, l := range f.curves {
		l.draw(p, i)
	}
	room := 1.1
	if !p.Legend.Left {
		room = math.Cbrt(p.X.Max) * 2 // a third of the width, and more, for the legend
	}
	p.X.Min, p.X.Max = 0.9, max(p.X.Max*room, 1.1)
	p.Y.Min, p.Y.Max = p.Y.Min/1.3, p.Y.Max*1.3
	c := vgsvg.New(vg.Length(curvesWidth), vg.Length(f.height()))
	p.Draw(draw.Crop(draw.New(c), 10, -10, 10, -10))
	return f.document(c)
}

// draw adds the line, its points and its name.
func (l curve) draw(p *plot.Plot, i int) {
	points := make(plotter.XYs, len(l.x))
	for k := range l.x {
		points[k] = plotter.XY{X: max(l.x[k], 1), Y: l.y[k]}
	}
	drawn, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return // no number: nothing to draw
	}
	drawn.Color = curveColors()[i%len(curveColors())]
	drawn.Width, dots.Color, dots.Radius, dots.Shape = 1.6, drawn.Color, 3, curveShapes()[i/len(curveColors())%len(curveShapes())]
	if l.dashed {
		drawn.Dashes = []vg.Length{6, 3}
	}
	p.Add(drawn, dots)
	p.Legend.Add(l.name, drawn, dots)
}

func curveShapes() []draw.GlyphDrawer {
	return []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.RingGlyph{}}
}

// decades ticks an axis at 1, 2 and 5 times the powers of ten.
type decades struct{}

func (decades) Ticks(low, high float64) []plot.Tick {
	var out []plot.Tick
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, m := range []float64{1, 2, 5} {
			v := m * math.Pow(10, e)
			if v >= low && v <= high {
				out = append(out, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', -1, 64)})
			}
		}
	}
	return out
}

// document adds the text for readers who cannot see the drawing, and a white ground.
func (f Curves) document(c *vgsvg.Canvas) []byte {
	var b bytes.Buffer
	_, _ = c.WriteTo(&b) // a bytes.Buffer takes every write
	_, drawing, _ := strings.Cut(b.String(), "<g ")
	var said []string
	for _, l := range f.curves {
		n := len(l.x) - 1
		said = append(said, fmt.Sprintf("%s: %.4g at N = %g, %.4g at N = %g", l.name, l.y[0], l.x[0], l.y[n], l.x[n]))
	}
	title := html.EscapeString(f.Title)
	return fmt.Appendf(nil, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n<title>%s</title>\n<desc>%s, %s.</desc>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<g %s",
		curvesWidth, f.height(), title, title, html.EscapeString(strings.Join(said, "; ")), html.EscapeString(f.Value), drawing)
}
