package figure

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"image/color"
	"math"
	"strconv"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"hookbed/analysis/stat"
	"hookbed/analysis/table"
)

// barChart is a picture of horizontal bars with intervals, a row each.
type barChart struct {
	Name     string
	Title    string
	Subtitle string
	Caption  string
	scale    table.Scale
	rows     []bar
}

// bar is one row.
type bar struct {
	label string
	head  string // a heading above the row, "" for none
	color int    // of the palette
	value *stat.Estimate
	why   string // there is no value
}

// Geometry of bars, in points.
const (
	barsHead  = 84
	barStep   = 21
	barThick  = 13
	barGap    = 7 // above a heading
	barsFoot  = 34
	barsRight = 150 // for the number behind each bar, if it needs no more
	textMost  = 250 // of a label or a number
)

func (b barChart) rendered() Figure { return Figure{b.Name, b.Caption, b.describe(), b.svg(), b.csv()} }

func (b barChart) height() vg.Length {
	h := vg.Length(barsHead + barsFoot)
	for _, r := range b.rows {
		h += barStep
		if r.head != "" {
			h += barStep + barGap
		}
	}
	return h
}

// span is the range of the axis: 0 and everything that is drawn.
func (b barChart) span() (low, high float64) {
	for _, r := range b.rows {
		if r.value != nil {
			low, high = min(low, r.value.Low, r.value.Estimate), max(high, r.value.High, r.value.Estimate)
		}
	}
	if low == high {
		high = b.scale.Divisor
	}
	return low / b.scale.Divisor, high / b.scale.Divisor
}

func (b barChart) svg() []byte {
	height := b.height()
	canvas := vgsvg.New(figWidth, height)
	c := draw.New(canvas)
	drawTitles(c, height, b.Title, b.Subtitle)
	b.drawRows(c)
	return svgDocument(canvas, height, b.Title, b.describe(), "")
}

// drawTitles writes the title of a figure, and below it what its numbers are.
func drawTitles(c draw.Canvas, height vg.Length, title, subtitle string) {
	dark, grey, _, _ := ink()
	bold, soft := textStyle(17, dark), textStyle(13, grey)
	bold.Font.Weight = xfont.WeightBold
	fillWithin(c, bold, vg.Point{X: 18, Y: height - 31}, title, figWidth-2*18)
	fillWithin(c, soft, vg.Point{X: 18, Y: height - 51}, subtitle, figWidth-2*18)
}

// left is where the axis begins: behind the longest label.
func (b barChart) left() vg.Length {
	var width vg.Length
	for _, r := range b.rows {
		width = max(width, nameStyle().Width(shortened(nameStyle(), r.label, textMost)))
	}
	return 18 + width*1.1 + 12 // the page's font may be wider than the one measured with
}

// right is where the axis ends: before the longest number.
func (b barChart) right() vg.Length {
	var width vg.Length
	for _, r := range b.rows {
		width = max(width, numberStyle().Width(shortened(numberStyle(), b.number(r), textMost)))
	}
	return figWidth - max(barsRight, 6+width*1.1+12)
}

func numberStyle() draw.TextStyle {
	style := nameStyle()
	style.Font.Size = 12
	return style
}

func (b barChart) drawRows(c draw.Canvas) {
	_, soft, axis, grid := ink()
	left, right := b.left(), b.right()
	low, high := b.span()
	x := func(v float64) vg.Length { return left + (right-left)*vg.Length((v-low)/(high-low)) }
	top, bottom := b.height()-barsHead+8, vg.Length(barsFoot-6)
	step := niceStep((high - low) / 4)
	tick := textStyle(12, soft)
	tick.XAlign = draw.XCenter
	for i := math.Ceil(low/step - 1e-9); i*step <= high*(1+1e-9); i++ {
		c.StrokeLine2(draw.LineStyle{Color: grid, Width: 1}, x(i*step), bottom, x(i*step), top)
		c.FillText(tick, vg.Point{X: x(i * step), Y: bottom - 15}, strings.TrimSpace(tickLabel(i*step)+" "+b.scale.Unit))
	}
	y := b.height() - barsHead
	for _, r := range b.rows {
		if r.head != "" {
			y -= barGap
			fillWithin(c, textStyle(13, soft), vg.Point{X: 18, Y: y - 10}, r.head, figWidth-2*18)
			y -= barStep
		}
		b.drawRow(c, r, y, x)
		c.StrokeLine2(draw.LineStyle{Color: axis, Width: 1}, x(0), y-barStep+4, x(0), y+4)
		y -= barStep
	}
}

