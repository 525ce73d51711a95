package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hookbed/driver/bundle"
)

// keepBlocks copies what sealed guests wrote in each run below dir to a directory that stays, and
// says where it is and what the first difference between the first run and each other is.
func keepBlocks(t *testing.T, dir string, runs ...string) string {
	t.Helper()
	kept := filepath.Join(os.TempDir(), "hookbed-failed-"+t.Name())
	if err := os.RemoveAll(kept); err != nil {
		t.Fatal(err)
	}
	for _, run := range runs {
		if err := os.CopyFS(filepath.Join(kept, run), os.DirFS(filepath.Join(dir, run, "blocks"))); err != nil {
			t.Fatal(err)
		}
	}
	said := "what the guests wrote is kept in " + kept
	for _, run := range runs[1:] {
		said += "\n" + differentBlocks(t, filepath.Join(kept, runs[0]), filepath.Join(kept, run))
	}
	return said
}

// differentBlocks says for each block of two directories what differs first.
func differentBlocks(t *testing.T, a, b string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(a, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, file := range files {
		x, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(b, filepath.Base(file)))
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		if different := firstDifferentReply(x, y); different != "" {
			out = append(out, filepath.Base(file)+": "+different)
		}
	}
	if out == nil {
		return "no reply of " + filepath.Base(a) + " and " + filepath.Base(b) + " differs"
	}
	return strings.Join(out, "\n")
}

// firstDifferentReply says where the replies of two sealed guests differ first; "" where they do not.
func firstDifferentReply(a, b []byte) string {
	x, y := slices.Collect(bytes.Lines(a)), slices.Collect(bytes.Lines(b))
	for i := range min(len(x), len(y)) {
		if bytes.Equal(x[i], y[i]) {
			continue
		}
		var r bundle.SealedReply
		var v, w any
		for _, part := range []struct {
			line []byte
			into any
		}{{x[i], &r}, {x[i], &v}, {y[i], &w}} {
			if err := json.Unmarshal(part.line, part.into); err != nil {
				return fmt.Sprintf("reply %d: %v: %.200q", i+1, err, part.line)
			}
		}
		return fmt.Sprintf("reply %d (setup %d, trial %d, %s, chunk %d): %s", i+1, r.Setup, r.Trial, r.Phase, r.Chunk, firstDifference(v, w))
	}
	if len(x) != len(y) {
		return fmt.Sprintf("%d replies and %d", len(x), len(y))
	}
	return ""
}

// firstDifference names the first place at which two JSON values differ, and what both have there.
// Of texts it is a line.
func firstDifference(a, b any) string {
	switch x := a.(type) {
	case map[string]any:
		y, _ := b.(map[string]any)
		keys := maps.Clone(x)
		maps.Copy(keys, y)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if inside := firstDifference(x[k], y[k]); inside != "" {
				return k + " " + inside
			}
		}
	case []any:
		y, _ := b.([]any)
		for i := range max(len(x), len(y)) {
			if i >= len(x) || i >= len(y) {
				return fmt.Sprintf("has %d entries and %d", len(x), len(y))
			}
			if inside := firstDifference(x[i], y[i]); inside != "" {
				return fmt.Sprintf("%d %s", i+1, inside)
			}
		}
	case string:
		y, isText := b.(string)
		if isText && x != y {
			return firstDifferentLine(strings.Split(x, "\n"), strings.Split(y, "\n"))
		}
	}
	if fmt.Sprint(a) != fmt.Sprint(b) {
		return fmt.Sprintf("%v and %v", a, b)
	}
	return ""
}

func firstDifferentLine(x, y []string) string {
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d: %q and %q", i+1, x[i], y[i])
		}
	}
	return fmt.Sprintf("has %d lines and %d", len(x), len(y))
}

func TestFirstDifferentReply(t *testing.T) {
	const facts = `{"setup":0,"trial":-1,"phase":"facts","chunk":0,"reply":{"facts":{"kernel":"6.12"}}}` + "\n"
	run := func(reply string) string {
		return facts + `{"setup":1,"trial":0,"phase":"run","chunk":2,"reply":{` + reply + `}}` + "\n"
	}
	const where = "reply 2 (setup 1, trial 0, run, chunk 2): "
	for _, tt := range []struct{ a, b, want string }{
		{run(`"mark":1`), run(`"mark":1`), ""},
		{run(`"mark":1`), facts, "2 replies and 1"},
		{run(`"mark":1`), run(`"mark":2`), where + "reply mark 1 and 2"},
		{run(`"mark":1`), run(`"pid":1`), where + "reply mark 1 and <nil>"},
		{run(`"raw":{"a":"x","b":"one\ntwo"}`), run(`"raw":{"a":"x","b":"one\nthree"}`), where + `reply raw b line 2: "two" and "three"`},
		{run(`"raw":{"b":"one"}`), run(`"raw":{"b":"one\n"}`), where + "reply raw b has 1 lines and 2"},
		{run(`"results":[{"kind":"a"},{"values":{"n":1}}]`), run(`"results":[{"kind":"a"},{"values":{"n":2}}]`), where + "reply results 2 values n 1 and 2"},
		{run(`"results":[{"kind":"a"}]`), run(`"results":[]`), where + "reply results has 1 entries and 0"},
		{run(`"mark":1`), facts + "{\n", `reply 2: unexpected end of JSON input: "{\n"`},
	} {
		if got := firstDifferentReply([]byte(tt.a), []byte(tt.b)); got != tt.want {
			t.Errorf("%s\n%s\ndiffer in %q, want %q", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestKeepBlocks(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{"a/blocks/1.jsonl": `{"setup":1}`, "b/blocks/1.jsonl": `{"setup":2}`, "c/blocks/1.jsonl": `{"setup":1}`} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	said := keepBlocks(t, dir, "a", "b", "c")
	kept := filepath.Join(os.TempDir(), "hookbed-failed-TestKeepBlocks")
	t.Cleanup(func() { _ = os.RemoveAll(kept) })
	want := "what the guests wrote is kept in " + kept + "\n1.jsonl: reply 1 (setup 1, trial 0, , chunk 0): setup 1 and 2\nno reply of a and c differs"
	if said != want {
		t.Errorf("it says %q, want %q", said, want)
	}
	for _, file := range []string{"a/1.jsonl", "b/1.jsonl", "c/1.jsonl"} {
		if _, err := os.Stat(filepath.Join(kept, file)); err != nil {
			t.Error(err)
		}
	}
}
