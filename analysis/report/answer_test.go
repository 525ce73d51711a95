package report

import (
	"regexp"
	"strings"
	"testing"

	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
)

// TestAnswer: the report begins with what each approach gives, what policies do
// to it, from how many on a list costs more, and what explains it, with numbers.
func TestAnswer(t *testing.T) {
	c := runstest.Structural()
	c.Clock, c.Blocks, c.Trials, c.Halves, c.Spread = runs.ClockVirtual, 2, 1, false, 0.0005
	out, res := makeReport(t, Options{}, c.Write(t))
	if len(res.Answers) != 1 {
		t.Fatalf("answers %+v", res.Answers)
	}
	text := strings.Join(res.Answers[0].Lines(), "\n")
	for _, want := range []string{
		`(?m)^localhost, virtual clock$`,
		`In short: with \d+ policies latency is best with cilium-like-peer \(.* virtual µs\) and worst with .* \(.* virtual µs, ×\d\.\d+\)`,
		`Without policies, latency in virtual µs: `,
		`With \d+ policies, and how many times as much as with none, latency in virtual µs: .*×`,
		`Turn point: TCP_RR: `,
		`What explains it, TCP_RR: .*structure explains \d+ %`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the answer lacks %q:\n%s", want, text)
		}
	}
	md := read(t, out, "report.md")
	for _, line := range res.Answers[0].Sentences {
		if !strings.Contains(md, mdEscape(line.Text)) {
			t.Errorf("report.md lacks %q", line.Text)
		}
	}
}

// TestDemonstration: a few trials on a wall clock give no direction, in no
// sentence, and judge no claim in the answer.
func TestDemonstration(t *testing.T) {
	dir := t.TempDir()
	s := runstest.Study()
	s.Blocks, s.Trials = 1, 2
	s.Write(t, dir)
	_, res := makeReport(t, Options{}, dir)
	for _, a := range res.Answers {
		text := strings.Join(a.Lines(), "\n")
		for _, not := range []string{"×", "how many times", "best with", "Turn point", "Claims", "slower", "faster"} {
			if strings.Contains(text, not) {
				t.Errorf("two trials say %q:\n%s", not, text)
			}
		}
		if !regexp.MustCompile(`undecided: .*trials a cell( would decide)?\)`).MatchString(text) {
			t.Errorf("two trials are not undecided, with what would decide:\n%s", text)
		}
	}
	if !strings.Contains(res.Answers[0].Note, "no direction is given") {
		t.Errorf("it is not labelled: %q", res.Answers[0].Note)
	}
}

// TestWarningsOfSeeds: in virtual time a report warns of few seeds, and of cells in
// which they differ by more than what can be compared.
func TestWarningsOfSeeds(t *testing.T) {
	for spread, uneven := range map[float64]bool{0.0005: false, 0.1: true} {
		c := runstest.Structural()
		c.Clock, c.Blocks, c.Trials, c.Halves, c.Spread = runs.ClockVirtual, 2, 1, false, spread
		_, res := makeReport(t, Options{}, c.Write(t))
		w := strings.Join(res.Warnings, "\n")
		if !strings.Contains(w, "Few seeds: with 2 seeds") || strings.Contains(w, "Few trials") {
			t.Errorf("warnings: %s", w)
		}
		if strings.Contains(w, "Uneven seeds: ") != uneven {
			t.Errorf("a spread of %g is told: %s", spread, w)
		}
	}
}
