// Package tail keeps the end of long outputs, which is what an error message quotes.
package tail

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
)

// Buffer keeps the last bytes written to it. Safe for concurrent use.
type Buffer struct {
	limit int
	mu    sync.Mutex
	data  []byte
}

// NewBuffer keeps at most limit bytes.
func NewBuffer(limit int) *Buffer { return &Buffer{limit: limit} }

// Write never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(p)
	if len(p) > b.limit {
		p = p[len(p)-b.limit:]
	}
	b.data = append(b.data, p...)
	if over := len(b.data) - b.limit; over > 0 {
		b.data = append(b.data[:0], b.data[over:]...)
	}
	return n, nil
}

// Bytes returns a copy of what is kept.
func (b *Buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.data)
}

// String returns what is kept.
func (b *Buffer) String() string { return string(b.Bytes()) }

// File reads at most the last limit bytes of a regular file.
func File(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-limit), limit))
	return string(data), err
}

// Visible is a text with a space for each control character but line breaks and tabs: what a program
// said cannot change what a terminal shows.
func Visible(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return ' '
		}
		return r
	}, text)
}
