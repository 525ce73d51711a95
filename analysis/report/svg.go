package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The picture is drawn here, not by a plotting library: it must follow the
// reader's light or dark scheme, carry names for those who cannot see it, and
// put every arm's name beside its line.

// Geometry, in units of the view box.
const (
	figWidth   = 700.0
	figHeight  = 460.0
	figLeft    = 62.0
	figTop     = 104.0
	figBottom  = 62.0
	labelSpace = 19.0 // between lines of labels
	charWidth  = 7.6  // of a label's average character
	dodge      = 5.0  // between the points of two arms at one N
	markerSize = 4.6
)

// palettes are Okabe and Ito's colours for the colour-blind (2008), darkened or
// lightened where the background needs it. Arms that enforce nothing are grey.
func palettes() (light, dark []string) {
	return []string{"#0072b2", "#d55e00", "#008f68", "#b5549c", "#c98a00", "#3a9fd8"},
		[]string{"#4da6e0", "#ff8a3d", "#2cc79a", "#e49bc8", "#f2b632", "#8ed0f5"}
}

func greys() (light, dark []string) {
	return []string{"#444444", "#8a8a8a"}, []string{"#d0d0d0", "#8f8f8f"}
}

func figureStyle() string {
	var b strings.Builder
	rule := func(color string, class string) {
		fmt.Fprintf(&b, ".hb-%s{color:%s}", class, color)
	}
	classes := func(lines, refs []string) {
		for i, c := range lines {
			rule(c, fmt.Sprintf("c%d", i))
		}
		for i, c := range refs {
			rule(c, fmt.Sprintf("r%d", i))
		}
	}
	b.WriteString(".hb-fig{font-family:system-ui,-apple-system,'Segoe UI','Liberation Sans',Arial,sans-serif;font-size:14px}" +
		".hb-bg{fill:#fff}.hb-text{fill:#1c2128}.hb-soft{fill:#57606a}.hb-grid{stroke:#e3e6ea}.hb-axis{stroke:#8c959f}" +
		".hb-title{font-size:19px;font-weight:600}.hb-small{font-size:13px}")
	light, dark := palettes()
	greyLight, greyDark := greys()
	classes(light, greyLight)
	b.WriteString("@media (prefers-color-scheme:dark){.hb-bg{fill:#14181d}.hb-text{fill:#e6edf3}.hb-soft{fill:#9aa4af}.hb-grid{stroke:#2a3138}.hb-axis{stroke:#6b7580}")
	classes(dark, greyDark)
	b.WriteString("}")
	return b.String()
}

// canvas draws one figure.
type canvas struct {
	f          figure
	b          strings.Builder
	right      float64 // right edge of the plot area
	top        float64 // of the value axis, in scaled units
	tick       float64
	leftX      float64 // of the first and last level
	rightX     float64
	lineSeries int
}

// svg is the figure as a stand-alone SVG document.
func (f figure) svg() []byte {
	c := &canvas{f: f}
	c.layout()
	c.open()
	c.axes()
	for _, s := range f.series {
		if s.reference {
			c.referenceLine(s)
		}
	}
	for _, s := range f.series {
		if !s.reference {
			c.line(s)
		}
	}
	c.labels()
	c.b.WriteString("</svg>\n")
	return []byte(c.b.String())
}

func (c *canvas) printf(format string, args ...any) { fmt.Fprintf(&c.b, format, args...) }

