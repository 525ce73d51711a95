package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hookbed/analysis/catalog"
	"hookbed/analysis/record"
	"hookbed/driver/plan"
)

const experiment = `schema = 1
name = "six"
[lab]
provider = "local"
[measure]
blocks = 1
trials = 3
duration = "1s"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [0, 1]
[[arm]]
name = "a"
datapath = "d"
`

func makePlan(t *testing.T, text string) *plan.Plan {
	t.Helper()
	cat := plan.Catalog{
		Datapaths: []plan.DatapathEntry{{Name: "d", Fabric: "bridge", Filter: "none", Protocols: []string{"tcp"}}},
		Workloads: []plan.WorkloadEntry{{Name: "TCP_RR", Protocol: "tcp", Headline: []catalog.Metric{{Name: "rate", Unit: "1/s", Higher: true}}}},
	}
	s, err := plan.Parse("six.toml", []byte(text), cat)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Expand(s, cat)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func create(t *testing.T) *Dir {
	t.Helper()
	d, err := Create(filepath.Join(t.TempDir(), "new", "run 1"), makePlan(t, experiment))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() }) // closed twice where the test did it
	return d
}

func reopen(t *testing.T, d *Dir) *Dir {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

// rowsOf makes n rows of a trial, each about 200 bytes.
func rowsOf(d *Dir, t plan.Trial, status string, n int) []record.Row {
	cell, _ := d.Plan().CellByID(t.Cell)
	var out []record.Row
	for i := range n {
		out = append(out, record.Row{Run: d.Name(), Cell: t.Cell, Block: t.Block, Trial: t.Trial, Order: t.Order, Status: status,
			Reason: map[bool]string{true: "", false: "because, \"so\""}[status == record.StatusOK],
			Metric: fmt.Sprintf("m%d", i), Unit: "1", Value: float64(i), Raw: "raw/x", Factors: cell.Factors})
	}
	return out
}

func appendRows(t *testing.T, d *Dir, trial plan.Trial, status string, n int) {
	t.Helper()
	if err := d.AppendRows(rowsOf(d, trial, status, n)); err != nil {
		t.Fatal(err)
	}
}

func readRows(t *testing.T, d *Dir, name string) []record.Row {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(d.Path(), name))
	if err != nil {
		t.Fatal(err)
	}
	var rows []record.Row
	reader := record.NewReader(bytes.NewReader(data))
	reader.Repeats = name == supersededFile
	for {
		trial, err := reader.Next()
		if errors.Is(err, io.EOF) && reader.Torn() == nil {
			return rows
		}
		if err != nil {
			t.Fatal(err, reader.Torn())
		}
		rows = append(rows, trial.Rows...)
	}
}

