package figure

import (
	"encoding/xml"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gonum.org/v1/plot/vg"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
	"hookbed/analysis/table"
)

// manyArms is a run of a number of arms, one in ten without policies, with a name
// that is as long as an arm's with all its options.
func manyArms(n int) runstest.Synthetic {
	s := runstest.Small()
	s.Env, s.Scenarios, s.Workloads, s.Policies, s.Blocks, s.Trials = nil, []string{"multi-host"}, []string{"TCP_STREAM", "TCP_RR"}, []int{0, 1, 10, 100, 1000}, 1, 3
	s.Arms, s.Spoil = nil, nil
	for i := range n {
		s.Arms = append(s.Arms, fmt.Sprintf("%s-%02d", map[bool]string{true: "plain", false: "arm"}[i%10 == 9], i))
	}
	s.Arms[n-1] += " established-first, placed at the endpoint, with a name that never ends"
	s.Spoil = func(rows []record.Row, f map[string]string) []record.Row {
		_, number, _ := strings.Cut(strings.Fields(f["arm"])[0], "-")
		i, _ := strconv.Atoi(number)
		n, _ := strconv.ParseFloat(f["policies"], 64)
		rows = slices.DeleteFunc(rows, func(r record.Row) bool { return r.Metric != "throughput" && r.Metric != "latency_mean" })
		for k := range rows {
			slower := (1 + 0.02*float64(i)) * (1 + n*float64(i)/20000)
			switch rows[k].Metric {
			case "throughput":
				rows[k].Value = runstest.Round(8e9 / slower * (1 + 0.01*float64(rows[k].Trial)))
			case "latency_mean":
				rows[k].Value = runstest.Round(30e-6 * slower * (1 + 0.01*float64(rows[k].Trial)))
			}
		}
		return rows
	}
	return s
}

// svgText is a text of a picture, with its left end and baseline from the top.
type svgText struct {
	text       string
	x, y, size float64
	bold       bool
}

// svgPath is a stroke or an area.
type svgPath struct{ d, style string }

type picture struct {
	width, height float64
	texts         []svgText
	paths         []svgPath
	tips          []svgTip
}

// svgTip is the area over a point that says what it is.
type svgTip struct {
	x, width float64
	title    string
}

// readPicture reads what the tests look at of an SVG document.
func readPicture(t *testing.T, data []byte) picture {
	t.Helper()
	var doc struct {
		ViewBox string `xml:"viewBox,attr"`
		Groups  []struct {
			Inner string `xml:",innerxml"`
		} `xml:"g"`
		Rects []struct {
			X     float64 `xml:"x,attr"`
			Width string  `xml:"width,attr"`
			Title string  `xml:"title"`
		} `xml:"rect"`
	}
	if err := xml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var out picture
	if _, err := fmt.Sscanf(doc.ViewBox, "0 0 %g %g", &out.width, &out.height); err != nil {
		t.Fatal(err)
	}
	for _, r := range doc.Rects {
		if w, err := strconv.ParseFloat(r.Width, 64); err == nil && r.Title != "" {
			out.tips = append(out.tips, svgTip{r.X, w, r.Title})
		}
	}
	all := string(data)
	text := regexp.MustCompile(`(?s)<text x="([-\d.e]+)" y="([-\d.e]+)" transform="scale\(1, -1\)"\s+style="([^"]*)">(.*?)</text>`)
	for _, m := range text.FindAllStringSubmatch(all, -1) {
		size, _ := strconv.ParseFloat(regexp.MustCompile(`font-size:([\d.]+)px`).FindStringSubmatch(m[3])[1], 64)
		x, _ := strconv.ParseFloat(m[1], 64)
		y, _ := strconv.ParseFloat(m[2], 64)
		out.texts = append(out.texts, svgText{m[4], x, out.height + y, size, strings.Contains(m[3], "font-weight:bold")})
	}
	if len(out.texts) != strings.Count(all, "<text ") {
		t.Fatalf("read %d of %d texts", len(out.texts), strings.Count(all, "<text "))
	}
	for _, m := range regexp.MustCompile(`<path d="([^"]*)" style="([^"]*)"`).FindAllStringSubmatch(all, -1) {
		out.paths = append(out.paths, svgPath{m[1], m[2]})
	}
	return out
}

