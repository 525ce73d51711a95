package plan

import (
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFileSize bounds what is parsed: an experiment is a page of text.
const maxFileSize = 64 << 10

// maxPath bounds the paths that are noted, in bytes. Paths nested deeper than
// any key of an experiment would make long keys cost the square of their length.
const maxPath = 256

// document is a parsed TOML file with the line of every key.
type document struct {
	file     string
	root     map[string]any
	lines    map[string]int      // by path: "lab", "lab.provider", "arm[1].state", "matrix.policies[2]"
	known    map[string][]string // keys that the loader read, by path of their table
	unknown  []unknownKey
	problems []Problem
	settings []Setting // in place of what the file says
	record   func(Key) // told of every key that is read; nil: nothing is
}

type unknownKey struct{ table, key string }

// parseDocument parses TOML. A syntax error is the only problem of its file,
// since nothing after it can be trusted.
func parseDocument(file string, data []byte) (*document, error) {
	d := &document{file: file, lines: map[string]int{}, known: map[string][]string{}}
	if len(data) > maxFileSize {
		return nil, d.only(0, fmt.Sprintf("is %d bytes long, want at most %d", len(data), maxFileSize))
	}
	if err := toml.Unmarshal(data, &d.root); err != nil {
		var syntax *toml.DecodeError
		if errors.As(err, &syntax) {
			line, _ := syntax.Position()
			return nil, d.only(line, "not valid TOML: "+strings.TrimPrefix(syntax.Error(), "toml: "))
		}
		return nil, d.only(0, "not valid TOML: "+strings.TrimPrefix(err.Error(), "toml: "))
	}
	d.locate(data)
	return d, nil
}

func (d *document) only(line int, what string) error {
	return invalid([]Problem{{File: d.file, Line: line, What: what}})
}

func (d *document) problem(line int, key, format string, args ...any) {
	p := Problem{File: d.file, Line: line, Key: key, What: fmt.Sprintf(format, args...)}
	if i := line - firstSetting; i >= 0 && i < len(d.settings) {
		p.File, p.Line = "--set "+d.settings[i].Key+"="+d.settings[i].Value, 0
	}
	d.problems = append(d.problems, p)
}

// line names a line of the file, or the setting that has its place, in a sentence.
func (d *document) line(n int) string {
	if i := n - firstSetting; i >= 0 && i < len(d.settings) {
		return "--set " + d.settings[i].Key
	}
	return fmt.Sprintf("line %d", n)
}

// locate fills lines from the syntax tree.
func (d *document) locate(data []byte) {
	l := locator{lines: d.lines, tables: map[string]int{}}
	for i, b := range data {
		if b == '\n' {
			l.ends = append(l.ends, i)
		}
	}
	l.parser.Reset(data)
	prefix := ""
	for l.parser.NextExpression() {
		switch e := l.parser.Expression(); e.Kind {
		case unstable.Table:
			prefix = l.header(e, false)
		case unstable.ArrayTable:
			prefix = l.header(e, true)
		case unstable.KeyValue:
			l.pair(prefix, e)
		}
	}
}

type locator struct {
	parser unstable.Parser
	ends   []int // offsets of the line breaks
	lines  map[string]int
	tables map[string]int // tables seen so far of each [[array]], by path
}

func (l *locator) line(r unstable.Range) int {
	return 1 + sort.SearchInts(l.ends, int(r.Offset))
}

// header notes the line of a [table] or [[array]] header and returns the table's path.
func (l *locator) header(e *unstable.Node, array bool) string {
	var path string
	var line int
	for it := e.Key(); it.Next() && len(path) < maxPath; {
		path, line = joinPath(path, string(it.Node().Data)), l.line(it.Node().Raw)
		if array && it.IsLast() {
			l.tables[path]++
			l.note(path, line)
		}
		if n := l.tables[path]; n > 0 {
			path = element(path, n-1)
		}
		l.note(path, line)
	}
	return path
}

// note keeps the first line on which a path is seen.
func (l *locator) note(path string, line int) {
	if l.lines[path] == 0 {
		l.lines[path] = line
	}
}

func (l *locator) pair(prefix string, e *unstable.Node) {
	path, line := prefix, 0
	for it := e.Key(); it.Next() && len(path) < maxPath; {
		path, line = joinPath(path, string(it.Node().Data)), l.line(it.Node().Raw)
		l.note(path, line)
	}
	l.value(path, line, e.Value())
}

// value notes the lines of what is inside arrays and inline tables.
func (l *locator) value(path string, line int, v *unstable.Node) {
	if v.Raw.Length > 0 {
		line = l.line(v.Raw)
	}
	l.note(path, line)
	if len(path) >= maxPath {
		return
	}
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				l.pair(path, it.Node())
			}
		}
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			l.value(element(path, i), line, it.Node())
			i++
		}
	}
}

var (
	bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	indices = regexp.MustCompile(`\[\d+\]`)
)

func joinPath(path, key string) string {
	if !bareKey.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// shown is a path as messages name it: the line already says which element.
func shown(path string) string { return indices.ReplaceAllString(path, "") }
