package proc

// TailLimit is how much of a program's stderr goes into a message, in bytes.
const TailLimit = 2048

// Tail keeps the last limit bytes written to it.
type Tail struct {
	Limit int
	data  []byte
}

// Write keeps p as far as there is room, and never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.Limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String is what was kept.
func (t *Tail) String() string { return string(t.data) }

// Head keeps the first limit bytes written to it and notes whether there were
// more.
type Head struct {
	Limit int
	Data  []byte
	Cut   bool
}

// Write keeps p as far as there is room, and never fails.
func (h *Head) Write(p []byte) (int, error) {
	space := min(h.Limit-len(h.Data), len(p))
	h.Data = append(h.Data, p[:space]...)
	h.Cut = h.Cut || space < len(p)
	return len(p), nil
}
