package docs_test

import (
	"encoding/xml"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sources parses the Go files of a folder, without tests.
func sources(t *testing.T, folder string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var out []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// exitCodes are the constants exitX of the driver.
func exitCodes(t *testing.T) (out []string) {
	t.Helper()
	for _, f := range sources(t, "driver") {
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if ok && strings.HasPrefix(v.Names[0].Name, "exit") && len(v.Values) == 1 {
				if lit, ok := v.Values[0].(*ast.BasicLit); ok && lit.Kind == token.INT {
					out = append(out, lit.Value)
				}
			}
			return true
		})
	}
	return out
}

var exitRow = regexp.MustCompile(`(?m)^\| (\d+) \| (.+) \|$`)

func TestExitCodesAreTheDrivers(t *testing.T) {
	want := exitCodes(t)
	if len(want) < 7 {
		t.Fatalf("the driver has the exit codes %q only", want)
	}
	for _, path := range []string{"README.md", "docs/cli.md"} {
		var got []string
		for _, m := range exitRow.FindAllStringSubmatch(open(t, path).text, -1) {
			got = append(got, m[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s promises the exit codes %q, the driver has %q", path, got, want)
		}
	}
}

// commands are the first words of every cobra command's use, by name; those of a
// group follow theirs in no order.
func commands(t *testing.T) (out []string) {
	t.Helper()
	for _, f := range sources(t, "driver") {
		ast.Inspect(f, func(n ast.Node) bool {
			kv, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key, isName := kv.Key.(*ast.Ident)
			lit, isText := kv.Value.(*ast.BasicLit)
			if isName && isText && key.Name == "Use" {
				name, _, _ := strings.Cut(strings.Trim(lit.Value, "\"`"), " ")
				out = append(out, name)
			}
			return true
		})
	}
	return out
}

func TestEveryCommandIsPromised(t *testing.T) {
	text := open(t, "docs/cli.md").text
	all := commands(t)
	if len(all) < 15 {
		t.Fatalf("found the commands %q only", all)
	}
	for _, name := range all {
		if name != "driver" && !strings.Contains(text, "`driver "+name) && !regexp.MustCompile("`driver images [a-z|\\\\]*\\b"+name+"\\b").MatchString(text) {
			t.Errorf("docs/cli.md does not have the command %s", name)
		}
	}
}

var (
	phony     = regexp.MustCompile(`(?m)^\.PHONY: (.*)$`)
	makeOf    = regexp.MustCompile("(?m)(?:^    |`)make ([a-z-]+)")
	fileFirst = regexp.MustCompile(`(?m)^(?:    |\$ )bin/driver ([a-z]+)`)
)

func TestMakeTargetsExist(t *testing.T) {
	m := phony.FindStringSubmatch(open(t, "Makefile").text)
	if m == nil {
		t.Fatal("Makefile has no .PHONY")
	}
	targets := strings.Fields(m[1])
	for _, p := range pages(t) {
		for _, m := range makeOf.FindAllStringSubmatch(p.text, -1) {
			if !slices.Contains(targets, m[1]) {
				t.Errorf("%s names `make %s`, which the Makefile does not have", p.path, m[1])
			}
		}
		for _, m := range fileFirst.FindAllStringSubmatch(p.text, -1) {
			if !slices.Contains(commands(t), m[1]) {
				t.Errorf("%s runs `driver %s`, which there is not", p.path, m[1])
			}
		}
	}
	contributing := open(t, "CONTRIBUTING.md").text
	for _, target := range targets {
		if target != "all" && !strings.Contains(contributing, "`make "+target+"`") {
			t.Errorf("CONTRIBUTING.md does not say what `make %s` does", target)
		}
	}
}

// packages are the folders with Go files, from the root.
func packages(t *testing.T) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || path == filepath.Join(root, "bin") || path == filepath.Join(root, "runs")) {
			return fs.SkipDir
		}
		folder, _ := filepath.Rel(root, filepath.Dir(path))
		if !e.IsDir() && strings.HasSuffix(name, ".go") && !slices.Contains(out, folder) {
			out = append(out, folder)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var paragraph = regexp.MustCompile("(?m)^\\*\\*`([^`]+)`\\*\\* ")

func TestEveryPackageHasAParagraph(t *testing.T) {
	var got []string
	for _, m := range paragraph.FindAllStringSubmatch(open(t, "docs/architecture.md").text, -1) {
		got = append(got, m[1])
	}
	all := packages(t)
	for _, p := range all {
		if !slices.Contains(got, p) {
			t.Errorf("docs/architecture.md has no paragraph on %s", p)
		}
	}
	for _, p := range got {
		if !slices.Contains(all, p) {
			t.Errorf("docs/architecture.md has a paragraph on %s, which is no package", p)
		}
	}
}

// described are the numbers by which the figure describes an arm to those who cannot see it.
var described = regexp.MustCompile(`([\w-]+): ([\d.]+) virtual µs at N = 0(?:, ([\d.]+) at N = 1000)?`)

// The text in the place of the README's figure has the figure's own numbers.
func TestTheReadmeSaysWhatItsFigureShows(t *testing.T) {
	readme := open(t, "README.md").text
	file, err := os.Open("answer.svg")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var svg struct {
		Desc string `xml:"desc"`
	}
	if err := xml.NewDecoder(file).Decode(&svg); err != nil {
		t.Fatal(err)
	}
	found := described.FindAllStringSubmatch(svg.Desc, -1)
	if len(found) != 8 {
		t.Fatalf("the figure describes %d arms: %s", len(found), svg.Desc)
	}
	for _, m := range found {
		last := m[2]
		if m[3] != "" {
			last = m[3]
		}
		if want := m[1] + " " + last; !strings.Contains(readme, want) {
			t.Errorf("README.md does not say %q", want)
		}
	}
}
