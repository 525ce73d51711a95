package mark

import (
	"bytes"
	"os"
	"testing"
)

// TestMarksDoNothing: without an observer a mark is an instruction without effect.
func TestMarksDoNothing(t *testing.T) {
	text := []byte("ffffffff81000000 T start\n")
	Symbols(nil)
	Symbols(text)
	Begin(1, 0)
	End(1, 0)
	Close()
	if string(text) != "ffffffff81000000 T start\n" {
		t.Errorf("the text is %q", text)
	}
}

// TestTheMarkIsInTheProgram: it is found there by its bytes, and once only.
func TestTheMarkIsInTheProgram(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	code := append([]byte{0x0f, 0x1f, 0x80}, "hook"...)
	if n := bytes.Count(self, code); n != 1 {
		t.Errorf("the mark is %d times in this program, want once", n)
	}
}
