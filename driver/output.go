package main

import (
	"encoding/json"
	"fmt"
	"io"

	"hookbed/driver/tail"
)

// emit prints one result: a JSON line {"type": kind, kind: v} with --json, otherwise what human
// writes. Results go to standard output, messages to standard error.
func (a *app) emit(kind string, v any, human func(w io.Writer)) {
	if !a.json {
		human(a.out)
		return
	}
	a.line(map[string]any{"type": kind, kind: v})
}

func (a *app) line(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		data, _ = json.Marshal(map[string]any{"type": "error", "error": "encode output: " + err.Error()})
	}
	fmt.Fprintf(a.out, "%s\n", data)
}

// say writes a message for the user to standard error. What machines said, which is part of some,
// cannot change what a terminal shows.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.talk, tail.Visible(a.as(fmt.Sprintf(format, args...))))
}

func (a *app) fail(err error, text string) {
	text = a.as(text)
	if a.json {
		a.line(map[string]any{"type": "error", "error": text, "exit": exitCode(err)})
	}
	a.say("%s: %s", a.called(), text)
}
