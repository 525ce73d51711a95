package main

// tailLimit is how much of a program's stderr goes into a message, in bytes.
const tailLimit = 2048

// tail keeps the last limit bytes written to it.
type tail struct {
	limit int
	data  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.data) }

// head keeps the first limit bytes written to it and notes whether there were
// more.
type head struct {
	limit int
	data  []byte
	cut   bool
}

func (h *head) Write(p []byte) (int, error) {
	space := min(h.limit-len(h.data), len(p))
	h.data = append(h.data, p[:space]...)
	h.cut = h.cut || space < len(p)
	return len(p), nil
}
