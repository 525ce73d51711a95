package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// FreeKey is a key of an arm whose value is not one of a few levels: a word, or
// the path of a file.
type FreeKey struct {
	Key string
	// File: the value is a path, relative to the experiment's file, and what is in
	// it becomes a part of the plan.
	File bool
	// Default is what a word is when it is not written.
	Default string
	Doc     string
}

// File is a file that an arm names, as it was when the experiment was loaded.
type File struct {
	Path string `json:"path"` // as written
	Data []byte `json:"data"`
}

// maxFile bounds what an arm's file may have, in bytes.
const maxFile = 1 << 20

var freeWord = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)

// freeKeys reads the free keys of an arm's datapath: words into its options,
// files into its files. The option of a file is its path and the beginning of
// its digest, so that cells of another content are other cells.
func (l *loader) freeKeys(t *table, d DatapathEntry, a *Arm) {
	for _, k := range d.Keys {
		text := t.text(k.Key, k.Default)
		switch {
		case text == "":
			a.Options[k.Key] = ""
		case k.File:
			l.file(t, k.Key, text, a)
		case !freeWord.MatchString(text):
			t.problem(k.Key, "is %q, want 1 to 63 of letters, digits, _, . and -", text)
		default:
			a.Options[k.Key] = text
		}
	}
}

// file reads the file that a key names.
func (l *loader) file(t *table, key, path string, a *Arm) {
	if !filepath.IsLocal(path) {
		t.problem(key, "is %q, want a path below the experiment's directory", path)
		return
	}
	data, err := readFile(filepath.Join(filepath.Dir(l.doc.file), path))
	if err != nil {
		t.problem(key, "names %q, which cannot be read: %v", path, err)
		return
	}
	if a.Files == nil {
		a.Files = map[string]File{}
	}
	sum := sha256.Sum256(data)
	a.Files[key] = File{Path: path, Data: data}
	a.Options[key] = path + "@" + hex.EncodeToString(sum[:])[:12]
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("there is none")
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case st.Size() == 0 || st.Size() > maxFile:
		return nil, fmt.Errorf("it has %d bytes, want 1 to %d", st.Size(), maxFile)
	}
	return os.ReadFile(path)
}
