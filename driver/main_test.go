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

// TestFlagsSayTheirType: what stands between backquotes in a flag's help is taken
// for the name of its type.
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
