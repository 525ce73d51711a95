package record

import (
	"errors"
	"os"
	"strings"
	"testing"
	"unicode/utf16"
)

// A rows.csv that a spreadsheet saved is refused by name, and never read, torn or
// not: cell IDs such as 1215e7 are numbers to them.
func TestFilesSavedBySpreadsheets(t *testing.T) {
	good := string(file(t))
	semicolons, err := os.ReadFile("testdata/saved-with-semicolons.csv")
	if err != nil {
		t.Fatal(err)
	}
	quoted := `"` + strings.ReplaceAll(strings.ReplaceAll(good, ",", `","`), "\n", "\"\n\"")
	wide := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(strings.ReplaceAll(good, ",", "\t"))) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	for name, c := range map[string]struct {
		data  string
		signs []string
	}{
		"semicolons":      {string(semicolons), []string{"separated by semicolons"}},
		"tabs":            {strings.ReplaceAll(good, ",", "\t"), []string{"separated by tabs"}},
		"byte order mark": {"\xef\xbb\xbf" + good, []string{"byte order mark"}},
		"CR LF":           {strings.ReplaceAll(good, "\n", "\r\n"), []string{"CR LF"}},
		"quoted":          {quoted, []string{"in quotes"}},
		"UTF-16":          {string(wide), []string{"UTF-16"}},
		"all at once":     {"\xef\xbb\xbf" + strings.ReplaceAll(strings.ReplaceAll(quoted, "\n", "\r\n"), ",", ";"), []string{"byte order mark", "semicolons", "in quotes", "CR LF"}},
		"no last newline": {strings.TrimSuffix(string(semicolons), "\n"), []string{"separated by semicolons"}},
		"header alone":    {strings.ReplaceAll("schema,run,cell", ",", ";"), []string{"separated by semicolons"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(strings.NewReader(c.data))
			_, _, recovering := readWhole([]byte(c.data))
			for _, err := range []error{err, recovering} {
				var saved *SavedError
				if !errors.As(err, &saved) || len(saved.Signs) != len(c.signs) {
					t.Fatalf("error %v, want *SavedError with %d signs", err, len(c.signs))
				}
				for _, sign := range c.signs {
					if !strings.Contains(err.Error(), sign) {
						t.Errorf("error %v does not say %q", err, sign)
					}
				}
			}
		})
	}
}

// A file that a crash cut short is not mistaken for that of a spreadsheet.
func TestTornFilesAreNotASpreadsheets(t *testing.T) {
	good := file(t)
	for n := range good {
		var saved *SavedError
		if _, _, err := readWhole(good[:n]); errors.As(err, &saved) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}
