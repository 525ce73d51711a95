package images

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// cpioWriter writes an initramfs in the "newc" format (kernel:
// Documentation/driver-api/early-userspace/buffer-format.rst). All owners are
// root and all times zero, so that equal contents give equal bytes. Parents
// must be written before their children.
type cpioWriter struct {
	w     io.Writer
	inode uint32
	err   error
}

// Modes of the file types that an initramfs here holds, as in <sys/stat.h>.
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioLink = 0o120000
	cpioChar = 0o020000
)

func (c *cpioWriter) dir(name string)          { c.entry(name, cpioDir|0o755, nil, 0, 0) }
func (c *cpioWriter) link(name, target string) { c.entry(name, cpioLink|0o777, []byte(target), 0, 0) }
func (c *cpioWriter) file(name string, mode int, data []byte) {
	c.entry(name, cpioFile|mode, data, 0, 0)
}
func (c *cpioWriter) char(name string, mode, major, minor int) {
	c.entry(name, cpioChar|mode, nil, major, minor)
}

func (c *cpioWriter) entry(name string, mode int, data []byte, major, minor int) {
	c.inode++
	links := 1
	if mode&cpioDir == cpioDir && mode&cpioFile != cpioFile {
		links = 2
	}
	// Magic, inode, mode, uid, gid, links, mtime, size, device of the file
	// system (2), device of the node (2), length of the name, checksum (unused).
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	c.padded([]byte(header + name + "\x00"))
	c.padded(data)
}

// padded writes data and zeros up to a multiple of four bytes.
func (c *cpioWriter) padded(data []byte) {
	for _, b := range [][]byte{data, make([]byte, (4-len(data)%4)%4)} {
		if c.err == nil && len(b) > 0 {
			_, c.err = c.w.Write(b)
		}
	}
}

// close writes the trailer and returns the first error.
func (c *cpioWriter) close() error {
	c.inode = 0
	c.entry(cpioTrailer, 0, nil, 0, 0)
	return c.err
}

// readArchive calls visit for each regular file of one archive in the "newc" format, as cpioWriter
// writes it.
func readArchive(r io.Reader, visit func(name string, data []byte)) error {
	in := bufio.NewReader(r)
	for {
		e, err := readHead(in)
		switch {
		case err != nil:
			return err
		case e.name == cpioTrailer:
			return nil
		}
		var data bytes.Buffer // grows with what is there, whatever size a damaged head has
		if _, err := io.CopyN(&data, in, e.size+(4-e.size%4)%4); err != nil {
			return fmt.Errorf("read %s: %w", e.name, err)
		}
		if e.mode&cpioTypes == cpioFile {
			visit(e.name, data.Bytes()[:e.size])
		}
	}
}

// archived is the head of a file in an archive.
type archived struct {
	name string
	mode int
	size int64 // bytes
}

const (
	cpioTrailer  = "TRAILER!!!"
	cpioTypes    = 0o170000
	cpioHeader   = 110     // bytes: the magic and 13 numbers of 8 hex digits
	cpioLongName = 1 << 12 // PATH_MAX
)

// readHead reads the head of the next entry.
func readHead(r io.Reader) (archived, error) {
	header := make([]byte, cpioHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return archived{}, fmt.Errorf("read the head of a file: %w", err)
	}
	if string(header[:6]) != "070701" {
		return archived{}, errors.New("not a cpio archive of the newc format")
	}
	field := func(n int) (int64, error) { return strconv.ParseInt(string(header[6+8*n:14+8*n]), 16, 64) }
	mode, merr := field(1)
	size, serr := field(6)
	length, nerr := field(11)
	if err := errors.Join(merr, serr, nerr); err != nil {
		return archived{}, fmt.Errorf("read the head of a file: %w", err)
	}
	if length < 1 || length > cpioLongName || size < 0 {
		return archived{}, fmt.Errorf("read the head of a file: its name has %d bytes, and it has %d", length, size)
	}
	name := make([]byte, length+(4-(cpioHeader+length)%4)%4)
	if _, err := io.ReadFull(r, name); err != nil {
		return archived{}, fmt.Errorf("read the name of a file: %w", err)
	}
	return archived{name: string(name[:length-1]), mode: int(mode), size: size}, nil
}