func TestCreateWritesPlanAndHeader(t *testing.T) {
	d := create(t)
	data, err := os.ReadFile(filepath.Join(d.Path(), "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Decode(data)
	if err != nil || !reflect.DeepEqual(p, d.Plan()) {
		t.Errorf("plan.json holds another plan: %v", err)
	}
	if rows := readRows(t, d, "rows.csv"); len(rows) != 0 {
		t.Errorf("%d rows in a new directory", len(rows))
	}
	if d.Name() != "run-1" {
		t.Errorf("run ID %q, want run-1", d.Name())
	}
	if len(d.Pending()) != 6 || len(d.Done()) != 0 {
		t.Errorf("%d pending, %d done, want 6 and 0", len(d.Pending()), len(d.Done()))
	}
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	d := create(t)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(d.Path(), d.Plan()); !errors.Is(err, ErrNotEmpty) || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("over a run: got %v, want ErrNotEmpty that names --resume", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(other, d.Plan()); !errors.Is(err, ErrNotEmpty) || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("over other files: got %v, want ErrNotEmpty that names one", err)
	}
	if _, err := os.Stat(filepath.Join(other, "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused Create left a lock: %v", err)
	}
	if _, err := Create(filepath.Join(other, "thesis.tex"), d.Plan()); err == nil {
		t.Error("made a run directory of a file")
	}
}

func TestCreateAfterACreateThatWasKilled(t *testing.T) {
	path := t.TempDir()
	for _, name := range []string{"lock", ".tmp-123"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(path); !errors.Is(err, ErrNoRun) {
		t.Errorf("Open got %v, want ErrNoRun", err)
	}
	d, err := Create(path, makePlan(t, experiment))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestResumeRunsWhatIsLeft(t *testing.T) {
	d := create(t)
	trials := d.Plan().Trials
	for i, status := range []string{record.StatusOK, record.StatusFailed, record.StatusUnsupported, record.StatusVoid, record.StatusRig} {
		appendRows(t, d, trials[i], status, 2)
	}
	d = reopen(t, d)
	want := []plan.Trial{trials[1], trials[3], trials[4], trials[5]}
	if got := d.Pending(); !reflect.DeepEqual(got, want) {
		t.Errorf("pending %v, want %v", got, want)
	}
	done := map[Key]string{keyOf(trials[0]): record.StatusOK, keyOf(trials[2]): record.StatusUnsupported}
	if got := d.Done(); !reflect.DeepEqual(got, done) {
		t.Errorf("done %v, want %v", got, done)
	}
}

func TestSecondAttemptSupersedesTheFirst(t *testing.T) {
	d := create(t)
	trials := d.Plan().Trials
	appendRows(t, d, trials[0], record.StatusOK, 2)
	appendRows(t, d, trials[1], record.StatusFailed, 3)
	appendRows(t, d, trials[2], record.StatusOK, 2)
	d = reopen(t, d)
	appendRows(t, d, trials[1], record.StatusRig, 1)
	appendRows(t, d, trials[1], record.StatusOK, 4)
	appendRows(t, d, trials[3], record.StatusOK, 1) // goes to the new file, not the replaced one
	count := map[Key]int{}
	for _, r := range readRows(t, d, "rows.csv") {
		count[Key{r.Cell, r.Block, r.Trial}]++
		if r.Status != record.StatusOK {
			t.Errorf("rows.csv still has status %s", r.Status)
		}
	}
	want := map[Key]int{keyOf(trials[0]): 2, keyOf(trials[1]): 4, keyOf(trials[2]): 2, keyOf(trials[3]): 1}
	if !reflect.DeepEqual(count, want) {
		t.Errorf("rows by trial %v, want %v", count, want)
	}
	var statuses []string
	for _, r := range readRows(t, d, "rows-superseded.csv") {
		statuses = append(statuses, r.Status)
	}
	if got := strings.Join(statuses, " "); got != "failed failed failed rig" {
		t.Errorf("superseded: %s", got)
	}
	if n := len(reopen(t, d).Pending()); n != 2 {
		t.Errorf("%d pending, want 2", n)
	}
}

func TestAppendRefusesWhatIsNotOneTrial(t *testing.T) {
	d := create(t)
	trials := d.Plan().Trials
	appendRows(t, d, trials[0], record.StatusOK, 1)
	foreign := rowsOf(d, trials[1], record.StatusOK, 1)
	foreign[0].Trial = 99
	for name, rows := range map[string][]record.Row{
		"no rows":      nil,
		"two trials":   append(rowsOf(d, trials[1], record.StatusOK, 1), rowsOf(d, trials[2], record.StatusOK, 1)...),
		"two statuses": append(rowsOf(d, trials[1], record.StatusOK, 1), rowsOf(d, trials[1], record.StatusVoid, 1)...),
		"again":        rowsOf(d, trials[0], record.StatusOK, 1),
		"not planned":  foreign,
		"no status":    rowsOf(d, trials[1], "good", 1),
	} {
		if err := d.AppendRows(rows); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if n := len(readRows(t, d, "rows.csv")); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestTornTailIsCut(t *testing.T) {
	for name, keep := range map[string]int{"in a row": 60, "between rows of a trial": 0} {
		t.Run(name, func(t *testing.T) {
			d := create(t)
			trials := d.Plan().Trials
			appendRows(t, d, trials[0], record.StatusOK, 3)
			whole := d.size
			appendRows(t, d, trials[1], record.StatusOK, 3)
			// The last of three rows is missing, wholly or in part.
			path := filepath.Join(d.Path(), "rows.csv")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			last := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
			if keep == 0 {
				last, keep = last-1, 0 // without its line break the second row is not whole
			}
			if err := os.Truncate(path, int64(last+keep)); err != nil {
				t.Fatal(err)
			}
			d = reopen(t, d)
			if d.size != whole {
				t.Errorf("%d bytes kept, want %d", d.size, whole)
			}
			if n := len(d.Pending()); n != 5 {
				t.Errorf("%d pending, want 5", n)
			}
			appendRows(t, d, trials[1], record.StatusOK, 3)
			if n := len(readRows(t, d, "rows.csv")); n != 6 {
				t.Errorf("%d rows, want 6", n)
			}
		})
	}
}

func TestOpenMakesRowsThatWereNeverMade(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"missing":     os.Remove,
		"empty":       func(path string) error { return os.Truncate(path, 0) },
		"half header": func(path string) error { return os.Truncate(path, 20) },
	} {
		t.Run(name, func(t *testing.T) {
			d := create(t)
			if err := damage(filepath.Join(d.Path(), "rows.csv")); err != nil {
				t.Fatal(err)
			}
			d = reopen(t, d)
			appendRows(t, d, d.Plan().Trials[0], record.StatusOK, 1)
			if n := len(readRows(t, d, "rows.csv")); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
		})
	}
}

func TestOpenClearsHalfWrittenFiles(t *testing.T) {
	d := create(t)
	left := filepath.Join(d.Path(), ".tmp-42")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	reopen(t, d)
	if exists(left) {
		t.Error("a temporary file outlived Open")
	}
}

func TestOpenRefusesForeignFiles(t *testing.T) {
	for name, edit := range map[string]struct{ file, old, new string }{
		"rows of another plan":    {"rows.csv", ",1,1,", ",1,77,"},
		"columns of another plan": {"rows.csv", "f.warmup", "f.warmth"},
		"edited plan":             {"plan.json", `"policies": "1"`, `"policies": "2"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := create(t)
			appendRows(t, d, d.Plan().Trials[0], record.StatusOK, 1)
			path := filepath.Join(d.Path(), edit.file)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := bytes.Replace(data, []byte(edit.old), []byte(edit.new), 1)
			if bytes.Equal(changed, data) {
				t.Fatal("edit changes nothing")
			}
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(d.Path()); err == nil || !strings.Contains(err.Error(), edit.file) {
				t.Errorf("got %v, want an error that names %s", err, edit.file)
			}
		})
	}
}

func TestOpenAgainIsRefusedWhileInUse(t *testing.T) {
	d := create(t)
	for name, open := range map[string]func() (*Dir, error){
		"Open":   func() (*Dir, error) { return Open(d.Path()) },
		"Create": func() (*Dir, error) { return hold(d.Path()) },
	} {
		if _, err := open(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			t.Errorf("%s got %v, want ErrInUse that names PID %d", name, err, os.Getpid())
		}
	}
	reopen(t, d)
}

func TestCheckNamesWhatChanged(t *testing.T) {
	d := create(t)
	if err := d.Check(makePlan(t, experiment)); err != nil {
		t.Errorf("same experiment: %v", err)
	}
	for edit, want := range map[[2]string]string{
		{`trials = 3`, `trials = 4`}: "measure.trials was 3, is 4",
		{`[0, 1]`, `[0, 2]`}:         "policies was [0,1], is [0,2]",
		{"[[arm]]\n", "[[arm]]\nname = \"b\"\ndatapath = \"d\"\n[[arm]]\n"}: `arms[0].name was "a", is "b"`,
	} {
		err := d.Check(makePlan(t, strings.Replace(experiment, edit[0], edit[1], 1)))
		if !errors.Is(err, ErrPlanChanged) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ErrPlanChanged with %s", err, want)
		}
	}
	reordered := makePlan(t, experiment)
	reordered.Trials[0].Cell, reordered.Trials[1].Cell = reordered.Trials[1].Cell, reordered.Trials[0].Cell
	if err := d.Check(reordered); !errors.Is(err, ErrPlanChanged) || !strings.Contains(err.Error(), "the driver has changed") {
		t.Errorf("got %v, want ErrPlanChanged that blames the driver", err)
	}
}

func TestEnvironmentsAreKept(t *testing.T) {
	d := create(t)
	for _, want := range []string{"env.json", "env-2.json", "env-3.json"} {
		if err := d.WriteEnv(map[string]any{"file": want}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(d.Path(), want))
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s holds %q, %v", want, data, err)
		}
		d = reopen(t, d)
	}
}

func TestRawFiles(t *testing.T) {
	d := create(t)
	tr := d.Plan().Trials[0]
	save := func(name, data string) string {
		t.Helper()
		rel, err := d.SaveRaw(tr.Cell, tr.Block, tr.Trial, name, []byte(data))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(d.Path(), rel))
		if err != nil || string(got) != data {
			t.Errorf("%s holds %q, %v", rel, got, err)
		}
		return rel
	}
	base := fmt.Sprintf("raw/%s/%d-%d", tr.Cell, tr.Block, tr.Trial)
	if got := save("result.json", "{}"); got != base+"/result.json" {
		t.Errorf("saved as %s", got)
	}
	// Killed before any rows: the next attempt starts over.
	d = reopen(t, d)
	save("result.txt", "1")
	if exists(filepath.Join(d.Path(), base, "result.json")) {
		t.Error("raw files of two attempts are mixed")
	}
	// Failed with rows: they still name the files of the first attempt.
	appendRows(t, d, tr, record.StatusFailed, 1)
	if got := save("result.txt", "2"); got != base+"-2/result.txt" {
		t.Errorf("second attempt saved as %s", got)
	}
	appendRows(t, d, tr, record.StatusVoid, 1)
	if got := save("result.txt", "3"); got != base+"-3/result.txt" {
		t.Errorf("third attempt saved as %s", got)
	}
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/x", ".tmp-1"} {
		if _, err := d.SaveRaw(tr.Cell, tr.Block, tr.Trial, name, nil); err == nil {
			t.Errorf("raw file %q accepted", name)
		}
	}
	if _, err := d.SaveRaw("..", 1, 1, "x", nil); err == nil {
		t.Error("raw file of an unknown cell accepted")
	}
}

func TestRunIDOutlivesTheDirectorysName(t *testing.T) {
	d := create(t)
	appendRows(t, d, d.Plan().Trials[0], record.StatusOK, 1)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(d.Path(), moved); err != nil {
		t.Fatal(err)
	}
	again, err := Open(moved)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Name() != d.Name() {
		t.Errorf("run ID %q, was %q", again.Name(), d.Name())
	}
}

// A resume refuses what no report can read, and does not wait for a pipe.
func TestOpenRefusesWhatNoReaderTakes(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"env.json cut short": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "env.json"), []byte(`{"kernel_`), 0o600)
		},
			"env.json: unexpected EOF; the file is damaged: put it back from a copy, or remove it"},
		"a pipe for rows.csv":  {pipeFor(rowsFile), "rows.csv is not a regular file"},
		"a pipe for plan.json": {pipeFor(planFile), "plan.json is not a regular file"},
		"a pipe for env.json":  {pipeFor("env.json"), "env.json is not a regular file"},
		"rows of another cell": {otherCell, `rows.csv: line 2: factor scenario is "multi-host", and in plan.json cell`},
		"changed rows": {func(dir string) error { return change(filepath.Join(dir, rowsFile), ",localhost,", ",multi-host,") },
			"rows.csv: line 3: the rows of cell "},
		"a link for rows.csv": {func(dir string) error {
			path := filepath.Join(dir, rowsFile)
			return errors.Join(os.Rename(path, path+"-elsewhere"), os.Symlink(rowsFile+"-elsewhere", path))
		}, "rows.csv is a link, not a regular file"},
		"an endless device for rows.csv": {func(dir string) error {
			path := filepath.Join(dir, rowsFile)
			return errors.Join(os.Remove(path), os.Symlink("/dev/full", path))
		}, "rows.csv is a link, not a regular file"},
		"saved by a spreadsheet": {func(dir string) error { return change(filepath.Join(dir, rowsFile), ",", ";") },
			"rows.csv: saved by a spreadsheet or an editor (it is separated by semicolons)"},
	} {
		t.Run(name, func(t *testing.T) {
			d := create(t)
			if err := d.AppendRows(rowsOf(d, d.Pending()[0], record.StatusOK, 1)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.WriteEnv(map[string]string{"kernel_release": "6.12"}), d.Close(), c.damage(d.Path())); err != nil {
				t.Fatal(err)
			}
			if again, err := Open(d.Path()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
				if err == nil {
					again.Close()
				}
			}
		})
	}
}

// otherCell makes the rows those of a cell that the plan does not have.
func otherCell(dir string) error {
	path := filepath.Join(dir, rowsFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	header, _, _ := strings.Cut(string(data), "\n")
	var factors []string
	for _, column := range strings.Split(header, ",") {
		if f, ok := strings.CutPrefix(column, "f."); ok {
			factors = append(factors, f)
		}
	}
	rows, err := record.Read(bytes.NewReader(data))
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i].Factors = maps.Clone(rows[i].Factors)
		rows[i].Factors["scenario"] = "multi-host"
	}
	lines, err := record.Encode(factors, rows)
	return errors.Join(err, os.WriteFile(path, append([]byte(header+"\n"), lines...), 0o600))
}

func pipeFor(name string) func(dir string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600))
	}
}

// change replaces text in a file.
func change(path, old, now string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, bytes.ReplaceAll(data, []byte(old), []byte(now)), 0o600)
}

