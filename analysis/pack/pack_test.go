package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hookbed/analysis/record"
)

// makeRun is a small run directory under a new path.
func makeRun(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "r")
	factors := []string{"arm", "clock", "policies", "scenario", "workload"}
	var rows []record.Row
	for arm := range 2 {
		for n := range 8 {
			rows = append(rows, record.Row{Run: "r", Cell: fmt.Sprintf("c%d", arm), Block: n/4 + 1, Trial: n%4 + 1, Order: len(rows) + 1,
				Status: record.StatusOK, Metric: "rate", Unit: "1/s", Value: 1000 + 100*float64(arm) + float64(n*n), Raw: fmt.Sprintf("raw/c%d/%d/x", arm, n),
				Factors: map[string]string{"arm": fmt.Sprintf("a%d", arm), "clock": "wall", "policies": "0", "scenario": "localhost", "workload": "TCP_RR"}})
		}
	}
	data, err := record.Encode(factors, rows)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "rows.csv", string(record.EncodeHeader(factors))+string(data))
	put(t, dir, "env.json", `{"kernel_release": "6.12"}`)
	put(t, dir, "plan.json", `{"spec": {"name": "t", "lab": {"clock": "wall"}}}`)
	put(t, dir, "raw/c0/1/x", "raw")
	put(t, dir, "trace/c0/path.md", "path")
	put(t, dir, "lock", "1\n")
	put(t, dir, "report.json", "stale")
	return dir
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func packed(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "r"+Extension)
	if _, err := Write(makeRun(t), file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPackSurvives(t *testing.T) {
	file := packed(t)
	dir := filepath.Join(t.TempDir(), "out")
	m, err := Open(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.Run != "r" || m.Clock != "wall" || len(m.PlanSHA256) != 64 || len(m.RowsSHA256) != 64 {
		t.Errorf("manifest %+v", m)
	}
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Path)
	}
	for _, want := range []string{"env.json", "plan.json", "raw/c0/1/x", "trace/c0/path.md", "report.json", "report.md", "rows.csv"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in the pack of %v", want, names)
		}
	}
	if slices.Contains(names, "lock") {
		t.Error("the lock is in the pack")
	}
	if found, err := Recheck(dir, m); err != nil || !found.None() {
		t.Errorf("found %+v, %v", found, err)
	}
}

func TestEqualRunsMakeEqualPacks(t *testing.T) {
	a, errA := os.ReadFile(packed(t))
	b, errB := os.ReadFile(packed(t))
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two packs of the same run, in two places, differ: %v %v", errA, errB)
	}
}

// item is one entry of an archive.
type item struct {
	name string
	data []byte
	kind byte
}

