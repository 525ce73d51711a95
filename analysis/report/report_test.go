package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hookbed/analysis/record"
	"hookbed/analysis/runs"
	"hookbed/analysis/runs/runstest"
	"hookbed/analysis/stat"
	"hookbed/analysis/summary"
)

func flags() (update *bool, keep *string) {
	return flag.Bool("update", false, "rewrite the files under testdata"), flag.String("keep", "", "also write the study-sized report into this directory")
}

var update, keep = flags()

func makeReport(t *testing.T, opt Options, dirs ...string) (string, Result) {
	t.Helper()
	out := t.TempDir()
	res, err := Make(dirs, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	return out, res
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// compareTrees requires both directories to hold the same files.
func compareTrees(t *testing.T, got, want string) {
	t.Helper()
	a, b := filesOf(t, got), filesOf(t, want)
	if !slices.Equal(a, b) {
		t.Fatalf("files %v\nwant %v", a, b)
	}
	for _, name := range a {
		g, w := strings.Split(read(t, got, name), "\n"), strings.Split(read(t, want, name), "\n")
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Errorf("%s line %d:\n got %s\nwant %s\n(if this is meant: go test -update)", name, i+1, g[i], w[i])
				break
			}
		}
		if len(g) != len(w) {
			t.Errorf("%s has %d lines, want %d (if this is meant: go test -update)", name, len(g), len(w))
		}
	}
}

func TestGolden(t *testing.T) {
	runDir, golden := filepath.Join("testdata", "synthetic"), filepath.Join("testdata", "golden")
	if *update {
		for _, dir := range []string{runDir, golden} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		runstest.Small().Write(t, runDir)
		if _, err := Make([]string{runDir}, golden, Options{}); err != nil {
			t.Fatal(err)
		}
		withoutBundle(t, golden)
	}
	fresh := t.TempDir()
	runstest.Small().Write(t, fresh)
	compareTrees(t, fresh, runDir)
	out, _ := makeReport(t, Options{}, runDir)
	withoutBundle(t, out)
	compareTrees(t, out, golden)
}

// withoutBundle takes from a page its style and its script, which are files of their own here.
// Both must be in it as they are, and the policy must admit the script, whose digest is in it.
func withoutBundle(t *testing.T, dir string) {
	t.Helper()
	page := read(t, dir, "report.html")
	digest := sha256.Sum256([]byte(pageScript))
	for text, short := range map[string]string{
		"<style>" + pageStyle + "</style>":                                                       "<style>page.css</style>",
		"<script>" + pageScript + "</script>":                                                    "<script>bundle.js</script>",
		strings.ReplaceAll("sha256-"+base64.StdEncoding.EncodeToString(digest[:]), "+", "&#43;"): "sha256-of-bundle.js",
	} {
		if strings.Count(page, text) != 1 {
			t.Errorf("report.html does not have %.40q once", text)
		}
		page = strings.Replace(page, text, short, 1)
	}
	runstest.WriteFile(t, filepath.Join(dir, "report.html"), []byte(page))
}

func TestDeterministic(t *testing.T) {
	dir := t.TempDir()
	runstest.Study().Write(t, dir)
	first, _ := makeReport(t, Options{Resamples: 50}, dir)
	second, _ := makeReport(t, Options{Resamples: 50}, dir)
	compareTrees(t, first, second)
}

func TestStudySized(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "study")
	runstest.Study().Write(t, dir)
	out, res := makeReport(t, Options{}, dir)
	if *keep != "" {
		if _, err := Make([]string{dir}, *keep, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"throughput-localhost", "latency-localhost", "throughput-multi-host", "latency-multi-host", "crr-rate-localhost", "crr-rate-multi-host"} {
		svg := read(t, out, "figures", name+".svg")
		wellFormed(t, svg)
		for _, want := range []string{"<title>", "<desc>", ">iptables-established</text>", ">1000</text>", "xdp, N = 50: no valid number", "Helvetica,sans-serif"} {
			if !strings.Contains(svg, want) {
				t.Errorf("%s.svg lacks %q", name, want)
			}
		}
		if n := strings.Count(read(t, out, "figures", name+".csv"), "\n"); n != 1+4*9+2 {
			t.Errorf("%s.csv has %d lines, want a header, 4 arms with 9 N and 2 with one", name, n)
		}
	}
	text := read(t, out, "report.md")
	for _, want := range []string{
		`On localhost, from N = 0 to N = 1000: iptables slower in throughput \(×0\.\d+\), latency \(×1\.\d+\) and connection rate \(×0\.\d+\);`,
		`cilium-like and xdp not distinguishable in throughput, latency and connection rate`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("text lacks %q:\n%s", want, text)
		}
	}
	if md := read(t, out, "report.md"); !regexp.MustCompile(`(?s)Against docker without policies.*\| cilium-like \| 1000 \| faster ×1\.[12]`).MatchString(md) {
		t.Error("report.md does not compare cilium-like with docker")
	}
	if w := strings.Join(res.Warnings, "\n"); strings.Contains(w, "TCG") || strings.Contains(w, "Few trials") || strings.Contains(w, "One block") {
		t.Errorf("warnings of a good run: %s", w)
	}
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	dec := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
	}
}

