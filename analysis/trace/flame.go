package trace

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

//go:embed flame.css
var flameStyle string

//go:embed flame.js
var flameScript string

// Geometry of a flame graph, in units of its view box.
const (
	flameLeft   = 10
	flameWidth  = 1180
	flameStep   = 17   // from one row of frames to the next
	flameHead   = 52   // above the legend
	flameLetter = 6.63 // width, of the frames' font
	legendStep  = 18
	flameLevels = 250 // of frames: deeper ones are left out
)

// What a flame graph holds at most.
const (
	framesMost = 3500
	flameMost  = 950_000 // bytes
)

// frame is a function in one stack as it is drawn.
type frame struct {
	name  string
	tip   []string // what there is to say of it, a line each
	class string
	fill  string // "" for that of its class
	width float64
	last  bool // after its siblings
	inner []*frame
}

// legendEntry explains a color.
type legendEntry struct{ fill, class, text string }

// flame is a picture of frames, the thread at the top and callees below their callers.
type flame struct {
	title, subtitle string
	legend          []legendEntry
	root            *frame
}

// WriteFlame writes flame.svg: a flame graph of whole units, with a script of its own for zoom and
// search. It needs no network, and is readable without the script.
func WriteFlame(w io.Writer, t *Trace) error {
	f := flame{title: t.Title(), root: t.frames(), legend: t.legend(),
		subtitle: fmt.Sprintf("%s instructions of %s. Width is cost, callees are below their callers, the dearest first.",
			grouped(int64(t.Window.Measured)), t.unitsText())}
	_, err := w.Write(f.svg())
	return err
}

// unitsText is "200 whole transactions", or "12.5 MiB".
func (t *Trace) unitsText() string {
	if t.Unit == UnitMiB {
		return fixed(t.Units, 1) + " " + t.Unit
	}
	return grouped(int64(t.Units)) + " whole " + plural(t.Unit)
}

// frames are the tree of whole units.
func (t *Trace) frames() *frame {
	layers, totals := t.Measured.layers(), t.Measured.totals()
	all := make([]*frame, len(t.Measured.Nodes))
	for i, n := range t.Measured.Nodes {
		f := &frame{name: n.Name, width: float64(totals[i]), fill: layers[i].Color()}
		f.tip = []string{fmt.Sprintf("%s: %s instructions a %s, %s %%", layers[i], fixed(t.PerUnit(totals[i]), 1), t.Unit, fixed(100*share(totals[i], t.Window.Measured), 2)),
			fmt.Sprintf("itself %s, called %s times", fixed(t.PerUnit(n.Self), 1), fixed(t.PerUnit(n.Calls), 2))}
		all[i] = f
		if n.Parent >= 0 {
			all[n.Parent].inner = append(all[n.Parent].inner, f)
			continue
		}
		f.name, f.fill = "all", LayerOther.Color()
		f.tip = []string{fmt.Sprintf("%s instructions a %s", fixed(t.PerUnit(totals[i]), 1), t.Unit)}
	}
	if len(all) == 0 {
		return &frame{name: "all", tip: []string{"nothing was traced"}}
	}
	return all[0]
}

// legendShare is from which share on a layer is in the legend.
const legendShare = 0.005

func (t *Trace) legend() []legendEntry {
	var out []legendEntry
	for _, l := range t.Measured.LayerCosts() {
		if part := share(l.Self, t.Window.Measured); part >= legendShare || l.Layer == LayerOther {
			out = append(out, legendEntry{fill: l.Layer.Color(), text: fmt.Sprintf("%s %s %%", l.Layer, fixed(100*part, 1))})
		}
	}
	return out
}

// svg is the whole document, at most flameMost bytes where that can be.
func (f flame) svg() []byte {
	f.root.sort()
	least := 0.3
	for f.count(f.root, least, 0) > framesMost {
		least *= 1.5
	}
	for {
		out := f.document(least)
		if len(out) <= flameMost || least > flameWidth {
			return out
		}
		least *= 1.5
	}
}

// sort puts the widest frame first, of equals by name.
func (f *frame) sort() {
	slices.SortStableFunc(f.inner, func(a, b *frame) int {
		if a.last != b.last {
			return map[bool]int{true: 1, false: -1}[a.last]
		}
		return cmp.Or(cmp.Compare(b.width, a.width), strings.Compare(a.name, b.name))
	})
	for _, k := range f.inner {
		k.sort()
	}
}

// scale is how wide one instruction is drawn.
func (f flame) scale() float64 {
	if f.root.width <= 0 {
		return 0
	}
	return flameWidth / f.root.width
}

// count is how many frames are drawn that are at least so wide.
func (f flame) count(of *frame, least float64, depth int) int {
	n := 1
	for _, k := range of.inner {
		if k.width*f.scale() >= least && depth+1 < flameLevels {
			n += f.count(k, least, depth+1)
		}
	}
	return n
}

