// Package marker marks directories that hookbed made or uses on computers that are
// not its own. A directory without a marker, or with the marker of another lab,
// belongs to someone else; this package removes no directory itself.
package marker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// File is the marker's name in the directory that it marks.
const File = ".hookbed"

// Attended is the name of the file in a run's directory by which the agent of an existing machine says
// that it removes the directory: until then the shell that made it does.
const Attended = ".attended"

// Head is the first line of every marker, by which shell scripts recognize one.
const Head = "hookbed directory 1"

// Marker says to whom a directory belongs. Its text has a line for each field.
type Marker struct {
	Token string // random: anyone who has it may remove the directories that carry it
	Made  bool   // hookbed made the directory itself; else the directory existed, and was empty
	Lab   string // name of the lab
	Owner string // of the lab
}

var tokenPattern = regexp.MustCompile(`^[a-z2-7]{16,64}$`)

// New is a marker with a new random token (crypto/rand.Text).
func New(lab, owner string) Marker {
	return Marker{Token: strings.ToLower(rand.Text()), Lab: lab, Owner: owner}
}

// Text is the content of the marker's file.
func (m Marker) Text() string {
	made := "no"
	if m.Made {
		made = "yes"
	}
	line := strings.NewReplacer("\n", " ", "\r", " ")
	return fmt.Sprintf("%s\ntoken %s\nmade %s\nlab %s\nowner %s\n", Head, m.Token, made, line.Replace(m.Lab), line.Replace(m.Owner))
}

// Parse reads the text of a marker. It refuses text without Head or without a token.
func Parse(text string) (Marker, error) {
	head, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if head != Head {
		return Marker{}, fmt.Errorf("a marker begins with %q, not with %.40q", Head, head)
	}
	var m Marker
	for line := range strings.Lines(rest) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "token":
			m.Token = value
		case "made":
			m.Made = value == "yes"
		case "lab":
			m.Lab = value
		case "owner":
			m.Owner = value
		}
	}
	if !tokenPattern.MatchString(m.Token) {
		return Marker{}, errors.New("a marker has a token, and this one has not")
	}
	return m, nil
}

// Of reads the marker of a directory of this computer. It does not follow symbolic
// links.
func Of(dir string) (Marker, error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return Marker{}, err
	}
	file := filepath.Join(dir, File)
	if f, err := os.Lstat(file); err != nil {
		return Marker{}, err
	} else if !info.IsDir() || !f.Mode().IsRegular() {
		return Marker{}, fmt.Errorf("%s is no directory with a marker", dir)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return Marker{}, err
	}
	return Parse(string(text))
}

// Has reports whether a directory of this computer carries a token.
func Has(dir, token string) bool {
	m, err := Of(dir)
	return err == nil && token != "" && m.Token == token
}
