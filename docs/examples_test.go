package docs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestExamples does what docs/tutorial.md and docs/adding.md say, in a copy of the repository for
// each: it writes the files, makes the edits, and runs the commands.
func TestExamples(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("these tests make network namespaces: run them as root")
	}
	tutorial, adding := 0, 0
	t.Run("pages", func(t *testing.T) {
		t.Run("tutorial", func(t *testing.T) {
			t.Parallel() // trials mostly wait
			tutorial = performTutorial(t)
		})
		t.Run("adding", func(t *testing.T) {
			t.Parallel()
			adding = performAdding(t)
		})
	})
	if tutorial+adding < 25 {
		t.Errorf("%d and %d commands were run", tutorial, adding)
	}
}

func performTutorial(t *testing.T) (commands int) {
	dir := copyOfRepository(t)
	for _, s := range sections(open(t, "docs/tutorial.md")) {
		commands += s.perform(t, dir)
	}
	measured(t, filepath.Join(dir, "runs", "mine"), 24)
	measured(t, filepath.Join(dir, "runs", "own"), 4)
	return commands
}

func performAdding(t *testing.T) (commands int) {
	dir := copyOfRepository(t)
	counts := promised(t, open(t, "docs/adding.md"))
	for _, s := range sections(open(t, "docs/adding.md")) {
		commands += s.perform(t, dir)
		if want, ok := counts[s.title]; ok {
			delete(counts, s.title)
			if got := changed(t, dir); got != want {
				t.Errorf("%q changes %d files by hand, docs/adding.md says %d", s.title, got, want)
			}
		}
	}
	measured(t, filepath.Join(dir, "runs", "added"), 2)
	if len(counts) > 0 {
		t.Errorf("there is no section on %v", counts)
	}
	return commands
}

// measured checks that a run has so many trials, and all of them are ok.
func measured(t *testing.T, runDir string, trials int) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(runDir, "rows.csv"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n")[1:] {
		f := strings.SplitN(line, ",", 9)
		seen[strings.Join(f[2:6], ",")] = f[6] + " " + f[7]
	}
	for trial, status := range seen {
		if strings.TrimSpace(status) != "ok" {
			t.Errorf("%s: trial %s is %s", runDir, trial, status)
		}
	}
	if len(seen) != trials {
		t.Errorf("%s has %d trials, want %d", runDir, len(seen), trials)
	}
}

// copyOfRepository is what git would commit here, as a repository of its own.
func copyOfRepository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, root, "git ls-files -co --exclude-standard -z | xargs -0 ls -d 2>/dev/null | tar -cf - -T - | tar -xf - -C "+dir)
	run(t, dir, "git init -q && git config user.name docs && git config user.email docs@example.org && git add -A && git commit -qm copy")
	return dir
}

// runThere runs a line of shell in the copy, and returns what it printed. The line sees the copy at
// the repository's own path: Go's cache keys a package by its path, so only what the edits change is
// compiled.
func runThere(t *testing.T, dir, line string) string {
	t.Helper()
	there, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	return shell(t, there, syscall.CLONE_NEWNS, line, `mount --bind "$0" "$1"; cd "$1"; `+line+resumed(line), dir, there)
}

var runsInto = regexp.MustCompile(`^bin/driver run \S+ --out (\S+)$`)

// resumed is what follows a line of shell that runs an experiment: as long as trials do not count, it
// does what the driver then says. On a busy computer a trial may get so much more or less of the CPU
// than its cell's others that it is void.
func resumed(line string) string {
	m := runsInto.FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	return ` || { status=$?; for ((i = 0; i < 20 && status == 3; i++)); do status=0; bin/driver run --resume ` + m[1] + ` || status=$?; done; exit $status; }`
}

// run runs a line of shell in a directory, and returns what it printed.
func run(t *testing.T, dir, line string) string {
	t.Helper()
	return shell(t, dir, 0, line, line)
}

