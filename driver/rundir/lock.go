package rundir

import (
	"errors"
	"fmt"
	"os"

	"hookbed/analysis/durable"
)

// ErrInUse is wrapped when another driver works in the run directory.
var ErrInUse = errors.New("run directory is in use")

// acquire takes the lock and writes the PID into it, for the message another driver gives.
// The file stays: removing it would race with the next driver.
func acquire(path string) (*durable.Lock, error) {
	l, err := durable.TryLock(path, 0o644)
	var held *durable.HeldError
	var system *os.PathError
	switch {
	case errors.As(err, &held):
		return nil, fmt.Errorf("%w by %s; wait for it, or interrupt it", ErrInUse, holder(held))
	case errors.As(err, &system):
		return nil, storageError("open", path, 0, err)
	case err != nil:
		return nil, err
	}
	if err := l.Sign(); err != nil {
		return nil, errors.Join(storageError("write", path, 0, err), l.Unlock())
	}
	return l, nil
}

func holder(held *durable.HeldError) string {
	if held.PID == 0 {
		return "another driver"
	}
	return fmt.Sprintf("the driver with PID %d", held.PID)
}