// The page must not fetch anything.
func TestPageIsSelfContained(t *testing.T) {
	page := read(t, "testdata", "golden", "report.html")
	page = strings.ReplaceAll(page, "http://www.w3.org/2000/svg", "")
	for _, bad := range []string{"http:", "https:", "src=", "@import", "url(", "<link"} {
		if strings.Contains(page, bad) || strings.Contains(pageStyle, bad) {
			t.Errorf("report.html contains %q", bad)
		}
	}
	if n := strings.Count(page, "<script"); n != 2 {
		t.Errorf("report.html has %d scripts, want the data and the bundle", n)
	}
	if !strings.Contains(page, "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src 'sha256-of-bundle.js'; ") {
		t.Error("the browser is not told to refuse every request and every other script")
	}
	if strings.Contains(page, "<did>") || !strings.Contains(page, "&lt;did&gt;") {
		t.Error("text from env.json is not escaped")
	}
}

func TestTroubleIsShown(t *testing.T) {
	md := read(t, "testdata", "golden", "report.md")
	for _, want := range []string{
		"**Shapes, not speeds:**", "**Few trials:**", "**One block:**",
		"Trials without a usable number: 4 failed, 8 unsupported, 4 void", "| 50 % |",
		"NIC has no native XDP", `forbidden\|source`, `BPF JIT is "0", want 1`, "| xdp | 100 | no valid number", "undecided ×0.969 (0.965 to 0.973, at least 25 %); about 5 trials a cell would decide",
	} {
		if !strings.Contains(md, want) && !strings.Contains(strings.ReplaceAll(md, "**", ""), want) {
			t.Errorf("report.md lacks %q", want)
		}
	}
	for _, name := range []string{"report.md", "report.html", "report.json"} {
		own := strings.ReplaceAll(read(t, "testdata", "golden", name), "eBPF seems to perform less", "") // the study's own words
		if strings.Contains(own, "seems") {
			t.Errorf("%s leans one way without the confidence for it", name)
		}
	}
	for _, name := range []string{"throughput-localhost", "throughput-multi-host"} {
		if csv := read(t, "testdata", "golden", "figures", name+".csv"); !strings.Contains(csv, "xdp,100,0,,,,,,") {
			t.Errorf("failed cell is a gap in %s.csv:\n%s", name, csv)
		}
	}
}

