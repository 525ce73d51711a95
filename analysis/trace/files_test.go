package trace

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func flags() *bool { return flag.Bool("update", false, "rewrite the files under testdata") }

var update = flags()

// other is a trace to compare smallTrace with.
func other() Trace {
	t := smallTrace()
	t.Cell, t.Factors = "bead", map[string]string{"arm": "docker", "policies": "0", "scenario": "localhost", "workload": "TCP_RR"}
	t.Measured.Nodes[7] = Node{6, "nf_confirm", 40, 2}
	t.Measured.Nodes[4].Self = 305
	t.Window.Measured, t.Window.Instructions, t.Window.ClockNS = t.Window.Measured-455, t.Window.Instructions-455, t.Window.ClockNS-8*455
	return t
}

// TestGolden holds every file of a trace and of a difference to the byte.
func TestGolden(t *testing.T) {
	a, b := smallTrace(), other()
	got, want := t.TempDir(), filepath.Join("testdata", "small")
	write := func(dir string) {
		must(t, Write(dir, &a))
		must(t, Write(dir, &b))
		must(t, WriteDiff(dir, &a, &b))
		must(t, WriteRun(dir, []Trace{a, b}, nil))
	}
	write(got)
	if *update {
		must(t, os.RemoveAll(want))
		write(want)
	}
	files := tree(t, want)
	if !reflect.DeepEqual(tree(t, got), files) {
		t.Fatalf("files %v, want %v", tree(t, got), files)
	}
	for _, name := range files {
		if !bytes.Equal(read(t, got, name), read(t, want, name)) {
			t.Errorf("%s is not as in testdata (if this is meant: go test -update)", name)
		}
	}
	write(got) // again, over what is there
	for _, name := range files {
		if !bytes.Equal(read(t, got, name), read(t, want, name)) {
			t.Errorf("%s: written twice, it differs", name)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) (out []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	}))
	return out
}

func read(t *testing.T, elem ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	must(t, err)
	return data
}

// Every file accounts for each instruction.
func TestSums(t *testing.T) {
	for _, x := range []Trace{smallTrace(), other()} {
		dir := t.TempDir()
		must(t, Write(dir, &x))
		cell := filepath.Join(dir, Dir, x.Cell)
		if got := column(t, filepath.Join(cell, functionsFile), "self"); got != x.Window.Measured {
			t.Errorf("functions.csv has %d instructions, want %d", got, x.Window.Measured)
		}
		if got := column(t, filepath.Join(cell, layersFile), "self"); got != x.Window.Measured {
			t.Errorf("layers.csv has %d instructions, want %d", got, x.Window.Measured)
		}
		if got := column(t, filepath.Join(cell, callsFile), "self"); got != x.Path.Instructions {
			t.Errorf("calls.csv has %d instructions, want %d", got, x.Path.Instructions)
		}
		var measured, all uint64
		for _, line := range strings.Split(strings.TrimSpace(string(read(t, cell, foldedFile))), "\n") {
			i := strings.LastIndexByte(line, ' ')
			n, err := strconv.ParseUint(line[i+1:], 10, 64)
			must(t, err)
			all += n
			if !strings.HasPrefix(line, aroundFrame+";") {
				measured += n
			}
		}
		if measured != x.Window.Measured || all != x.Window.Instructions {
			t.Errorf("stacks.folded has %d instructions, %d of whole units; want %d and %d", all, measured, x.Window.Instructions, x.Window.Measured)
		}
	}
}

func column(t *testing.T, path, name string) (sum uint64) {
	t.Helper()
	lines, err := csv.NewReader(bytes.NewReader(read(t, path))).ReadAll()
	must(t, err)
	for i, head := range lines[0] {
		if head != name {
			continue
		}
		for _, line := range lines[1:] {
			n, err := strconv.ParseUint(line[i], 10, 64)
			must(t, err)
			sum += n
		}
		return sum
	}
	t.Fatalf("%s has no column %s", path, name)
	return 0
}

// Recursion counts once in a function's total.
func TestFunctions(t *testing.T) {
	x := smallTrace()
	for _, f := range x.Measured.Functions() {
		want := map[string]Function{
			"again":       {"again", LayerTCP, 12, 12, 4},
			"tcp_sendmsg": {"tcp_sendmsg", LayerTCP, 300, 874, 2},
			"memcpy":      {"memcpy", LayerCopy, 64, 64, 2},
			"client":      {"client", LayerClient, 10, 1007, 0},
		}[f.Name]
		if want.Name != "" && f != want {
			t.Errorf("%+v, want %+v", f, want)
		}
	}
}