// tickLabel is a value without the noise of its arithmetic, and no negative zero.
func tickLabel(v float64) string {
	return strings.Replace(strconv.FormatFloat(math.Round(v*1e9)/1e9+0, 'f', -1, 64), "-", "−", 1)
}

func (b barChart) drawRow(c draw.Canvas, r bar, y vg.Length, x func(float64) vg.Length) {
	name, middle := nameStyle(), y-barThick/2
	c.FillText(name, vg.Point{X: 18, Y: middle}, shortened(name, r.label, textMost))
	end := x(0)
	if v := r.value; v != nil {
		d := b.scale.Divisor
		fill := palette()[r.color%len(palette())]
		fill.A = 0xb0
		from, to := min(x(0), x(v.Estimate/d)), max(x(0), x(v.Estimate/d))
		c.SetColor(fill)
		c.Fill(vg.Rectangle{Min: vg.Point{X: from, Y: y - barThick}, Max: vg.Point{X: to, Y: y}}.Path())
		end = to
		if v.Confidence > 0 {
			whisker(c, x(v.Low/d), x(v.High/d), middle)
			end = max(end, x(v.High/d))
		}
	}
	c.FillText(numberStyle(), vg.Point{X: end + 6, Y: middle}, shortened(numberStyle(), b.number(r), textMost))
}

// whisker is an interval with its ends.
func whisker(c draw.Canvas, low, high, y vg.Length) {
	style := draw.LineStyle{Color: color.RGBA{0x1c, 0x21, 0x28, 255}, Width: 1.3}
	c.StrokeLine2(style, low, y, high, y)
	for _, at := range []vg.Length{low, high} {
		c.StrokeLine2(style, at, y-4, at, y+4)
	}
}

// number is a row's value as text.
func (b barChart) number(r bar) string {
	switch {
	case r.value == nil:
		return r.why
	case r.value.Confidence == 0:
		return strings.TrimSpace(table.Signed(b.scale, r.value.Estimate)+" "+b.scale.Unit) + ", no interval"
	}
	return fmt.Sprintf("%s (%s to %s)", table.Signed(b.scale, r.value.Estimate), table.Signed(b.scale, r.value.Low), table.Signed(b.scale, r.value.High))
}

// describe is the picture in words.
func (b barChart) describe() string {
	var parts []string
	for _, r := range b.rows {
		head := ""
		if r.head != "" {
			head = r.head + ": "
		}
		parts = append(parts, head+r.label+" "+b.number(r))
	}
	return b.Caption + " In " + b.scale.Unit + ": " + strings.Join(parts, "; ") + "."
}

// csv is the picture's data, in base units; shares are of 1.
func (b barChart) csv() []byte {
	lines, head := [][]string{{"group", "label", "estimate", "low", "high", "confidence", "n"}}, ""
	for _, r := range b.rows {
		if r.head != "" {
			head = r.head
		}
		line := []string{head, r.label, "", "", "", "", ""}
		if v := r.value; v != nil {
			for i, x := range []float64{v.Estimate, v.Low, v.High, v.Confidence} {
				line[2+i] = strconv.FormatFloat(x, 'g', 10, 64)
			}
			line[6] = strconv.Itoa(v.N)
		}
		lines = append(lines, line)
	}
	var out bytes.Buffer
	// A bytes.Buffer takes every write, so there is no error to see.
	_ = csv.NewWriter(&out).WriteAll(lines)
	return out.Bytes()
}
