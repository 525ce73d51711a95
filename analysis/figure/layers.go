package figure

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"hookbed/analysis/table"
	"hookbed/analysis/trace"
)

// layerShare is from which share of any bar on a layer has a color of its own.
const layerShare = 0.01

// restOfLayers is the name of the layers that have none.
const restOfLayers = "smaller layers"

// stackChart is a picture of stacked bars: what a unit costs by layer, a bar for each cell.
type stackChart struct {
	name, title, subtitle, caption string
	groups                         []stackGroup
	layers                         []trace.Layer // that have a color of their own, in their order
	rest                           bool          // there are others
}

// stackGroup is the bars of one scenario and workload, which have one unit.
type stackGroup struct {
	head, unit string
	rows       []stackRow
}

// stackRow is one cell.
type stackRow struct {
	label string
	parts map[trace.Layer]float64 // per unit
	total float64
}

// Layers are the instructions per unit by layer, a picture for each scenario and workload.
func Layers(all []trace.Trace) []Figure {
	var out []Figure
	for _, g := range stackGroups(all) {
		c := newStackChart([]stackGroup{g})
		c.name, c.title = "layers-"+table.Slug(g.head), "Where the instructions go: "+g.head
		c.subtitle = "instructions a " + g.unit + " by layer, fewer is better"
		c.caption = "Instructions a " + g.unit + " by layer and arm, " + g.head + "."
		out = append(out, c.rendered())
	}
	return out
}

// AllLayers is the same of a whole run in one picture, in the order of trace.Sorted; nil without a
// trace.
func AllLayers(all []trace.Trace) []byte {
	var sorted []trace.Trace
	for _, t := range trace.Sorted(all) {
		sorted = append(sorted, *t)
	}
	groups := stackGroups(sorted)
	if len(groups) == 0 {
		return nil
	}
	c := newStackChart(groups)
	c.title, c.subtitle, c.caption = "Where the instructions go", "instructions per unit of work by layer, fewer is better", "Instructions per unit of work by layer and arm."
	return c.svg()
}

// stackGroups arranges traces by scenario and workload, in the order in which they come.
func stackGroups(all []trace.Trace) []stackGroup {
	var out []stackGroup
	several := manyKernels(all)
	for i := range all {
		t := &all[i]
		head := strings.Join(slices.DeleteFunc([]string{t.Factors["workload"], t.Factors["scenario"]}, func(s string) bool { return s == "" }), ", ")
		k := slices.IndexFunc(out, func(g stackGroup) bool { return g.head == head && g.unit == t.Unit })
		if k < 0 {
			k, out = len(out), append(out, stackGroup{head: head, unit: t.Unit})
		}
		row := stackRow{label: fmt.Sprintf("%s, N = %d", t.Arm(), t.Policies()), parts: map[trace.Layer]float64{}}
		if several {
			row.label += ", " + t.Factors["kernel"]
		}
		for _, l := range t.Measured.LayerCosts() {
			row.parts[l.Layer] = t.PerUnit(l.Self)
			row.total += row.parts[l.Layer]
		}
		out[k].rows = append(out[k].rows, row)
	}
	return out
}

func manyKernels(all []trace.Trace) bool {
	return slices.ContainsFunc(all, func(t trace.Trace) bool { return t.Factors["kernel"] != all[0].Factors["kernel"] })
}

func newStackChart(groups []stackGroup) stackChart {
	c := stackChart{groups: groups}
	for _, l := range trace.Layers() {
		most, any := 0.0, false
		for _, g := range groups {
			for _, r := range g.rows {
				if r.parts[l] > 0 {
					most, any = max(most, r.parts[l]/r.total), true
				}
			}
		}
		switch {
		case most >= layerShare:
			c.layers = append(c.layers, l)
		case any:
			c.rest = true
		}
	}
	return c
}

// part is one colored piece of a bar.
type part struct {
	name  string
	fill  color.Color
	value float64
}