func TestReadBack(t *testing.T) {
	dir, a, b := t.TempDir(), smallTrace(), other()
	if got, err := Read(dir); got != nil || err != nil {
		t.Errorf("a run without traces: %v, %v", got, err)
	}
	must(t, Write(dir, &a))
	must(t, Write(dir, &b))
	must(t, WriteDiff(dir, &a, &b))
	must(t, WriteRun(dir, []Trace{a, b}, []byte("<svg/>")))
	must(t, os.Mkdir(filepath.Join(dir, Dir, ".tmp-c0ffee-1"), 0o700))
	got, err := Read(dir)
	must(t, err)
	if !reflect.DeepEqual(got, []Trace{b, a}) {
		t.Errorf("read back: %+v", got)
	}
}

// What cannot be a trace is refused, with the file that is to blame.
func TestReadRefuses(t *testing.T) {
	edit := func(file, old, new string) func(string) error {
		return func(cell string) error {
			path := filepath.Join(cell, file)
			data, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(data), old) {
				return fmt.Errorf("%s has no %q: %w", path, old, err)
			}
			return os.WriteFile(path, []byte(strings.Replace(string(data), old, new, 1)), 0o644)
		}
	}
	for name, c := range map[string]struct {
		spoil func(cell string) error
		want  string
	}{
		"no metadata":     {func(c string) error { return os.Remove(filepath.Join(c, metaFile)) }, "trace.json: no such file"},
		"another schema":  {edit(metaFile, `"schema": 1`, `"schema": 2`), "trace.json: it has schema 2"},
		"torn":            {func(c string) error { return os.Truncate(filepath.Join(c, metaFile), 40) }, "trace.json: unexpected EOF"},
		"another cell":    {edit(metaFile, `"cell": "c0ffee"`, `"cell": "decaf"`), `of cell "decaf"`},
		"outside":         {edit(metaFile, `"cell": "c0ffee"`, `"cell": "../x"`), `cannot name a directory`},
		"other columns":   {edit(treeFile, "part,parent", "part,father"), `column 2 is "father"`},
		"no number":       {edit(treeFile, "tcp_sendmsg,300", "tcp_sendmsg,many"), "tree.csv: line 6:"},
		"neither part":    {edit(treeFile, "around,-1", "before,-1"), `part "before"`},
		"a child first":   {edit(treeFile, "measured,4,ip_rcv", "measured,9,ip_rcv"), "must come before it"},
		"lost":            {edit(treeFile, "tcp_sendmsg,300", "tcp_sendmsg,299"), "have 1268 instructions of whole units, the window has 1269"},
		"lost around":     {edit(treeFile, "netperf:main,949", "netperf:main,948"), "have 2268 instructions, the window has 2269"},
		"a jump in depth": {edit(callsFile, "2,__x64_sys_sendto", "5,__x64_sys_sendto"), "depth 5 after depth 1"},
		"calls and total": {edit(callsFile, "3,tcp_sendmsg,150", "3,tcp_sendmsg,151"), "a call of tcp_sendmsg has"},
		"path and calls":  {edit(metaFile, `"instructions": 611`, `"instructions": 612`), "the path has 612"},
		"a pipe": {func(c string) error {
			path := filepath.Join(c, callsFile)
			return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
		}, "not a regular file"},
		"too large": {func(c string) error { return os.Truncate(filepath.Join(c, treeFile), fileMost+1) }, "more than 268435456"},
	} {
		dir, x := t.TempDir(), smallTrace()
		must(t, Write(dir, &x))
		must(t, c.spoil(filepath.Join(dir, Dir, x.Cell)))
		if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

// A trace whose sums do not agree is not written, and nothing is left of the attempt.
func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, cell := range []string{"", "../x", "a/b", ".x", diffDir} {
		x := smallTrace()
		x.Cell = cell
		if err := Write(dir, &x); err == nil {
			t.Errorf("cell %q was written", cell)
		}
	}
	x := smallTrace()
	x.Window.Measured++
	if err := Write(dir, &x); err == nil {
		t.Error("a trace that lacks an instruction was written")
	}
	a, b := smallTrace(), other()
	b.Unit = UnitMiB
	if err := WriteDiff(dir, &a, &b); err == nil {
		t.Error("transactions were compared with MiB")
	}
	if left := tree(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestExact(t *testing.T) {
	w := smallTrace().Window
	if !w.Exact() || !strings.Contains(w.String(), "to the instruction.") {
		t.Errorf("not exact: %s", w)
	}
	w.ClocksOff = 2
	if w.Exact() || !strings.Contains(w.String(), "2 of 12 readings") {
		t.Errorf("readings are off: %s", w)
	}
	w.ClockNS -= 16
	if w.Exact() || w.Off() != -16 || !strings.Contains(w.String(), "leaves −16 ns") {
		t.Errorf("the clock is off by 16 ns: %s", w)
	}
}

// wellFormed requires XML that refers to nothing outside itself.
func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
	}
	for _, m := range regexp.MustCompile(`(href|src|url\(|@import|https?:)[^"' ]*`).FindAll(svg, -1) {
		if s := string(m); s != "http:" && !strings.HasPrefix(s, "http://www.w3.org/") {
			t.Errorf("the picture refers to %s", s)
		}
	}
}

