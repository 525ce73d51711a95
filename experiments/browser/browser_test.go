// Package browser_test opens reports in Chromium and uses them as a reader does. The checks are in
// checks.mjs; this package makes the reports, has the checks run by one program, and makes a test
// of each result. Flame graphs of traces are used in the same way (flames.mjs). `make deps` installs
// the browser and the packages.
package browser_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// job is what the program of the checks reads.
type job struct {
	Modules  string       `json:"modules"`
	Chromium string       `json:"chromium"`
	Reports  []reportFile `json:"reports"`
}

// reportFile is one report and the checks that it must pass.
type reportFile struct {
	Name    string   `json:"name"`
	File    string   `json:"file"`    // report.html
	JSON    string   `json:"json"`    // report.json
	Checks  []string `json:"checks"`  // functions of checks.mjs
	Arms    int      `json:"arms"`    // how many it has
	Numbers bool     `json:"numbers"` // whether anything was measured
	Runs    []string `json:"runs"`    // their names
}

// result is a line that the program of the checks prints.
type result struct {
	Report   string            `json:"report"`
	Check    string            `json:"check"`
	Faults   []string          `json:"faults"`
	Measured map[string]any    `json:"measured"`
	Colours  map[string]string `json:"colours"`
	Seconds  float64           `json:"seconds"`
}

type resultKey struct{ report, check string }

var (
	only  = flag.String("only", "", "a regular expression: check the reports that it matches")
	every = flag.Bool("every", false, "the long way: both clocks at each size, and every check of 50 arms")
	keep  = flag.String("keep", "", "an empty folder: make the reports and the job there, and leave them")
)

func TestReports(t *testing.T) {
	all := slices.Concat(fixtures(), ofExperiments(t))
	if *only != "" {
		all = slices.DeleteFunc(all, func(m made) bool { return !regexp.MustCompile(*only).MatchString(m.report.Name) })
	}
	reports := makeAll(t, all)
	results := inspect(t, reports)
	for _, r := range reports {
		t.Run(r.Name, func(t *testing.T) {
			for _, check := range r.Checks {
				t.Run(check, func(t *testing.T) {
					got, ok := results[resultKey{r.Name, check}]
					if !ok {
						t.Fatal("the check was not run")
					}
					for _, fault := range got.Faults {
						t.Error(fault)
					}
					t.Log(measuredIn(got))
				})
			}
		})
	}
	sameColours(t, results)
}

// measuredIn is a line for the log.
func measuredIn(r result) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(r.Measured)) {
		out = append(out, fmt.Sprintf("%s %v", key, r.Measured[key]))
	}
	return strings.Join(append(out, fmt.Sprintf("%.1f s", r.Seconds)), ", ")
}

// sameColours: an arm has one colour, in whichever report and among whichever others.
func sameColours(t *testing.T, results map[resultKey]result) {
	t.Helper()
	first, shared := map[string]string{}, 0
	for _, key := range slices.SortedFunc(maps.Keys(results), func(a, b resultKey) int { return strings.Compare(a.report, b.report) }) {
		for arm, colour := range results[key].Colours {
			before, ok := first[arm]
			if !ok {
				first[arm] = colour
				continue
			}
			shared++
			if colour != before {
				t.Errorf("%s in %s is %s, elsewhere %s", arm, key.report, colour, before)
			}
		}
	}
	if shared == 0 && *only == "" {
		t.Error("no arm is in two reports")
	}
}

// inspect runs the checks. The browser has namespaces of its own: no network, and processes that
// end with this test, however that ends.
func inspect(t *testing.T, reports []reportFile) map[resultKey]result {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	modules, err := filepath.Abs(filepath.Join("..", "..", ".cache", "browser"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "node_modules", "playwright-core")); err != nil {
		t.Fatalf("%v: run make deps", err)
	}
	data, err := json.Marshal(job{modules, chromium, reports})
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	path := filepath.Join(cmp.Or(*keep, home), "job.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience(t))
	defer cancel()
	// The kernel sends the signal when the thread that started the program ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "unshare", "--map-root-user", "--net", "--pid", "--mount-proc", "--kill-child", "--", "node", "inspect.mjs", path)
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	results := parsed(t, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the program of the checks: %v\n%s", err, errs.String())
	}
	return results
}

// parsed reads the results while they are printed.
func parsed(t *testing.T, out io.Reader) map[resultKey]result {
	t.Helper()
	results := map[resultKey]result{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Errorf("a line of the checks, %q: %v", lines.Text(), err)
			continue
		}
		t.Logf("%.1f s: %s, %s: %q", r.Seconds, r.Report, r.Check, r.Faults)
		results[resultKey{r.Report, r.Check}] = r
	}
	if err := lines.Err(); err != nil {
		t.Errorf("read the results: %v", err)
	}
	return results
}

// patience is how long the checks may take in all: as long as the tests may, less what is needed to
// say how far they came. On a busy computer they take many times as long as on an idle one.
func patience(t *testing.T) time.Duration {
	if end, ok := t.Deadline(); ok {
		return time.Until(end) - time.Minute
	}
	return 24 * time.Hour
}
