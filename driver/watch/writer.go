package watch

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Writer writes a stream as the plugin does: for tests of what reads one. It writes what it is given,
// also what Decode refuses. It is a Handler, so that Decode with a Writer copies a stream.
type Writer struct {
	w  *bufio.Writer
	sp uint64
}

// NewWriter begins a stream. Close ends it.
func NewWriter(w io.Writer) *Writer {
	s := &Writer{w: bufio.NewWriter(w)}
	s.words(magic, revision)
	return s
}

// Define defines a block. The first one of a stream has the ID 0, the next one 1, and so on.
func (s *Writer) Define(b *Block) {
	w := wordBlock | uint32(b.Kind)<<16 | uint32(len(b.Size)) //nolint:gosec // as long as its field
	if b.Code != nil {
		w |= userBit
	}
	s.words(w)
	s.number(b.PC)
	s.bytes(b.Size)
	s.bytes(b.Code)
}

// Ran writes that a block executed its first n instructions; a block that reads the clock and executed
// all is followed by Clock.
func (s *Writer) Ran(b *Block, n int, stack []StackAccess) {
	s.words(b.ID)
	for _, a := range stack {
		if far := int64(a.Address - s.sp); far >= -1<<29 && far < 1<<29 { //nolint:gosec // two's complement
			s.words(wordStack | uint32(far)&(1<<30-1)) //nolint:gosec // its low bits
		} else {
			s.words(wordAddress)
			s.number(a.Address)
		}
		s.sp = a.Address
	}
	if n < len(b.Size) {
		s.words(wordPartial | uint32(n)) //nolint:gosec // less than maxInstructions
	}
}

// Clock writes what the last block read.
func (s *Writer) Clock(ns uint64) {
	s.words(wordClock)
	s.number(ns)
}

// Mark writes a mark.
func (s *Writer) Mark(id MarkID, a, b int64, ns uint64) {
	s.words(wordMark | uint32(id))
	for _, v := range []uint64{uint64(a), uint64(b), ns} { //nolint:gosec // two's complement
		s.number(v)
	}
	if id == MarkBegin {
		s.sp = 0
	}
}

// Symbols writes the text of /proc/kallsyms.
func (s *Writer) Symbols(kallsyms []byte) {
	s.words(wordSymbols)
	s.number(uint64(len(kallsyms)))
	s.bytes(kallsyms)
}

// Close ends the stream. It returns the first error of the writer below, which it does not close.
func (s *Writer) Close() error {
	s.words(wordEnd)
	return s.w.Flush()
}

// words, number and bytes leave errors to Flush, which repeats the first.
func (s *Writer) words(words ...uint32) {
	for _, w := range words {
		_, _ = s.w.Write(binary.LittleEndian.AppendUint32(nil, w))
	}
}

func (s *Writer) number(n uint64) { _, _ = s.w.Write(binary.LittleEndian.AppendUint64(nil, n)) }

func (s *Writer) bytes(data []byte) {
	_, _ = s.w.Write(data)
	_, _ = s.w.Write(make([]byte, filled(len(data))-len(data)))
}
