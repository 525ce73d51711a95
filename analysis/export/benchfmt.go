package export

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"hookbed/analysis/runs"
)

// writeBench writes Go benchmark format (golang.org/design/14313-benchmark-format):
// one line per usable trial, with a name of the factors that distinguish its cell, so
// that benchstat compares arms, policies or files. Factors that all cells share are
// configuration. The run is named only if there are several, and the seed never:
// benchstat does not compare lines that differ in configuration.
func writeBench(w io.Writer, set *runs.Set) error {
	b := bufio.NewWriter(w) // its first error stays
	common := shared(set)
	names := namesOf(set, common)
	for _, f := range slices.Sorted(maps.Keys(common)) {
		config(b, f, common[f])
	}
	run := ""
	for _, r := range set.Runs {
		for _, c := range set.Cells {
			for _, t := range c.Trials {
				if t.Run != r.Name || !t.OK() || len(t.Metrics()) == 0 {
					continue
				}
				if run != r.Name {
					run = r.Name
					if len(set.Runs) > 1 {
						config(b, "run", run)
					}
					config(b, "kernel-release", r.Env["kernel_release"])
					config(b, "accelerator", r.Env["accelerator"])
				}
				_, _ = b.WriteString(benchLine(set, c, t, names[c]))
			}
		}
	}
	return b.Flush()
}

// config writes a configuration line; an empty value would delete the key.
func config(b *bufio.Writer, key, value string) {
	if value != "" {
		fmt.Fprintf(b, "%s: %s\n", strings.ReplaceAll(strings.ToLower(key), "_", "-"), value)
	}
}

// shared are the levels of factors that have one level in all cells and are not part
// of every name.
func shared(set *runs.Set) map[string]string {
	out := map[string]string{}
	for _, f := range factorsOf(set) {
		if slices.Contains(named(), f) {
			continue
		}
		levels := map[string]bool{}
		for _, c := range set.Cells {
			levels[c.Get(f)] = true
		}
		if len(levels) == 1 {
			out[f] = set.Cells[0].Get(f)
		}
	}
	return out
}

// named are the factors that every name has, in order.
func named() []string {
	return []string{runs.FactorScenario, runs.FactorWorkload, runs.FactorArm, runs.FactorPolicies}
}

// namesOf are the names of all cells.
func namesOf(set *runs.Set, common map[string]string) map[*runs.Cell]string {
	var parts []string // factors that are part of every name that has them
	for _, f := range factorsOf(set) {
		if _, same := common[f]; !same && !slices.Contains(named(), f) && !follows(set, f) {
			parts = append(parts, f)
		}
	}
	out := map[*runs.Cell]string{}
	for _, c := range set.Cells {
		name := "BenchmarkHookbed"
		for _, f := range named() {
			name += "/" + f + "=" + word(c.Get(f))
		}
		for _, f := range parts {
			if c.Get(f) != "" {
				name += "/" + f + "=" + word(c.Get(f))
			}
		}
		out[c] = name
	}
	return out
}

func benchLine(set *runs.Set, c *runs.Cell, t *runs.Trial, name string) string {
	line := name + " 1"
	for _, m := range t.Metrics() {
		v, _ := t.Value(m)
		line += " " + strconv.FormatFloat(v, 'g', -1, 64) + " " + benchUnit(m, set.Units[m], c.Get(runs.FactorClock))
	}
	return line + "\n"
}

// benchUnit names a metric with its unit; a line cannot have one unit twice, so the
// metric is always part of it. Seconds of virtual time are named so.
func benchUnit(metric, unit, clock string) string {
	seconds := unit == "s" || strings.HasSuffix(unit, "/s")
	if seconds && clock == runs.ClockVirtual {
		unit = strings.TrimSuffix(unit, "s") + "virtual-s"
	}
	switch {
	case unit == "1":
		return word(metric)
	case strings.HasPrefix(unit, "1/"):
		return word(metric) + "-per-" + strings.TrimPrefix(unit, "1/")
	}
	return word(metric) + "-" + unit
}

// follows reports whether a factor has one level in every arm, so that the name of
// the arm suffices.
func follows(set *runs.Set, factor string) bool {
	of := map[string]string{}
	for _, c := range set.Cells {
		arm := c.Get(runs.FactorArm)
		if level, ok := of[arm]; ok && level != c.Get(factor) {
			return false
		}
		of[arm] = c.Get(factor)
	}
	return true
}

// word is a level as part of a name: without spaces, which would end it, and
// slashes, which would start another part.
func word(level string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '/' || r == '=' {
			return '_'
		}
		return r
	}, level)
}
