package tail

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestBuffer(t *testing.T) {
	for _, parts := range [][]string{{"abcdefgh"}, {"ab", "cdefgh"}, {"abcd", "ef", "", "gh"}} {
		b := NewBuffer(4)
		for _, p := range parts {
			if n, err := b.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("wrote %d of %q, %v", n, p, err)
			}
		}
		if b.String() != "efgh" || string(b.Bytes()) != "efgh" {
			t.Errorf("%q leaves %q, want the last 4 bytes", parts, b)
		}
	}
	b := NewBuffer(4)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { fmt.Fprint(b, "xx") })
	}
	all.Wait()
	if b.String() != "xxxx" {
		t.Errorf("writers at once leave %q", b)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, text := range []string{"", "abc", "abcd", strings.Repeat("x", 100) + "abcd"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := File(path, 4); err != nil || got != text[max(0, len(text)-4):] {
			t.Errorf("the end of %q is %q, %v", text, got, err)
		}
	}
	if _, err := File(path+"none", 4); err == nil {
		t.Error("no error for a file that is not there")
	}
}

func TestVisible(t *testing.T) {
	for text, want := range map[string]string{"a\x1b[31m\a\tb\n": "a [31m \tb\n", "caf\u00e9": "caf\u00e9", "a\u009bb\r\n": "a b \n"} {
		if got := Visible(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
