package report

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/catalog"
	"hookbed/analysis/compare"
	"hookbed/analysis/runs/runstest"
	"hookbed/analysis/summary"
)

// dataIn is what the page of a report has for its script.
func dataIn(t *testing.T, dir string) pageData {
	t.Helper()
	m := regexp.MustCompile(`<script type="application/json" id="hookbed-data">(.*)</script>`).FindStringSubmatch(read(t, dir, "report.html"))
	if m == nil {
		t.Fatal("report.html has no data")
	}
	var out pageData
	if err := json.Unmarshal([]byte(m[1]), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestBundleIsOfItsSources: bundle.sha256 has the digest of the bundle and of every file that
// it is made of. `make generate` writes it; what is not as it says was changed by hand, or is
// older than its sources.
func TestBundleIsOfItsSources(t *testing.T) {
	listed := []string{}
	for _, line := range strings.Split(strings.TrimSpace(read(t, "page", "bundle.sha256")), "\n") {
		digest, name, ok := strings.Cut(line, "  ")
		if !ok {
			t.Fatalf("bundle.sha256 has the line %q", line)
		}
		listed = append(listed, name)
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, "page", filepath.FromSlash(name))))); got != digest {
			t.Errorf("page/%s has another digest than when the bundle was made: run `make generate`", name)
		}
	}
	sources, err := os.ReadDir(filepath.Join("page", "src"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if !slices.Contains(listed, "src/"+s.Name()) {
			t.Errorf("bundle.sha256 lacks src/%s: run `make generate`", s.Name())
		}
	}
	for _, name := range []string{"bundle.js", "bundle.mjs", "package.json", "package-lock.json", "LICENSES.txt"} {
		if !slices.Contains(listed, name) {
			t.Errorf("bundle.sha256 lacks %s", name)
		}
	}
}

// TestBundleCarriesItsLicences: every package in the bundle is named with its licence, in the
// bundle itself, since a report is passed on alone; the lock holds packages to their digests
// and names no registry.
func TestBundleCarriesItsLicences(t *testing.T) {
	licences := read(t, "page", "LICENSES.txt")
	for _, name := range []string{"== echarts ", "== zrender ", "== tslib "} {
		if !strings.Contains(licences, name) {
			t.Errorf("LICENSES.txt lacks %q", name)
		}
	}
	if !strings.HasSuffix(pageScript, licences+"*/\n") {
		t.Error("bundle.js does not end with LICENSES.txt")
	}
	var lock struct {
		Packages map[string]struct{ Version, Integrity, Resolved string }
	}
	if err := json.Unmarshal([]byte(read(t, "page", "package-lock.json")), &lock); err != nil {
		t.Fatal(err)
	}
	for name, p := range lock.Packages {
		if name != "" && !strings.HasPrefix(p.Integrity, "sha512-") || p.Resolved != "" {
			t.Errorf("package-lock.json: %s has integrity %q and is resolved to %q", name, p.Integrity, p.Resolved)
		}
	}
}

