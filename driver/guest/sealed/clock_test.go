package sealed

import (
	"os"
	"path/filepath"
	"testing"
)

// TestTurnsEndAtTheTick: what ends a turn earlier is turned off by the word that the kernel
// takes, and nothing is written where it is off already.
func TestTurnsEndAtTheTick(t *testing.T) {
	for features, want := range map[string]string{
		"PLACE_LAG NO_NEXT_BUDDY HRTICK NO_HRTICK_DL NO_DOUBLE_TICK\n":    "NO_HRTICK",
		"PLACE_LAG NO_NEXT_BUDDY NO_HRTICK HRTICK_DL NO_DOUBLE_TICK\n":    "NO_HRTICK_DL",
		"PLACE_LAG NO_NEXT_BUDDY NO_HRTICK NO_HRTICK_DL NO_DOUBLE_TICK\n": "PLACE_LAG NO_NEXT_BUDDY NO_HRTICK NO_HRTICK_DL NO_DOUBLE_TICK\n",
	} {
		file := filepath.Join(t.TempDir(), "features")
		if err := os.WriteFile(file, []byte(features), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := noHighResolutionTick(file); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("features %q: the file then has %q, %v, want %q", features, got, err, want)
		}
	}
	if err := noHighResolutionTick(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("a kernel without the file: %v", err)
	}
}

func TestCopiesAreByWords(t *testing.T) {
	const head = "processor\t: 0\nmodel name\t: QEMU Virtual CPU\nflags\t\t: "
	for flags, want := range map[string]string{
		"fpu sse2 nx lm rep_good nopl": "",
		"fpu sse2 nx lm nopl":          "the processor has no rep_good: the kernel would copy without string instructions",
		"fpu rep_good nopl erms":       "the processor has erms: the kernel would copy byte by byte",
		"fpu rep_good nopl fsrm":       "the processor has fsrm: the kernel would copy byte by byte",
	} {
		got := ""
		if err := checkCopies(head + flags + "\nbugs\t\t: erms\n"); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("flags %q: %q, want %q", flags, got, want)
		}
	}
}
