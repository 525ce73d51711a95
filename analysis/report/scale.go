package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"hookbed/analysis/stat"
)

// scale is how values of one table or figure are written: divided, with a
// fixed number of decimals, under one unit.
type scale struct {
	unit     string
	divisor  float64
	decimals int
}

// none stands for a number that does not exist.
const none = "–"

// scaleFor chooses the unit in which the largest of values is easy to read.
func scaleFor(unit string, values []float64) scale {
	top := 0.0
	whole := true
	for _, v := range values {
		if math.IsNaN(v) {
			continue
		}
		top = max(top, math.Abs(v))
		whole = whole && v == math.Trunc(v)
	}
	s := scale{unit: unit, divisor: 1}
	for _, step := range steps(unit) {
		if s = step; top >= step.divisor {
			break
		}
	}
	if top > 0 && (!whole || s.divisor != 1) {
		s.decimals = min(max(2-int(math.Floor(math.Log10(top/s.divisor))), 0), 4)
	}
	return s
}

func steps(unit string) []scale {
	switch unit {
	case "bit/s":
		return []scale{{unit: "Gbit/s", divisor: 1e9}, {unit: "Mbit/s", divisor: 1e6}, {unit: "kbit/s", divisor: 1e3}, {unit: "bit/s", divisor: 1}}
	case "s":
		return []scale{{unit: "s", divisor: 1}, {unit: "ms", divisor: 1e-3}, {unit: "µs", divisor: 1e-6}, {unit: "ns", divisor: 1e-9}}
	case "By":
		return []scale{{unit: "GB", divisor: 1e9}, {unit: "MB", divisor: 1e6}, {unit: "kB", divisor: 1e3}, {unit: "B", divisor: 1}}
	case "1/s":
		return []scale{{unit: "per s", divisor: 1}}
	case "1":
		return []scale{{unit: "", divisor: 1}}
	}
	return []scale{{unit: unit, divisor: 1}}
}

func (s scale) format(v float64) string {
	if math.IsNaN(v) {
		return none
	}
	return strconv.FormatFloat(v/s.divisor, 'f', s.decimals, 64)
}

// bound is a bound of an interval: a positive one never reads 0.
func (s scale) bound(v float64) string {
	text := s.format(v)
	if v > 0 && strings.Trim(text, "0.") == "" {
		return strconv.FormatFloat(v/s.divisor, 'g', 2, 64)
	}
	return text
}

// titled is a heading with the unit behind it.
func (s scale) titled(name string) string {
	if s.unit == "" {
		return name
	}
	return name + ", " + s.unit
}

func percent(v float64) string {
	if math.IsNaN(v) {
		return none
	}
	p := v * 100
	decimals := 0
	if p < 10 || p > 90 && p < 100 {
		decimals = 1
	}
	return strings.TrimSuffix(strconv.FormatFloat(p, 'f', decimals, 64), ".0") + " %"
}

func ratio(v float64) string {
	switch {
	case math.IsNaN(v):
		return none
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v > 0 && v < 0.01: // no positive ratio reads 0
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// stated is a confidence in words: intervals between extremes have at least
// what is said.
func stated(e stat.Estimate) string {
	switch {
	case e.Confidence == 0:
		return "no confidence"
	case e.Method == stat.MethodExtremes:
		return "at least " + percent(e.Confidence)
	}
	return percent(e.Confidence)
}

// ratioWithInterval is "×0.471 (0.455 to 0.490)", with the confidence behind it
// where that falls short of the one asked for, and marked if it is rough.
func ratioWithInterval(r *stat.Estimate, confidence float64) string {
	if r == nil {
		return none
	}
	if r.Confidence == 0 {
		return "×" + ratio(r.Estimate) + " (no interval)"
	}
	text := "×" + ratio(r.Estimate) + " (" + ratio(r.Low) + " to " + ratio(r.High)
	if r.Confidence < confidence {
		text += ", " + stated(*r)
	}
	text += ")"
	if r.Rough {
		text += " " + stat.RoughMark
	}
	return text
}

// signed writes a number that may be negative, but no negative zero.
func signed(sc scale, v float64) string {
	text := sc.format(v)
	if digits, ok := strings.CutPrefix(text, "-"); ok {
		if strings.Trim(digits, "0.") == "" {
			return digits
		}
		return "−" + digits
	}
	return text
}

// virtual is the scale with a unit that says that its seconds are virtual.
func (s scale) virtual() scale {
	switch {
	case strings.HasSuffix(s.unit, "/s"):
		s.unit = strings.TrimSuffix(s.unit, "/s") + " per virtual second"
	case s.unit == "per s":
		s.unit = "per virtual second"
	case s.unit == "s" || s.unit == "ms" || s.unit == "µs" || s.unit == "ns":
		s.unit = "virtual " + s.unit
	}
	return s
}

// interval is "0.45 to 0.49", with its confidence behind it where that falls short
// of the one asked for, and marked if it is rough.
func interval(v stat.Estimate, sc scale, confidence float64) string {
	if v.Confidence == 0 {
		return none
	}
	text := sc.bound(v.Low) + " to " + sc.bound(v.High)
	if v.Confidence < confidence {
		text += ", " + stated(v)
	}
	if v.Rough {
		text += " " + stat.RoughMark
	}
	return text
}

// valueWithInterval is "1.2 (1.1 to 1.3)".
func valueWithInterval(v *stat.Estimate, sc scale, confidence float64) string {
	if v == nil {
		return none
	}
	return signed(sc, v.Estimate) + " (" + interval(*v, sc, confidence) + ")"
}

// shareWithInterval is "91 % (88 % to 94 %)", its confidence behind it where that
// is less than asked for, and ~ where it holds for normal logs only.
func shareWithInterval(s *stat.Estimate, confidence float64) string {
	switch {
	case s == nil:
		return none
	case s.Confidence == 0:
		return wholePercent(s.Estimate) + " (no interval)"
	}
	text := wholePercent(s.Estimate) + " (" + wholePercent(s.Low) + " to " + wholePercent(s.High)
	if s.Confidence < confidence {
		text += ", " + stated(*s)
	}
	text += ")"
	if s.Rough {
		text += " " + stat.RoughMark
	}
	return text
}

// wholePercent is a share without decimals: none of its digits would mean
// anything.
func wholePercent(v float64) string {
	text := fmt.Sprintf("%.0f %%", v*100)
	return strings.Replace(strings.Replace(text, "-0 %", "0 %", 1), "-", "−", 1)
}