// TestFlame: names are escaped, and the whole width is accounted for.
func TestFlame(t *testing.T) {
	a, b := smallTrace(), other()
	var flame, diff bytes.Buffer
	must(t, WriteFlame(&flame, &a))
	must(t, WriteDiffFlame(&diff, &a, &b))
	wellFormed(t, flame.Bytes())
	wellFormed(t, diff.Bytes())
	for _, want := range []string{`aria-label="a|b &lt;i&gt; at N = 10, TCP_RR, localhost"`, "operator:&lt;&#34;&amp;&#39;&gt;", "iptables rules 39.4 %"} {
		if !strings.Contains(flame.String(), want) {
			t.Errorf("flame.svg lacks %q", want)
		}
	}
	gone := regexp.MustCompile(`<g class="f gone"><title>nf_confirm\n0.0 instructions a transaction against 20.0`)
	if !gone.MatchString(diff.String()) || strings.Count(diff.String(), "new</title>") != 1 {
		t.Error("the function that vanished is not outlined, or that which is new is not marked")
	}
	if g, n := strings.Index(diff.String(), "<title>nf_confirm"), strings.Index(diff.String(), "<title>ipt_do_table"); g < n {
		t.Error("what vanished is not after what is there")
	}
}

// A trace of many stacks, and of deep ones, is a picture of less than 1 MB that says what it left
// out.
func TestLargeFlame(t *testing.T) {
	x := smallTrace()
	x.Measured.Nodes = []Node{{Parent: -1}, {Parent: 0, Name: "client"}}
	for i := range 60_000 {
		x.Measured.Nodes = append(x.Measured.Nodes, Node{Parent: 1 + i/3, Name: "function_with_a_long_name_" + strconv.Itoa(i%977), Self: uint64(1 + i%13), Calls: 1})
	}
	last := 1
	for range 900 {
		x.Measured.Nodes = append(x.Measured.Nodes, Node{Parent: last, Name: "recursive", Self: 400, Calls: 1})
		last = len(x.Measured.Nodes) - 1
	}
	x.Window.Measured = x.Measured.Instructions()
	var out bytes.Buffer
	must(t, WriteFlame(&out, &x))
	wellFormed(t, out.Bytes())
	if n := strings.Count(out.String(), `<g class="f"`); n < 300 || n > framesMost || out.Len() > 1_000_000 {
		t.Errorf("%d frames in %d bytes", n, out.Len())
	}
	if !strings.Contains(out.String(), "too narrow to draw") {
		t.Error("what is left out is not said")
	}
}

// Nothing traced is a picture and a path, too.
func TestEmpty(t *testing.T) {
	x := Trace{Cell: "none", Unit: UnitMiB}
	must(t, Write(t.TempDir(), &x))
}

// The lines of a path add up, and two screens hold it, however long it is.
func TestOutline(t *testing.T) {
	long := smallTrace()
	for i := range 300 {
		long.Path.Calls[0].Calls = append(long.Path.Calls[0].Calls, &Call{Name: "__x64_sys_a" + strconv.Itoa(i), Self: 100, Total: 100})
		long.Path.Calls[0].Total += 100
		long.Path.Instructions += 100
	}
	for _, x := range []Trace{smallTrace(), long} {
		lines, total := 0, uint64(0)
		for _, o := range x.Path.brief() {
			lines += o.lines()
			total += o.total
			adds(t, o)
		}
		if total != x.Path.Instructions || lines > outlineLines || lines < 2 {
			t.Errorf("%d lines of %d instructions, want %d", lines, total, x.Path.Instructions)
		}
	}
}

func adds(t *testing.T, o *outline) {
	t.Helper()
	sum := o.self + o.smallCost
	for _, k := range o.inner {
		sum += k.total
		adds(t, k)
	}
	if sum != o.total {
		t.Errorf("%s: the parts are %d, the whole is %d", o.name, sum, o.total)
	}
}

// What comes several times in a row is written once, also within what does.
func TestFoldedWay(t *testing.T) {
	for way, want := range map[string]string{
		"":                        "",
		"a b c":                   "a b c",
		"a b a b c":               "(a → b) ×2 c",
		"x a b a b a b":           "x (a → b) ×3",
		"a b b b a b b b c":       "(a → b → b → b) ×2 c", // a stage is never next to itself
		"s a b a b r s a b a b r": "(s → (a → b) ×2 → r) ×2",
		"a b c a b":               "a b c a b",
	} {
		if got := strings.Join(folded(strings.Fields(way)), " "); got != want {
			t.Errorf("%q is %q, want %q", way, got, want)
		}
	}
}
