package host

import (
	"bytes"
	"io"
	"strconv"
	"sync"
)

// tailSize is how much of a command's standard error an ExitError keeps, in bytes.
const tailSize = 2 << 10

// tail keeps the last tailSize bytes written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > tailSize {
		p = p[len(p)-tailSize:]
	}
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - tailSize; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// tee writes to the tail and then to w, if there is one.
func (t *tail) tee(w io.Writer) io.Writer {
	if w == nil {
		return t
	}
	return io.MultiWriter(t, w)
}

// pidMarker begins the line in which a remote shell prints its process ID before it
// becomes the command.
const pidMarker = "hookbed-pid "

// pidLimit is the largest output before that line (of a login shell's start-up
// files), in bytes. After more output the line is no longer expected.
const pidLimit = 16 << 10

// pidFilter removes the first line that begins with pidMarker from a stream, sends
// its number to found and passes everything else on.
type pidFilter struct {
	next  io.Writer
	found chan int // capacity 1
	held  []byte   // output so far, without the line
	done  bool
}

func newPIDFilter(next io.Writer) *pidFilter {
	return &pidFilter{next: next, found: make(chan int, 1)}
}

func (f *pidFilter) Write(p []byte) (int, error) {
	if f.done {
		return f.next.Write(p)
	}
	f.held = append(f.held, p...)
	if rest, pid, ok := cutPID(f.held); ok {
		f.held, f.done = rest, true
		f.found <- pid
	}
	if f.done || len(f.held) > pidLimit {
		f.done = true
		return len(p), f.flush()
	}
	return len(p), nil
}

// flush passes on what is held. The caller calls it again at the end of the stream.
func (f *pidFilter) flush() error {
	if len(f.held) == 0 {
		return nil
	}
	held := f.held
	f.held = nil
	_, err := f.next.Write(held)
	return err
}

// cutPID removes the marker's line from b, if b has all of it.
func cutPID(b []byte) (rest []byte, pid int, ok bool) {
	for start := 0; start < len(b); {
		end := bytes.IndexByte(b[start:], '\n')
		if end < 0 {
			break
		}
		end += start
		if number, found := bytes.CutPrefix(b[start:end], []byte(pidMarker)); found {
			if pid, err := strconv.Atoi(string(number)); err == nil {
				return append(bytes.Clone(b[:start]), b[end+1:]...), pid, true
			}
		}
		start = end + 1
	}
	return nil, 0, false
}
