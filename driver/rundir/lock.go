package rundir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse is wrapped when another driver works in the run directory.
var ErrInUse = errors.New("run directory is in use")

// acquire takes the lock, which the kernel gives up when the process ends,
// however it ends. The file stays: removing it would race with the next driver.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, storageError("open", path, 0, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w by %s; wait for it, or interrupt it", ErrInUse, holder(f))
	} else if err != nil {
		err = fmt.Errorf("lock %s: %w", path, err)
	} else {
		err = sign(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sign writes the PID into the lock, for the message another driver gives.
func sign(f *os.File) error {
	pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
	err := f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(pid, 0)
	}
	if err != nil {
		return storageError("write", f.Name(), len(pid), err)
	}
	return nil
}

func holder(f *os.File) string {
	data, err := io.ReadAll(io.LimitReader(f, 32))
	pid := strings.TrimSpace(string(data))
	if err != nil || pid == "" {
		return "another driver"
	}
	return "the driver with PID " + pid
}
