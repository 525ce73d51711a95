package mark

// set executes the mark. It is in mark_amd64.s.
//
//go:noescape
func set(id, a, b uint64)
