package images

import (
	"fmt"
	"io"
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
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	return c.err
}
