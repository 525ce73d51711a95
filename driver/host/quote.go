package host

import (
	"errors"
	"fmt"
	"strings"
)

// maxCommandLine is the longest command line for a login shell, in bytes: it
// arrives as one argument of `sh -c`, and Linux limits one argument to 32
// pages (MAX_ARG_STRLEN in include/uapi/linux/binfmts.h), with the final NUL.
const maxCommandLine = 32*4096 - 1

// checkArgv refuses argument vectors that cannot reach a program unchanged.
func checkArgv(argv []string) error {
	if len(argv) == 0 || argv[0] == "" {
		return errors.New("run a command: its name is empty")
	}
	// A POSIX shell's exec has no portable way to end its options.
	if strings.HasPrefix(argv[0], "-") {
		return fmt.Errorf("run %q: a command's name may not begin with a dash", argv[0])
	}
	for i, arg := range argv {
		if strings.IndexByte(arg, 0) >= 0 {
			return fmt.Errorf("run %q: argument %d holds a NUL byte", argv[0], i)
		}
	}
	return nil
}

// shellQuote writes an argument vector as words of a POSIX shell. Every byte
// but NUL survives: inside single quotes only the single quote is special.
func shellQuote(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