func TestJSONIsForMachines(t *testing.T) {
	var doc Document
	if err := json.Unmarshal([]byte(read(t, "testdata", "golden", "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(doc.Summaries, func(s summary.Summary) bool {
		return s.Scenario == "localhost" && s.Metric == "throughput" && s.Arm == "iptables" && s.Policies == 100
	})
	if i < 0 {
		t.Fatal("no summary of iptables throughput at N = 100")
	}
	if s := doc.Summaries[i]; s.N != 2 || s.Median == nil || s.Median.Confidence != 0.5 || s.VsZero == nil || s.VsReference == nil {
		t.Errorf("summary %+v", s)
	}
	if !slices.Equal(doc.Accelerators, []string{"tcg"}) || doc.Clock != "wall" || doc.Reference != "docker" {
		t.Errorf("accelerators %v, clock %q, reference %q", doc.Accelerators, doc.Clock, doc.Reference)
	}
}

func TestOneTrial(t *testing.T) {
	s := runstest.Small()
	s.Trials, s.Spoil, s.Env = 1, nil, nil
	dir := t.TempDir()
	s.Write(t, dir)
	out, res := makeReport(t, Options{}, dir)
	if w := strings.Join(res.Warnings, "\n"); !strings.Contains(w, "1 trial, which gives no interval at all") || !strings.Contains(w, "has no env.json") {
		t.Errorf("warnings: %s", w)
	}
	if !strings.Contains(read(t, out, "report.md"), "undecided (one trial)") {
		t.Error("a verdict is given on one trial")
	}
}

func TestTornAndIncomplete(t *testing.T) {
	dir := t.TempDir()
	runstest.Small().Write(t, dir)
	whole := read(t, dir, runs.RowsFile)
	at := len(whole) * 3 / 4
	second := strings.Index(whole[at:], ",cpu.server_node,") + at // the second row of a trial
	begin := strings.LastIndex(whole[:second], "\n") + 1
	torn := "; its trial is left out: cell " + strings.Split(whole[begin:], ",")[2] + ", block 1, trial 2."
	check := func() {
		t.Helper()
		_, res := makeReport(t, Options{}, dir)
		w := strings.Join(res.Warnings, "\n")
		for _, want := range []string{torn, "The run is not complete: ", "planned but never recorded"} {
			if !strings.Contains(w, want) {
				t.Errorf("warnings lack %q:\n%s", want, w)
			}
		}
	}
	for _, cut := range []int{begin, second} { // between two rows, and inside one
		runstest.WriteFile(t, filepath.Join(dir, runs.RowsFile), []byte(whole[:cut]))
		check()
	}
	runstest.WithoutClosing(t, dir)
	check()
	header := strings.IndexByte(whole, '\n') + 1
	runstest.WriteFile(t, filepath.Join(dir, runs.RowsFile), []byte(whole[:header+5]))
	torn = "ends in a line cut short"
	check()
}

// TestReportsDoNotShowClosingRows: the report of a run is the same with and without them.
func TestReportsDoNotShowClosingRows(t *testing.T) {
	dir, old := t.TempDir(), t.TempDir()
	runstest.Small().Write(t, dir)
	runstest.Small().Write(t, old)
	runstest.WithoutClosing(t, old)
	now, _ := makeReport(t, Options{}, dir)
	then, _ := makeReport(t, Options{}, old)
	for _, name := range []string{"report.md", "report.json", "report.html"} {
		if read(t, now, name) != read(t, then, name) {
			t.Errorf("%s differs", name)
		}
	}
}

func TestEmptyRun(t *testing.T) {
	dir := t.TempDir()
	runstest.Small().Write(t, dir)
	whole := read(t, dir, runs.RowsFile)
	runstest.WriteFile(t, filepath.Join(dir, runs.RowsFile), []byte(whole[:strings.IndexByte(whole, '\n')+1]))
	out, _ := makeReport(t, Options{}, dir)
	if md := read(t, out, "report.md"); !strings.Contains(md, "2 of 2 planned not run") {
		t.Error("cells that were never run are a gap")
	}
}

// residue: a factor that is not grouped by varies inside a line. Rows with a plan
// cannot have one, since its cells are what they are held against.
func TestResidue(t *testing.T) {
	s := runstest.Small()
	s.Spoil = func(rows []record.Row, f map[string]string) []record.Row {
		if rows[0].Trial == 2 && f["arm"] == "iptables" {
			for i := range rows {
				other := map[string]string{}
				for k, v := range f {
					other[k] = v
				}
				other["kernel"] = "another"
				rows[i].Factors = other
			}
		}
		return rows
	}
	dir := t.TempDir()
	s.Write(t, dir)
	if _, err := Make([]string{dir}, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), `factor kernel is "another", and in plan.json`) {
		t.Errorf("error %v, want one about rows that contradict the plan", err)
	}
	if err := os.Remove(filepath.Join(dir, runs.PlanFile)); err != nil {
		t.Fatal(err)
	}
	_, res := makeReport(t, Options{}, dir)
	if w := strings.Join(res.Warnings, "\n"); !strings.Contains(w, `Factor "kernel" varies (another, invented)`) || strings.Contains(w, `"datapath"`) {
		t.Errorf("warnings: %s", w)
	}
}

