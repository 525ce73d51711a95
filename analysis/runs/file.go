package runs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// errNotRegular is the error for a pipe, a device or a directory instead of a file.
var errNotRegular = errors.New("not a regular file")

// ReadFile reads a file of a run directory. It refuses a file that is not regular:
// os.ReadFile would wait until another process writes into a pipe.
func ReadFile(path string) (data []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %w", path, errNotRegular)
	}
	return io.ReadAll(f)
}