// TestEveryCutOfRows cuts rows.csv at every byte: a run that is continued repeats the torn
// trial and no other. Where a line ends, it goes on, and ends with the rows of a run that was
// never cut.
func TestEveryCutOfRows(t *testing.T) {
	d := create(t)
	trials := d.Plan().Trials
	appendRows(t, d, trials[0], record.StatusOK, 2)
	appendRows(t, d, trials[1], record.StatusFailed, 1)
	path := filepath.Join(d.Path(), rowsFile)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var ends []int // of the header and of each trial
	at := 0
	for line := range bytes.Lines(whole) {
		if at += len(line); len(ends) == 0 || bytes.Contains(line, []byte(record.ClosingMetric)) {
			ends = append(ends, at)
		}
	}
	for cut := 0; cut <= len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Open(d.Path())
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		left := 0
		for left+1 < len(ends) && ends[left+1] <= cut {
			left++
		}
		for i, trial := range trials {
			if _, _, has := again.Outcome(trial); has != (i < left) {
				t.Fatalf("cut %d: trial %d has rows: %v", cut, i+1, has)
			}
		}
		atLineEnd := cut > 0 && whole[cut-1] == '\n'
		for i := left; i < 2 && atLineEnd; i++ {
			appendRows(t, again, trials[i], []string{record.StatusOK, record.StatusFailed}[i], 2-i)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if !atLineEnd {
			continue
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, whole) {
			t.Fatalf("cut %d: the rows are others after the run went on (%v)", cut, err)
		}
	}
}

// TestEditedPlanIsRefused: a plan that was edited after the run began is not executed.
func TestEditedPlanIsRefused(t *testing.T) {
	d := create(t)
	digest, err := d.Plan().Digest()
	if err == nil {
		err = errors.Join(d.WriteEnv(map[string]string{"plan_sha256": digest}), d.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	file := filepath.Join(d.Path(), planFile)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(data, []byte(`"name": "six"`), []byte(`"name": "sex"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d.Path()); !errors.Is(err, ErrPlanChanged) {
		t.Errorf("an edited plan: %v", err)
	}
}