// checkInside refuses text that leaves the picture.
func checkInside(t *testing.T, name string, p picture) {
	t.Helper()
	_, soft, _, _ := ink()
	for _, x := range p.texts {
		style := textStyle(vg.Length(x.size), soft)
		if x.bold {
			style.Font.Weight = 700
		}
		text := strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&", "&#39;", "'", "&#34;", `"`).Replace(x.text)
		right := x.x + float64(style.Width(text))
		if x.x < 0 || right > p.width || x.y-x.size < 0 || x.y+0.3*x.size > p.height {
			t.Errorf("%s: %q from %.0f to %.0f at %.0f leaves the picture of %.0f by %.0f", name, x.text, x.x, right, x.y, p.width, p.height)
		}
	}
}

// ticks are where the axis says that each N is.
func (p picture) ticks(t *testing.T, levels []int) map[int]float64 {
	t.Helper()
	out := map[int]float64{}
	var at []float64
	for _, path := range p.paths { // short upright strokes in the color of the axis
		var x0, y0, x1, y1 float64
		if n, _ := fmt.Sscanf(path.d, "M%g,%gL%g,%g", &x0, &y0, &x1, &y1); n == 4 && x0 == x1 && math.Abs(y1-y0) < 6 && strings.Contains(path.style, "#8C959F") && !slices.Contains(at, x0) {
			at = append(at, x0)
		}
	}
	slices.Sort(at)
	if len(at) != len(levels) {
		t.Fatalf("ticks at %v, want %d", at, len(levels))
	}
	for i, n := range levels {
		out[n] = at[i]
	}
	return out
}

// TestPointsStandAtTheirN: whatever the number of arms, every point of a line is
// where the tick of its N is, all text is inside the picture, and no two arms of
// one panel look alike.
func TestPointsStandAtTheirN(t *testing.T) {
	for _, n := range []int{1, 6, 12, 38, 60} {
		s := manyArms(n)
		dir := t.TempDir()
		s.Write(t, dir)
		all, err := runs.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		e, err := summary.New(all, summary.Options{Resamples: 50})
		if err != nil {
			t.Fatal(err)
		}
		figures := charts(e)
		if len(figures) != 2 {
			t.Fatalf("%d figures", len(figures))
		}
		for _, f := range figures {
			name := fmt.Sprintf("%d arms, %s", n, f.Name)
			p := readPicture(t, f.svg())
			checkInside(t, name, p)
			checkPoints(t, name, f, p)
			checkPanels(t, name, f)
		}
	}
}

func checkPoints(t *testing.T, name string, f chart, p picture) {
	t.Helper()
	ticks, shown := p.ticks(t, f.levels), 0
	for _, tip := range p.tips {
		_, after, _ := strings.Cut(tip.title, ", N = ")
		level, _, _ := strings.Cut(after, ":")
		n, err := strconv.Atoi(level)
		if err != nil || tip.width != 14 {
			continue // an arm without policies, across the plot
		}
		if shown++; math.Abs(tip.x+7-ticks[n]) > 0.1 {
			t.Errorf("%s: %q is at %.1f, the tick at %.1f", name, tip.title, tip.x+7, ticks[n])
		}
	}
	want := 0
	for _, s := range f.series {
		if !s.reference {
			want += len(s.points)
		}
	}
	if shown != want {
		t.Errorf("%s: %d points have a tip, want %d", name, shown, want)
	}
	checkLines(t, name, ticks, p)
}

// checkLines looks at what is drawn: the corners of every arm's line.
func checkLines(t *testing.T, name string, ticks map[int]float64, p picture) {
	t.Helper()
	corner, lines := regexp.MustCompile(`[ML]([-\d.e]+),`), 0
	for _, path := range p.paths {
		corners := corner.FindAllStringSubmatch(path.d, -1)
		if !strings.Contains(path.style, "stroke-width:2") || strings.Contains(path.style, "stroke:#444444") || strings.Contains(path.style, "stroke:#8A8A8A") || len(corners) != len(ticks) {
			continue
		}
		lines++
		for _, m := range corners {
			x, _ := strconv.ParseFloat(m[1], 64)
			if !slices.ContainsFunc(slices.Collect(maps.Values(ticks)), func(at float64) bool { return math.Abs(at-x) < 0.1 }) {
				t.Errorf("%s: a line has a corner at %.1f, ticks are at %v", name, x, ticks)
				return
			}
		}
	}
	if lines == 0 {
		t.Errorf("%s: no line is drawn", name)
	}
}