// depth is how many rows the frames take.
func (f flame) depth(of *frame, least float64, depth int) int {
	most := depth + 1
	for _, k := range of.inner {
		if k.width*f.scale() >= least && depth+1 < flameLevels {
			most = max(most, f.depth(k, least, depth+1))
		}
	}
	return most
}

// legendRows places the legend's entries: a row each list.
func (f flame) legendRows() [][]legendEntry {
	rows, x := [][]legendEntry{nil}, 0.0
	for _, e := range f.legend {
		width := legendWidth(e)
		if x > 0 && x+width > flameWidth {
			rows, x = append(rows, nil), 0
		}
		rows[len(rows)-1], x = append(rows[len(rows)-1], e), x+width
	}
	return rows
}

// legendWidth is the room of an entry, generously measured: fonts differ.
func legendWidth(e legendEntry) float64 { return 26 + 7.3*float64(utf8.RuneCountInString(e.text)) }

func (f flame) document(least float64) []byte {
	rows := f.legendRows()
	top := flameHead + legendStep*len(rows) + 32
	height := top + flameStep*f.depth(f.root, least, 0) + 12
	var b bytes.Buffer
	title := escaped(f.title)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="group" aria-label="%s" data-left="%d" data-width="%d" data-top="%d">`+"\n",
		flameWidth+2*flameLeft, height, flameWidth+2*flameLeft, height, title, flameLeft, flameWidth, top)
	fmt.Fprintf(&b, "<title>%s</title>\n<desc>%s %s</desc>\n<style>\n%s</style>\n", title, escaped(f.subtitle), escaped(f.described()), flameStyle)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n"+`<text class="h" x="%d" y="26">%s</text>`+"\n"+`<text class="s" x="%d" y="44">%s</text>`+"\n", flameLeft, title, flameLeft, escaped(f.subtitle))
	for i, row := range rows {
		x := float64(flameLeft)
		for _, e := range row {
			y := flameHead + legendStep*i
			fmt.Fprintf(&b, `<g class="%s"><rect x="%.1f" y="%d" width="12" height="12" fill="%s" stroke="#888" stroke-width=".5"/></g><text class="l" x="%.1f" y="%d">%s</text>`+"\n", e.class, x, y, e.fill, x+17, y+10, escaped(e.text))
			x += legendWidth(e)
		}
	}
	fmt.Fprintf(&b, `<text class="d" x="%d" y="%d">%s</text>`+"\n", flameLeft, top-12, "Point at a frame for details. Click or Enter: zoom. Arrow keys: move. /: search. Esc: reset.")
	f.draw(&b, f.root, flameLeft, top, least, 0)
	fmt.Fprintf(&b, "<script><![CDATA[\n%s]]></script>\n</svg>\n", flameScript)
	return b.Bytes()
}

// draw writes a frame and those below it.
func (f flame) draw(b *bytes.Buffer, of *frame, x float64, y int, least float64, depth int) {
	width := of.width * f.scale()
	var shown []*frame
	small, smallWidth := 0, 0.0
	for _, k := range of.inner {
		if k.width*f.scale() >= least && depth+1 < flameLevels {
			shown = append(shown, k)
			continue
		}
		small, smallWidth = small+1, smallWidth+k.width
	}
	tip := append([]string{cleanName(of.name)}, of.tip...)
	if small > 0 {
		tip = append(tip, fmt.Sprintf("%s too narrow to draw: %s %%", counted(small, "callee"), fixed(100*smallWidth*f.scale()/flameWidth, 3)))
	}
	class, fill := "f", ""
	if of.class != "" {
		class += " " + of.class
	}
	if of.fill != "" {
		fill = ` fill="` + of.fill + `"`
	}
	fmt.Fprintf(b, `<g class="%s"><title>%s</title><rect x="%.2f" y="%d" width="%.2f" height="%d"%s/>`, class, escaped(strings.Join(tip, "\n")), x, y, width, flameStep-1, fill)
	if text := fitted(cleanName(of.name), width); text != "" {
		fmt.Fprintf(b, `<text x="%.2f" y="%d">%s</text>`, x+3, y+12, escaped(text))
	}
	b.WriteString("</g>\n")
	for _, k := range shown {
		f.draw(b, k, x, y+flameStep, least, depth+1)
		x += k.width * f.scale()
	}
}

// fitted is a name cut to the width of its frame, "" where nothing of it fits.
func fitted(name string, width float64) string {
	room := int((width - 5) / flameLetter)
	letters := []rune(name)
	switch {
	case room < 3:
		return ""
	case len(letters) <= room:
		return name
	}
	return string(letters[:room-1]) + "…"
}

// described is the picture in words: its first level.
func (f flame) described() string {
	var parts []string
	for _, k := range f.root.inner {
		if len(parts) < 8 && f.root.width > 0 {
			parts = append(parts, fmt.Sprintf("%s %s %%", cleanName(k.name), fixed(100*k.width/f.root.width, 1)))
		}
	}
	return strings.Join(parts, ", ")
}

// escaped is a text that XML can hold.
func escaped(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	return html.EscapeString(s)
}
