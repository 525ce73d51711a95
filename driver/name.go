package main

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Names of the command: as it is built, and as packages install it.
const (
	builtName     = "driver"
	installedName = "hookbed"
)

// nameOf is the name of the command in what it prints, of a program that was called by this path.
func nameOf(path string) string {
	if filepath.Base(path) == installedName {
		return installedName
	}
	return builtName
}

// called is the name of this command.
func (a *app) called() string {
	if a.name == "" {
		return builtName
	}
	return a.name
}

// commandLine is a command line in a text, or the beginning of one, with its first argument.
var commandLine = regexp.MustCompile("(^|[\\s`\"'(])driver (--[a-z]|[a-z][a-z-]*)")

// as puts the command's name into the command lines of a text. A text is about a command line where
// the word after it is one of the command's own.
func (a *app) as(text string) string {
	if a.called() == builtName || !strings.Contains(text, builtName+" ") {
		return text
	}
	return commandLine.ReplaceAllStringFunc(text, func(found string) string {
		before, word, _ := strings.Cut(found, builtName+" ")
		if !strings.HasPrefix(word, "-") && !a.words[word] {
			return found
		}
		return before + a.called() + " " + word
	})
}

// rename gives the command, and every command line in its help, the name by which it was called.
func (a *app) rename(root *cobra.Command) {
	a.words = map[string]bool{}
	for _, c := range root.Commands() {
		a.words[c.Name()] = true
	}
	if a.called() == builtName {
		return
	}
	root.Use = a.called()
	var all func(c *cobra.Command)
	all = func(c *cobra.Command) {
		c.Short, c.Long, c.Example = a.as(c.Short), a.as(c.Long), a.as(c.Example)
		c.LocalFlags().VisitAll(func(f *pflag.Flag) { f.Usage = a.as(f.Usage) })
		for _, sub := range c.Commands() {
			all(sub)
		}
	}
	all(root)
}