// TestDataIsThatOfTheTables: each point of the page has the estimate of report.json, its
// texts are those of report.md, and its raw values are the trials.
func TestDataIsThatOfTheTables(t *testing.T) {
	var doc Document
	if err := json.Unmarshal([]byte(read(t, "testdata", "golden", "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	part := dataIn(t, filepath.Join("testdata", "golden")).Parts[0]
	md, points := read(t, "testdata", "golden", "report.md"), 0
	for _, v := range part.Views {
		m := part.Measures[v.Measure]
		for _, p := range v.Points {
			i := slices.IndexFunc(doc.Summaries, func(s summary.Summary) bool {
				return s.Scenario == part.Strata[v.Stratum].Name && s.Workload == m.Workload && s.Metric == m.Metric && s.Arm == part.Arms[p.Arm].Name && s.Policies == p.N
			})
			if i < 0 {
				t.Fatalf("report.json lacks %s %s N=%d", m.Workload, part.Arms[p.Arm].Name, p.N)
			}
			s := doc.Summaries[i]
			points++
			if (p.Value == nil) != (s.Median == nil) || (p.Zero == nil) != (s.VsZero == nil) || p.Trials != s.N || len(p.Raw) != s.N {
				t.Errorf("point %+v of %+v", p, s)
				continue
			}
			if p.Value == nil {
				if p.Note == "" {
					t.Errorf("%s N=%d has no number and no reason", s.Arm, p.N)
				}
				continue
			}
			if got, want := float64(p.Value[0]), s.Median.Estimate; math.Abs(got/want-1) > 1e-6 {
				t.Errorf("%s N=%d is at %g, want %g", s.Arm, p.N, got, want)
			}
			if p.ZeroText != "" && !strings.Contains(md, p.ZeroText) || p.RefText != "" && !strings.Contains(md, p.RefText) {
				t.Errorf("report.md lacks %q or %q", p.ZeroText, p.RefText)
			}
		}
	}
	if points < 20 {
		t.Errorf("only %d points", points)
	}
}

// TestArmsKeepTheirLooks: what an arm looks like depends on what it is, not on its place.
func TestArmsKeepTheirLooks(t *testing.T) {
	out, _ := makeReport(t, Options{Resamples: 50}, runstest.Structural().Write(t))
	of := map[string]armData{}
	for _, a := range dataIn(t, out).Parts[0].Arms {
		of[a.Filter] = a
	}
	for filter, want := range map[string][2]string{"nft-set": {catalog.Hash, catalog.Netfilter}, "tc-hash": {catalog.Hash, catalog.TC}, "iptables-legacy": {catalog.List, catalog.Netfilter}} {
		if a, ok := of[filter]; !ok || a.Structure != want[0] || a.Mechanism != want[1] {
			t.Errorf("%s is %+v, want %v", filter, a, want)
		}
	}
	for _, s := range []string{catalog.List, catalog.Hash, catalog.Prefixes, catalog.HashAndList, catalog.Nothing} {
		if marks := read(t, "page", "src", "marks.js"); !strings.Contains(marks, s+`: "--c-`) && !strings.Contains(marks, `"`+s+`": "--c-`) {
			t.Errorf("marks.js has no colour of %q", s)
		}
	}
}

// TestHeadline: the answer is a sentence with numbers, judged by verdicts alone.
func TestHeadline(t *testing.T) {
	study, one := filepath.Join(t.TempDir(), "study"), filepath.Join(t.TempDir(), "one")
	runstest.Study().Write(t, study)
	s := runstest.Small()
	s.Trials, s.Spoil = 1, nil
	s.Write(t, one)
	for dir, want := range map[string]string{
		study: `^On localhost, 1000 policies make \w[\w ]* ×\d+\.\d+ for iptables \(\d[\d.]* to \d[\d.]*\x{a0}.+\) but ×[01]\.\d+ for \S+ \(.*\); \d+ of \d+ arms change by more than 2 %`,
		one:   `^On localhost, \w[\w ]* lies between .* and .*; with 1 trial a cell no direction is decided\.$`,
	} {
		out, _ := makeReport(t, Options{Resamples: 200}, dir)
		part := dataIn(t, out).Parts[0]
		text := part.Views[part.First].Headline
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("headline %q does not match %s", text, want)
		}
		if page := read(t, out, "report.html"); !strings.Contains(page, `id="headline">`+text) {
			t.Errorf("the page does not begin with %q", text)
		}
		if len(text) > 400 {
			t.Errorf("%d letters are no headline: %s", len(text), text)
		}
	}
}

// TestTwoRunsSideBySide: two runs of the same cells are set against each other by the words
// of compare; report.md is that of their merger, as before.
func TestTwoRunsSideBySide(t *testing.T) {
	old, now := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "now")
	s := runstest.Small()
	s.Spoil, s.Trials = nil, 8
	s.Write(t, old)
	s.Seed++
	s.Write(t, now)
	out, _ := makeReport(t, Options{Resamples: 50}, old, now)
	pair := dataIn(t, out).Parts[0].Pair
	if pair == nil || len(pair.Cells) == 0 || pair.Margin != compare.DefaultMargin {
		t.Fatalf("pair %+v", pair)
	}
	page := read(t, out, "report.html")
	for _, c := range pair.Cells {
		if c.Word != compare.Same && c.Word != compare.Different && c.Word != compare.Undecided {
			t.Errorf("cell %+v", c)
		}
		if c.Ratio != nil && !strings.Contains(page, "<td>"+c.Text+"</td>") {
			t.Errorf("the table lacks %q", c.Text)
		}
	}
	if !strings.Contains(page, `id="compare"`) || strings.Contains(read(t, out, "report.md"), "side by side") {
		t.Error("the page lacks the section, or report.md has it")
	}
	alone, _ := makeReport(t, Options{Resamples: 50}, old)
	if dataIn(t, alone).Parts[0].Pair != nil || strings.Contains(read(t, alone, "report.html"), `id="compare"`) {
		t.Error("one run is set against nothing")
	}
}

// TestClaimsAreCards: the verdict comes first, and what is undecided is not marked as bad.
func TestClaimsAreCards(t *testing.T) {
	dir := t.TempDir()
	runstest.Study().Write(t, dir)
	out, _ := makeReport(t, Options{Resamples: 50}, dir)
	page := read(t, out, "report.html")
	cards := regexp.MustCompile(`<article class="claim" data-claim="[^"]+" data-verdict="(\w+)"><span class="verdict">(\w+)</span>`).FindAllStringSubmatch(page, -1)
	if len(cards) < 5 {
		t.Fatalf("%d cards", len(cards))
	}
	for _, c := range cards {
		if c[1] != c[2] {
			t.Errorf("card %v", c)
		}
	}
	if strings.Contains(page, `[data-verdict=undecided]{`) {
		t.Error("undecided has a colour of its own")
	}
}

// TestPageHasNoEmptySections: no heading without content, no table without rows.
func TestPageHasNoEmptySections(t *testing.T) {
	page := read(t, "testdata", "golden", "report.html")
	if m := regexp.MustCompile(`(?s)<h2[^>]*>[^<]*</h2>\s*(<p class="note">[^<]*</p>\s*)?<h2`).FindString(page); m != "" {
		t.Errorf("a section without content: %s", m)
	}
	if strings.Contains(page, "<tbody></tbody>") || strings.Contains(page, "<ul></ul>") {
		t.Error("a table or a list without content")
	}
}