// partsOf are the pieces of a bar from left to right.
func (c stackChart) partsOf(r stackRow) []part {
	var out []part
	rest := r.total
	for _, l := range c.layers {
		if v := r.parts[l]; v > 0 {
			out, rest = append(out, part{string(l), fillOf(l.Color()), v}), rest-v
		}
	}
	if c.rest && rest > r.total*1e-9 {
		out = append(out, part{restOfLayers, color.White, rest})
	}
	return out
}

// fillOf reads "#rrggbb".
func fillOf(hex string) color.Color {
	v, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32)
	if err != nil {
		return color.White
	}
	return color.RGBA{uint8(v >> 16), uint8(v >> 8), uint8(v), 255}
}

// Geometry of stacked bars, in points.
const (
	stackHead   = 66 // title and subtitle
	stackLegend = 18 // a row of the legend
	stackGap    = 12 // between legend, groups and foot
	stackAxis   = 24
)

func (c stackChart) rendered() Figure {
	return Figure{c.name, c.caption, c.describe(), c.svg(), c.csv()}
}

// legend places the names of layers in rows that are no wider than the picture.
func (c stackChart) legend() [][]part {
	var names []part
	for _, l := range c.layers {
		names = append(names, part{name: string(l), fill: fillOf(l.Color())})
	}
	if c.rest {
		names = append(names, part{name: restOfLayers, fill: color.White})
	}
	rows, x := [][]part{nil}, vg.Length(0)
	for _, p := range names {
		w := legendRoom(p.name)
		if x > 0 && x+w > figWidth-2*18 {
			rows, x = append(rows, nil), 0
		}
		rows[len(rows)-1], x = append(rows[len(rows)-1], p), x+w
	}
	return rows
}

// legendRoom is the width of an entry; the page's font may be wider than the one measured with.
func legendRoom(name string) vg.Length { return 18 + numberStyle().Width(name)*1.12 + 14 }

func (c stackChart) groupHeight(g stackGroup) vg.Length {
	h := vg.Length(len(g.rows))*barStep + stackAxis + stackGap
	if len(c.groups) > 1 {
		h += barStep
	}
	return h
}

func (c stackChart) height() vg.Length {
	h := vg.Length(stackHead+stackGap) + stackLegend*vg.Length(len(c.legend()))
	for _, g := range c.groups {
		h += c.groupHeight(g)
	}
	return h
}

func (c stackChart) svg() []byte {
	height := c.height()
	canvas := vgsvg.New(figWidth, height)
	all := draw.New(canvas)
	drawTitles(all, height, c.title, c.subtitle)
	y := height - stackHead
	for _, row := range c.legend() {
		x := vg.Length(18)
		for _, p := range row {
			box(all, p.fill, x, y-13, x+12, y-1)
			all.FillText(numberStyle(), vg.Point{X: x + 17, Y: y - 7}, p.name)
			x += legendRoom(p.name)
		}
		y -= stackLegend
	}
	y -= stackGap
	var tips strings.Builder
	for _, g := range c.groups {
		c.drawGroup(all, g, y, height, &tips)
		y -= c.groupHeight(g)
	}
	return svgDocument(canvas, height, c.title, c.describe(), tips.String())
}

// box is a filled rectangle with a thin edge.
func box(c draw.Canvas, fill color.Color, x0, y0, x1, y1 vg.Length) {
	c.SetColor(fill)
	c.Fill(vg.Rectangle{Min: vg.Point{X: x0, Y: y0}, Max: vg.Point{X: x1, Y: y1}}.Path())
	edge := draw.LineStyle{Color: color.RGBA{0x55, 0x55, 0x55, 255}, Width: 0.4}
	c.StrokeLines(edge, []vg.Point{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}, {X: x0, Y: y0}})
}

