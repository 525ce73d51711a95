package report

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hookbed/analysis/runs/runstest"
	"hookbed/analysis/trace"
	"hookbed/analysis/trace/tracetest"
)

// refuse adds to the traces of a run where packets of each arm end at 100 policies.
func refuse(t *testing.T, dir string) {
	t.Helper()
	for _, arm := range []string{tracetest.Iptables, tracetest.NftSet, tracetest.TCHash, tracetest.CiliumLike, tracetest.XDP} {
		cell := "6.12-" + arm + "-100"
		x := tracetest.New(cell, arm, tracetest.RR, 100)
		attempts, recorded := tracetest.Refused(cell, arm, 100)
		d, err := trace.NewDrop(&attempts, recorded)
		must(t, err)
		x.Drop = d
		must(t, trace.Write(dir, &x))
	}
}

// dropsGolden holds what a report says of refused packets.
func dropsGolden(t *testing.T, dir string) {
	refuse(t, dir)
	if _, err := Make([]string{dir}, dir, Options{}); err != nil {
		t.Fatal(err)
	}
	section := between(t, read(t, dir, "report.md"), "## Where a refused packet ends", "\n![")
	golden := filepath.Join("testdata", "drops.md")
	if *update {
		runstest.WriteFile(t, golden, []byte(section))
	}
	if want := read(t, golden); section != want {
		t.Errorf("got:\n%s\nwant:\n%s\n(if this is meant: go test -update)", section, want)
	}
	links := regexp.MustCompile(`\]\((trace/[^)]*drop\.md)\)`).FindAllStringSubmatch(section, -1)
	for _, m := range links {
		if !regular(filepath.Join(dir, m[1])) {
			t.Errorf("%s leads nowhere", m[1])
		}
	}
	if len(links) != 5 {
		t.Errorf("%d links to drop.md, want one for each arm that refuses", len(links))
	}
	if page := read(t, dir, "report.html"); !strings.Contains(page, `id="s-refused"`) {
		t.Error("report.html has no section of refused packets")
	}
	if doc := read(t, dir, "report.json"); !strings.Contains(doc, `"instructions_from_wire"`) || strings.Count(doc, `"drop_path"`) != 5 {
		t.Error("report.json does not say where packets end")
	}
}
