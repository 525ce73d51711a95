package table

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"hookbed/analysis/stat"
)

// Scale is how values of one table or figure are written: divided, with a
// fixed number of decimals, under one unit.
type Scale struct {
	Unit     string  // as people read it, "Gbit/s"; "" for a number without a unit
	Divisor  float64 // base units in one of Unit
	Decimals int
}

// None is written in the place of a number that does not exist.
const None = "–"

// ScaleFor chooses the unit in which the largest of values is easy to read. Unit is
// the base unit of the values, as rows have it: "bit/s", "s", "By", "1/s" or "1";
// another is kept as it is.
func ScaleFor(unit string, values []float64) Scale {
	top := 0.0
	whole := true
	for _, v := range values {
		if math.IsNaN(v) {
			continue
		}
		top = max(top, math.Abs(v))
		whole = whole && v == math.Trunc(v)
	}
	s := Scale{Unit: unit, Divisor: 1}
	for _, step := range steps(unit) {
		if s = step; top >= step.Divisor {
			break
		}
	}
	if top > 0 && (!whole || s.Divisor != 1) {
		s.Decimals = min(max(2-int(math.Floor(math.Log10(top/s.Divisor))), 0), 4)
	}
	return s
}

// steps are the scales for a base unit, the largest first.
func steps(unit string) []Scale {
	switch unit {
	case "bit/s":
		return []Scale{{Unit: "Gbit/s", Divisor: 1e9}, {Unit: "Mbit/s", Divisor: 1e6}, {Unit: "kbit/s", Divisor: 1e3}, {Unit: "bit/s", Divisor: 1}}
	case "s":
		return []Scale{{Unit: "s", Divisor: 1}, {Unit: "ms", Divisor: 1e-3}, {Unit: "µs", Divisor: 1e-6}, {Unit: "ns", Divisor: 1e-9}}
	case "By":
		return []Scale{{Unit: "GB", Divisor: 1e9}, {Unit: "MB", Divisor: 1e6}, {Unit: "kB", Divisor: 1e3}, {Unit: "B", Divisor: 1}}
	case "1/s":
		return []Scale{{Unit: "per s", Divisor: 1}}
	case "1":
		return []Scale{{Unit: "", Divisor: 1}}
	}
	return []Scale{{Unit: unit, Divisor: 1}}
}

// Format writes a value in base units as a number of the scale's unit, without the
// unit. NaN is None.
func (s Scale) Format(v float64) string {
	if math.IsNaN(v) {
		return None
	}
	return strconv.FormatFloat(v/s.Divisor, 'f', s.Decimals, 64)
}

// Bound is Format for a bound of an interval: a positive one never reads 0.
func (s Scale) Bound(v float64) string {
	text := s.Format(v)
	if v > 0 && strings.Trim(text, "0.") == "" {
		return strconv.FormatFloat(v/s.Divisor, 'g', 2, 64)
	}
	return text
}

// Titled is a heading with the unit after it: "throughput, Gbit/s".
func (s Scale) Titled(name string) string {
	if s.Unit == "" {
		return name
	}
	return name + ", " + s.Unit
}

// Percent writes a fraction of 1 in percent: "97.9 %". NaN is None.
func Percent(v float64) string {
	if math.IsNaN(v) {
		return None
	}
	p := v * 100
	decimals := 0
	if p < 10 || p > 90 && p < 100 {
		decimals = 1
	}
	return strings.TrimSuffix(strconv.FormatFloat(p, 'f', decimals, 64), ".0") + " %"
}

// Ratio writes a ratio without its "×", with three digits or so. NaN is None.
func Ratio(v float64) string {
	switch {
	case math.IsNaN(v):
		return None
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v > 0 && v < 0.01: // no positive ratio reads 0
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// stated is a confidence in words: that of an interval between extremes is a lower
// bound.
func stated(e stat.Estimate) string {
	switch {
	case e.Confidence == 0:
		return "no confidence"
	case e.Method == stat.MethodExtremes:
		return "at least " + Percent(e.Confidence)
	}
	return Percent(e.Confidence)
}

// RatioWithInterval is "×0.471 (0.455 to 0.490)", followed by the interval's
// confidence where that is less than the one wanted, and marked if it is rough. nil is
// None.
func RatioWithInterval(r *stat.Estimate, confidence float64) string {
	if r == nil {
		return None
	}
	if r.Confidence == 0 {
		return "×" + Ratio(r.Estimate) + " (no interval)"
	}
	text := "×" + Ratio(r.Estimate) + " (" + Ratio(r.Low) + " to " + Ratio(r.High)
	if r.Confidence < confidence {
		text += ", " + stated(*r)
	}
	text += ")"
	if r.Rough {
		text += " " + stat.RoughMark
	}
	return text
}

// Signed is Format for a value that may be negative: with a minus sign, and no
// negative zero.
func Signed(sc Scale, v float64) string {
	text := sc.Format(v)
	if digits, ok := strings.CutPrefix(text, "-"); ok {
		if strings.Trim(digits, "0.") == "" {
			return digits
		}
		return "−" + digits
	}
	return text
}

// Virtual is the scale with a unit that says that its seconds are those of a virtual
// clock.
func (s Scale) Virtual() Scale {
	switch {
	case strings.HasSuffix(s.Unit, "/s"):
		s.Unit = strings.TrimSuffix(s.Unit, "/s") + " per virtual second"
	case s.Unit == "per s":
		s.Unit = "per virtual second"
	case s.Unit == "s" || s.Unit == "ms" || s.Unit == "µs" || s.Unit == "ns":
		s.Unit = "virtual " + s.Unit
	}
	return s
}

// Interval is "0.45 to 0.49" in the scale's unit, followed by the interval's
// confidence where that is less than the one wanted, and marked if it is rough. An
// interval of no confidence is None.
func Interval(v stat.Estimate, sc Scale, confidence float64) string {
	if v.Confidence == 0 {
		return None
	}
	text := sc.Bound(v.Low) + " to " + sc.Bound(v.High)
	if v.Confidence < confidence {
		text += ", " + stated(v)
	}
	if v.Rough {
		text += " " + stat.RoughMark
	}
	return text
}

// ValueWithInterval is "1.2 (1.1 to 1.3)" in the scale's unit. nil is None.
func ValueWithInterval(v *stat.Estimate, sc Scale, confidence float64) string {
	if v == nil {
		return None
	}
	return Signed(sc, v.Estimate) + " (" + Interval(*v, sc, confidence) + ")"
}

// ShareWithInterval is "91 % (88 % to 94 %)", followed by the interval's confidence
// where that is less than the one wanted, and by ~ where it holds for normal logs
// only. nil is None.
func ShareWithInterval(s *stat.Estimate, confidence float64) string {
	switch {
	case s == nil:
		return None
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