func checkPanels(t *testing.T, name string, f chart) {
	t.Helper()
	times, references := map[string]int{}, map[string]bool{}
	for _, panel := range f.panels() {
		seen := map[string]string{}
		for _, s := range panel.series {
			if !s.reference {
				times[s.name]++
			} else {
				references[s.name] = true
			}
			style := fmt.Sprint(s.color(), s.lineStyle().Dashes, s.reference)
			if !s.reference {
				style += fmt.Sprintf("%T%v", s.marker().Shape, s.marker().Shape)
			}
			if other := seen[style]; other != "" {
				t.Errorf("%s: %s looks like %s", name, s.name, other)
			}
			seen[style] = s.name
		}
	}
	for _, s := range f.series {
		if !s.reference && times[s.name] != 1 || s.reference && !references[s.name] {
			t.Errorf("%s: %s is in %d panels", name, s.name, times[s.name])
		}
	}
}

// Interval bars are next to their points, but never far.
func TestIntervalsStandNearTheirPoints(t *testing.T) {
	at := func(n float64) vg.Length { return vg.Length(20 * math.Log1p(n)) }
	f := chart{shown: 6, levels: []int{0, 1, 1000}}
	for i := range 6 {
		if off := f.aside(series{index: i}, at); math.Abs(float64(off)) > float64(at(1))/5+1e-9 {
			t.Errorf("arm %d: %.1f aside, %.1f to the next N", i, off, at(1))
		}
	}
	f.levels = []int{0, 1000}
	if off := f.aside(series{index: 5}, at); off != asideMost {
		t.Errorf("%.1f aside, want %d", off, asideMost)
	}
	if off := (chart{shown: 1, levels: []int{0}}).aside(series{}, at); off != 0 {
		t.Errorf("one arm: %.1f aside", off)
	}
}

func TestShortened(t *testing.T) {
	style := nameStyle()
	long := strings.Repeat("bridge+iptables-legacy ", 9)
	short := shortened(style, long, 200)
	if style.Width(short) > 200 || !strings.HasSuffix(short, "…") || !strings.HasPrefix(long, strings.TrimSuffix(short, "…")) {
		t.Errorf("%q of %.0f", short, style.Width(short))
	}
	if got := shortened(style, "docker", 200); got != "docker" {
		t.Error(got)
	}
}

// Bars keep their labels and numbers within the picture.
func TestBarsStayInside(t *testing.T) {
	v := stat.Estimate{Estimate: 123456.7, Low: -98765.4, High: 1234567.8, Confidence: 0.95, N: 9}
	b := barChart{Name: "bars", Title: strings.Repeat("What the overlay costs: ", 6), Subtitle: strings.Repeat("lower is better, ", 9), scale: table.Scale{Unit: "virtual ns", Divisor: 1, Decimals: 1}}
	for i := range 60 {
		b.rows = append(b.rows, bar{label: fmt.Sprintf("bridge+iptables-legacy (established-first, family ipv6, state stateless) %d", i), head: strings.Repeat("a heading ", 12), color: i, value: &v},
			bar{label: "missing", why: strings.Repeat("not in this run ", 5)})
	}
	checkInside(t, "bars", readPicture(t, b.svg()))
}

func TestSpreadKeepsLabelsApart(t *testing.T) {
	all := []label{{lineY: 90}, {lineY: 91}, {lineY: 92}, {lineY: 200}, {lineY: 385}, {lineY: 386}}
	spread(all, 86, 388)
	for i := range all {
		if i > 0 && all[i].y-all[i-1].y < labelSpace-1e-9 {
			t.Errorf("labels %d and %d are %.1f apart", i-1, i, all[i].y-all[i-1].y)
		}
		if all[i].y < 86 || all[i].y > 388 {
			t.Errorf("label %d at %.1f lies outside", i, all[i].y)
		}
	}
	if all[3].y != 200 {
		t.Errorf("a label with room moved to %.1f", all[3].y)
	}
}

func TestValueTicks(t *testing.T) {
	for highest := 0.0123; highest < 1e6; highest *= 1.07 {
		ticks := chart{highest: highest, scale: table.Scale{Divisor: 1}}.valueTicks()
		last := ticks[len(ticks)-1].Value
		if ticks[0].Value != 0 || last < highest || last > 1.5*highest || len(ticks) < 4 || len(ticks) > 6 {
			t.Errorf("ticks up to %g: %v", highest, ticks)
		}
		for _, tick := range ticks {
			if v, err := strconv.ParseFloat(tick.Label, 64); err != nil || v != tick.Value || len(tick.Label) > 8 {
				t.Errorf("tick %g is labelled %q", tick.Value, tick.Label)
			}
		}
	}
}