// rewrite changes the entries of a pack.
func rewrite(t *testing.T, file string, edit func([]item) []item) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(zip)
	var items []item
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, item{h.Name, data, h.Typeflag})
	}
	var buf bytes.Buffer
	out := gzip.NewWriter(&buf)
	tw := tar.NewWriter(out)
	for _, it := range edit(items) {
		h := &tar.Header{Name: it.name, Size: int64(len(it.data)), Mode: 0o644, Typeflag: it.kind}
		if it.kind == tar.TypeSymlink {
			h.Linkname, h.Size = "/etc", 0
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write(it.data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(tw.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed"+Extension)
	if err := os.WriteFile(changed, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return changed
}

func find(items []item, name string) *item {
	return &items[slices.IndexFunc(items, func(i item) bool { return i.name == name })]
}

// remake edits the manifest so that it matches changed files.
func remake(items []item, edit func(*Manifest)) {
	var m Manifest
	if err := json.Unmarshal(items[0].data, &m); err != nil {
		panic(err)
	}
	edit(&m)
	items[0].data, _ = json.Marshal(m)
}

func TestDamageIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		edit func([]item) []item
		want string
	}{
		"flipped byte": {func(i []item) []item { find(i, "rows.csv").data[700] ^= 1; return i }, "rows.csv has another digest"},
		"two bad files": {func(i []item) []item {
			find(i, "rows.csv").data[700] ^= 1
			find(i, "env.json").data[2] ^= 1
			return i
		}, "env.json has another digest; rows.csv has another digest"},
		"extra file": {func(i []item) []item { return append(i, item{"extra", []byte("x"), tar.TypeReg}) }, "extra is not in the manifest"},
		"missing file": {func(i []item) []item { return slices.DeleteFunc(i, func(i item) bool { return i.name == "plan.json" }) },
			"plan.json is missing"},
		"file twice":      {func(i []item) []item { return append(i, *find(i, "env.json")) }, "env.json is not in the manifest, or there twice"},
		"shorter file":    {func(i []item) []item { f := find(i, "env.json"); f.data = f.data[1:]; return i }, "env.json is 25 bytes, want 26"},
		"path escapes":    {func(i []item) []item { return append(i, item{"../evil", []byte("x"), tar.TypeReg}) }, `"../evil" is not a file inside the run`},
		"absolute path":   {func(i []item) []item { return append(i, item{"/tmp/evil", []byte("x"), tar.TypeReg}) }, `"/tmp/evil" is not a file inside the run`},
		"symbolic link":   {func(i []item) []item { return append(i, item{"raw2", nil, tar.TypeSymlink}) }, `"raw2" is not a file inside the run`},
		"no manifest":     {func(i []item) []item { return i[1:] }, "want manifest.json"},
		"manifest escape": {func(i []item) []item { remake(i, func(m *Manifest) { m.Files[0].Path = "../evil" }); return i }, `"../evil" is not a path inside the run`},
		"huge file":       {func(i []item) []item { remake(i, func(m *Manifest) { m.Files[0].Size = 1 << 40 }); return i }, "want at most"},
		"other schema":    {func(i []item) []item { remake(i, func(m *Manifest) { m.Schema = 2 }); return i }, "schema 2"},
		"two digests":     {func(i []item) []item { remake(i, func(m *Manifest) { m.RowsSHA256 = "x" }); return i }, "rows.csv has two digests"},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			_, err := Open(rewrite(t, packed(t), c.edit), filepath.Join(base, "a", "out"))
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrDamaged that says %s", err, c.want)
			}
			if _, err := os.Lstat(filepath.Join(base, "a", "evil")); err == nil {
				t.Error("a file was written outside the directory")
			}
		})
	}
}

func TestTruncatedAndExtendedPacks(t *testing.T) {
	whole, err := os.ReadFile(packed(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cut")
	for _, n := range []int{0, 5, 100, len(whole) / 2, len(whole) - 9, len(whole) - 1} {
		if err := os.WriteFile(file, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file, filepath.Join(t.TempDir(), "out")); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut at %d of %d: error %v, want ErrDamaged", n, len(whole), err)
		}
	}
	if err := os.WriteFile(file, append(whole, 'x'), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, filepath.Join(t.TempDir(), "out")); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a byte behind: error %v, want ErrDamaged", err)
	}
}