// left is where bars begin: behind the longest label of all groups.
func (c stackChart) left() vg.Length {
	var width vg.Length
	for _, g := range c.groups {
		for _, r := range g.rows {
			width = max(width, nameStyle().Width(shortened(nameStyle(), r.label, textMost)))
		}
	}
	return 18 + width*1.16 + 12
}

// stackNumber is the room behind a bar.
const stackNumber = 76

func (c stackChart) drawGroup(to draw.Canvas, g stackGroup, y, height vg.Length, tips *strings.Builder) {
	_, soft, axis, grid := ink()
	most := 0.0
	for _, r := range g.rows {
		most = max(most, r.total)
	}
	if most <= 0 {
		return
	}
	left, right := c.left(), vg.Length(figWidth-stackNumber)
	x := func(v float64) vg.Length { return left + (right-left)*vg.Length(v/most) }
	if len(c.groups) > 1 {
		fillWithin(to, textStyle(13, soft), vg.Point{X: 18, Y: y - 12}, g.head+", a "+g.unit, figWidth-2*18)
		y -= barStep
	}
	bottom := y - vg.Length(len(g.rows))*barStep
	tick, step := textStyle(12, soft), niceStep(most/4)
	tick.XAlign = draw.XCenter
	for i := 0; float64(i)*step <= most*(1+1e-9); i++ {
		at := x(float64(i) * step)
		to.StrokeLine2(draw.LineStyle{Color: grid, Width: 1}, at, bottom, at, y)
		to.FillText(tick, vg.Point{X: at, Y: bottom - 15}, tickLabel(float64(i)*step))
	}
	for _, r := range g.rows {
		to.FillText(nameStyle(), vg.Point{X: 18, Y: y - barThick/2 - 2}, shortened(nameStyle(), r.label, textMost))
		from := 0.0
		for _, p := range c.partsOf(r) {
			box(to, p.fill, x(from), y-barThick-2, x(from+p.value), y-2)
			fmt.Fprintf(tips, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill-opacity="0"><title>%s</title></rect>`+"\n", x(from), height-y+2, x(from+p.value)-x(from), barThick,
				esc(fmt.Sprintf("%s, %s: %.1f, %s", r.label, p.name, p.value, table.Percent(p.value/r.total))))
			from += p.value
		}
		to.FillText(numberStyle(), vg.Point{X: x(r.total) + 6, Y: y - barThick/2 - 2}, strconv.FormatFloat(math.Round(r.total), 'f', 0, 64))
		y -= barStep
	}
	to.StrokeLine2(draw.LineStyle{Color: axis, Width: 1}, left, bottom, left, bottom+vg.Length(len(g.rows))*barStep)
}

// describe is the picture in words: each bar with its three largest layers.
func (c stackChart) describe() string {
	var said []string
	for _, g := range c.groups {
		for _, r := range g.rows {
			parts := c.partsOf(r)
			slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.value, a.value) })
			var largest []string
			for _, p := range parts[:min(3, len(parts))] {
				largest = append(largest, p.name+" "+table.Percent(p.value/r.total))
			}
			said = append(said, fmt.Sprintf("%s, %s: %.0f (%s)", g.head, r.label, r.total, strings.Join(largest, ", ")))
		}
	}
	return c.caption + " " + strings.Join(said, "; ") + "."
}

// csv is the picture's data.
func (c stackChart) csv() []byte {
	lines := [][]string{{"group", "label", "unit", "layer", "instructions_per_unit"}}
	for _, g := range c.groups {
		for _, r := range g.rows {
			for _, l := range trace.Layers() {
				if v := r.parts[l]; v > 0 {
					lines = append(lines, []string{g.head, r.label, g.unit, string(l), strconv.FormatFloat(v, 'f', 3, 64)})
				}
			}
		}
	}
	var out bytes.Buffer
	_ = csv.NewWriter(&out).WriteAll(lines) // a bytes.Buffer takes every write
	return out.Bytes()
}