// Kernels that one plan compares have tables and figures of their own, and one
// table of what runs where.
func TestKernelsAreNeverPutTogether(t *testing.T) {
	s := runstest.Small()
	s.Kernels = []string{"5.10", "6.1", "6.12"}
	const reason = "tcx needs Linux 6.6, this is Linux "
	s.Spoil = func(rows []record.Row, f map[string]string) []record.Row {
		if f["arm"] == "iptables" && f["kernel"] != "6.12" {
			return runstest.Spoilt(rows, record.StatusUnsupported, reason+f["kernel"])
		}
		return rows
	}
	dir := t.TempDir()
	s.Write(t, dir)
	out, res := makeReport(t, Options{}, dir)
	if w := strings.Join(res.Warnings, "\n"); strings.Contains(w, `"kernel" varies`) {
		t.Errorf("warnings: %s", w)
	}
	md := read(t, out, "report.md")
	for _, want := range []string{
		"## Kernels", "| arm | 5.10 | 6.1 | 6.12 |", "| docker | ok | ok | ok |", "| iptables | unsupported (1) | unsupported (1) | ok |", "| 1 | " + reason + "5.10 |",
		"Results, localhost, kernel 5.10", "Results, localhost, kernel 6.12", "6.12 over 5.10",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("report lacks %q", want)
		}
	}
	if strings.Contains(md, "Results, localhost\n") {
		t.Error("there are results of no kernel in particular")
	}
	csv := read(t, out, "figures", "throughput-localhost--kernel-6-1.csv")
	if !strings.Contains(csv, "docker,0,") || strings.Contains(csv, "docker,0,0,") {
		t.Errorf("figure of kernel 6.1:\n%s", csv)
	}
	var doc Document
	if err := json.Unmarshal([]byte(read(t, out, "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, sum := range doc.Summaries {
		if sum.Arm == "docker" && sum.Metric == "throughput" && strings.HasPrefix(sum.Scenario, "localhost") {
			n++
			if sum.N != s.Blocks*s.Trials {
				t.Errorf("%s: %d trials, want those of one kernel, %d", sum.Scenario, sum.N, s.Blocks*s.Trials)
			}
		}
	}
	if n != 3 {
		t.Errorf("docker has %d lines on localhost, want one a kernel", n)
	}
}

// Numbers of streams have tables of their own, where the workload has them, and
// a section that compares them.
func TestStreamsAreNeverPutTogether(t *testing.T) {
	s := runstest.Small()
	s.Streams, s.Spoil = []int{1, 16}, nil
	dir := t.TempDir()
	s.Write(t, dir)
	out, res := makeReport(t, Options{}, dir)
	if w := strings.Join(res.Warnings, "\n"); strings.Contains(w, "streams") {
		t.Errorf("warnings: %s", w)
	}
	md := read(t, out, "report.md")
	for _, want := range []string{"## Streams", "16 over 1", "Results, localhost, streams 1\n", "Results, localhost, streams 16\n", "Results, localhost\n"} {
		if !strings.Contains(md, want) {
			t.Errorf("report lacks %q", want)
		}
	}
	var doc Document
	if err := json.Unmarshal([]byte(read(t, out, "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	for _, sum := range doc.Summaries {
		if sum.Metric != "throughput" && sum.Metric != "rate" {
			continue
		}
		if streams := strings.Contains(sum.Scenario, "streams"); streams != (sum.Workload == "TCP_STREAM") || sum.N != s.Blocks*s.Trials {
			t.Errorf("%s %s rests on %d trials, want %d of one number of streams", sum.Workload, sum.Scenario, sum.N, s.Blocks*s.Trials)
		}
	}
}

func TestRepeatedTrialSupersedesRigFault(t *testing.T) {
	s := runstest.Small()
	s.Spoil = func(rows []record.Row, f map[string]string) []record.Row {
		if f["arm"] == "docker" && f["scenario"] == "localhost" {
			rows = append(runstest.Spoilt(rows, record.StatusRig, "host unreachable"), rows...)
		}
		return rows
	}
	dir := t.TempDir()
	s.Write(t, dir)
	runstest.WithoutClosing(t, dir) // later files have the last attempt alone
	_, res := makeReport(t, Options{}, dir)
	w := strings.Join(res.Warnings, "\n")
	if !strings.Contains(w, "4 trials went wrong first and succeeded") || strings.Contains(w, "without a usable number") {
		t.Errorf("warnings: %s", w)
	}
}

func TestMerge(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	s := runstest.Small()
	s.Spoil = nil
	s.Write(t, a)
	s.Seed = 9
	s.Env = map[string]any{"accel": map[string]any{"used": "kvm"}}
	s.Write(t, b)
	out, res := makeReport(t, Options{}, a, b)
	if w := strings.Join(res.Warnings, "\n"); !strings.Contains(w, "environments differ in: accel.used") || strings.Contains(w, "One block") {
		t.Errorf("warnings: %s", w)
	}
	if !strings.Contains(read(t, out, "figures", "throughput-localhost.csv"), "docker,0,4,") {
		t.Error("trials of two runs are not merged")
	}
	if _, err := Make([]string{a, b, a}, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "hold the same rows") {
		t.Errorf("one run given twice: error %v", err)
	}
}

func TestBadInput(t *testing.T) {
	dir, old := t.TempDir(), t.TempDir()
	runstest.Small().Write(t, dir)
	runstest.Small().Write(t, old)
	runstest.WithoutClosing(t, old)
	rows := read(t, dir, runs.RowsFile)
	tests := []struct{ name, file, content, want string }{
		{"no rows", runs.RowsFile, "", ""},
		{"bad plan", runs.PlanFile, "{", "parse"},
		{"bad status", runs.RowsFile, strings.Replace(rows, ",ok,", ",fine,", 1), `line 2: unknown status "fine"`},
		{"doubled", runs.RowsFile, rows + rows[strings.IndexByte(rows, '\n')+1:], "is there twice"},
		{"changed", runs.RowsFile, strings.Replace(rows, "cpu.client_node,1,", "cpu.client_node,s,", 1), "they were changed"},
		{"unit", runs.RowsFile, strings.Replace(read(t, old, runs.RowsFile), "cpu.client_node,1,", "cpu.client_node,s,", 1), "metric cpu.client_node is in"},
		{"policies", runs.PlanFile, strings.Replace(read(t, dir, runs.PlanFile), `"policies": "100"`, `"policies": "many"`, 1), `factor policies is "100", and in plan.json cell`},
		{"saved by a spreadsheet", runs.RowsFile, strings.ReplaceAll(rows, ",", ";"), "rows.csv: saved by a spreadsheet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad := t.TempDir()
			runstest.Small().Write(t, bad)
			runstest.WriteFile(t, filepath.Join(bad, tt.file), []byte(tt.content))
			_, err := Make([]string{bad}, t.TempDir(), Options{})
			if tt.want == "" {
				if err != nil {
					t.Errorf("an empty rows.csv is a run that has not begun: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Make(nil, t.TempDir(), Options{}); err == nil {
		t.Error("no run directory is accepted")
	}
	if _, err := Make([]string{t.TempDir()}, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), runs.RowsFile) {
		t.Errorf("directory without rows.csv: error %v", err)
	}
}

func TestFigureWithoutAnyNumber(t *testing.T) {
	s := runstest.Small()
	s.Spoil = func(rows []record.Row, _ map[string]string) []record.Row {
		return runstest.Spoilt(rows, record.StatusRig, "host unreachable")
	}
	dir := t.TempDir()
	s.Write(t, dir)
	out, _ := makeReport(t, Options{}, dir)
	svg := read(t, out, "figures", "throughput-localhost.svg")
	wellFormed(t, svg)
	if bytes.Contains([]byte(svg), []byte("NaN")) || bytes.Contains([]byte(svg), []byte("Inf")) {
		t.Error("figure has coordinates that are no numbers")
	}
}

// virtual is a run in virtual time: three seeds, a control pair, and arms whose
// costs cross.
func virtual() runstest.Synthetic {
	s := runstest.Small()
	s.Spoil, s.Env = nil, map[string]any{"accelerator": "tcg"}
	s.Scenarios, s.Policies, s.Blocks, s.Trials, s.Clock = []string{"localhost"}, []int{0, 10, 100, 1000}, 3, 2, runs.ClockVirtual
	s.Arms = []string{"docker", "iptables", "xdp", "xdp-again"}
	return s
}

func TestVirtual(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "virtual")
	virtual().Write(t, dir)
	out, res := makeReport(t, Options{}, dir)
	if w := strings.Join(res.Warnings, "\n"); strings.Contains(w, `"seed"`) || !strings.Contains(w, "Virtual clock") {
		t.Errorf("warnings: %s", w)
	}
	md := strings.ReplaceAll(read(t, out, "report.md"), `\`, "")
	for _, want := range []string{
		"Gbit per virtual second", "virtual µs", "intervals describe variation over seeds", "Variation between and within seeds",
		"### Instructions per transaction, TCP_RR, localhost", "| iptables | 12 | linear", "### Turn points", "| iptables | docker |",
		"### A/A: the same datapath under two names", "xdp over xdp-again", "False positives: ",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("report.md lacks %q", want)
		}
	}
	for _, wall := range []string{"median, Gbit/s", "median, µs", "per s |"} {
		if strings.Contains(md, wall) {
			t.Errorf("report.md has %q, a unit of wall clocks", wall)
		}
	}
	if svg := read(t, out, "figures", "throughput-localhost.svg"); !strings.Contains(svg, "Gbit per virtual second") || !strings.Contains(svg, "3 seeds") && !strings.Contains(svg, "over seeds") {
		t.Error("the figure does not name its clock")
	}
	var doc Document
	if err := json.Unmarshal([]byte(read(t, out, "report.json")), &doc); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(doc.Costs, func(c Cost) bool { return c.Arm == "iptables" && c.Of == "instructions per transaction" })
	if i < 0 {
		t.Fatal("no cost of iptables in instructions")
	}
	// 20 ns a policy at 1e9 invented instructions a second.
	if s := doc.Costs[i].Fit.Slope; s.Low > 20 || s.High < 20 || s.Confidence != 0.95 || doc.Costs[i].Fit.Best.Name != stat.CostLinear {
		t.Errorf("slope %+v of the %s model, want 20 instructions a policy", s, doc.Costs[i].Fit.Best.Name)
	}
	for _, s := range doc.Summaries {
		if s.Metric == "throughput" && (s.Blocks != 3 || s.Median.N != 3 || s.SeedCoV == nil || s.VsZero != nil && s.VsZero.Method != stat.MethodPaired) {
			t.Errorf("summary %+v: three seeds, paired", s)
		}
	}
}

func TestPositiveControl(t *testing.T) {
	s := virtual()
	s.Policies, s.Arms = []int{0}, []string{"control-0", "control-500"}
	dir := t.TempDir()
	s.Write(t, dir)
	out, _ := makeReport(t, Options{}, dir)
	md := read(t, out, "report.md")
	if !regexp.MustCompile(`\| localhost \| TCP\\_RR \| 0 \| control-500 \| control-0 \| 500 \| (49\d|50\d)[.\d]* \| .* \| ×(0\.99|1\.00)\d \|`).MatchString(md) {
		t.Errorf("the positive control is not judged:\n%s", md[strings.Index(md, "## Controls"):][:900])
	}
}

func TestFasterHalf(t *testing.T) {
	s := runstest.Small()
	s.Spoil, s.Trials, s.Estimator = nil, 8, runs.EstimatorFasterHalf
	dir := t.TempDir()
	s.Write(t, dir)
	out, _ := makeReport(t, Options{}, dir)
	md := read(t, out, "report.md")
	if !strings.Contains(md, "faster half, Gbit/s") || strings.Contains(md, "median, Gbit/s") || !strings.Contains(md, "mean of the faster half") {
		t.Error("the plan's estimator is not honoured")
	}
}

func TestStoppingRule(t *testing.T) {
	s := runstest.Small()
	s.Spoil, s.Trials = nil, 12
	s.Stop = &runs.Stop{CI: 0.05, Min: 6, Max: 12}
	s.Policies = []int{0}
	s.Arms = []string{"docker", "xdp"}
	s.Spoil = func(rows []record.Row, f map[string]string) []record.Row {
		if f["arm"] == "docker" && rows[0].Trial > 8 {
			return nil // passed over
		}
		for i := range rows {
			if f["arm"] == "xdp" && rows[i].Trial%2 == 0 {
				rows[i].Value *= 2
			}
		}
		return rows
	}
	dir := t.TempDir()
	s.Write(t, dir)
	_, res := makeReport(t, Options{}, dir)
	w := strings.Join(res.Warnings, "\n")
	if strings.Contains(w, "not complete") || !strings.Contains(w, "Ran into the most trials: 4 cells had 12 trials") || !strings.Contains(w, "localhost TCP_STREAM xdp N=0") {
		t.Errorf("warnings: %s", w)
	}
	s.Stop.CI = 1e-6 // not narrow, so docker's cells were interrupted
	dir = t.TempDir()
	s.Write(t, dir)
	if _, res := makeReport(t, Options{}, dir); !strings.Contains(strings.Join(res.Warnings, "\n"), "16 trials planned but never recorded") {
		t.Errorf("warnings: %v", res.Warnings)
	}
}