func shell(t *testing.T, dir string, unshare uintptr, name string, script ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	start := time.Now()
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-euo", "pipefail", "-c"}, script...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PWD="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unshare}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	t.Logf("%5.1f s  %s", time.Since(start).Seconds(), name)
	return string(out)
}

// changed is how many files were changed or made by hand since the last call, and commits them. What
// a command wrote does not count: goldens and locks.
func changed(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	for _, line := range strings.Split(run(t, dir, "git status --porcelain -uall"), "\n") {
		if line != "" && !strings.HasSuffix(line, ".golden") && !strings.HasSuffix(line, ".lock") && !strings.Contains(line, " runs/") {
			n++
		}
	}
	run(t, dir, "git add -A && git commit -qm step")
	return n
}

// section is a part of a page under a heading: paragraphs and fenced blocks in their order.
type section struct {
	title  string
	blocks []block
}

// block is a paragraph, joined to one line, or the text of a fence.
type block struct {
	fence string // its language, "-" without one; "" is a paragraph
	text  string
}

func sections(p page) (out []section) {
	out = append(out, section{})
	var fence *block
	var para []string
	add := func(b block) {
		last := &out[len(out)-1]
		last.blocks = append(last.blocks, b)
	}
	flush := func() {
		if len(para) > 0 {
			add(block{text: strings.Join(strings.Fields(strings.Join(para, " ")), " ")})
			para = nil
		}
	}
	for _, line := range strings.Split(p.text, "\n") {
		switch lang, isFence := strings.CutPrefix(line, "```"); {
		case fence != nil && isFence:
			add(*fence)
			fence = nil
		case fence != nil:
			fence.text += line + "\n"
		case isFence:
			flush()
			fence = &block{fence: lang}
			if lang == "" {
				fence.fence = "-"
			}
		case strings.HasPrefix(line, "## "):
			flush()
			out = append(out, section{title: line[3:]})
		case line == "":
			flush()
		default:
			para = append(para, line)
		}
	}
	flush()
	return out
}

// promised are the numbers of files by hand in the table at the top of a page, by section.
func promised(t *testing.T, p page) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^\| \[(a [a-z]+)\]\(#[a-z-]+\) \| (\d+)`).FindAllStringSubmatch(p.text, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		out["A"+m[1][1:]] = n
	}
	if len(out) != 5 {
		t.Fatalf("the table promises %v", out)
	}
	return out
}

var (
	write = regexp.MustCompile("[Ww]rite `([^`]+)`:$|`([^`/]+\\.toml)`, which is only planned:$|New file `([^`]+)`:$")
	spans = regexp.MustCompile("`[^`]+`|[^`]+")
)

// perform does what a section says, and returns how many commands it ran.
func (s section) perform(t *testing.T, dir string) (commands int) {
	t.Helper()
	for i, b := range s.blocks {
		if b.fence != "sh" {
			s.edit(t, dir, i)
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(b.text), "\n") {
			runThere(t, dir, standIn(line))
			commands++
		}
	}
	return commands
}

// edit makes the edits of block i, if it is a paragraph with some.
func (s section) edit(t *testing.T, dir string, i int) {
	t.Helper()
	next := block{}
	if i+1 < len(s.blocks) {
		next = s.blocks[i+1]
	}
	if s.blocks[i].fence != "" {
		return
	}
	if err := s.blocks[i].edit(dir, next); err != nil {
		t.Fatalf("%s: %v", s.title, err)
	}
}

// The edits of docs/adding.md fit, and leave the code as gofmt writes it. TestExamples, which also
// runs what they make, takes minutes.
func TestEditsFit(t *testing.T) {
	dir := copyOfRepository(t)
	for _, s := range sections(open(t, "docs/adding.md")) {
		for i := range s.blocks {
			s.edit(t, dir, i)
		}
	}
	if got := run(t, dir, "gofmt -l analysis bpf driver images"); got != "" {
		t.Errorf("gofmt would change %s", got)
	}
}

