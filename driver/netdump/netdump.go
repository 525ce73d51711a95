// Package netdump reads lists of network objects from the kernel whole.
package netdump

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	tries = 200
	pause = 5 * time.Millisecond // about a second in all
)

// Whole returns what list returns, read again as long as the kernel says that the list changed
// while it was read (NLM_F_DUMP_INTR, Linux 3.1, include/uapi/linux/netlink.h). Links and addresses
// of a network namespace change whenever any program there adds or removes one, so a single reading
// fails on a busy computer. A list that never stays the same for one reading is an error that wraps
// netlink.ErrDumpInterrupted.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range tries {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
		time.Sleep(pause)
	}
	return nil, fmt.Errorf("the list changed during each of %d readings: %w", tries, err)
}
