package host

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"hookbed/driver/tail"
)

func TestShellQuote(t *testing.T) {
	for _, c := range []struct {
		argv []string
		want string
	}{
		{nil, ""},
		{[]string{"ls"}, "'ls'"},
		{[]string{"a b", ""}, "'a b' ''"},
		{[]string{"it's", "$x"}, `'it'\''s' '$x'`},
		{[]string{"'"}, `''\'''`},
	} {
		if got := shellQuote(c.argv); got != c.want {
			t.Errorf("%q is quoted as %s, want %s", c.argv, got, c.want)
		}
	}
}

// Shells return every byte sequence without NUL unchanged.
func TestShellQuoteByRealShells(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const special = "'\"\\$`\n *?[]{}()<>|&;!#~=%\t-\x01\x7f\x81\x88\xff"
	var argv []string
	for range 500 {
		arg := make([]byte, rng.IntN(12))
		for i := range arg {
			if arg[i] = special[rng.IntN(len(special))]; rng.IntN(3) == 0 {
				arg[i] = byte(1 + rng.IntN(255))
			}
		}
		argv = append(argv, string(arg))
	}
	for _, shell := range []string{"dash", "bash"} {
		out, err := exec.Command(shell, "-c", "exec "+shellQuote(append([]string{"printf", `%s\0`}, argv...))).Output()
		if err != nil {
			t.Fatal(err)
		}
		for i, got := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
			if i >= len(argv) || got != argv[i] {
				t.Fatalf("%s: argument %d came back as %q, want %q", shell, i, got, argv[min(i, len(argv)-1)])
			}
		}
	}
}

func TestTail(t *testing.T) {
	kept := tail.NewBuffer(tailSize)
	for _, part := range []string{"begin", strings.Repeat("x", 3000), "middle", "", "end"} {
		if n, err := kept.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("write of %d B gave %d, %v", len(part), n, err)
		}
	}
	want := strings.Repeat("x", tailSize-len("middleend")) + "middleend"
	if got := kept.String(); got != want {
		t.Errorf("kept %d B ending in %q", len(got), got[len(got)-20:])
	}
}

func TestPIDFilter(t *testing.T) {
	for _, c := range []struct {
		name, in, out string
		pid           int
	}{
		{"first line", "hookbed-pid 42\nrest\n", "rest\n", 42},
		{"after start-up files", "motd\nhookbed-pid 42\nrest", "motd\nrest", 42},
		{"not at a line's start", "my hookbed-pid 1\nhookbed-pid 7\nx", "my hookbed-pid 1\nx", 7},
		{"not a number", "hookbed-pid x\nhookbed-pid 7\ny", "hookbed-pid x\ny", 7},
		{"only the first", "hookbed-pid 1\nhookbed-pid 2\n", "hookbed-pid 2\n", 1},
		{"none", "sh: exec failed", "sh: exec failed", 0},
		{"no line end", "hookbed-pid 4", "hookbed-pid 4", 0},
		{"much before", strings.Repeat("y", 3*pidLimit), strings.Repeat("y", 3*pidLimit), 0},
	} {
		for _, chunk := range []int{1, 7, len(c.in)} {
			var out bytes.Buffer
			f := newPIDFilter(&out)
			for rest := []byte(c.in); len(rest) > 0; {
				n, err := f.Write(rest[:min(chunk, len(rest))])
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := f.flush(); err != nil {
				t.Fatal(err)
			}
			pid := 0
			select {
			case pid = <-f.found:
			default:
			}
			if pid != c.pid || out.String() != c.out {
				t.Errorf("%s in chunks of %d: found %d and passed %.40q, want %d and %.40q", c.name, chunk, pid, out.String(), c.pid, c.out)
			}
		}
	}
}
