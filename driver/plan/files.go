package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Finding is what is wrong with what an arm says and the files that it names.
type Finding struct {
	Key  string // of the arm, to be blamed; "" is File
	File string // key of the file that What is about
	What string // what is wrong and what would be right
}

// maxFile bounds what an arm's file may have, in bytes.
const maxFile = 1 << 20

// file reads the file that a key names.
func (l *loader) file(t *table, k FreeKey, path string, a *Arm) {
	if !filepath.IsLocal(path) {
		t.problem(k.Key, "is %q, want a path below the experiment's directory", path)
		return
	}
	dir := filepath.Dir(l.doc.file)
	data, err := readFile(dir, path)
	if err != nil {
		t.problem(k.Key, "names %q, which cannot be read: %v", path, err)
		return
	}
	if k.Script {
		if line, what := scriptFault(data); what != "" {
			t.problem(k.Key, "%s:%d: %s", filepath.Join(dir, path), line, what)
		}
	}
	if a.Files == nil {
		a.Files = map[string]File{}
	}
	a.Files[k.Key] = File{Path: path, Data: data}
	a.Options[k.Key] = fileLevel(path, data)
}

// fileLevel is the level of a factor whose value is a file.
func fileLevel(path string, data []byte) string {
	sum := sha256.Sum256(data)
	return path + "@" + hex.EncodeToString(sum[:])[:12]
}

// readFile reads a regular file below a directory. No symbolic link leads it
// elsewhere: what it reads becomes a part of the plan, and of every pack.
func readFile(dir, path string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// Before it is opened: opening a FIFO would wait for a writer.
	st, err := root.Stat(path)
	if err == nil {
		err = readable(st)
	}
	if err != nil {
		return nil, whyUnreadable(dir, path, err)
	}
	f, err := root.Open(path)
	if err != nil {
		return nil, whyUnreadable(dir, path, err)
	}
	defer f.Close()
	if st, err = f.Stat(); err == nil { // of what was really opened
		err = readable(st)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil {
		err = sized(int64(len(data)))
	}
	return data, err
}

func readable(st fs.FileInfo) error {
	if st.IsDir() {
		return errors.New("it is not a regular file, but a directory")
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("it is not a regular file (%s)", st.Mode().Type())
	}
	return sized(st.Size())
}

func sized(bytes int64) error {
	if bytes == 0 || bytes > maxFile {
		return fmt.Errorf("it has %d bytes, want 1 to %d", bytes, maxFile)
	}
	return nil
}

// whyUnreadable words why a path below a directory cannot be read.
func whyUnreadable(dir, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is none")
	}
	var failed *fs.PathError
	if !errors.As(err, &failed) {
		return err
	}
	base, err1 := filepath.EvalSymlinks(dir)
	target, err2 := filepath.EvalSymlinks(filepath.Join(dir, path))
	if err1 != nil || err2 != nil || target == filepath.Join(base, path) {
		return failed.Err
	}
	return fmt.Errorf("a symbolic link leads out of the experiment's directory, or is not relative, and only what is below it belongs to the experiment (%w); put a copy of the file there", failed.Err)
}

// Beginnings of files that look like text and are not plain UTF-8.
const (
	markUTF8    = "\xef\xbb\xbf"
	markUTF16LE = "\xff\xfe"
	markUTF16BE = "\xfe\xff"
	markELF     = "\x7fELF" // a program, which a kernel starts without a script's first line
)

// maxShebang is how much of a script's first line a kernel reads (BINPRM_BUF_SIZE
// in include/uapi/linux/binfmts.h).
const maxShebang = 256

// scriptFault says why a kernel or a shell would not run a script as it is meant,
// and in which line; what is "" if nothing is wrong with it.
func scriptFault(data []byte) (line int, what string) {
	text := string(data)
	if strings.HasPrefix(text, markELF) {
		return 0, ""
	}
	first, _, _ := strings.Cut(text, "\n")
	if what := firstLineFault(first); what != "" {
		return 1, what
	}
	if before, _, cr := strings.Cut(text, "\r\n"); cr {
		return strings.Count(before, "\n") + 1, "ends with a carriage return (CRLF), which the interpreter takes for a part of the line; " + unixEnds
	}
	return 0, ""
}

const unixEnds = "save the file with line ends of Unix, as sed -i 's/\\r$//' does"

// firstLineFault says why a kernel would not start a script with this first line.
func firstLineFault(first string) string {
	interpreter, shebang := strings.CutPrefix(first, "#!")
	words := strings.Fields(interpreter)
	switch {
	case strings.HasPrefix(first, markUTF8):
		return "begins with a byte order mark, behind which the kernel does not see a #!; save the file as UTF-8 without it"
	case strings.HasPrefix(first, markUTF16LE), strings.HasPrefix(first, markUTF16BE):
		return "is text in UTF-16, in which the kernel does not see a #!; save the file as UTF-8 without a byte order mark"
	case !shebang:
		return "does not begin with #!, so that the kernel does not know what runs it; write an interpreter, as in #!/bin/sh"
	case strings.Contains(first, "\r"):
		return "has a carriage return (CRLF), which the kernel takes for a part of the interpreter's name; " + unixEnds
	case len(first) >= maxShebang:
		return fmt.Sprintf("is %d bytes long, and the kernel reads %d; write a shorter path of the interpreter", len(first), maxShebang-1)
	case len(words) == 0:
		return "names no interpreter after #!; write one, as in #!/bin/sh"
	case !filepath.IsAbs(words[0]):
		return fmt.Sprintf("names the interpreter %q, and the kernel does not search for it; write its absolute path, as in #!/bin/sh or #!/usr/bin/env %s", words[0], filepath.Base(words[0]))
	}
	return ""
}

// inspect has the datapath look at an arm and its files.
func (l *loader) inspect(t *table, d DatapathEntry, s Spec, a Arm) {
	if d.Inspect == nil {
		return
	}
	for _, f := range d.Inspect(s, a) {
		t.problem(cmp.Or(f.Key, f.File), "%s: %s", filepath.Join(filepath.Dir(l.doc.file), a.Files[f.File].Path), f.What)
	}
}

// tooMany refuses numbers of policies that an arm cannot be given.
func (l *loader) tooMany(t *table, d DatapathEntry, s Spec, a Arm) {
	if d.MostPolicies == nil || d.NoPolicies || s.Own != nil {
		return
	}
	most, why, clients := maxPolicies, "", 1
	for _, c := range clientsOf(s) {
		if n, reason := d.MostPolicies(a.Options, max(c, 1)); n < most {
			most, why, clients = n, reason, max(c, 1)
		}
	}
	for i, n := range s.Policies {
		if n > most {
			path := element("matrix.policies", i)
			l.doc.problem(max(l.doc.lines[path], l.doc.lines["matrix.policies"]), "matrix.policies",
				"%d is more than arm %q in %s can be given at %s: %s; write at most %d, or leave the arm out", n, a.Name, l.doc.line(t.at("name")), clientsText(clients), why, most)
		}
	}
}

func clientsText(n int) string {
	if n == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", n)
}