// standIn is the line, or what stands for it where it needs a mirror: a lock of the same series.
func standIn(line string) string {
	name, ok := strings.CutPrefix(line, "bin/driver images lock ")
	if !ok {
		return line
	}
	kernel := strings.TrimPrefix(name, "kernel-")
	series, _, _ := strings.Cut(kernel, "-")
	return fmt.Sprintf(`want=$(awk '$1 == "%[1]s" {print $3}' images/kernel/packages); `+
		`sed "s/^want .*/want $want/; s/kernel-%[2]s image/kernel-%[1]s image/" images/locks/kernel-%[2]s.lock >images/locks/kernel-%[1]s.lock`, kernel, series)
}

// edit makes the edits that a paragraph states; the last may need the fence behind it.
//
//	In `FILE`, `OLD` becomes `NEW` and `OLD` becomes `NEW`.
//	In `FILE`, below `LINE`:    In `FILE`, above `LINE`:
//	Write `FILE`:               New file `FILE`:
func (b block) edit(dir string, next block) error {
	if m := write.FindStringSubmatch(b.text); m != nil && next.fence != "" {
		return os.WriteFile(filepath.Join(dir, m[1]+m[2]+m[3]), []byte(next.text), 0o644)
	}
	parts := spans.FindAllString(b.text, -1)
	text := func(i int) string { return strings.Trim(parts[i], "`") }
	file := ""
	for i, part := range parts {
		before := ""
		if i > 0 {
			before = parts[i-1]
		}
		switch {
		case !strings.HasPrefix(part, "`"):
			continue
		case strings.HasSuffix(strings.TrimSpace(before), "In"):
			file = filepath.Join(dir, text(i))
		case file != "" && strings.TrimSpace(before) == "becomes":
			if err := replace(file, text(i-2), text(i)); err != nil {
				return err
			}
		case file != "" && i == len(parts)-2 && parts[i+1] == ":" && next.fence != "":
			if err := insert(file, text(i), next.text, strings.HasSuffix(strings.TrimSpace(before), "below")); err != nil {
				return err
			}
		}
	}
	return nil
}

// lineOf finds the one line of a file that has a fragment, however it is aligned.
func lineOf(data []byte, fragment string) (lines []string, at int, err error) {
	lines = strings.SplitAfter(string(data), "\n")
	at = slices.IndexFunc(lines, func(l string) bool { return strings.Contains(strings.Join(strings.Fields(l), " "), fragment) })
	if at < 0 {
		return nil, 0, fmt.Errorf("no line has %q", fragment)
	}
	return lines, at, nil
}

func insert(file, fragment, text string, below bool) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines, at, err := lineOf(data, fragment)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if below {
		at++
	}
	return os.WriteFile(file, []byte(strings.Join(slices.Insert(lines, at, text), "")), 0o644)
}

func replace(file, from, to string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := bytes.Count(data, []byte(from)); n != 1 {
		return fmt.Errorf("%s has %q %d times, want once", file, from, n)
	}
	return os.WriteFile(file, bytes.Replace(data, []byte(from), []byte(to), 1), 0o644)
}

// What a page says badly stops the test: an edit that does not fit is an error.
func TestEditsThatDoNotFitAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.go")
	if err := os.WriteFile(file, []byte("one\n\ttwo   = 2\ntwo two\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"In `a.go`, `three` becomes `four`.", "In `a.go`, `two` becomes `2`.", "In `a.go`, below `five`:", "In `b.go`, `a` becomes `b`."} {
		if err := (block{text: text}).edit(dir, block{fence: "go", text: "x\n"}); err == nil {
			t.Errorf("%s is no error", text)
		}
	}
	if err := (block{text: "Some words. In `a.go`, `one` becomes `1` and, below `two = 2`:"}).edit(dir, block{fence: "go", text: "x\n"}); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(file); string(got) != "1\n\ttwo   = 2\nx\ntwo two\n" {
		t.Errorf("%q, %v", got, errors.Join(err))
	}
}
