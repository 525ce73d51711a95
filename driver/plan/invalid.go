package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInvalid is wrapped by every error that means the experiment file is
// wrong, as opposed to the world around it.
var ErrInvalid = errors.New("invalid experiment")

// Problem is one thing wrong with an experiment file.
type Problem struct {
	File string
	Line int    // 1-based; 0 when the file as a whole is meant
	Key  string // "measure.duration"; "" when no key is meant
	What string // what is wrong and what would be right
}

func (p Problem) String() string {
	at := p.File
	if p.Line > 0 {
		at += fmt.Sprintf(":%d", p.Line)
	}
	if p.Key != "" {
		at += ": " + p.Key
	}
	return at + ": " + p.What
}

// InvalidError is everything wrong with one experiment file, in the order of
// its lines. It wraps ErrInvalid.
type InvalidError struct{ Problems []Problem }

// Error has one line for each problem.
func (e *InvalidError) Error() string {
	lines := make([]string, 0, len(e.Problems))
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func (e *InvalidError) Unwrap() error { return ErrInvalid }

// invalid is the error for problems, nil if there are none.
func invalid(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return &InvalidError{Problems: problems}
}

// quoted lists words for a person: `"a", "b" or "c"`.
func quoted(words []string) string {
	out := make([]string, 0, len(words))
	for _, w := range words {
		out = append(out, fmt.Sprintf("%q", w))
	}
	if len(out) < 2 {
		return strings.Join(out, "")
	}
	return strings.Join(out[:len(out)-1], ", ") + " or " + out[len(out)-1]
}

// DidYouMean is ` (did you mean "x"?)` for the nearest of the known words, "" if none is near, for a
// message that ends with it.
func DidYouMean(word string, known []string) string { return didYouMean(word, known) }

// didYouMean is ` (did you mean "x"?)` for the nearest of the known words, ""
// if none is near.
func didYouMean(word string, known []string) string {
	best, least := "", len(word)/3+2 // a longer word may have more slips in it
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is the Levenshtein distance in bytes: insertions, deletions and
// substitutions that turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