func (c *canvas) layout() {
	longest := 0
	var highest float64
	for _, s := range c.f.series {
		longest = max(longest, len([]rune(s.arm)))
		if !s.reference {
			c.lineSeries++
		}
		for _, p := range s.points {
			if p.Median != nil {
				highest = max(highest, p.Median.High, p.Median.Estimate)
			}
		}
	}
	c.right = figWidth - min(float64(longest)*charWidth+50, 240)
	c.tick = niceStep(highest / c.f.scale.divisor / 5)
	c.top = max(c.tick, math.Ceil(highest/c.f.scale.divisor/c.tick*1.02)*c.tick)
	c.leftX, c.rightX = figLeft+24, c.right-24
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

func (c *canvas) open() {
	f := c.f
	c.printf(`<svg class="hb-fig" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s">`+"\n", figWidth, figHeight, esc(f.Title))
	c.printf("<title>%s</title>\n<desc>%s</desc>\n<style>%s</style>\n", esc(f.Title), esc(f.describe()), figureStyle())
	c.printf(`<rect class="hb-bg" width="%g" height="%g" rx="6"/>`+"\n", figWidth, figHeight)
	c.printf(`<text class="hb-text hb-title" x="18" y="30">%s</text>`+"\n", esc(f.Title))
	c.printf(`<text class="hb-soft hb-small" x="18" y="51">%s</text>`+"\n", esc(f.Subtitle))
	c.printf(`<text class="hb-soft hb-small" x="18" y="69">%s</text>`+"\n", esc(f.Basis))
	unit := f.scale.unit
	if unit == "" {
		unit = f.measure.metric
	}
	c.printf(`<text class="hb-soft hb-small" x="18" y="%g">%s</text>`+"\n", figTop-13, esc(unit))
}

// describe is the picture in words, from the data.
func (f figure) describe() string {
	var parts []string
	for _, s := range f.series {
		first, last := firstLast(s)
		switch {
		case first == nil:
			parts = append(parts, s.arm+" has no valid number")
		case s.reference || first == last:
			parts = append(parts, fmt.Sprintf("%s: %s %s at N = %d", s.arm, f.scale.format(first.Median.Estimate), f.scale.unit, first.Policies))
		default:
			parts = append(parts, fmt.Sprintf("%s: %s %s at N = %d, %s at N = %d", s.arm, f.scale.format(first.Median.Estimate),
				f.scale.unit, first.Policies, f.scale.format(last.Median.Estimate), last.Policies))
		}
	}
	return f.Caption + " " + strings.Join(parts, "; ") + "."
}

func firstLast(s series) (first, last *Summary) {
	for i := range s.points {
		if s.points[i].Median != nil {
			if first == nil {
				first = &s.points[i]
			}
			last = &s.points[i]
		}
	}
	return first, last
}

// x places a number of policies: logarithmic in 1+N, so that 0 has a place.
func (c *canvas) x(n int) float64 {
	levels := c.f.levels
	first, last := math.Log1p(float64(levels[0])), math.Log1p(float64(levels[len(levels)-1]))
	if first == last {
		return (c.leftX + c.rightX) / 2
	}
	return c.leftX + (c.rightX-c.leftX)*(math.Log1p(float64(n))-first)/(last-first)
}

// y places a value in base units.
func (c *canvas) y(v float64) float64 {
	bottom := figHeight - figBottom
	return bottom - (bottom-figTop)*v/c.f.scale.divisor/c.top
}

func (c *canvas) axes() {
	decimals := max(0, -int(math.Floor(math.Log10(c.tick)+1e-9)))
	if m := c.tick / math.Pow(10, math.Floor(math.Log10(c.tick)+1e-9)); math.Abs(m-2.5) < 1e-6 {
		decimals++
	}
	for i := 0; float64(i)*c.tick <= c.top*(1+1e-9); i++ {
		v := float64(i) * c.tick
		y := c.y(v * c.f.scale.divisor)
		class := "hb-grid"
		if i == 0 {
			class = "hb-axis"
		}
		c.printf(`<line class="%s" x1="%g" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", class, figLeft, c.right, y, y)
		c.printf(`<text class="hb-soft hb-small" x="%g" y="%.1f" text-anchor="end">%.*f</text>`+"\n", figLeft-8, y+4.5, decimals, v)
	}
	bottom, lastX := figHeight-figBottom, math.Inf(-1)
	for _, n := range c.f.levels {
		x := c.x(n)
		c.printf(`<line class="hb-axis" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/>`+"\n", x, x, bottom, bottom+5)
		if x-lastX < 26 {
			continue
		}
		lastX = x
		c.printf(`<text class="hb-soft hb-small" x="%.1f" y="%g" text-anchor="middle">%d</text>`+"\n", x, bottom+20, n)
	}
	c.printf(`<text class="hb-soft hb-small" x="%.1f" y="%g" text-anchor="middle">number of policies N%s</text>`+"\n",
		(figLeft+c.right)/2, bottom+42, c.axisNote())
}

func (c *canvas) axisNote() string {
	note := ""
	if len(c.f.levels) > 2 {
		note = " (scale of log(1 + N))"
	}
	for _, s := range c.f.series {
		for _, p := range s.points {
			if p.Median == nil {
				return note + " · × no valid number, see table"
			}
		}
	}
	return note
}

func (s series) class() string {
	light, _ := palettes()
	greyLight, _ := greys()
	if s.reference {
		return fmt.Sprintf("hb-r%d", s.index%len(greyLight))
	}
	return fmt.Sprintf("hb-c%d", s.index%len(light))
}

// dash tells arms apart beyond colour: references are dashed, and so are arms
// after the palette is used up.
func (s series) dash() string {
	light, _ := palettes()
	switch {
	case s.reference && s.index%2 == 0:
		return ` stroke-dasharray="8 4"`
	case s.reference:
		return ` stroke-dasharray="2 4"`
	case s.index >= len(light):
		return ` stroke-dasharray="10 3 3 3"`
	}
	return ""
}

// referenceLine draws an arm without policies across the plot, its interval as a band.
func (c *canvas) referenceLine(s series) {
	p, _ := firstLast(s)
	if p == nil {
		return
	}
	y := c.y(p.Median.Estimate)
	c.printf(`<g class="%s"><title>%s</title>`, s.class(), esc(c.tip(*p)))
	if p.Median.Confidence > 0 {
		high, low := c.y(p.Median.High), c.y(p.Median.Low)
		c.printf(`<rect x="%g" y="%.1f" width="%.1f" height="%.1f" fill="currentColor" opacity="0.13"/>`, figLeft, high, c.right-figLeft, max(low-high, 0.5))
	}
	c.printf(`<line x1="%g" x2="%.1f" y1="%.1f" y2="%.1f" stroke="currentColor" stroke-width="1.8"%s/></g>`+"\n", figLeft, c.right, y, y, s.dash())
}

// line draws an arm: a line broken where numbers are missing, interval bars,
// markers.
func (c *canvas) line(s series) {
	shift := (float64(s.index) - float64(c.lineSeries-1)/2) * dodge
	c.printf(`<g class="%s" stroke="currentColor" fill="currentColor">`+"\n", s.class())
	var path strings.Builder
	join := "M"
	for _, p := range s.points {
		if p.Median == nil {
			join = "M"
			continue
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", join, c.x(p.Policies)+shift, c.y(p.Median.Estimate))
		join = "L"
	}
	if path.Len() > 0 {
		c.printf(`<path d="%s" fill="none" stroke-width="2" stroke-linejoin="round"%s/>`+"\n", path.String(), s.dash())
	}
	for _, p := range s.points {
		c.point(s, p, c.x(p.Policies)+shift)
	}
	c.b.WriteString("</g>\n")
}

func (c *canvas) point(s series, p Summary, x float64) {
	c.printf(`<g><title>%s</title>`, esc(c.tip(p)))
	if p.Median == nil {
		y := figHeight - figBottom - 9
		c.printf(`<path d="M%.1f %.1fl8 8m0 -8l-8 8" fill="none" stroke-width="2"/></g>`+"\n", x-4, y-4)
		return
	}
	if p.Median.Confidence > 0 {
		c.printf(`<path d="M%.1f %.1fh7m-3.5 0V%.1fm-3.5 0h7" fill="none" stroke-width="1.5"/>`, x-3.5, c.y(p.Median.High), c.y(p.Median.Low))
	}
	c.printf("%s</g>\n", marker(s.index, x, c.y(p.Median.Estimate)))
}

// tip is a point in words.
func (c *canvas) tip(p Summary) string {
	head := fmt.Sprintf("%s, N = %d: ", p.Arm, p.Policies)
	if p.Median == nil {
		return head + "no valid number: " + missingNote(p)
	}
	sc := c.f.scale
	text := head + strings.TrimSpace(sc.format(p.Median.Estimate)+" "+sc.unit)
	if p.Median.Confidence > 0 {
		text += fmt.Sprintf(" (%s to %s, %s)", sc.format(p.Median.Low), sc.format(p.Median.High), percent(p.Median.Confidence))
	}
	return text + ", " + plural(p.N, "trial")
}

func marker(index int, x, y float64) string {
	const r = markerSize
	switch index % 6 {
	case 1:
		return fmt.Sprintf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" stroke="none"/>`, x-r+0.4, y-r+0.4, 2*r-0.8, 2*r-0.8)
	case 2:
		return fmt.Sprintf(`<path d="M%.1f %.1fl%.1f %.1fh%.1fz" stroke="none"/>`, x, y-r-0.8, r+0.6, 2*r, -2*(r+0.6))
	case 3:
		return fmt.Sprintf(`<path d="M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz" stroke="none"/>`, x, y-r-1.2, r+1.2, r+1.2, -r-1.2, r+1.2, -r-1.2, -r-1.2)
	case 4:
		return fmt.Sprintf(`<path d="M%.1f %.1fl%.1f %.1fh%.1fz" stroke="none"/>`, x, y+r+0.8, r+0.6, -2*r, -2*(r+0.6))
	case 5:
		return fmt.Sprintf(`<circle class="hb-bg" cx="%.1f" cy="%.1f" r="%.1f" stroke="currentColor" stroke-width="2"/>`, x, y, r-0.4)
	}
	return fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="%.1f" stroke="none"/>`, x, y, r)
}

// label is an arm's name at the right edge.
type label struct {
	s     series
	lineY float64 // where its line ends
	endX  float64
	y     float64 // where the name goes
	known bool
}

// labels writes every arm's name beside the end of its line, moved apart where
// lines end close together.
func (c *canvas) labels() {
	var all []label
	for _, s := range c.f.series {
		_, last := firstLast(s)
		l := label{s: s, lineY: figHeight - figBottom - 9, endX: c.right}
		if last != nil {
			l.known, l.lineY = true, c.y(last.Median.Estimate)
			if !s.reference {
				l.endX = c.x(last.Policies) + (float64(s.index)-float64(c.lineSeries-1)/2)*dodge + markerSize + 3
			}
		}
		l.y = l.lineY
		all = append(all, l)
	}
	slices.SortStableFunc(all, func(a, b label) int {
		switch {
		case a.lineY < b.lineY:
			return -1
		case a.lineY > b.lineY:
			return 1
		}
		return 0
	})
	spread(all, figTop, figHeight-figBottom)
	for _, l := range all {
		c.label(l)
	}
}

// spread moves labels, sorted by y, at least labelSpace apart, as little as
// possible: neighbours that touch form a pile centred on their lines.
func spread(all []label, top, bottom float64) {
	type pile struct {
		first, n int
		start    float64
	}
	var piles []pile
	place := func(first, n int) float64 {
		sum := 0.0
		for i := range n {
			sum += all[first+i].lineY - float64(i)*labelSpace
		}
		return max(top, min(sum/float64(n), bottom-float64(n-1)*labelSpace))
	}
	for i := range all {
		p := pile{i, 1, place(i, 1)}
		for len(piles) > 0 {
			before := piles[len(piles)-1]
			if before.start+float64(before.n)*labelSpace <= p.start {
				break
			}
			piles = piles[:len(piles)-1]
			p = pile{before.first, before.n + p.n, place(before.first, before.n+p.n)}
		}
		piles = append(piles, p)
	}
	for _, p := range piles {
		for i := range p.n {
			all[p.first+i].y = p.start + float64(i)*labelSpace
		}
	}
}

func (c *canvas) label(l label) {
	x := c.right + 14
	c.printf(`<g class="%s" stroke="currentColor" fill="currentColor">`, l.s.class())
	if l.known {
		dash := ""
		if l.endX < c.rightX-2*labelSpace {
			dash = ` stroke-dasharray="1 5"` // not to be taken for data
		}
		c.printf(`<path d="M%.1f %.1fL%.1f %.1fL%.1f %.1f" fill="none" stroke-width="1" opacity="0.5"%s/>`, l.endX, l.lineY, c.right, l.lineY, x-2, l.y, dash)
	}
	switch {
	case l.s.reference:
		c.printf(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke-width="2"%s/>`, x, x+18, l.y, l.y, l.s.dash())
	case l.known:
		c.b.WriteString(marker(l.s.index, x+9, l.y))
	default:
		c.printf(`<path d="M%.1f %.1fl8 8m0 -8l-8 8" fill="none" stroke-width="2"/>`, x+5, l.y-4)
	}
	c.printf(`</g><text class="hb-text" x="%.1f" y="%.1f">%s</text>`+"\n", x+24, l.y+4.8, esc(l.s.arm))
}

func esc(s string) string { return html.EscapeString(s) }
