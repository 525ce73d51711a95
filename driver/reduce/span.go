package reduce

import "strings"

// span is the part of the window by which a tool that Cut.From and Cut.To describe computes its own
// figures: from a reading of the clock in one function to the last in another, both of one life.
type span struct {
	from, to int32 // numbers of the functions' names; -1 before they run
	next     map[int]int32
	found    map[int]*ends
}

// ends are the readings of one life.
type ends struct {
	from, to reading
	whole    bool // both are there
}

// newSpan begins anew; what is known of names stays.
func newSpan(from, to int32) span {
	return span{from, to, map[int]int32{}, map[int]*ends{}}
}

// name notes the number of a function of a program or library.
func (s *span) name(cut Cut, name string, id int32) {
	switch name[strings.LastIndexByte(name, ':')+1:] {
	case cut.From:
		s.from = id
	case cut.To:
		s.to = id
	}
}

// called notes that a function begins, whose next reading of the clock may be an end.
func (s *span) called(life int, id int32) {
	if id == s.from || id == s.to {
		s.next[life] = id
	}
}

// read is called when a life has read the clock.
func (s *span) read(life int, at reading) {
	id, expected := s.next[life]
	if !expected {
		return
	}
	delete(s.next, life)
	switch e := s.found[life]; {
	case id == s.from:
		s.found[life] = &ends{from: at}
	case e != nil:
		e.to, e.whole = at, true
	}
}
