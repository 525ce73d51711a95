package proc

// TailLimit is how much of a program's stderr goes into a message, in bytes.
const TailLimit = 2048

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
