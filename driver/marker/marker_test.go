package marker

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMarkerIsReadAsItWasWritten(t *testing.T) {
	m := New("r12", "anna@host\nmade no")
	m.Made = true
	got, err := Parse(m.Text())
	if err != nil {
		t.Fatal(err)
	}
	if got.Token != m.Token || !got.Made || got.Lab != "r12" || got.Owner != "anna@host made no" {
		t.Errorf("%+v, want %+v", got, m)
	}
	if New("", "").Token == m.Token {
		t.Error("two markers have one token")
	}
}

func TestWhatIsNoMarker(t *testing.T) {
	for _, text := range []string{"", "hookbed", Head, Head + "\ntoken \n", Head + "\ntoken ../../x\n", "token abcdefghijklmnop\n"} {
		if m, err := Parse(text); err == nil {
			t.Errorf("%q is read as %+v", text, m)
		}
	}
}

// TestHas: a directory carries a token by a regular file, not through links.
func TestHas(t *testing.T) {
	base := t.TempDir()
	m := New("r12", "anna")
	marked, other := filepath.Join(base, "marked"), filepath.Join(base, "other")
	for _, dir := range []string{marked, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(marked, File), []byte(m.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(marked, File), filepath.Join(other, File)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(marked, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	if !Has(marked, m.Token) {
		t.Error("a marked directory does not carry its token")
	}
	for _, tt := range []struct{ dir, token string }{{marked, ""}, {marked, New("", "").Token}, {other, m.Token}, {filepath.Join(base, "link"), m.Token}, {filepath.Join(base, "none"), m.Token}} {
		if Has(tt.dir, tt.token) {
			t.Errorf("%s carries %q", tt.dir, tt.token)
		}
	}
}
