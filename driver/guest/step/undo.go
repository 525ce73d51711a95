package step

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/netns"
)

// undoing is what an undo can use: it runs on a thread in the namespace
// of the step it undoes.
type undoing struct {
	ctx context.Context
	nl  *netlink.Handle
}

type undoEntry struct {
	what string
	at   *netns.Namespace
	act  func(undoing) error
}

// undoStack holds what is to be undone, newest last, and marks in it.
type undoStack struct {
	entries []undoEntry
	marks   []int // len(entries) at the time of each mark
}

func (s *undoStack) push(e undoEntry) { s.entries = append(s.entries, e) }

// mark sets a mark and returns its number, from 1.
func (s *undoStack) mark() int {
	s.marks = append(s.marks, len(s.entries))
	return len(s.marks)
}

// undoTo undoes back to mark n, 0 meaning everything. The mark stays, so that
// a repeated call is harmless. Errors are collected and do not stop it, except
// that ctx ending does.
func (s *undoStack) undoTo(ctx context.Context, n int) error {
	if n < 0 || n > len(s.marks) {
		return fmt.Errorf("undo to mark %d: there are %d marks", n, len(s.marks))
	}
	keep := 0
	if n > 0 {
		keep = s.marks[n-1]
	}
	var errs []error
	for len(s.entries) > keep {
		last := s.entries[len(s.entries)-1]
		if err := ctx.Err(); err != nil {
			errs = append(errs, fmt.Errorf("%d entries not undone: %w", len(s.entries)-keep, err))
			break
		}
		s.entries = s.entries[:len(s.entries)-1]
		if err := last.run(ctx); err != nil && !fault.IsGone(err) {
			errs = append(errs, fmt.Errorf("undo: %s: %w", last.what, err))
		}
	}
	s.marks = s.marks[:n]
	return errors.Join(errs...)
}

func (e undoEntry) run(ctx context.Context) error {
	return e.at.WithNetlink(func(h *netlink.Handle) error { return e.act(undoing{ctx, h}) })
}
