// Package docs_test holds the documents to the truth: links lead somewhere, paths and packages
// exist, promises are those of the code, and examples run.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the module, seen from this folder.
const root = ".."

// page is a Markdown file.
type page struct {
	path string // from the root
	text string
}

// pages are all documents of the repository.
func pages(t *testing.T) []page {
	t.Helper()
	files, err := filepath.Glob("*.md")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %q, %v", files, err)
	}
	out := []page{open(t, "README.md"), open(t, "CONTRIBUTING.md")}
	for _, f := range files {
		out = append(out, open(t, filepath.Join("docs", f)))
	}
	return out
}

func open(t *testing.T, path string) page {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return page{path, string(data)}
}

// prose is the text of a page without its blocks of code.
func (p page) prose() string {
	var out []string
	fenced := false
	for _, line := range strings.Split(p.text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	code    = regexp.MustCompile("`([^`\n]+)`")
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
)

// anchors are the names by which a page's headings can be linked to.
func (p page) anchors() []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(p.prose(), -1) {
		slug := noSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(slug, " ", "-"))
	}
	return out
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(p.prose(), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := p.path
			if target != "" {
				to = filepath.Join(filepath.Dir(p.path), target)
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", p.path, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(open(t, to).anchors(), anchor) {
				t.Errorf("%s: %s has no heading for the link %s", p.path, to, m[1])
			}
		}
	}
}

func TestEveryPageIsInTheIndex(t *testing.T) {
	index := open(t, "docs/README.md")
	linked := map[string]bool{"docs/README.md": true, "README.md": true}
	for _, m := range link.FindAllStringSubmatch(index.text, -1) {
		target, _, _ := strings.Cut(m[1], "#")
		linked[filepath.Join("docs", target)] = true
	}
	for _, p := range pages(t) {
		if !linked[p.path] {
			t.Errorf("docs/README.md does not list %s", p.path)
		}
	}
}

// newFile introduces a file that an example makes.
var newFile = regexp.MustCompile("New file `([^`]+)`")

// inModule is a path below a folder that the module has. Capitals stand for any name.
var (
	inModule    = regexp.MustCompile(`^(driver|analysis|bpf|images|experiments|docs|\.ci)(/[\w.*{}-]+)+/?$`)
	placeholder = regexp.MustCompile(`[A-Z]{2,}`)
)

func TestPathsExist(t *testing.T) {
	seen := 0
	for _, p := range pages(t) {
		made := map[string]bool{}
		for _, m := range newFile.FindAllStringSubmatch(p.text, -1) {
			made[m[1]] = true
		}
		for _, m := range code.FindAllStringSubmatch(p.prose(), -1) {
			path := strings.TrimSuffix(m[1], "/")
			if !inModule.MatchString(path) || made[path] {
				continue
			}
			seen++
			pattern := placeholder.ReplaceAllString(path, "*")
			if found, err := filepath.Glob(filepath.Join(root, pattern)); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", p.path, path)
			}
		}
	}
	if seen < 50 {
		t.Errorf("found %d paths only: the test does not read the pages", seen)
	}
}

func TestTheReadmeFitsTwoScreens(t *testing.T) {
	if n := strings.Count(open(t, "README.md").text, "\n"); n > 100 {
		t.Errorf("README.md has %d lines, want at most 100", n)
	}
}

func TestEveryExperimentIsListed(t *testing.T) {
	list := open(t, "docs/experiments.md").text
	files, err := filepath.Glob(filepath.Join(root, "experiments", "*.toml"))
	if err != nil || len(files) < 10 {
		t.Fatalf("found %q, %v", files, err)
	}
	for _, f := range files {
		if name := "`experiments/" + filepath.Base(f) + "`"; !strings.Contains(list, name) {
			t.Errorf("docs/experiments.md does not list %s", name)
		}
	}
}

var (
	goTest   = regexp.MustCompile("go test [^`\n]*")
	ofTest   = regexp.MustCompile(`\./[\w/.]+`)
	runs     = regexp.MustCompile(`-run '?([^' ]+)'?`)
	testFunc = regexp.MustCompile(`(?m)^func (Test\w+|Benchmark\w+)\(`)
)

// tests are the names of the test functions of a package.
func tests(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(data), -1) {
			out = append(out, m[1])
		}
	}
	return strings.Join(out, "\n")
}

// A `go test` of a page names a package with tests and, by -run, some of them.
func TestTheTestsThatPagesNameExist(t *testing.T) {
	seen := 0
	for _, p := range pages(t) {
		text := strings.Join(strings.Fields(p.text), " ") // a command may be wrapped
		for _, command := range goTest.FindAllString(text, -1) {
			names := ""
			for _, folder := range ofTest.FindAllString(command, -1) {
				if folder == "./..." {
					continue
				}
				if all := tests(t, folder); all == "" {
					t.Errorf("%s: %s: %s has no tests", p.path, command, folder)
				} else {
					names += all + "\n"
				}
			}
			if m := runs.FindStringSubmatch(command); m != nil && names != "" {
				seen++
				pattern, _, _ := strings.Cut(m[1], "/")
				if !regexp.MustCompile("(?m)" + pattern).MatchString(names) {
					t.Errorf("%s: %s runs nothing", p.path, command)
				}
			}
		}
	}
	if seen < 8 {
		t.Errorf("found %d commands only", seen)
	}
}