// If someone changes a number of the report, and the manifest with it, the rows
// show it.
func TestChangedNumberIsFound(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	m, err := Open(packed(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, reportFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	doc["summaries"].([]any)[0].(map[string]any)["n"] = 9
	data, err = json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	found, err := Recheck(dir, m)
	if err != nil || len(found.Numbers) != 1 || found.Numbers[0] != (Difference{"summaries[0].n", "9", "8"}) || !slices.Equal(found.Files, []string{"report.json differs"}) {
		t.Errorf("got %+v, %v, want the one number", found, err)
	}
}

// TestOtherProcessorsRoundOtherwise: the last digit of a number in report.json may differ, and
// nothing else of the file.
func TestOtherProcessorsRoundOtherwise(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	m, err := Open(packed(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	estimate := regexp.MustCompile(`"estimate": *[0-9]+(\.[0-9]+)?`)
	first := string(estimate.Find(data))
	key, text, _ := strings.Cut(first, ":")
	value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		t.Fatal(err)
	}
	differs := []string{reportFile + " differs"}
	for now, want := range map[string][]string{
		fmt.Sprintf("%.16g", value*(1+1e-15)): nil,
		fmt.Sprintf("%.16g", value*(1+1e-6)):  differs,
		fmt.Sprintf("%q", fmt.Sprint(value)):  differs,
	} {
		put(t, dir, reportFile, strings.Replace(string(data), first, key+": "+now, 1))
		if got, err := Recheck(dir, m); err != nil || !slices.Equal(got.Files, want) || (len(got.Numbers) == 0) != (want == nil) {
			t.Errorf("%s written as %s: found %+v, %v, want %q", first, now, got, err, want)
		}
	}
	put(t, dir, reportFile, strings.Replace(string(data), `"estimate"`, `"Estimate"`, 1))
	if got, err := Recheck(dir, m); err != nil || !slices.Equal(got.Files, differs) {
		t.Errorf("another key: found %+v, %v", got, err)
	}
}

// TestEveryFileOfTheReportIsChecked: a changed figure, one more file, one less.
func TestEveryFileOfTheReportIsChecked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	m, err := Open(packed(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	html, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "report.html", strings.Replace(string(html), "</body>", "<!-- more -->", 1)+" ")
	put(t, dir, "figures/more.svg", "<svg/>")
	if err := os.Remove(filepath.Join(dir, "report.md")); err != nil {
		t.Fatal(err)
	}
	found, err := Recheck(dir, m)
	if want := []string{"figures/more.svg is no file of the report", "report.html differs", "report.md is missing"}; err != nil || !slices.Equal(found.Files, want) {
		t.Errorf("found %+v, %v, want %q", found, err, want)
	}
}

// TestRecordsAgree: manifest, plan, environment and rows are of one run.
func TestRecordsAgree(t *testing.T) {
	for want, change := range map[string]func(dir string, m *Manifest){
		"the run is other in manifest.json, and r in rows.csv":            func(_ string, m *Manifest) { m.Run = "other" },
		"the clock is virtual in manifest.json, and wall in rows.csv":     func(_ string, m *Manifest) { m.Clock = "virtual" },
		"the digest of rows.csv is ff in manifest.json":                   func(_ string, m *Manifest) { m.RowsSHA256 = "ff" },
		"the digest of plan.json is aa in env.json":                       func(dir string, _ *Manifest) { put(t, dir, "env.json", `{"plan_sha256": "aa"}`) },
		"the seed is 7 in env.json, and 8 in plan.json":                   func(dir string, _ *Manifest) { put(t, dir, "env.json", `{"seed": 7}`) },
		"the provider is libvirt in env.json, and local in plan.json":     func(dir string, _ *Manifest) { put(t, dir, "env.json", `{"provider": "libvirt"}`) },
		"rows.csv was cut short in line 32: cell c1, block 2, trial 4 is": func(dir string, _ *Manifest) { cut(t, filepath.Join(dir, "rows.csv")) },
	} {
		run := makeRun(t)
		put(t, run, "plan.json", `{"spec": {"name": "t", "seed": 8, "lab": {"clock": "wall", "provider": "local"}}}`)
		file, dir := filepath.Join(t.TempDir(), "r"+Extension), filepath.Join(t.TempDir(), "out")
		if _, err := Write(run, file); err != nil {
			t.Fatal(err)
		}
		m, err := Open(file, dir)
		if err != nil {
			t.Fatal(err)
		}
		change(dir, &m)
		found, err := Recheck(dir, m)
		if err != nil || !slices.ContainsFunc(found.Records, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("found %+v, %v, want %q", found, err, want)
		}
	}
}

// cut removes the last line of a file.
func cut(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1], 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTornRunsAreNotPacked: at every line where a trial is not whole.
func TestTornRunsAreNotPacked(t *testing.T) {
	dir := makeRun(t)
	cut(t, filepath.Join(dir, "rows.csv"))
	_, err := Write(dir, filepath.Join(t.TempDir(), "x"))
	if err == nil || !strings.Contains(err.Error(), "cut short in line 32: cell c1, block 2, trial 4 is not whole") {
		t.Errorf("error %v", err)
	}
}

// TestBombs: what is much larger than its pack is not unpacked.
func TestBombs(t *testing.T) {
	for want, edit := range map[string]func([]item) []item{
		"would be unpacked of": func(i []item) []item {
			f := find(i, "raw/c0/1/x")
			f.data = make([]byte, 2*freeSize)
			remake(i, func(m *Manifest) {
				at := slices.IndexFunc(m.Files, func(f File) bool { return f.Path == "raw/c0/1/x" })
				m.Files[at].Size = int64(len(f.data))
			})
			return i
		},
		"entries in": func(i []item) []item {
			i[0].data = []byte(`{"files":[` + strings.Repeat("{},", 1<<20) + `{}]}`)
			return i
		},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		_, err := Open(rewrite(t, packed(t), edit), dir)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%d files were unpacked", len(left))
		}
	}
}

func TestOpenKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "mine", "x")
	if _, err := Open(packed(t), dir); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("error %v, want one about the directory", err)
	}
}
