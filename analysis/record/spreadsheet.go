package record

import (
	"bytes"
	"strings"
)

// SavedError is a rows.csv that a spreadsheet or an editor saved: its numbers and
// cell IDs may have changed, too, so it is not read. Signs say how it was recognized.
type SavedError struct{ Signs []string }

func (e *SavedError) Error() string {
	return "saved by a spreadsheet or an editor (" + strings.Join(e.Signs, ", ") +
		"), which may have changed numbers and cell IDs, too; put back the file that the run wrote, and open a copy or what `driver report --format csv` writes"
}

// saved recognizes, by its first line, a file that another program than hookbed
// wrote; nil if there is no sign of it.
func saved(data []byte) error {
	var signs []string
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return &SavedError{Signs: []string{"it is in UTF-16"}}
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		signs, data = append(signs, "it begins with a byte order mark"), data[3:]
	}
	line, _, _ := strings.Cut(string(data), "\n")
	first := fixedColumns()[0]
	name, rest, quoted := line, "", false
	if strings.HasPrefix(line, `"`) {
		name, rest, quoted = strings.Cut(line[1:], `"`)
	} else if i := strings.IndexAny(line, ",;\t"); i >= 0 {
		name, rest = line[:i], line[i:]
	}
	if name == first {
		switch {
		case strings.HasPrefix(rest, ";"):
			signs = append(signs, "it is separated by semicolons")
		case strings.HasPrefix(rest, "\t"):
			signs = append(signs, "it is separated by tabs")
		}
		if quoted {
			signs = append(signs, "its fields are in quotes")
		}
	}
	if strings.HasSuffix(line, "\r") {
		signs = append(signs, "its lines end in CR LF")
	}
	if len(signs) == 0 {
		return nil
	}
	return &SavedError{Signs: signs}
}
