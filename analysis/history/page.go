package history

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"

	"hookbed/analysis/table"
)

//go:embed page.html.tmpl
var pageText string

// shown is the number of series that did not change whose figures are in the page.
const shown = 200

// Page writes the trend page: one HTML file that requests nothing.
func (h History) Page(w io.Writer, title string) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"at": h.at, "env": func(n *Night) string { return n.changed() }, "or": or, "ratio": ratio,
		"number": func(s Series, v float64) string { return s.number(v) },
		"figure": func(s Series) template.HTML { return template.HTML(s.SVG()) }, //nolint:gosec // made here, every text in it is escaped
	}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("read the page's template: %w", err)
	}
	view := struct {
		History
		Title        string
		Moved, Still []Series
		More         int
	}{History: h, Title: title}
	for _, s := range h.Series {
		switch {
		case len(s.Changes) > 0:
			view.Moved = append(view.Moved, s)
		case len(view.Still) < shown:
			view.Still = append(view.Still, s)
		default:
			view.More++
		}
	}
	return t.Execute(w, view)
}

// Size of a figure in pixels; the plot leaves room for numbers on the left and a line of text above.
const (
	width, height = 720.0, 132.0
	left, right   = 92.0, 12.0
	top, bottom   = 26.0, 12.0
	mostPoints    = 120 // series with more are drawn without points
)

// SVG draws the series: its values, the median of each level, and a line at each change.
func (s Series) SVG() string {
	var b strings.Builder
	low, high := bounds(s.Values)
	x := func(i float64) float64 {
		return left + (width-left-right)*(i+0.5)/math.Max(1, float64(len(s.Values)))
	}
	y := func(v float64) float64 { return top + (height-top-bottom)*(high-v)/(high-low) }
	scale := table.ScaleFor(s.Unit, []float64{high})
	if scale.Decimals < 4 && (high-low)/high < 0.05 {
		scale.Decimals += 2
	}
	esc := template.HTMLEscapeString
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" xmlns="http://www.w3.org/2000/svg"><title>%s</title><desc>%s</desc>`, width, height, esc(s.Title), esc(s.described()))
	for _, v := range []float64{low, high} {
		fmt.Fprintf(&b, `<line class="axis" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text class="tick" x="%g" y="%.1f">%s</text>`, left, width-right, y(v), y(v), left-6, y(v)+4, esc(scale.Format(v)))
	}
	fmt.Fprintf(&b, `<text class="unit" x="4" y="14">%s</text>`, esc(scale.Titled(s.Metric)))
	for _, c := range s.Changes {
		class := "small"
		if c.Beyond {
			class = map[bool]string{true: "better", false: "worse"}[c.Better]
		}
		at := x(float64(c.at) - 0.5)
		fmt.Fprintf(&b, `<line class="change %s" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`, class, at, at, top-6, height-bottom)
		if c.Beyond && len(s.Changes) <= 8 {
			fmt.Fprintf(&b, `<text class="ratio %s" x="%.1f" y="14">×%s</text>`, class, at, table.Ratio(c.Ratio))
		}
	}
	for _, l := range s.levels() {
		fmt.Fprintf(&b, `<line class="level" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x(float64(l.from)-0.4), x(float64(l.to)-0.6), y(l.value), y(l.value))
	}
	b.WriteString(`<polyline class="line" points="`)
	for i, v := range s.Values {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(float64(i)), y(v))
	}
	b.WriteString(`"/>`)
	if len(s.Values) <= mostPoints {
		for i, v := range s.Values {
			fmt.Fprintf(&b, `<circle class="point" cx="%.1f" cy="%.1f" r="3"><title>%s: %s</title></circle>`, x(float64(i)), y(v), esc(s.Nights[i]), esc(s.number(v)))
		}
	}
	b.WriteString("</svg>")
	return b.String()
}

// described is the figure for those who cannot see it.
func (s Series) described() string {
	if len(s.Values) == 0 {
		return "No values."
	}
	text := fmt.Sprintf("%d nights, from %s to %s.", len(s.Values), s.number(s.Values[0]), s.number(s.Values[len(s.Values)-1]))
	for _, c := range s.Changes {
		text += fmt.Sprintf(" At %s: %s, from %s to %s.", c.Night, ratio(c), s.number(c.Old), s.number(c.New))
	}
	if len(s.Changes) == 0 {
		text += " No change."
	}
	return text
}

// level is a part of a series without a change.
type level struct {
	from, to int // to is the first night after it
	value    float64
}

func (s Series) levels() []level {
	if len(s.Changes) == 0 {
		return nil
	}
	out := []level{{to: len(s.Values), value: s.Changes[0].Old}}
	for _, c := range s.Changes {
		out[len(out)-1].to = c.at
		out = append(out, level{from: c.at, to: len(s.Values), value: c.New})
	}
	return out
}

// bounds are the ends of the axis: those of the values, and at least 2 % apart, so that what does not
// matter does not look large.
func bounds(x []float64) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range x {
		low, high = math.Min(low, v), math.Max(high, v)
	}
	if len(x) == 0 {
		return 0, 1
	}
	if least := 0.02 * math.Abs(high); high-low < least {
		middle := (low + high) / 2
		low, high = middle-least/2, middle+least/2
	}
	if high == low {
		high = low + 1
	}
	return low, high
}
