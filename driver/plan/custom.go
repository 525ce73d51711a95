package plan

import (
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
	// Script: the file is one that a kernel starts, by its first line.
	Script bool
	// Image: the value names a container image (Catalog.Image), and must be there.
	Image bool
	// Default is what a word is when it is not written.
	Default string
	Doc     string
}

// File is a file that an arm names, as it was when the experiment was loaded.
type File struct {
	Path string `json:"path"` // as written
	Data []byte `json:"data"`
}

var freeWord = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)

// freeKeys reads the free keys of an arm's datapath: words into its options,
// files into its files. The option of a file is its path and the beginning of
// its digest, so that cells of another content are other cells.
func (l *loader) freeKeys(t *table, d DatapathEntry, a *Arm) {
	for _, k := range d.Keys {
		text := t.text(k.Key, k.Default)
		switch {
		case k.Image:
			l.image(t, k, text, a)
		case text == "":
			a.Options[k.Key] = ""
		case k.File:
			l.file(t, k, text, a)
		case !freeWord.MatchString(text):
			t.problem(k.Key, "is %q, want 1 to 63 of letters, digits, _, . and -", text)
		default:
			a.Options[k.Key] = text
		}
	}
}

// image reads the container image that a key names. Its option is what tells it from others, and
// where it is found goes to the arm's images.
func (l *loader) image(t *table, k FreeKey, text string, a *Arm) {
	if text == "" {
		t.problem(k.Key, "is missing; write %s", k.Doc)
		return
	}
	image := Image{Level: text, Source: text}
	if l.cat.Image != nil {
		var err error
		if image, err = l.cat.Image(filepath.Dir(l.doc.file), text); err != nil {
			t.problem(k.Key, "%v", err)
			return
		}
	}
	a.Options[k.Key] = image.Level
	if a.Images == nil {
		a.Images = map[string]string{}
	}
	a.Images[k.Key] = image.Source
}
