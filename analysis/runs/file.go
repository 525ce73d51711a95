package runs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// maxFile is the most bytes of a file that is read at once: no plan, environment or block
// comes near it.
const maxFile = 1 << 30

// errNotRegular is the error for a link, a pipe, a device or a directory instead of a file.
var errNotRegular = errors.New("not a regular file")

// File is an open file of a run directory. It ends where it ended when it was opened.
type File struct {
	io.Reader
	Size int64 // bytes
	file *os.File
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// OpenFile opens a file of a run directory for reading. It refuses a file that is not regular:
// a link may lead out of the run, a pipe would wait for another process, and some devices
// never end.
func OpenFile(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a link, %w: put the file itself there", path, errNotRegular)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is %w", path, errNotRegular)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{Reader: io.LimitReader(f, st.Size()), Size: st.Size(), file: f}, nil
}

// ReadFile reads a file of a run directory as OpenFile opens it. It refuses one of more than
// 1 GiB.
func ReadFile(path string) (data []byte, err error) {
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if f.Size > maxFile {
		return nil, fmt.Errorf("%s is %d bytes, want at most %d", path, f.Size, maxFile)
	}
	data = make([]byte, f.Size)
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil // another process cut it
	}
	return data[:n], err
}
