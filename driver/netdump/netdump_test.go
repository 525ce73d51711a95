package netdump

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestWhole: a list that changed while it was read is read again, and no part of
// it is taken for the whole; other errors are returned at once.
func TestWhole(t *testing.T) {
	read := 0
	got, err := Whole(func() ([]int, error) {
		if read++; read < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || !slices.Equal(got, []int{1, 2}) || read != 3 {
		t.Errorf("%v after %d readings: %v", got, read, err)
	}
	other := errors.New("no such device")
	read = 0
	if _, err := Whole(func() ([]int, error) { read++; return nil, other }); !errors.Is(err, other) || read != 1 {
		t.Errorf("another error after %d readings: %v", read, err)
	}
	got, err = Whole(func() ([]int, error) { return []int{1}, netlink.ErrDumpInterrupted })
	if !errors.Is(err, netlink.ErrDumpInterrupted) || got != nil {
		t.Errorf("a list that never stays the same: %v, %v", got, err)
	}
}
