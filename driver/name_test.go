package main

import (
	"bytes"
	"strings"
	"testing"
)

// The installed command has its own name in help and messages, and prose keeps its words.
func TestTheInstalledCommandUsesItsName(t *testing.T) {
	for path, want := range map[string]string{"/usr/bin/hookbed": "hookbed", "bin/driver": "driver", "driver.test": "driver", "hookbed-old": "driver"} {
		if got := nameOf(path); got != want {
			t.Errorf("%s is called %s", path, got)
		}
	}
	var out, talk bytes.Buffer
	a := &app{out: &out, talk: &talk, name: installedName}
	root := a.command()
	a.rename(root)
	for text, want := range map[string]string{
		"go on with `driver run --resume x`":    "go on with `hookbed run --resume x`",
		"driver down NAME":                      "hookbed down NAME",
		"a run that a killed driver left":       "a run that a killed driver left",
		"the driver cleans up":                  "the driver cleans up",
		"lab r1 in hookbed/driver/lab, driver ": "lab r1 in hookbed/driver/lab, driver ",
		"as with \"driver merge\" and":          "as with \"hookbed merge\" and",
	} {
		if got := a.as(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	root.SetOut(&out)
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"images", "build", "--help"}} {
		root.SetArgs(args)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
	}
	if text := out.String(); !strings.Contains(text, "  hookbed run experiments/smoke.toml\n") || strings.Contains(text, "  driver ") {
		t.Errorf("the help is\n%s", text)
	}
	a.fail(errUsage, "usage: see `driver run --help`")
	if got := talk.String(); got != "hookbed: usage: see `hookbed run --help`\n" {
		t.Errorf("said %q", got)
	}
	if got := (&app{}).as("`driver run`"); got != "`driver run`" {
		t.Errorf("unnamed: %q", got)
	}
}
