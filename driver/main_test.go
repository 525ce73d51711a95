package main

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// everyCommand calls visit with a command and all below it.
func everyCommand(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		everyCommand(c, visit)
	}
}

// TestFlagsSayTheirType: cobra takes what is between backquotes in a flag's help as the name
// of its type.
func TestFlagsSayTheirType(t *testing.T) {
	word := regexp.MustCompile(`^[A-Za-z0-9/]*$`)
	everyCommand((&app{out: io.Discard, talk: io.Discard}).command(), func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if kind, usage := pflag.UnquoteUsage(f); !word.MatchString(kind) || usage == "" {
				t.Errorf("%s --%s has the type %q", cmd.CommandPath(), f.Name, kind)
			}
		})
	})
}

// TestHelp: every command says in a line what it does, and has examples that parse.
func TestHelp(t *testing.T) {
	root := (&app{out: io.Discard, talk: io.Discard}).command()
	everyCommand(root, func(cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return // cobra's own
		}
		if first := cmd.Short[:1]; first != strings.ToUpper(first) || strings.HasSuffix(cmd.Short, ".") || len(cmd.Short) > 90 {
			t.Errorf("%s: its line is %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			checkExample(t, cmd, strings.TrimSpace(line))
		}
	})
}

// checkExample checks the part of an example before a pipe or a redirection.
func checkExample(t *testing.T, of *cobra.Command, line string) {
	t.Helper()
	own, _, _ := strings.Cut(line, " | ")
	own, _, _ = strings.Cut(own, " > ")
	own, _, _ = strings.Cut(own, " < ")
	args := strings.Fields(own)
	if len(args) < 2 || args[0] != "driver" {
		t.Errorf("%s: the example %q does not start the driver", of.CommandPath(), line)
		return
	}
	root := (&app{out: io.Discard, talk: io.Discard}).command()
	cmd, rest, err := root.Find(args[1:])
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil && cmd.Args != nil {
		err = cmd.Args(cmd, cmd.Flags().Args())
	}
	if err != nil {
		t.Errorf("%s: the example %q: %v", of.CommandPath(), line, err)
	}
}

// TestUnknownCommands: of every group of commands, one that it does not have is a
// usage error, with what is near it.
func TestUnknownCommands(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"rnu", "unknown command \"rnu\" for `driver`, did you mean run?"},
		{"nothing-like-it", "unknown command \"nothing-like-it\" for `driver`; see `driver --help`"},
		{"images bild", "unknown command \"bild\" for `driver images`, did you mean build?"},
		{"help rnu", "did you mean run?"},
		{"help images bild", "did you mean build?"},
		{"--no-such-flag", "unknown flag: --no-such-flag"},
		{"images --no-such-flag", "unknown flag: --no-such-flag"},
		{"run --shrad 1/2", "unknown flag: --shrad"},
	} {
		var talk strings.Builder
		err := run(t.Context(), strings.Fields(tt.args), io.Discard, &talk)
		if exitCode(err) != exitUsage || !strings.Contains(talk.String(), tt.want) {
			t.Errorf("driver %s: exit code %d, want %d and %q: %s", tt.args, exitCode(err), exitUsage, tt.want, talk.String())
		}
	}
	for _, args := range []string{"", "images", "help", "help run", "help images", "help images build", "--help", "--version"} {
		var out strings.Builder
		if err := run(t.Context(), strings.Fields(args), &out, io.Discard); err != nil || out.Len() == 0 {
			t.Errorf("driver %s: %v, %q", args, err, out.String())
		}
	}
}
