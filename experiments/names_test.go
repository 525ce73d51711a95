package experiments_test

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Code of an analysis uses the plan's catalog of arms, options and workloads, and
// contains none of their names: except the upgrade of schema 1, and the study's claims.
func TestAnalysesKnowNoNames(t *testing.T) {
	names := map[string]bool{}
	for _, d := range catalog().Datapaths {
		names[d.Name], names[d.Fabric], names[d.Filter] = true, true, true
		for _, o := range d.Options {
			names[o.Key] = true
		}
		for _, k := range d.Keys {
			names[k.Key] = true
		}
	}
	for _, w := range catalog().Workloads {
		names[w.Name] = true
	}
	words := map[string]string{ // that also have another meaning, by file
		"catalog.go":         "tc xdp none overlay", // vocabulary, which entries use
		"overlay_section.go": "overlay state",       // headings
		"explain.go":         "state",               // a kind of contrast
		"layers.go":          "bridge veth ipset",   // layers of the kernel, by its own parts
		"stages.go":          "bridge veth",
		"outline.go":         "iptables ipset",
		"diff.go":            "none",    // no fill, in SVG
		"schema.go":          "object",  // a type of JSON
		"model.go":           "entries", // a column
		"pagedata.go":        "none",    // no mechanism
	}
	seen := 0
	err := filepath.WalkDir(filepath.Join("..", "analysis"), func(path string, e fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if name == "runstest" || name == "tracetest" {
			return filepath.SkipDir // runs and traces invented for tests, which have arms
		}
		if err != nil || e.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || name == "schema1.go" {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		var s scanner.Scanner
		s.Init(token.NewFileSet().AddFile(path, -1, len(src)), src, nil, 0)
		for {
			_, tok, lit := s.Scan()
			if tok == token.EOF {
				return nil
			}
			text, err := strconv.Unquote(lit)
			if tok == token.STRING && err == nil && names[text] && !strings.Contains(" "+words[name]+" ", " "+text+" ") {
				t.Errorf("%s knows %q by its name", path, text)
			}
		}
	})
	if err != nil || seen < 20 {
		t.Fatalf("%d files, %v", seen, err)
	}
}
